"""Who waits for whose answer: order of one user, the same id once, what an earlier run left, what is not delivered yet."""

from dataclasses import dataclass
from typing import cast

import pytest

from robodyne_rt.core import request_ledger
from robodyne_rt.core.request_ledger import Request, RequestLedger
from robodyne_rt.model.rows import RequestRow


@dataclass(frozen=True)
class Asker:
    id: str
    user: str


KIM, KIMS_PHONE, LEE = Asker("s1", "kim"), Asker("s2", "kim"), Asker("s3", "lee")


def request(id: int, request_id: str = "", session: Asker = KIM) -> Request[Asker]:
    return Request(
        id=id,
        user=session.user,
        request_id=request_id or f"r{id}",
        text="?",
        dialect="session",
        session=session,
        asked_at="now",
    )


def row(id: int, request_id: str, session: Asker = KIM, dialect: str | None = None) -> RequestRow:
    return cast(RequestRow, {
        "id": id, "user_name": session.user, "session_id": session.id, "request_id": request_id, "question": f"q{id}",
        "dialect": dialect,
    })  # fmt: skip


def answer(session: Asker, text: str = "done") -> RequestRow:
    return cast(RequestRow, {"session_id": session.id, "response": text})


@pytest.fixture
def ledger() -> RequestLedger[Asker]:
    return RequestLedger()


def test_one_users_requests_are_worked_in_the_order_in_which_they_were_asked(ledger: RequestLedger[Asker]) -> None:
    one, two, other = request(1), request(2, session=KIMS_PHONE), request(3, session=LEE)
    assert [ledger.enqueue(item) for item in (one, two, other)] == [True, False, True]
    assert ledger.next("kim") is one and ledger.next("lee") is other
    assert ledger.waiting_beside(one) == [two] and ledger.waiting_beside(two) == [one]
    ledger.done(one)
    assert ledger.next("kim") is two
    ledger.done(two)
    assert ledger.next("kim") is None
    assert ledger.enqueue(request(4))  # the queue was over: it has to be worked anew


def test_what_an_earlier_run_took_goes_before_what_this_one_heard(ledger: RequestLedger[Asker]) -> None:
    running = request(5)
    ledger.enqueue(running)
    ledger.enqueue(request(7))
    for id in (3, 2):
        ledger.enqueue(request(id), is_older=True)
    order = []
    while (head := ledger.next("kim")) is not None:
        order.append(head.id)
        ledger.done(head)
    assert order == [2, 3, 5, 7]


def test_the_same_id_is_worked_once_and_told_to_all_who_asked(ledger: RequestLedger[Asker]) -> None:
    asked = request(1, "a")
    ledger.enqueue(asked)
    assert ledger.joins(KIM, "a", "session") and asked.others == {}
    assert ledger.joins(KIMS_PHONE, "a", "desktop") and asked.others == {KIMS_PHONE: "desktop"}
    assert not ledger.joins(LEE, "a", "session")  # another user's "a" is another request
    assert not ledger.joins(KIM, "b", "session")
    ledger.done(asked)
    assert not ledger.joins(KIM, "a", "session")


def test_an_answer_is_remembered_for_its_user_and_the_oldest_are_forgotten(
    ledger: RequestLedger[Asker], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert request_ledger.REMEMBERED == 2000
    monkeypatch.setattr(request_ledger, "REMEMBERED", 2)
    for id in (1, 2, 3):
        ledger.remember(request(id), answer(KIM, f"a{id}"))
    assert ledger.answered("kim", "r1") is None
    assert ledger.answered("kim", "r3") == answer(KIM, "a3")
    assert ledger.answered("lee", "r3") is None


def test_a_user_may_have_so_many_waiting(ledger: RequestLedger[Asker]) -> None:
    for id in range(99):
        ledger.enqueue(request(id))
    assert not ledger.is_full("kim")
    ledger.enqueue(request(100))
    assert ledger.is_full("kim") and not ledger.is_full("lee")


def test_what_was_left_waits_for_its_session_and_comes_once(ledger: RequestLedger[Asker]) -> None:
    assert ledger.found([row(1, "a"), row(2, "b", dialect="desktop"), row(3, "c", LEE)]) == ["s1", "s3"]
    first, second = ledger.take_up(KIM)
    assert (first.id, first.request_id, first.text, first.dialect, first.asked_at) == (1, "a", "q1", "session", "")
    assert first.session is KIM and second.dialect == "desktop"
    assert ledger.take_up(KIM) == []
    assert [left.id for left in ledger.take_up(LEE)] == [3]


def test_what_is_open_or_answered_already_is_not_taken_up(ledger: RequestLedger[Asker]) -> None:
    ledger.enqueue(request(1, "open"))
    ledger.remember(request(2, "answered"), answer(KIM))
    ledger.found([row(1, "open"), row(2, "answered"), row(3, "left")])
    assert [left.request_id for left in ledger.take_up(KIM)] == ["left"]


def test_nobody_takes_up_what_another_user_left_in_a_session_of_this_name(ledger: RequestLedger[Asker]) -> None:
    ledger.found([row(1, "a", KIM)])
    assert ledger.take_up(Asker("s1", "lee")) == []


def test_a_request_that_is_asked_again_before_it_was_taken_up_keeps_its_row(ledger: RequestLedger[Asker]) -> None:
    ledger.found([row(1, "a"), row(2, "b")])
    asked = request(9, "a", KIMS_PHONE)
    ledger.is_taken_up(asked, row(1, "a"))
    assert asked.id == 1
    assert [left.id for left in ledger.take_up(KIM)] == [2]


def test_who_asked_as_well_and_is_away_gets_the_answer_once(ledger: RequestLedger[Asker]) -> None:
    stored = answer(KIM)
    ledger.keep_undelivered(KIMS_PHONE, stored, "desktop")
    ledger.keep_undelivered(KIM, stored, "session")  # its own is in its outbox
    assert ledger.take_undelivered(KIM) == []
    assert ledger.take_undelivered(KIMS_PHONE) == [(stored, "desktop")]
    assert ledger.take_undelivered(KIMS_PHONE) == []
