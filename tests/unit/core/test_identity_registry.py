"""Who is known: what a checked token is worth just now, by rows that come from the change log."""

import math
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from robodyne_rt.core.identity_registry import IdentityRegistry
from robodyne_rt.model.access import AccessPolicy, Principal, Profile, issuers_user
from robodyne_rt.model.changes import Update
from robodyne_rt.protocol.errors import Conflict, TokenExpired, TokenInvalid

NOW = 1_800_000_000.0
SOON, LATER = "2027-01-15T08:00:10Z", "2027-01-16T00:00:00Z"
RIGHTS = {"admin": ["*"], "staff": ["read:robots", "query"], "display": ["read:robots"]}


def user(id: int, name: str, *roles: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "name": name, "roles": list(roles), "disabled": False, "password_hash": None, **more}


def token(id: int, name: str, roles: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": id, "kind": "API", "user_name": name, "roles": roles, "expires_at": LATER, "revoked_at": None, **more}


def device(id: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "device_id": name, "robots": [name], "key_id": "k", "previous_key_id": None, "revoked": False, **more}


def update(topic: str, *rows: dict[str, Any], removed: tuple[int, ...] = (), snapshot: bool = False) -> Update:
    return Update(topic, 0, 1, {row["id"]: row for row in rows}, list(removed), snapshot)


@pytest.fixture
def identities() -> IdentityRegistry:
    policy = AccessPolicy(mode="local", rights=RIGHTS, anonymous_topics=[], anonymous_networks=[], device_networks=[])
    snapshots = {
        "users": update("users", user(1, "kim", "staff"), user(2, "off", "admin", disabled=True), snapshot=True),
        "tokens": update(
            "tokens",
            token(10, "kim"),
            token(11, "till", ["display"]),
            token(12, "kim", ["display"]),
            token(13, "kim", expires_at=SOON),
            token(14, "off", ["admin"]),
            token(15, "ghost"),
            snapshot=True,
        ),
        "devices": update("devices", device(20, "alba-1"), device(21, "gone", revoked=True), snapshot=True),
    }
    return IdentityRegistry(policy, snapshots)


def who(identities: IdentityRegistry, name: str, now: float = NOW, **more: Any) -> Principal:
    return identities.principal(name, expires_at=more.pop("expires_at", math.inf), now=now, **more)


def user_id(identities: IdentityRegistry, name: str) -> int:
    found = identities.user(name)
    assert found is not None
    return int(found["id"])


def test_a_user_has_the_roles_that_the_database_says_not_those_of_the_token(identities: IdentityRegistry) -> None:
    assert who(identities, "kim", claimed_roles=["admin"]).roles == {"staff"}
    assert not who(identities, "kim", claimed_roles=["admin"]).may("administer")


def test_a_row_may_narrow_the_roles_of_its_user(identities: IdentityRegistry) -> None:
    assert who(identities, "kim", token=10).roles == {"staff"}
    assert who(identities, "kim", token=12).roles == {"display"}
    assert who(identities, "till", token=11).roles == {"display"}


@pytest.mark.parametrize(
    ("name", "row"),
    [("kim", 99), ("kim", 11), ("lee", 10), ("off", None), ("off", 14), ("ghost", 15), ("till", 10), ("KIM", 10)],
)
def test_what_is_not_given_out_for_somebody_is_void(identities: IdentityRegistry, name: str, row: int | None) -> None:
    with pytest.raises(TokenInvalid):
        who(identities, name, token=row)


def test_time_ends_a_token_and_its_row(identities: IdentityRegistry) -> None:
    assert who(identities, "kim", expires_at=NOW + 1)
    with pytest.raises(TokenExpired):
        who(identities, "kim", expires_at=NOW)
    with pytest.raises(TokenExpired):
        who(identities, "kim", now=NOW + 86400, token=13)


def test_a_principal_lives_no_longer_than_the_row_it_depends_on(identities: IdentityRegistry) -> None:
    """Its connection is closed at `expires_at`; nothing else tells the hub that a row is over."""
    assert who(identities, "kim", token=13).expires_at < NOW + 86400


def test_the_change_log_is_followed_at_once(identities: IdentityRegistry) -> None:
    kim = who(identities, "kim", token=10)
    identities.take(update("users", user(1, "kim", "admin")))
    assert identities.renewed(kim, NOW).may("administer")
    identities.take(update("users", user(1, "kim", "display")))
    assert identities.renewed(kim, NOW).rights == {"read:robots"}
    identities.take(update("users", user(1, "kim", "staff", disabled=True)))
    with pytest.raises(TokenInvalid):
        identities.renewed(kim, NOW)


def test_a_user_who_is_removed_or_renamed_leaves_nothing_behind(identities: IdentityRegistry) -> None:
    kim = who(identities, "kim", token=10)
    identities.take(update("users", user(1, "lee", "staff")))
    assert identities.user("kim") is None
    with pytest.raises(TokenInvalid):
        identities.renewed(kim, NOW)
    identities.take(update("users", removed=(1,)))
    assert identities.user("lee") is None
    assert [entity["name"] for entity in identities.users] == ["off"]


def test_a_row_that_is_revoked_or_gone_is_void(identities: IdentityRegistry) -> None:
    till = who(identities, "till", token=11)
    identities.take(update("tokens", token(11, "till", ["display"], revoked_at=SOON)))
    with pytest.raises(TokenInvalid):
        identities.renewed(till, NOW)
    kim = who(identities, "kim", token=10)
    identities.take(update("tokens", removed=(10,)))
    with pytest.raises(TokenInvalid):
        identities.renewed(kim, NOW)


def test_a_snapshot_replaces_everything(identities: IdentityRegistry) -> None:
    identities.take(update("tokens", token(30, "kim"), snapshot=True))
    assert identities.token(10) is None and identities.token(30) is not None


def test_place_rights_stay_and_those_who_bear_nothing_are_not_asked(identities: IdentityRegistry) -> None:
    guest = Principal("anonymous", frozenset(), frozenset(), frozenset({"read:robots"}), is_anonymous=True)
    assert identities.renewed(guest, NOW) is guest
    kim = who(identities, "kim")
    assert identities.renewed(replace(kim, place_rights=frozenset({"look"})), NOW).place_rights == {"look"}


def test_a_revoked_device_is_unknown(identities: IdentityRegistry) -> None:
    assert identities.device("alba-1") is not None
    assert identities.device("gone") is None and identities.device("nobody") is None
    identities.take(update("devices", device(20, "alba-1", revoked=True)))
    assert identities.device("alba-1") is None


@pytest.mark.parametrize("roles", [None, 5, "admin", {"admin": True}, [["admin"]], [None, 7], [{"admin": 1}], True, 1.5])
def test_roles_that_cannot_be_read_are_none(identities: IdentityRegistry, roles: Any) -> None:
    """Other programs write there too: what they garble opens nothing, and fails nobody else."""
    kim = who(identities, "kim", token=10)
    identities.take(update("users", user(1, "kim") | {"roles": roles}))
    try:
        renewed = identities.renewed(kim, NOW)
    except TokenInvalid:
        return
    assert renewed.rights == frozenset()


@pytest.mark.parametrize("name", ["constructor", "__class__", "", "kim\0", "*"])
def test_strange_names_are_names_like_others(identities: IdentityRegistry, name: str) -> None:
    assert identities.user(name) is None and identities.device(name) is None


def test_names_follow_their_rows_also_where_two_change_places(identities: IdentityRegistry) -> None:
    identities.take(update("users", user(1, "off", "staff"), user(2, "kim", "admin")))
    assert (who(identities, "off").roles, who(identities, "kim").roles) == (frozenset({"staff"}), frozenset({"admin"}))
    identities.take(update("users", removed=(2,)))
    assert identities.user("kim") is None and user_id(identities, "off") == 1
    assert identities.has_name("till") and identities.has_name("ghost")
    identities.take(update("tokens", token(15, "other"), removed=(11,)))
    assert not identities.has_name("till") and not identities.has_name("ghost") and identities.has_name("other")
    identities.take(update("tokens", token(12, "kim"), snapshot=True))
    assert identities.has_name("kim") and not identities.has_name("other")


@pytest.mark.parametrize("text", ["2027-13-01T00:00:00Z", "infinity", "", None, 5])
def test_a_token_whose_end_cannot_be_read_is_over(identities: IdentityRegistry, text: Any) -> None:
    identities.take(update("tokens", token(11, "till", ["display"], expires_at=text)))
    with pytest.raises(TokenExpired):
        who(identities, "till", token=11)
    assert identities.given_out(NOW) >= 1


def test_a_row_that_goes_late_takes_nobody_else_s_name_along(identities: IdentityRegistry) -> None:
    identities.take(update("users", user(3, "kim", "admin")))  # read ahead of the line that says so
    assert identities.take(update("users", removed=(1,))) == set()
    assert user_id(identities, "kim") == 3
    assert identities.take(update("users", removed=(3,))) == {"kim"}


# -- an issuer's users -------------------------------------------------------------------------------------------------

KIM = Profile("kim", "Kim Minsu", "kim@example.com", "Robodyne")
ID, OTHER_ID = issuers_user("https://sso.example", "7"), issuers_user("https://sso.example", "8")


def test_an_issuer_s_user_is_issuer_and_subject_and_has_the_roles_of_the_token(identities: IdentityRegistry) -> None:
    found = who(identities, ID, profile=KIM, claimed_roles=["display"])
    assert (found.name, found.label, found.roles) == (ID, "kim", frozenset({"display"}))
    identities.take(update("users", user(3, ID, "admin", username="kim")))
    assert who(identities, ID, profile=KIM, claimed_roles=["display"]).roles == {"display"}
    assert identities.renewed(found, NOW) == found
    assert ID != OTHER_ID != issuers_user("https://sso.example/7", "")


def test_an_issuer_s_user_is_kept_out_by_id_and_by_a_disabled_name(identities: IdentityRegistry) -> None:
    found = who(identities, ID, profile=KIM)
    identities.take(update("users", user(3, ID, disabled=True, username="kim")))
    looks: tuple[Callable[[], object], ...] = (lambda: who(identities, ID, profile=KIM), lambda: identities.renewed(found, NOW))
    for look in looks:
        with pytest.raises(TokenInvalid):
            look()
    with pytest.raises(TokenInvalid):
        who(identities, OTHER_ID, profile=Profile("off"))
    assert who(identities, OTHER_ID, profile=KIM)


def test_a_long_or_strange_subject_has_a_digest() -> None:
    assert issuers_user("https://sso.example", "7") == "oidc:https://sso.example#7"
    names = {issuers_user("https://sso.example", text) for text in ("x" * 300, "x" * 301, "é", "e\u0301")}
    assert len(names) == 4
    assert all(len(name) <= 200 and name.startswith("oidc:") for name in names)


def test_a_name_means_who_bears_it_here_else_the_one_user_who_is_called_so(identities: IdentityRegistry) -> None:
    identities.take(update("users", user(3, ID, username="lee", full_name="Lee Jia"), user(4, OTHER_ID, username="kim")))
    assert identities.resolve("lee") == identities.resolve("Lee Jia") == identities.resolve(ID) == ID
    assert identities.resolve("kim") == "kim", "somebody here"
    assert identities.resolve("till") == "till"
    assert identities.resolve("nobody") == "nobody"
    assert (identities.label(ID), identities.label("kim"), identities.label("nobody")) == ("lee", "kim", "nobody")
    identities.take(update("users", user(5, issuers_user("x", "9"), username="lee")))
    with pytest.raises(Conflict) as refused:
        identities.resolve("lee")
    assert refused.value.details["ids"] == sorted([ID, issuers_user("x", "9")])


# -- where people logged in --------------------------------------------------------------------------------------------


def test_a_place_is_known_for_as_long_as_a_login_from_there_is_kept(identities: IdentityRegistry) -> None:
    assert not identities.has_logged_in_from("kim", "10.0.0.1")
    identities.take(update("tokens", token(30, "kim", kind="LOGIN", address="10.0.0.1")))
    identities.take(update("tokens", token(31, "kim", kind="LOGIN", address="10.0.0.1", revoked_at=SOON)))
    identities.take(update("tokens", token(32, "lee", kind="API", address="10.0.0.2")))
    assert identities.has_logged_in_from("kim", "10.0.0.1")
    assert not identities.has_logged_in_from("lee", "10.0.0.1")
    assert not identities.has_logged_in_from("lee", "10.0.0.2")
    identities.take(update("tokens", removed=(30,)))
    assert identities.has_logged_in_from("kim", "10.0.0.1"), "who logged out is known all the same"
    identities.take(update("tokens", removed=(31,)))
    assert not identities.has_logged_in_from("kim", "10.0.0.1")


def test_a_person_is_one_however_their_name_is_written(identities: IdentityRegistry) -> None:
    identities.take(update("users", user(3, "ｂｏｂ", "staff"), user(4, unicodedata.normalize("NFD", "김민수"), "admin")))
    assert [user_id(identities, name) for name in ("bob", "ｂｏｂ", "김민수")] == [3, 3, 4]
    assert who(identities, "bob").roles == {"staff"} and identities.has_name("bob")
    assert identities.user("Bob") is None, "capitals count"
    identities.take(update("users", user(3, "ｂｏｂ", "staff", disabled=True)))
    with pytest.raises(TokenInvalid):
        who(identities, "bob")
    assert identities.take(update("users", removed=(3, 4))) == {"bob", "김민수"}
    identities.take(update("tokens", token(30, "ｔｉｌｌ２", ["display"])))
    assert identities.has_name("till2"), "an issuer's till2 must not read a program's messages"


def test_of_two_rows_of_one_name_the_one_in_its_form_counts(identities: IdentityRegistry) -> None:
    for rows in ((user(3, "bob", "staff"), user(4, "ｂｏｂ", "admin")), (user(4, "ｂｏｂ", "admin"), user(3, "bob", "staff"))):
        identities.take(update("users", *rows, snapshot=True))
        assert who(identities, "bob").roles == {"staff"}
    identities.take(update("users", user(4, "ｂｏｂ", "manager")))
    assert who(identities, "bob").roles == {"staff"}
    assert identities.take(update("users", removed=(3,))) == set()
    assert user_id(identities, "bob") == 4


def test_a_token_counts_for_the_name_that_it_was_given_out_for(identities: IdentityRegistry) -> None:
    identities.take(update("users", user(3, "bob", "admin")))
    identities.take(update("tokens", token(30, "ｂｏｂ")))  # of a release that took these for two people
    with pytest.raises(TokenInvalid):
        who(identities, "bob", token=30)


def test_a_device_is_one_in_every_form(identities: IdentityRegistry) -> None:
    identities.take(update("devices", device(22, unicodedata.normalize("NFD", "키오스크"))))
    for name in (unicodedata.normalize("NFC", "키오스크"), unicodedata.normalize("NFD", "키오스크")):
        found = identities.device(name)
        assert found is not None and found["id"] == 22
    assert identities.device("ａlba-1") is None, "only people's names are compared by what they look like"
    identities.take(update("devices", device(22, unicodedata.normalize("NFD", "키오스크"), revoked=True)))
    assert identities.device("키오스크") is None
