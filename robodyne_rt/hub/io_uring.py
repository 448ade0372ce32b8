"""One message to many sockets by one system call: Linux' io_uring, spoken through ctypes.

The layout of the rings is the kernel's (`linux/io_uring.h`, `io_uring_setup(2)`). Each `send` hands over one prepared request
per socket, waits until the kernel has answered all of them, and only then returns: no request outlives the call, so neither
the message nor a descriptor is used later. Requests never wait for a peer (MSG_DONTWAIT).
"""

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import socket
import struct
from array import array
from collections.abc import Collection, Sequence

SETUP, ENTER = 425, 426  # system calls; the same numbers on all architectures that are younger than 2019's
PARAMS_BYTES = 120
SQ_RING, CQ_RING, SQES = 0, 0x8000000, 0x10000000  # what mmap's offset says
SQE_BYTES, CQE_BYTES = 64, 16
OPERATION_NOP, OPERATION_SEND = 0, 26
SEND_FLAGS = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
GETEVENTS = 1
WORD = 0xFFFFFFFF  # counters of the rings wrap there
MAX_MESSAGE_BYTES = 65536
MAX_SOCKETS = 1024
"""Sockets of one call; more of them take more calls."""

logger = logging.getLogger(__name__)

# opcode, flags, ioprio, descriptor, offset, address, length, MSG_ flags, user_data, 24 bytes that stay 0
_SQE = struct.Struct("=BBHiQQIIQ24x")
_DESCRIPTOR, _LENGTH, _FLAGS, _NUMBER = 1, 6, 7, 4  # where they stand: in words of 4, 4, 4 and 8 bytes


