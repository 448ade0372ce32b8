"""A name is one name in every Unicode form, also where a foreign program wrote its row; on both stores."""

import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.protocol import device_messages
from robodyne_rt.protocol.errors import Conflict, InvalidPayload, ResourceNotFound
from robodyne_rt.store.tables import devices, staff_messages, users
from tests.contract.running import Running
from tests.stores import Store

NOW = 1_795_000_000.0
HANGUL = "김치찌개"
MIXED = unicodedata.normalize("NFC", HANGUL[:2]) + unicodedata.normalize("NFD", HANGUL[2:])
VIETNAMESE = "ê\u0323"
"""As keyboards of Windows write it: neither composed nor decomposed."""
FORMS = [unicodedata.normalize("NFC", HANGUL), unicodedata.normalize("NFD", HANGUL), MIXED, "ph" + VIETNAMESE]


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    run = Running(store, tmp_path)
    yield run
    await run.stop()
    assert run.failure is None


def other_forms(name: str) -> list[str]:
    return [unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name), name]


@pytest.mark.parametrize("stored", FORMS)
async def test_a_robot_that_another_program_wrote_is_found_and_not_doubled(running: Running, store: Store, stored: str) -> None:
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO robot(robot_id, link) VALUES (?, 'OFFLINE')", (stored,))
    for level, said in enumerate(other_forms(stored), 1):
        assert await running.tell(msg_type="Albabot", robot_id=said, battery_level=level) is None
        assert store.ask("SELECT robot_id, battery_level, link FROM robot") == [(stored, level, "ONLINE")]
        assert "event_id" in await running.tell(msg_type="Event", type="HELP", robot_id=said)
    name = unicodedata.normalize("NFC", stored)
    await running.do(lambda tables: tables.telemetry(name, {"x": 7.0}, running.clock.stamp()))
    await running.do(lambda tables: tables.vanished(name, running.clock.stamp(), 5))
    assert store.ask("SELECT robot_id, x, link FROM robot") == [(stored, 7, "CONNECTIONBROKEN")]
    assert await running.tell(msg_type="Bye", robot_id=stored) is None
    assert store.ask("SELECT robot_id, link FROM robot") == [(stored, "OFFLINE")]
    assert store.ask("SELECT DISTINCT related_entity_id FROM event") == store.ask("SELECT id FROM robot")


async def test_a_robot_of_ours_is_written_composed_and_found_in_every_form(running: Running, store: Store) -> None:
    for said in (FORMS[1], FORMS[0], FORMS[2]):
        await running.tell(msg_type="Albabot", robot_id=said, name=said)
    assert store.ask("SELECT robot_id, name FROM robot") == [(FORMS[0], FORMS[0])]
    await running.tell(msg_type="Albabot", robot_id="A")
    await running.tell(msg_type="Albabot", robot_id="a")
    await running.tell(msg_type="Albabot", robot_id="ａ")
    assert store.ask("SELECT count(*) FROM robot") == [(4,)], "case and width tell robots apart"


