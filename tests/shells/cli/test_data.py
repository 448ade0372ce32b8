"""`dlq`, `backup`, `restore`, `migrate`, `doctor`, `check-config`, `version` where no server runs."""

import json
import sqlite3
import time
from pathlib import Path

import pytest

from robodyne_rt.model import times
from tests.shells.cli.conftest import Shell

ROOT = Path(__file__).parents[3]


def sql(shell: Shell, query: str, *parameters: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(shell.folder / "robodyne.db") as db:
        found = db.execute(query, parameters).fetchall()
    db.close()
    return found


def park(shell: Shell, id: int, description: str) -> None:
    """Keep a letter of an event as the server does."""
    now = times.to_text(time.time())
    body = {"msg_type": "Event", "type": "CALL", "description": description, "id": str(id)}
    payload = {"kind": "message", "body": body, "device": "d", "digest": "x", "heard_at": now, "ids": [id]}
    columns = "id, kind, device, message_id, payload, error, attempts, first_at, last_at, state, age_s"
    sql(
        shell,
        f"INSERT INTO dead_letter({columns}) VALUES (?, 'message', 'd', ?, ?, 'a rule', 3, ?, ?, 'PARKED', 0)",
        id, str(id), json.dumps(payload), now, now,
    )  # fmt: skip


def test_dead_letters_are_listed_shown_and_dropped(ready: Shell) -> None:
    assert "no dead letters" in ready("dlq", "list").out
    for id in (7, 8):
        park(ready, id, f"event {id}")
    printed = ready("dlq", "list").out
    assert printed.index("8  ") < printed.index("7  ") and "3 tries" in printed and "a rule" in printed
    assert [letter["id"] for letter in ready.done("dlq", "list")] == [8, 7]
    shown = ready.done("dlq", "show", "7")
    assert shown["payload"]["body"]["description"] == "event 7"
    assert ready("dlq", "show", "9").code == 1
    assert ready.done("dlq", "drop", "7") == [{"id": 7, "dropped": True}]
    assert "8: dropped" in ready("dlq", "drop", "--all").out
    assert ready.done("dlq", "list") == []
    assert "no dead letters" in ready("dlq", "drop", "--all").out


def test_a_letter_that_still_fails_is_code_1(ready: Shell) -> None:
    park(ready, 7, "event 7")
    sql(ready, 'UPDATE dead_letter SET payload = \'{"kind": "of the future"}\'')
    done = ready("dlq", "requeue", "7")
    assert done.code == 1 and "7: still fails" in done.out
    assert [letter["id"] for letter in ready.done("dlq", "list")] == [7]


def test_a_backup_is_a_database_and_is_put_back(ready: Shell) -> None:
    made = ready("backup", "one.db")
    assert made.code == 0 and "one.db" in made.out
    assert ready("backup", "one.db").code == 2  # nothing is written over
    ready.done("user", "add", "kim", "--role", "staff", "--password-stdin", stdin="a long password\n")
    assert [user["name"] for user in ready.done("user", "list")] == ["admin", "kim"]
    epochs = sql(ready, "SELECT value FROM meta WHERE key = 'epoch'")
    assert ready("restore", "one.db").code == 0
    assert [user["name"] for user in ready.done("user", "list")] == ["admin"]
    assert sql(ready, "SELECT value FROM meta WHERE key = 'epoch'") != epochs  # clients must not go on from what is gone
    assert [path for path in ready.folder.iterdir() if path.name.startswith("robodyne.db.")]  # what was replaced is kept


def test_a_backup_without_a_name_stands_beside_the_spool(ready: Shell) -> None:
    assert ready("backup").code == 0
    (made,) = (ready.folder / "backups").iterdir()
    assert made.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("content", "said"), [(None, "no.db"), (b"", "no.db"), (b"no database " * 500, "no.db")])
def test_what_is_no_database_is_not_put_in_its_place(ready: Shell, content: bytes | None, said: str) -> None:
    if content is not None:
        (ready.folder / "no.db").write_bytes(content)
    before = (ready.folder / "robodyne.db").read_bytes()
    done = ready("restore", "no.db")
    assert done.code in (1, 2, 3) and said in done.err, done
    assert (ready.folder / "robodyne.db").read_bytes() == before