class Targets:
    """Sockets that get the same messages, with their requests ready.

    Args:
        descriptors: of connected sockets; they must stay open, and no other's, during each `send`.
    """

    __slots__ = ("_flags", "_length", "_lengths", "_opcodes", "count", "requests")

    def __init__(self, ring: "Ring", descriptors: Sequence[int]) -> None:
        self.count = len(descriptors)
        request = _SQE.pack(OPERATION_SEND, 0, 0, -1, 0, ring.message_address, 0, SEND_FLAGS, 0)
        self.requests = memoryview(bytearray(request * self.count))
        self.requests.cast("i")[_DESCRIPTOR :: SQE_BYTES // 4] = array("i", descriptors)
        self.requests.cast("Q")[_NUMBER :: SQE_BYTES // 8] = array("Q", range(self.count))
        self._lengths = self.requests.cast("I")[_LENGTH :: SQE_BYTES // 4]
        self._opcodes = self.requests[::SQE_BYTES]
        self._flags = self.requests.cast("I")[_FLAGS :: SQE_BYTES // 4]
        self._length = 0

    def set_length(self, length: int) -> None:
        """Have each request send so many bytes."""
        if length != self._length:
            self._lengths[:] = array("I", [length]) * self.count
            self._length = length

    def skip(self, index: int) -> None:
        """Send nothing to one socket until `unskip`."""
        self._opcodes[index], self._flags[index] = OPERATION_NOP, 0

    def unskip(self, index: int) -> None:
        """Send to it again."""
        self._opcodes[index], self._flags[index] = OPERATION_SEND, SEND_FLAGS


class Ring:
    """Sends through one io_uring; for one thread.

    Attributes:
        is_broken: whether it does not work any more, and must not be used.
    Raises:
        OSError: the kernel, or the sandbox around it, has none for us.
    """

    UNANSWERED = -(1 << 31)
    """The result of a request of which the kernel did not say what became of it."""

    def __init__(self, entries: int = MAX_SOCKETS) -> None:
        self.is_broken = False
        # The interpreter's lock is kept: the call is as short as the writes that it replaces.
        self._call = ctypes.PyDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        parameters = ctypes.create_string_buffer(PARAMS_BYTES)
        self._descriptor = self._checked(self._call(SETUP, entries, parameters))
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._descriptor)
            self.entries, cq_entries = struct.unpack_from("=II", parameters)
            # head, tail, mask, entries, flags, dropped, array
            _, sq_tail, sq_mask, _, _, _, sq_array = struct.unpack_from("=7I", parameters, 40)
            cq_head, cq_tail, cq_mask, _, _, cqes = struct.unpack_from("=6I", parameters, 80)
            sq = self._map(SQ_RING, sq_array + 4 * self.entries).cast("I")
            cq_bytes = self._map(CQ_RING, cqes + CQE_BYTES * cq_entries)
            cq = cq_bytes.cast("I")
            self._sqes = self._map(SQES, SQE_BYTES * self.entries)
            message = mmap.mmap(-1, MAX_MESSAGE_BYTES)
            self._message = memoryview(message)
            self.message_address = ctypes.addressof(ctypes.c_char.from_buffer(message))
            self._sq_tail, self._sq_mask = sq[sq_tail // 4 : sq_tail // 4 + 1], sq[sq_mask // 4]
            self._cq_head, self._cq_tail = (cq[at // 4 : at // 4 + 1] for at in (cq_head, cq_tail))
            self._cq_mask = cq[cq_mask // 4]
            numbers = cq_bytes[cqes : cqes + CQE_BYTES * cq_entries]
            self._numbers = numbers.cast("Q")[::2]
            self._results = numbers.cast("i")[2::4]
            self._array = sq[sq_array // 4 : sq_array // 4 + self.entries]
            self._order = memoryview(array("I", [*range(self.entries)] * 2))
            undo.pop_all()
        try:
            self._try_out()
        except BaseException:
            self.close()
            raise

    def _map(self, offset: int, size: int) -> memoryview:
        mapped = mmap.mmap(self._descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)
        return memoryview(mapped)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _try_out(self) -> None:
        """Send a byte: some sandboxes allow the calls and refuse what is asked for."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if self.send(Targets(self, [ours.fileno()]), b"?") != [1] or theirs.recv(2) != b"?":
                raise OSError(errno.ENOSYS, "io_uring does not send")

    def send(self, targets: Targets, message: bytes, skip: Collection[int] = ()) -> list[int]:
        """Send a message to all targets; return of each how many bytes its kernel took, or a negative error number.

        Args:
            message: of at most `MAX_MESSAGE_BYTES`.
            skip: indexes of targets that get nothing now; their result is 0.
        Returns:
            `UNANSWERED` for those of which nothing is known, as the ring broke.
        """
        size = len(message)
        self._message[:size] = message
        targets.set_length(size)
        for index in skip:
            targets.skip(index)
        try:
            results: list[int] = []
            for start in range(0, targets.count, self.entries):
                results += self._submit(targets.requests[start * SQE_BYTES : (start + self.entries) * SQE_BYTES], start)
            return results
        finally:
            for index in skip:
                targets.unskip(index)

    def _submit(self, requests: memoryview, start: int) -> list[int]:
        count = len(requests) // SQE_BYTES
        if self.is_broken:
            return [0] * count
        self._sqes[: len(requests)] = requests
        tail = self._sq_tail[0]
        at = tail & self._sq_mask
        # Which request stands in which place of the queue: the first in the place that is next.
        straight = min(count, self.entries - at)
        self._array[at : at + straight] = self._order[:straight]
        if straight < count:
            self._array[: count - straight] = self._order[straight:count]
        self._sq_tail[0] = (tail + count) & WORD  # the system call orders memory
        head = self._cq_head[0]
        self._enter(count, head)
        answered = (self._cq_tail[0] - head) & WORD
        results = self._answers(head, answered, start, count)
        self._cq_head[0] = (head + answered) & WORD
        return results

    def _enter(self, count: int, head: int) -> None:
        """Have the kernel take `count` requests and answer them all; where it does not, the ring is broken."""
        submitted = answered = 0
        while submitted < count or answered < count:
            before = submitted + answered
            try:
                submitted += self._checked(
                    self._call(ENTER, self._descriptor, count - submitted, count - answered, GETEVENTS, None, 0)
                )
            except InterruptedError:
                before = -1
            except OSError as error:
                self._break(error)
                return
            answered = (self._cq_tail[0] - head) & WORD
            if submitted + answered == before:
                self._break(OSError(errno.EIO, "requests are not taken"))
                return

    def _break(self, error: OSError) -> None:
        self.is_broken = True
        logger.error("io_uring fails and is not used any more: %s", error, extra={"action": "io_uring_failed"})

    def _answers(self, head: int, answered: int, start: int, count: int) -> list[int]:
        """Return the results in the order of the requests."""
        at, places = head & self._cq_mask, len(self._results)
        results = self._results[at : at + answered].tolist()
        numbers = self._numbers[at : at + answered].tolist()
        if at + answered > places:
            results += self._results[: at + answered - places].tolist()
            numbers += self._numbers[: at + answered - places].tolist()
        wanted = [*range(start, start + count)]
        if numbers == wanted:
            return results
        found = dict(zip(numbers, results, strict=True))
        return [found.get(number, self.UNANSWERED) for number in wanted]

    def close(self) -> None:
        """Let go of the ring, in which nothing is on its way; sends go the ordinary way then."""
        if self._descriptor >= 0:
            self.is_broken = True
            os.close(self._descriptor)
            self._descriptor = -1


def open_ring(wanted: str) -> Ring | None:
    """Return a ring, or None where none is wanted or the machine has none; the log says which.

    Args:
        wanted: `[server] io_uring`, `"auto"` or `"off"`.
    """
    if wanted == "off":
        return None
    try:
        ring = Ring()
    except (OSError, ValueError, AttributeError) as error:
        logger.info("updates are sent without io_uring: %s", error, extra={"action": "io_uring_off"})
        return None
    logger.info("updates are sent by io_uring", extra={"action": "io_uring_on"})
    return ring
