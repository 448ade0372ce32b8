"""`init`, `user`, `token`, `device` in the database itself: what each does, prints and refuses."""

import jwt
import pytest

from tests.shells.cli.conftest import PASSWORD, Shell


def test_init_makes_what_a_new_server_needs_and_touches_nothing_the_second_time(shell: Shell) -> None:
    done = shell.done("init", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert (done["config"], done["config_made"], done["admin"], done["admin_made"]) == ("config.toml", True, "admin", True)
    assert "password" not in done
    before = {path.name: path.read_bytes() for path in shell.folder.glob("*.toml")} | {
        "secret.key": (shell.folder / "secret.key").read_bytes()
    }
    again = shell("init")
    assert again.code == 0 and "config.toml: was there" in again.out and "was there, with its password" in again.out
    assert {name: (shell.folder / name).read_bytes() for name in before} == before


def test_init_gives_a_password_where_nobody_can_type_one(shell: Shell) -> None:
    done = shell.done("init", "--admin", "boss")
    assert len(done["password"]) >= 12
    printed = shell("init", "--admin", "other").out
    assert "password: " in printed and "robodyne-rt serve" in printed


def test_a_user_is_added_changed_and_removed(ready: Shell) -> None:
    added = ready.done(
        "user", "add", "kim", "--role", "kitchen", "--role", "staff", "--password-stdin", stdin="a long password\n"
    )
    assert (added["name"], added["roles"], added["disabled"], added["password"]) == ("kim", ["kitchen", "staff"], False, True)
    assert ready.done("user", "roles", "kim", "--role", "manager")["roles"] == ["manager"]
    assert ready.done("user", "disable", "kim")["disabled"] is True
    assert ready.done("user", "enable", "ｋｉｍ")["disabled"] is False
    assert ready.done("user", "passwd", "kim", "--password-stdin", stdin="another password\n")["name"] == "kim"
    assert [user["name"] for user in ready.done("user", "list")] == ["admin", "kim"]
    assert ready.done("user", "remove", "kim") == {"name": "kim", "removed": True}
    assert [user["name"] for user in ready.done("user", "list")] == ["admin"]


def test_who_gets_no_role_is_staff(ready: Shell) -> None:
    assert ready.done("user", "add", "lee", "--password-stdin", stdin="a long password\n")["roles"] == ["staff"]


@pytest.mark.parametrize(
    ("command", "stdin", "said"),
    [
        (["user", "add", "admin", "--role", "staff"], "a long password", "there is a user 'admin' already"),
        (["user", "add", "ａｄｍｉｎ", "--role", "staff"], "a long password", "already"),  # the same name in another form
        (["user", "add", "kim", "--role", "staff"], "short", "password"),
        (["user", "add", " kim ", "--role", "staff"], "a long password", "user: expected a name"),
        (["user", "add", "role:kitchen", "--role", "staff"], "a long password", "meaning of its own"),
        (["user", "roles", "nobody", "--role", "staff"], "", "no user 'nobody'"),
        (["user", "remove", "nobody"], "", "no user 'nobody'"),
        (["user", "passwd", "nobody"], "a long password", "no user 'nobody'"),
        (["token", "revoke", "7"], "", "no token 7"),
        (["token", "create", "--user", "till"], "", "till"),
        (["token", "approve", "123 456"], "", "run this in its folder"),
        (["device", "rotate", "nobody"], "", "no device 'nobody'"),
        (["device", "rotate", "nobody", "--finish"], "", "no device 'nobody'"),
        (["device", "revoke", "nobody"], "", "no device 'nobody'"),
        (["device", "add", "*"], "", "name of its own"),
        (["device", "add", "table:4"], "", "name"),
        (["device", "add", "alba-1", "--robot", " "], "", "robot: expected a name"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line_and_changes_nothing(
    ready: Shell, command: list[str], stdin: str, said: str
) -> None:
    before = [ready.done(noun, "list") for noun in ("user", "token", "device")]
    done = ready(*command, stdin=f"{stdin}\n")
    assert done.code == 1 and said in done.err and done.err.rstrip().count("\n") <= 1, done
    assert [ready.done(noun, "list") for noun in ("user", "token", "device")] == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["user", "roles", "kim"], "--role"),
        (["user"], "ACTION"),
        (["user", "add", "kim", "--role", "cook"], "no role 'cook'"),
        (["token", "create", "--user", "till", "--role", "cook"], "no role 'cook'"),
        (["token", "create", "--user", "till", "--days", "soon"], "expected a number above 0"),
        (["token", "create", "--user", "till", "--days", "401"], "at most 400"),
        (["device", "rotate", "alba-1", "--again", "--finish"], "choose one of them"),
        (["dlq", "requeue"], "required"),
        (["dlq", "drop", "7", "--all"], "not allowed"),
        (["fly"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_is_code_2(ready: Shell, command: list[str], said: str) -> None:
    done = ready(*command)
    assert done.code == 2 and said in done.err, done


def test_a_token_is_given_out_listed_and_taken_back(ready: Shell) -> None:
    given = ready.done("token", "create", "--user", "till", "--role", "staff", "--label", "the till", "--days", "2")
    claims = jwt.decode(given["token"], options={"verify_signature": False})
    assert claims["sub"] == "till" and claims["exp"] - claims["iat"] == 2 * 86400
    (listed,) = ready.done("token", "list")
    assert (listed["user"], listed["roles"], listed["label"], listed["kind"]) == ("till", ["staff"], "the till", "API")
    assert "token" not in listed and listed["revoked_at"] is None
    assert ready.done("token", "revoke", str(listed["id"])) == {"id": listed["id"], "revoked": True}
    assert ready("token", "revoke", str(listed["id"])).code == 1
    assert ready.done("token", "list")[0]["revoked_at"] is not None


def test_a_token_of_a_user_has_that_users_roles(ready: Shell) -> None:
    ready.done("token", "create", "--user", "admin")
    assert ready.done("token", "list")[0]["roles"] is None


def test_a_device_has_a_key_then_two_then_the_newer_one(ready: Shell) -> None:
    first = ready.done("device", "add", "alba-1", "--robot", "alba-1", "--robot", "alba-2")["key"]
    assert len(bytes.fromhex(first)) == 32
    (listed,) = ready.done("device", "list")
    assert (listed["device_id"], listed["robots"], listed["keys"], listed["revoked"]) == (
        "alba-1",
        ["alba-1", "alba-2"],
        1,
        False,
    )
    second = ready.done("device", "rotate", "alba-1")["key"]
    assert second != first and ready.done("device", "list")[0]["keys"] == 2
    refused = ready("device", "rotate", "alba-1")
    assert refused.code == 1 and "--again" in refused.err
    third = ready.done("device", "rotate", "alba-1", "--again")["key"]
    assert third not in (first, second)
    assert ready.done("device", "rotate", "alba-1", "--finish")["keys"] == 1
    assert ready.done("device", "revoke", "alba-1")["revoked"] is True
    assert ready.done("device", "list")[0]["keys"] == 0
    assert ready("device", "revoke", "alba-1").code == 1
    assert ready.done("device", "add", "alba-1")["key"] not in (first, second, third)
    assert ready("device", "add", "alba-1").code == 1


def test_in_a_folder_without_a_database_nothing_is_made(shell: Shell) -> None:
    for command in (["user", "list"], ["token", "list"], ["device", "list"], ["dlq", "list"], ["backup"], ["migrate"]):
        done = shell(*command)
        assert done.code == 2 and "database" in done.err, done
    assert not (shell.folder / "robodyne.db").exists()


def test_a_table_is_printed_for_people(ready: Shell) -> None:
    printed = ready("user", "list").out
    assert "admin" in printed and not printed.startswith("[")