def test_migrate_says_that_a_new_database_is_up_to_date(ready: Shell) -> None:
    done = ready("migrate")
    assert done.code == 0 and done.out


def test_doctor_finds_nothing_wrong_in_a_new_folder(ready: Shell) -> None:
    done = ready("doctor")
    assert done.code == 0 and "none runs here" in done.out
    rows = ready.done("doctor")
    assert {"id", "name", "level", "text"} <= rows[0].keys()
    assert all(row["level"] != "error" for row in rows)
    assert all("remedy" in row for row in rows if row["level"] != "ok")


def test_doctor_says_what_is_wrong_with_secret_and_database(ready: Shell) -> None:
    (ready.folder / "secret.key").chmod(0o644)
    open_to_all = ready("doctor")
    assert "secret.key" in open_to_all.out
    (ready.folder / "robodyne.db").write_bytes(b"no database " * 500)
    broken = ready("doctor")
    assert broken.code == 1 and "error" in broken.out


def test_check_config_says_what_is_wrong_and_where(shell: Shell) -> None:
    assert shell("check-config").code == 0
    config = shell.folder / "config.toml"
    config.write_text("[hub]\nping_intervall_s = 3\n")
    bad = shell("check-config")
    assert bad.code == 2
    assert bad.err == 'config.toml:2: unknown key "hub.ping_intervall_s" (did you mean "ping_interval_s"?)\n'
    config.write_bytes('[server]\r\nname = "로봇"\r\nport = "8000"\r\n[auth]\r\nmod = 1\r\n'.encode("utf-16"))
    bad = shell("check-config")
    assert [line.partition(": ")[0] for line in bad.err.splitlines()] == ["config.toml:3", "config.toml:5"]


def test_the_reference_is_a_configuration(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell.done("check-config", "--config", str(ROOT / "config.toml"))["hub"]["ping_interval_s"] == 30


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('[server]\ntls_cert = "no.pem"\ntls_key = "no.key"\n', "[server] tls_cert no.pem"),
        ('[devices]\ntls_cert = "no.pem"\ntls_key = "no.key"\n', "[devices] tls_cert no.pem"),
        ('[rights]\nkitchen = ["read:robot"]\n', "[rights] kitchen: unknown topic 'robot'"),
        ('[auth]\nanonymous_topics = ["robotz"]\n', "[auth] anonymous_topics: unknown topic 'robotz'"),
    ],
)
def test_what_would_stop_a_start_is_told_before(shell: Shell, config: str, said: str) -> None:
    (shell.folder / "config.toml").write_text(config)
    done = shell("check-config")
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
    doctor = shell("doctor")
    assert doctor.code == 1 and said in doctor.out


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["backup", "/nowhere/at/all.db"], 2, "/nowhere/at: no such folder"),
        (["tail", "robots", "--url", "localhost:8000"], 2, "expected http://HOST:PORT"),
        (["sim", "--port", "9", "--duration", "0.2"], 1, "nobody answers at 127.0.0.1 port 9"),
    ],
)
def test_a_mistake_is_told_in_a_line(shell: Shell, command: list[str], code: int, said: str) -> None:
    done = shell(*command)
    assert done.code == code and said in done.err, done


def test_version_is_told_for_people_and_for_programs(shell: Shell) -> None:
    assert shell("version").out.startswith("robodyne-rt ")
    assert "version" in shell.done("version")
    assert shell("--version").out == shell("version").out


def test_every_command_explains_itself(shell: Shell) -> None:
    listed = shell("--help").out
    for noun in (
        "serve",
        "demo",
        "sim",
        "tail",
        "init",
        "user",
        "token",
        "device",
        "dlq",
        "backup",
        "restore",
        "migrate",
        "doctor",
    ):
        assert noun in listed
        helped = shell(noun, "--help")
        assert helped.code == 0 and helped.out.startswith(f"usage: robodyne-rt {noun}")
