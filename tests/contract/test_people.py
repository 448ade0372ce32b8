"""People, tokens, devices, requests and messages, on both stores."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.model import times
from robodyne_rt.model.access import Profile, issuers_user
from robodyne_rt.model.changes import Entity
from robodyne_rt.protocol.errors import Conflict, InvalidPayload, ResourceNotFound
from robodyne_rt.store.intake import write_registry as write_registry
from robodyne_rt.store.intake import writes
from robodyne_rt.store.intake.people_writes import AnswerWrite, ReceiptWrite, RequestWrite, StaffMessageWrite
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.repositories import MessageRepository, RequestRepository, SessionRepository
from robodyne_rt.store.tables import devices, tokens, users
from tests.contract.running import Running
from tests.stores import WINDOWS, Store

NOW = 1_795_000_000.0
AT = "2026-11-21T19:42:00.000001Z"


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(store, tmp_path)
    yield running
    await running.stop()


@pytest.fixture
async def readers(running: Running) -> AsyncIterator[ReaderPool]:
    readers = ReaderPool(running.database, history=History(running.epoch), windows=WINDOWS)
    yield readers
    readers.close()


def request(id: int, request_id: str = "r1", **more: Any) -> Entity:
    columns = {"id": id, "user_name": "kim", "session_id": "s1", "request_id": request_id, "dialect": "session"}
    return columns | {"question": "alba-1 어디?", "timestamp": AT} | more


def message(id: int, **more: Any) -> Entity:
    columns = {"id": id, "sender": "lee", "recipient": "role:kitchen", "message": "국수 먼저", "message_type": "TEXT"}
    return columns | {"audio_url": None, "websocket_sent": True, "timestamp": AT} | more


async def test_users_reach_the_directory_through_the_log(running: Running) -> None:
    async def do(function: Any, *arguments: Any, **named: Any) -> Any:
        return await running.intake.call(lambda tables: function(tables.db, *arguments, **named))

    added = await do(users.add_user, name="김", roles=["kitchen"], password_hash="h", now=NOW)
    assert added["roles"] == ["kitchen"] and added["password"] is True
    (user,) = running.screens.entities["users"].values()
    assert (user["name"], user["roles"], user["disabled"], user["password_hash"]) == ("김", ["kitchen"], False, "h")
    await do(tokens.add_token, 5, "LOGIN", "김", None, None, "d", NOW + 100, NOW)
    await do(users.change_user, "김", now=NOW, disabled=True)
    (token,) = running.screens.entities["tokens"].values()
    assert token["revoked_at"] is not None and token["roles"] is None
    assert (await do(tokens.rotate_token, 5, old="d", new="e", expires_at=NOW + 200, now=NOW)) is False
    await do(tokens.add_token, 6, "LOGIN", "김", None, None, "d", NOW + 100, NOW)
    for _ in range(2):  # the same request again
        assert (await do(tokens.rotate_token, 6, old="d", new="e", expires_at=NOW + 200, now=NOW)) is True
    assert (await do(tokens.rotate_token, 6, old="d", new="f", expires_at=NOW + 200, now=NOW)) is False
    await do(tokens.prolong_token, 6, expires_at=NOW + 300)
    assert running.screens.entities["tokens"][6]["expires_at"] == times.to_text(NOW + 300)
    # A program or a screen of a user's name would get the user's messages.
    await do(tokens.add_token, 7, "API", "till", ["staff"], None, None, NOW + 100, NOW)
    with pytest.raises(Conflict):
        await do(users.add_user, name="till", roles=["staff"], password_hash=None, now=NOW)
    await do(users.add_user, name="till", roles=["staff"], password_hash=None, now=NOW + 101)  # that one is over
    await do(users.remove_user, "till", now=NOW)
    with pytest.raises(Conflict):
        await do(users.add_user, name="김", roles=["staff"], password_hash=None, now=NOW)
    for bad in ("", " kim", "a\nb", "role:kitchen", "x" * 101):
        with pytest.raises(InvalidPayload):
            await do(users.add_user, name=bad, roles=["staff"], password_hash=None, now=NOW)
    with pytest.raises(InvalidPayload):
        await do(users.add_user, name="lee", roles=["boss"], password_hash=None, now=NOW)
    await do(users.remove_user, "김", now=NOW)
    assert running.screens.entities["users"] == {}
    with pytest.raises(ResourceNotFound):
        await do(users.change_user, "김", now=NOW, roles=["staff"])


async def test_an_issuer_s_user_is_noted_once_and_meant_by_id_or_by_a_name_of_one(running: Running) -> None:
    async def do(function: Any, *arguments: Any, **named: Any) -> Any:
        return await running.intake.call(lambda tables: function(tables.db, *arguments, **named))

    first, second = issuers_user("https://sso.example", "7"), issuers_user("https://sso.example", "8")
    profile = Profile("김", "김민수", None, "로보다인")
    for _ in range(2):
        await do(users.remember_issuers_user, first, profile)
    (user,) = running.screens.entities["users"].values()
    assert (user["name"], user["roles"], user["username"], user["company"]) == (first, [], "김", "로보다인")
    await do(users.remember_issuers_user, first, profile._replace(email="kim@example.com"))
    (listed,) = await do(users.list_users)
    assert listed["email"] == "kim@example.com" and not listed["password"]
    assert (await do(users.change_user, "김", now=NOW, disabled=True))["name"] == first
    await do(users.remember_issuers_user, first, profile)
    (user,) = running.screens.entities["users"].values()
    assert user["disabled"] is True and user["email"] is None, "who is kept out stays out"
    await do(users.remember_issuers_user, second, profile)
    for function in (users.remove_user, users.change_user):
        with pytest.raises(Conflict):
            await do(function, "김", now=NOW, **({} if function is users.remove_user else {"disabled": True}))
    for changes in ({"roles": ["staff"]}, {"password_hash": "h"}, {"disabled": True, "roles": ["staff"]}):
        with pytest.raises(InvalidPayload):
            await do(users.change_user, second, now=NOW, **changes)
    third = issuers_user("https://sso.example", "9")
    assert (await do(users.change_user, third, now=NOW, disabled=True))["disabled"] is True, "before they came"
    with pytest.raises(ResourceNotFound):
        await do(users.change_user, issuers_user("https://sso.example", "10"), now=NOW, roles=["staff"])
    with pytest.raises(InvalidPayload):
        await do(users.add_user, name=third, roles=["staff"], password_hash=None, now=NOW)
    await do(users.remove_user, first, now=NOW)
    assert sorted(user["name"] for user in running.screens.entities["users"].values()) == sorted([second, third])
    await do(tokens.add_token, 5, "LOGIN", "kim", None, None, "d", NOW + 100, NOW, "10.0.0.1")
    assert running.screens.entities["tokens"][5]["address"] == "10.0.0.1"


async def test_a_device_has_two_keys_while_they_are_exchanged(running: Running) -> None:
    async def do(function: Any, *arguments: Any, **named: Any) -> Any:
        return await running.intake.call(lambda tables: function(tables.db, *arguments, **named))

    first = await do(devices.add_device, "alba-1", robots=None, now=NOW)
    second = await do(devices.rotate_device, "alba-1")
    (device,) = running.screens.entities["devices"].values()
    assert (device["key_id"], device["previous_key_id"], device["robots"]) == (second, first, ["alba-1"])
    with pytest.raises(Conflict):
        await do(devices.rotate_device, "alba-1")  # it may be the first or the second that is in use
    third = await do(devices.rotate_device, "alba-1", again=True)
    (device,) = running.screens.entities["devices"].values()
    assert (device["key_id"], device["previous_key_id"]) == (third, first) and third != second
    assert (await do(devices.finish_rotation, "alba-1"))["keys"] == 1
    assert (await do(devices.revoke_device, "alba-1"))["revoked"] is True
    with pytest.raises(ResourceNotFound):
        await do(devices.rotate_device, "alba-1")
    await do(devices.add_device, "alba-1", robots=["*"], now=NOW)


async def test_a_request_is_taken_once_and_answered_once(running: Running, readers: ReaderPool) -> None:
    records = RequestRepository(readers=readers, intake=running.intake)
    assert await records.take(request(1)) is None
    assert await records.take(request(1)) is None  # the same write again, after a commit that nobody heard of
    known = await records.take(request(2))
    assert known is not None and (known["id"], known["status"]) == (1, "PENDING")
    assert [row["request_id"] for row in await records.pending()] == ["r1"]
    answer = request(1, status="COMPLETED", code=None, response="여기", seq=1, answered_at=AT)
    await records.answer(answer)
    await records.answer(answer)
    assert await records.pending() == []
    stored = await records.find("kim", "r1")
    assert stored is not None and (stored["response"], stored["seq"]) == ("여기", 1)
    assert await records.find("lee", "r1") is None
    (entry,) = await records.history("kim", None, 10)
    assert (entry["question"], entry["answered_at"]) == ("alba-1 어디?", AT)


async def test_a_session_is_found_by_its_token_with_what_may_not_have_arrived(running: Running, readers: ReaderPool) -> None:
    sessions = SessionRepository(readers=readers, intake=running.intake)
    requests = RequestRepository(readers=readers, intake=running.intake)
    columns = {"id": "s1", "token_digest": "t", "user_name": "kim", "device": "", "acked": 0, "created_at": AT, "last_seen": AT}
    sessions.create(columns)
    for seq in (1, 2, 3):
        await requests.answer(request(seq, f"r{seq}", status="COMPLETED", code=None, response="a", seq=seq, answered_at=AT))
    sessions.refresh([("s1", 1, NOW)])
    await running.do(lambda tables: None)
    found = await sessions.find("t", NOW - 10)
    assert found is not None
    assert (found["acked"], found["seq"], [answer["seq"] for answer in found["answers"]]) == (1, 3, [2, 3])
    assert await sessions.find("t", NOW + 10) is None
    assert await sessions.find("other", NOW - 10) is None


async def test_a_staff_message_is_stored_once_and_unread_until_it_is_read(running: Running, readers: ReaderPool) -> None:
    records = MessageRepository(readers=readers, intake=running.intake)
    assert await records.store(message(1), "k", "d") == 1
    assert await records.store(message(2), "k", "d") == 1
    with pytest.raises(Conflict):
        await records.store(message(3), "k", "other")
    assert await records.store(message(4, recipient="kim", websocket_sent=False), None, "d") == 4
    assert await records.first("lee", "k") == 1 and await records.first("kim", "k") is None
    kim: dict[str, Any] = {"user": "kim", "recipients": ["kim", "role:kitchen"], "own": "kim"}
    assert [one["id"] for one in await records.unread(**kim)] == [1, 4]
    assert [one["id"] for one in await records.unread(**kim, limit=1)] == [4]
    assert [one["id"] for one in await records.unread(**kim, before=4)] == [1]
    # What one says to a role is not for oneself, what one says to oneself is.
    await records.store(message(5, sender="kim"), None, "d")
    await records.store(message(6, sender="kim", recipient="kim"), None, "d")
    assert [one["id"] for one in await records.unread(**kim, before=7)] == [1, 4, 6]
    assert await records.read(6, "kim", ["kim"], AT) == "kim"
    # What a role was told before there was a user is not for them; what they were told themselves is.
    later = times.to_epoch_s(AT) + 1
    added: dict[str, Any] = {"name": "new", "roles": ["kitchen"], "password_hash": None, "now": later}
    await running.intake.call(lambda tables: users.add_user(tables.db, **added))
    new: dict[str, Any] = {"user": "new", "recipients": ["new", "role:kitchen"], "own": "new"}
    assert await records.unread(**new) == []
    await records.store(message(8, timestamp=times.to_text(later)), None, "d")
    await records.store(message(9, recipient="new"), None, "d")
    assert [one["id"] for one in await records.unread(**new)] == [8, 9]
    assert await records.read(8, "kim", ["role:kitchen"], AT) == "lee"
    records.mark_sent([4])
    assert await records.read(1, "kim", ["kim", "role:kitchen"], AT) == "lee"
    assert await records.read(1, "kim", ["kim", "role:kitchen"], AT) is None
    with pytest.raises(ResourceNotFound):
        await records.read(1, "eve", ["eve"], AT)
    assert [one["id"] for one in await records.unread(**kim)] == [4]
    listed = await records.listed("lee", ["lee"], None, 10)
    read = [{"userId": "kim", "readAt": AT}]
    assert [(one["id"], one["readBy"]) for one in listed] == [(9, []), (8, read), (4, []), (1, read)]


@pytest.mark.parametrize(
    "write",
    [
        RequestWrite(request(1)),
        AnswerWrite(request(1, status="ERROR", code="TIMEOUT", response="", seq=1, answered_at=AT)),
        StaffMessageWrite(message(1), "k", "d"),
        ReceiptWrite(1, "kim", ["kim"], AT),
    ],
    ids=lambda write: write.kind,
)
def test_every_kind_survives_the_spool(write: writes.Write) -> None:
    again = write_registry.load(writes.dump(write))
    assert (type(again), again.fields(), again.claim_key, again.digest) == (
        type(write),
        write.fields(),
        write.claim_key,
        write.digest,
    )
    assert write.dead_letter_columns()["payload"] == writes.dump(write).decode()
