"""Who has a session, who makes way for whom, who is forgotten: without a connection that is one."""

from dataclasses import dataclass

import pytest

from robodyne_rt.core import session_table
from robodyne_rt.core.session_table import Session, SessionTable, may_resume
from robodyne_rt.model.access import ANONYMOUS, Principal

KIM = Principal("kim", frozenset({"staff"}), frozenset())
LEE = Principal("lee", frozenset({"staff"}), frozenset())
NOBODY = Principal(ANONYMOUS, frozenset(), frozenset(), is_anonymous=True)


@dataclass(eq=False)
class FakeLink:
    principal: Principal


Table = SessionTable[FakeLink]


def table(single: bool | str = False) -> Table:
    return SessionTable(stale_after_s=60.0, single=single)  # type: ignore[arg-type]


def add(table: Table, id: str, principal: Principal = KIM, device: str = "") -> Session[FakeLink]:
    session = Session[FakeLink](
        id=id, user=principal.name, device=device, token_digest=f"digest-{id}", connected_at="", last_principal=principal
    )
    table.add(session)
    return session


def attach(table: Table, session: Session[FakeLink], principal: Principal = KIM, now: float = 0.0) -> FakeLink:
    link = FakeLink(principal)
    table.attach(session, link, capabilities=None, now=now, connected_at="now")
    return link


def test_a_session_is_found_by_id_token_and_user_until_it_is_forgotten() -> None:
    rows = table()
    one, two, other = add(rows, "1"), add(rows, "2"), add(rows, "3", LEE)
    assert rows.get("1") is one and rows.of_token("digest-2") is two
    assert rows.of_user("kim") == [one, two] and rows.of_user("lee") == [other]
    rows.forget(one)
    assert rows.get("1") is None and rows.of_token("digest-1") is None and "1" not in rows
    assert rows.of_user("kim") == [two]
    rows.forget(other)
    assert rows.of_user("lee") == [] and [*rows] == [two]


@pytest.mark.parametrize(
    ("owner", "who", "may"), [(KIM, KIM, True), (KIM, LEE, False), (NOBODY, NOBODY, False), (KIM, NOBODY, False)]
)
def test_a_session_is_resumed_by_its_user_only(owner: Principal, who: Principal, may: bool) -> None:
    assert may_resume(add(table(), "1", owner), who) is may


def test_what_is_not_known_is_not_resumed() -> None:
    assert not may_resume(None, KIM)


def test_the_rights_are_those_of_the_connection_and_afterwards_of_the_last_one() -> None:
    rows = table()
    session = add(rows, "1")
    link = attach(rows, session)
    link.principal = Principal("kim", frozenset({"admin"}), frozenset())
    assert session.principal.roles == {"admin"}
    assert rows.detach(session, 5.0)
    assert session.principal.roles == {"admin"} and session.last_seen == 5.0 and rows.connected == []


def test_an_older_connection_of_the_same_session_makes_way() -> None:
    rows = table()
    session = add(rows, "1")
    assert rows.replaced_by(session, KIM) == []
    attach(rows, session)
    assert rows.replaced_by(session, KIM) == [session]


@pytest.mark.parametrize(("single", "ids"), [(False, []), ("device", ["2"]), (True, ["2", "3"])])
def test_others_of_the_user_make_way_as_the_setting_says(single: bool | str, ids: list[str]) -> None:
    rows = table(single)
    mine = add(rows, "1", device="till")
    for id, device, principal in (("2", "till", KIM), ("3", "door", KIM), ("4", "till", LEE)):
        attach(rows, add(rows, id, principal, device), principal)
    add(rows, "5", device="till")  # away: nothing to end
    assert [session.id for session in rows.replaced_by(mine, KIM)] == ids


def test_guests_do_not_make_way_for_guests() -> None:
    rows = table(single=True)
    attach(rows, add(rows, "1", NOBODY), NOBODY)
    assert rows.replaced_by(add(rows, "2", NOBODY), NOBODY) == []


def test_a_guest_that_leaves_is_not_kept() -> None:
    rows = table()
    session = add(rows, "1", NOBODY)
    attach(rows, session, NOBODY)
    assert not rows.detach(session, 0.0)


def test_a_new_connection_knows_nothing_of_what_the_old_one_was_told() -> None:
    rows = table()
    session = add(rows, "1")
    attach(rows, session)
    session.delivered.add(7)
    rows.detach(session, 0.0)
    attach(rows, session)
    assert session.delivered == set()


def test_of_very_many_sessions_the_oldest_that_is_away_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert session_table.SESSIONS_OF_A_USER == 200
    monkeypatch.setattr(session_table, "SESSIONS_OF_A_USER", 2)
    rows = table()
    first, second = add(rows, "1"), add(rows, "2")
    attach(rows, first)
    third = Session[FakeLink](id="3", user="kim", device="", token_digest="digest-3", connected_at="", last_principal=KIM)
    assert rows.add(third) is second
    rows.forget(second)
    attach(rows, third)
    fourth = Session[FakeLink](id="4", user="kim", device="", token_digest="digest-4", connected_at="", last_principal=KIM)
    assert rows.add(fourth) is None  # all others are in use, and it is the newest
    assert add(rows, "5", LEE) is rows.get("5")


@pytest.mark.parametrize(("now", "ids"), [(59.9, []), (60.0, ["2"])])
def test_only_who_is_away_for_too_long_is_stale(now: float, ids: list[str]) -> None:
    rows = table()
    attach(rows, add(rows, "1"))
    away = add(rows, "2")
    attach(rows, away)
    rows.detach(away, 0.0)
    assert [session.id for session in rows.stale(now)] == ids
    assert rows.kept_for_s(away, 50.04) == 10.0 and rows.kept_for_s(away, 100.0) == 0.0


def test_what_changed_is_told_once() -> None:
    rows = table()
    one, two = add(rows, "1"), add(rows, "2")
    attach(rows, one)
    attach(rows, two)
    rows.note(one)
    rows.forget(two)
    assert rows.take_changes() == ([one], ["2"])
    assert rows.take_changes() == ([], [])


def test_a_confirmation_counts_where_it_is_news() -> None:
    rows = table()
    session = add(rows, "1")
    session.outbox.put(session.outbox.next_seq(), b"one")
    assert not rows.confirm(session, 2)
    assert rows.confirm(session, 1)
    assert not rows.confirm(session, 1)
    assert rows.has_confirmed
    assert rows.take_confirmed() == [session]
    assert not rows.has_confirmed