async def test_a_row_that_changes_its_form_or_name_is_found_anew(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO robot(robot_id) VALUES (?)", (FORMS[1],))
        for number, form in enumerate((FORMS[1], FORMS[2], FORMS[0], FORMS[1])):
            foreign.execute("UPDATE robot SET robot_id = ?", (form,))
            await running.tell(msg_type="Albabot", robot_id=HANGUL, battery_level=number)
            assert store.ask("SELECT robot_id, battery_level FROM robot") == [(form, number)]
        foreign.execute("UPDATE robot SET robot_id = 'other'")
    assert isinstance(await running.tell(msg_type="Bye", robot_id=HANGUL), InvalidPayload)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_name_in_no_encoding_hides_no_other(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        for table in ("robot(robot_id", "user_(name"):
            foreign.execute(f"INSERT INTO {table}) VALUES (CAST(x'ff' AS TEXT))")
        foreign.execute("INSERT INTO robot(robot_id) VALUES (?)", (FORMS[1],))
    assert await running.tell(msg_type="Albabot", robot_id=HANGUL, battery_level=9) is None
    assert store.ask("SELECT battery_level FROM robot WHERE robot_id = ?", FORMS[1]) == [(9,)]
    assert await running.do(lambda tables: users.stored_name(tables.db, "kim")) == [None]


async def test_of_two_rows_of_one_name_the_composed_one_counts(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        for form in (FORMS[1], FORMS[0]):
            foreign.execute("INSERT INTO robot(robot_id) VALUES (?)", (form,))
    await running.tell(msg_type="Albabot", robot_id=FORMS[1], battery_level=9)
    assert store.ask("SELECT robot_id FROM robot WHERE battery_level = 9") == [(FORMS[0],)]


@pytest.mark.parametrize("column", ["name", "name_en"])
@pytest.mark.parametrize("stored", FORMS)
async def test_dishes_and_stock_are_found_in_every_form(running: Running, store: Store, stored: str, column: str) -> None:
    columns, values = ("name", (stored,)) if column == "name" else ("name, name_en", ("-", stored))
    marks = ", ".join("?" * len(values))
    with store.foreign() as foreign:
        for table in ("menu_item", "ingredient"):
            foreign.execute(f"INSERT INTO {table}({columns}) VALUES ({marks})", values)
    for count, said in enumerate(other_forms(stored), 1):
        assert "order_id" in await running.tell(msg_type="Order", table_number=1, items=[{"name": said}])
        assert await running.tell(msg_type="Ingredient", name=said, count=count) is None
        assert store.ask("SELECT count FROM inventory") == [(count,)]
        if column == "name":
            assert await running.tell(msg_type="Inventory", name=said, count=count + 50) is None
            assert store.ask("SELECT name, count FROM inventory") == [(stored, count + 50)]
    assert store.ask("SELECT count(DISTINCT menu_item_id), count(*) FROM order_item") == [(1, 3)]
    messages: list[dict[str, Any]] = [
        {"msg_type": "Order", "table_number": 1, "items": [{"name": "냉면"}]},
        {"msg_type": "Ingredient", "name": "밀", "count": 1},
    ]
    for message in messages:
        assert isinstance(await running.tell(**message), InvalidPayload)


async def test_what_was_overtaken_is_known_by_its_name_in_every_form(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO robot(robot_id) VALUES (?)", (FORMS[1],))
        foreign.execute("INSERT INTO ingredient(name) VALUES (?)", (FORMS[1],))
    older = running.clock.stamp()
    await running.tell(msg_type="Albabot", robot_id=HANGUL, battery_level=9)
    await running.tell(msg_type="Ingredient", name=HANGUL, count=9)

    def outdated(tables: Any) -> list[bool]:
        tables.forget_unstored()  # what is noted beside the rows
        bodies: list[dict[str, Any]] = [
            {"msg_type": "Albabot", "robot_id": FORMS[1]},
            {"msg_type": "Ingredient", "name": FORMS[1], "count": 1},
            {"msg_type": "Inventory", "name": FORMS[1], "count": 1},
        ]
        return [tables.is_outdated(device_messages.check(body).message, older) for body in bodies]

    assert await running.do(outdated) == [[True, True, True]]


async def test_a_user_is_one_person_however_the_row_is_written(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO user_(name, created_at) VALUES (?, '2026-11-01T00:00:00Z')", ("ｂｏｂ",))

    async def refusal(function: Any, *arguments: Any, **named: Any) -> Any:
        return (await running.do(lambda tables: function(tables.db, *arguments, **named)))[0]

    for name in ("bob", "ｂｏｂ", "ⓑⓞⓑ"):
        assert isinstance(await refusal(users.add_user, name=name, roles=["staff"], password_hash=None, now=NOW), Conflict)
    added = await refusal(users.add_user, name="Ｂob", roles=["staff"], password_hash=None, now=NOW)
    assert added["name"] == "Bob", "capitals tell people apart"
    changed = await refusal(users.change_user, "bob", now=NOW, roles=["kitchen"], disabled=True)
    assert (changed["name"], changed["roles"], changed["disabled"]) == ("ｂｏｂ", ["kitchen"], True)
    with store.foreign() as foreign:
        foreign.execute(
            "INSERT INTO staff_message(id, sender, recipient, message, timestamp)"
            " VALUES (1, 'kim', 'role:kitchen', 'before there was a bob', '2026-10-01T00:00:00Z')"
        )
    assert await refusal(staff_messages.unread, "bob", ["bob", "role:kitchen"], own="bob") == []
    for name in ("ｒole:admin", "kim＠oidc", "ｌocal"):
        refused = await refusal(users.add_user, name=name, roles=["staff"], password_hash=None, now=NOW)
        assert isinstance(refused, InvalidPayload)
    assert (await refusal(users.remove_user, "ⓑob", now=NOW))["name"] == "bob"
    assert isinstance(await refusal(users.remove_user, "bob", now=NOW), ResourceNotFound)


async def test_a_device_is_one_however_its_row_is_written(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO device(device_id, robots, key_id) VALUES (?, '[]', 'k')", (FORMS[1],))
    for name in (FORMS[0], FORMS[2]):
        (refused,) = await running.do(lambda tables, name=name: devices.add_device(tables.db, name, robots=None, now=NOW))
        assert isinstance(refused, Conflict)
    await running.do(lambda tables: devices.rotate_device(tables.db, FORMS[0]))
    (finished,) = await running.do(lambda tables: devices.finish_rotation(tables.db, FORMS[2]))
    assert (finished["device_id"], finished["keys"]) == (FORMS[1], 1)
    (revoked,) = await running.do(lambda tables: devices.revoke_device(tables.db, FORMS[0]))
    assert revoked["revoked"]
    (key_id,) = await running.do(lambda tables: devices.add_device(tables.db, FORMS[0], robots=[FORMS[1]], now=NOW))
    assert isinstance(key_id, str)
    assert [
        (row["device_id"], row["robots"]) for row in (await running.do(lambda tables: devices.list_devices(tables.db)))[0]
    ] == [(FORMS[1], [FORMS[0]])]
