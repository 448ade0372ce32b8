"""One message to many real sockets: by io_uring, past it, and what is the transport's when a way is not clear."""

import asyncio
import errno
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest

from robodyne_rt.hub import io_uring
from robodyne_rt.hub.connection import Connection, Subscription
from robodyne_rt.hub.fan_out import MIN_TARGETS, FanOut
from robodyne_rt.hub.io_uring import Ring, Targets, open_ring

LIMIT = 1 << 20


def _open(entries: int = io_uring.MAX_SOCKETS) -> Ring:
    try:
        return Ring(entries)
    except OSError as error:
        pytest.skip(f"no io_uring here: {error}")


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = _open()
    yield ring
    ring.close()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Ours and theirs."""
    made = [socket.socketpair() for _ in range(20)]
    for ours, _ in made:
        ours.setblocking(False)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


def _fill(sock: socket.socket) -> int:
    """Write until nothing goes in any more; return how many bytes that were."""
    sent = 0
    while True:
        try:
            sent += sock.send(b"~" * 4096)
        except BlockingIOError:
            return sent


# -- the ring ----------------------------------------------------------------------------------------------------------


def test_all_sockets_get_the_same_bytes(ring: Ring, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    targets = Targets(ring, [ours.fileno() for ours, _ in pairs])
    for message in (b"first", b"the second is longer", b"3rd"):
        assert ring.send(targets, message) == [len(message)] * len(pairs)
        assert {theirs.recv(100) for _, theirs in pairs} == {message}


def test_more_sockets_than_fit_get_everything_in_order(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    ring = _open(entries=8)
    targets = Targets(ring, [ours.fileno() for ours, _ in pairs])
    sent = b""
    for number in range(100):  # the queues wrap many times, at each place
        message = b"%d," % number
        assert ring.send(targets, message) == [len(message)] * len(pairs)
        sent += message
    assert all(theirs.recv(10_000) == sent for _, theirs in pairs)
    ring.close()


def test_who_is_skipped_gets_nothing_and_is_sent_to_the_next_time(
    ring: Ring, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    targets = Targets(ring, [ours.fileno() for ours, _ in pairs])
    assert ring.send(targets, b"one", skip=[0, 7]) == [0, *[3] * 6, 0, *[3] * (len(pairs) - 8)]
    assert ring.send(targets, b"two") == [3] * len(pairs)
    assert pairs[0][1].recv(100) == pairs[7][1].recv(100) == b"two"
    assert pairs[1][1].recv(100) == b"onetwo"


def test_each_result_is_of_its_own_socket(ring: Ring, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    descriptors = [ours.fileno() for ours, _ in pairs]
    _fill(pairs[3][0])
    pairs[5][1].close()
    pairs[11][0].close()
    results = ring.send(Targets(ring, descriptors), b"hello")
    assert results[3] == -errno.EAGAIN
    assert results[5] == -errno.EPIPE
    assert results[11] == -errno.EBADF
    assert [result for index, result in enumerate(results) if index not in (3, 5, 11)] == [5] * (len(pairs) - 3)


def test_the_longest_message_is_sent_whole_or_in_part(ring: Ring) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        message = os.urandom(io_uring.MAX_MESSAGE_BYTES)
        (sent,) = ring.send(Targets(ring, [ours.fileno()]), message)
        assert 0 < sent <= len(message)
        assert theirs.recv(1 << 20, socket.MSG_WAITALL if sent == len(message) else 0) == message[:sent]


def test_a_ring_that_fails_is_broken_and_says_of_whom_it_knows_nothing(
    pairs: list[tuple[socket.socket, socket.socket]], caplog: pytest.LogCaptureFixture
) -> None:
    ring = _open()
    targets = Targets(ring, [ours.fileno() for ours, _ in pairs])
    os.close(ring._descriptor)
    assert ring.send(targets, b"lost") == [Ring.UNANSWERED] * len(pairs)
    assert ring.is_broken
    assert "not used any more" in caplog.text
    assert ring.send(targets, b"lost") == [0] * len(pairs)


def test_a_machine_without_io_uring_is_told_and_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(io_uring, "SETUP", 1 << 20)  # no such system call
    with caplog.at_level("INFO"):
        assert open_ring("auto") is None
    assert "without io_uring" in caplog.text


def test_a_machine_that_does_not_send_is_told_and_served(monkeypatch: pytest.MonkeyPatch) -> None:
    _open().close()
    monkeypatch.setattr(io_uring, "OPERATION_SEND", 200)  # no such operation: what an old kernel answers
    assert open_ring("auto") is None


def test_no_ring_is_opened_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_uring, "Ring", None)
    assert open_ring("off") is None


# -- the fan-out -------------------------------------------------------------------------------------------------------


class Watcher:
    """One subscriber on a real transport, and the peer that reads."""

    def __init__(self, transport: asyncio.Transport, peer: socket.socket) -> None:
        self.transport = transport
        self.peer = peer
        connection = Connection(
            cast(Any, None), transport, "events", peer="peer", principal=cast(Any, None), expires_at=0.0,
            heartbeat=cast(Any, None), heartbeat_kind="message",
        )  # fmt: skip
        self.subscription = Subscription(connection, cast(Any, None), interval_s=0.0)

    def taken(self) -> bytes:
        """Return what has arrived by now."""
        try:
            return self.peer.recv(1 << 20)
        except BlockingIOError:
            return b""

    async def read(self, size: int) -> bytes:
        """Return exactly so many bytes, or what came before the end."""
        loop, found = asyncio.get_running_loop(), b""
        while len(found) < size and (part := await loop.sock_recv(self.peer, size - len(found))):
            found += part
        return found


class Crowd:
    """A fan-out and its subscribers, on the loop that runs."""

    def __init__(self, ring: Ring | None) -> None:
        self.ring = ring
        self.fan_out = FanOut(ring)
        self._made: list[Watcher] = []

    async def enter(self, count: int = MIN_TARGETS + 4, buffer: int = 0) -> list[Watcher]:
        """Let so many in; `buffer`: bytes that the kernel of each takes, about."""
        for _ in range(count):
            ours, theirs = socket.socketpair()
            if buffer:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            for sock in (ours, theirs):
                sock.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            self._made.append(Watcher(transport, theirs))
            self.fan_out.add(self._made[-1].subscription)
        return self._made[-count:]

    async def end(self) -> None:
        for one in self._made:
            if not one.transport.is_closing():
                one.transport.abort()
            one.peer.close()
        await asyncio.sleep(0.01)
        if self.ring is not None:
            self.ring.close()


Scenario = Callable[[Crowd], Awaitable[None]]


def everywhere(scenario: Scenario) -> Callable[[str, str], None]:
    """Run a scenario on both loops, which differ in when bytes leave and when a descriptor ends, with and without a ring."""

    @pytest.mark.parametrize("way", ["ring", "transports"])
    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def run(loop: str, way: str) -> None:
        factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else asyncio.new_event_loop

        async def main() -> None:
            crowd = Crowd(_open() if way == "ring" else None)
            try:
                async with asyncio.timeout(30):
                    await scenario(crowd)
            finally:
                await crowd.end()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    run.__doc__ = scenario.__doc__
    return run


@everywhere
async def test_everybody_gets_every_message_in_order(crowd: Crowd) -> None:
    watchers = await crowd.enter()
    messages = [b"<%d>" % number for number in range(200)]
    for message in messages:
        assert crowd.fan_out.send(message, LIMIT) == []
    whole = b"".join(messages)
    for one in watchers:
        assert await one.read(len(whole)) == whole


@everywhere
async def test_what_waits_in_a_transport_goes_first(crowd: Crowd) -> None:
    watchers = await crowd.enter()
    waits = b"w" * 3_000_000
    watchers[2].transport.write(waits)
    crowd.fan_out.send(b"[update]", 10 * LIMIT)
    assert watchers[2].transport.get_write_buffer_size() > 0
    assert await watchers[2].read(len(waits) + 8) == waits + b"[update]"
    assert await watchers[3].read(8) == b"[update]"
    crowd.fan_out.send(b"[second]", LIMIT)
    assert await watchers[2].read(8) == b"[second]"


@everywhere
async def test_who_does_not_read_is_slow_and_gets_everything_in_the_end(crowd: Crowd) -> None:
    watchers = await crowd.enter(buffer=4096)
    reads = asyncio.create_task(watchers[0].read(100 * 10_000))
    message, slow = b"m" * 10_000, set[Subscription]()
    for _ in range(100):
        slow |= set(crowd.fan_out.send(message, 100_000))
        await asyncio.sleep(0.002)
    assert slow == {one.subscription for one in watchers[1:]}
    for one in watchers[1:]:
        assert await one.read(100 * 10_000) == message * 100
    assert await reads == message * 100


@everywhere
async def test_who_takes_a_part_of_a_message_is_slow_at_once(crowd: Crowd) -> None:
    watchers = await crowd.enter(buffer=4096)
    message = b"m" * 60_000
    assert set(crowd.fan_out.send(message, 1000)) == {one.subscription for one in watchers}
    for one in watchers:
        assert await one.read(len(message)) == message


@everywhere
async def test_who_left_gets_nothing_more(crowd: Crowd) -> None:
    watchers = await crowd.enter()
    crowd.fan_out.send(b"one", LIMIT)
    assert crowd.fan_out.remove(watchers[4].subscription)
    assert not crowd.fan_out.remove(watchers[4].subscription)
    crowd.fan_out.send(b"two", LIMIT)
    watchers[4].transport.close()
    assert await watchers[4].read(100) == b"one"
    assert await watchers[5].read(6) == b"onetwo"


@everywhere
async def test_a_descriptor_that_became_somebody_elses_is_not_written_to(crowd: Crowd) -> None:
    watchers = await crowd.enter()
    crowd.fan_out.send(b"one", LIMIT)
    gone = watchers[1]
    descriptor = gone.subscription.connection.descriptor
    gone.transport.abort()  # as when its peer resets; nobody told the hub yet
    await asyncio.sleep(0.01)
    others = [socket.socketpair() for _ in range(8)]
    assert descriptor in {sock.fileno() for pair in others for sock in pair}
    crowd.fan_out.send(b"two", LIMIT)
    for ours, theirs in others:
        for sock in (ours, theirs):
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
    assert await watchers[2].read(6) == b"onetwo"
    for pair in others:
        for sock in pair:
            sock.close()


@everywhere
async def test_a_peer_that_is_gone_costs_the_others_nothing(crowd: Crowd) -> None:
    watchers = await crowd.enter()
    for one in watchers[::3]:
        one.peer.close()
    for number in range(10):
        crowd.fan_out.send(b"%d" % number, LIMIT)
    assert await watchers[1].read(10) == b"0123456789"
    assert await watchers[2].read(10) == b"0123456789"


@everywhere
async def test_a_message_that_is_too_long_for_the_ring_goes_by_the_transports(crowd: Crowd) -> None:
    watchers = await crowd.enter()
    message = os.urandom(io_uring.MAX_MESSAGE_BYTES + 1)
    crowd.fan_out.send(b"before", LIMIT)
    crowd.fan_out.send(message, LIMIT)
    crowd.fan_out.send(b"after", LIMIT)
    for one in watchers:
        assert await one.read(len(message) + 11) == b"before" + message + b"after"


@everywhere
async def test_a_broken_ring_costs_no_update_but_the_one(crowd: Crowd) -> None:
    watchers = await crowd.enter()
    crowd.fan_out.send(b"one", LIMIT)
    if crowd.ring is not None:
        os.close(crowd.ring._descriptor)
        crowd.ring._descriptor = -1
    crowd.fan_out.send(b"two", LIMIT)
    if crowd.ring is not None:
        assert await watchers[0].read(100) == b"one"  # cut off: nobody knows what it got; it comes back with its position
    (newcomer, *_) = await crowd.enter()
    crowd.fan_out.send(b"three", LIMIT)
    assert await newcomer.read(5) == b"three"


def test_an_encrypted_transport_is_never_written_past() -> None:
    class Encrypted(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return {"sslcontext": object(), "socket": socket.socket}.get(name, default)

    assert Watcher(Encrypted(), cast(Any, None)).subscription.connection.descriptor == -1


@everywhere
async def test_a_crowd_that_comes_stalls_and_goes_sees_no_gap(crowd: Crowd) -> None:
    """A short soak: each watcher gets a run of the numbered stream without a gap, from where it came in."""
    chance = random.Random(7)
    watchers: dict[Watcher, tuple[int, bytearray]] = {}
    for number in range(400):
        while len(watchers) < 30:
            (one,) = await crowd.enter(1, buffer=4096)
            watchers[one] = (number, bytearray())
        crowd.fan_out.send(b"%06d" % number * 50, LIMIT)
        for one, (_, seen) in list(watchers.items()):
            fate = chance.random()
            if fate < 0.5:
                seen.extend(one.taken())
            elif fate > 0.97:
                crowd.fan_out.remove(one.subscription)
                one.transport.close()
                seen.extend(await one.read(1 << 30))
                _check_run(*watchers.pop(one))
            elif fate > 0.95:
                one.transport.abort()
                crowd.fan_out.remove(one.subscription)
                watchers.pop(one)
        await asyncio.sleep(0)
    for one, (first, seen) in watchers.items():
        one.transport.close()
        seen.extend(await one.read(1 << 30))
        _check_run(first, seen)
        assert int(seen[-6:]) == 399


def _check_run(first: int, seen: bytearray) -> None:
    numbers = [int(seen[at : at + 6]) for at in range(0, len(seen), 6)]
    assert numbers == [number for number in range(first, first + len(numbers) // 50) for _ in range(50)]
