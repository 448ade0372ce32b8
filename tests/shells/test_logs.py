"""Whoever logs never waits for whoever reads; what is lost is counted and told, and the end of the process comes in time."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from robodyne_rt.logs import WRITE_BYTES, LineStream, LineWriter, _chunks

PIPE_BYTES = 4096


class Pipe:
    """A small pipe that nobody reads until the test does."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def read_lines(self, count: int) -> list[str]:
        data = b""
        while data.count(b"\n") < count:
            data += os.read(self.reader, 65536)
        return data.decode().splitlines()

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def wait(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_lines_come_whole_and_in_order_from_many_threads(pipe: Pipe) -> None:
    lines = LineWriter(pipe.writer)
    threads = [
        threading.Thread(target=lambda name=name: [lines.offer(f"{name} {number}") for number in range(500)]) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    found = pipe.read_lines(2000)
    for name in "abcd":
        assert [line for line in found if line.startswith(name)] == [f"{name} {number}" for number in range(500)]
    assert lines.close() and lines.lost == 0


def test_a_full_pipe_holds_up_nobody_and_what_is_lost_is_counted_and_told_when_it_flows_again(pipe: Pipe) -> None:
    lines = LineWriter(pipe.writer, max_bytes=10_000, describe_lost=lambda count: f"{count} lost")
    began = time.monotonic()
    took = [lines.offer(f"{number:09d}") for number in range(5000)]
    assert time.monotonic() - began < 2
    assert lines.lost == took.count(False) and 10_000 / 10 <= took.count(True) <= (10_000 + 2 * PIPE_BYTES) / 10
    kept = [f"{number:09d}" for number, taken in enumerate(took) if taken]
    found: list[str] = []
    told: list[int] = []
    while len(found) < len(kept) or sum(told) < lines.lost:
        for line in pipe.read_lines(1):
            if line.endswith(" lost"):
                told.append(int(line.split()[0]))
            else:
                found.append(line)
    assert found == kept and sum(told) == lines.lost
    assert lines.offer("and on")
    assert pipe.read_lines(1) == ["and on"]
    assert lines.close()


def test_one_line_that_is_longer_than_the_bound_is_written_all_the_same(pipe: Pipe) -> None:
    lines = LineWriter(pipe.writer, max_bytes=100)
    assert lines.offer("x" * 50_000)
    assert pipe.read_lines(1) == ["x" * 50_000]
    assert lines.close()


def test_a_stuck_writer_does_not_hold_up_the_end(pipe: Pipe) -> None:
    lines = LineWriter(pipe.writer)
    for _ in range(1000):
        lines.offer("x" * 100)
    began = time.monotonic()
    assert not lines.close(0.2)
    assert time.monotonic() - began < 1
    while lines._thread.is_alive():
        os.read(pipe.reader, 65536)
        time.sleep(0.001)


def test_a_reader_that_is_gone_is_no_error(pipe: Pipe) -> None:
    os.close(pipe.reader)
    lines = LineWriter(pipe.writer, describe_lost=lambda count: f"{count} lost")
    lines.offer("a")
    wait(lambda: lines.lost == 1)
    lines.offer("b")
    wait(lambda: lines.lost == 2)
    assert lines.close() and lines.lost == 2


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    lines = LineWriter(pipe.writer)
    for number in range(2000):
        assert lines.offer(f"{number:09d}")
    assert pipe.read_lines(2000) == [f"{number:09d}" for number in range(2000)]
    assert lines.close()


def test_lines_are_written_in_pieces_that_no_other_process_tears() -> None:
    line = b"x" * 1000 + b"\n"
    chunks = _chunks(deque([line] * 9 + [b"y" * 9000] + [line]))
    assert [len(chunk) for chunk in chunks] == [4, 4, 1, 1, 1]
    reader, writer = os.pipe()
    assert os.fpathconf(writer, "PC_PIPE_BUF") >= WRITE_BYTES
    os.close(reader)
    os.close(writer)


def test_a_warning_of_the_garbage_collection_within_a_line_does_not_lock_its_own_thread(pipe: Pipe) -> None:
    lines = LineWriter(pipe.writer)

    def line_within_a_line() -> None:
        with lines._changed:
            lines.offer("an unclosed file")

    thread = threading.Thread(target=line_within_a_line, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert lines.close()


def test_a_line_that_is_no_unicode_is_written_escaped(pipe: Pipe) -> None:
    lines = LineWriter(pipe.writer)
    lines.offer("name \udcff")
    assert pipe.read_lines(1) == ["name \\udcff"]
    assert lines.close()


def test_print_goes_the_same_way(pipe: Pipe) -> None:
    lines = LineWriter(pipe.writer)
    print("a", 1, file=LineStream(lines, None), flush=True)
    assert pipe.read_lines(1) == ["a 1"]
    assert lines.close()


SETS_UP = "import logging, sys; from robodyne_rt import logs; log = logs.set_up(level='DEBUG', style='json'); "


def run(code: str, **streams: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-X", "dev", "-c", SETS_UP + code], **streams)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("code", ["logging.warning('x' * 1000)", "print('x' * 1000)", "print('x' * 1000, file=sys.stderr)"])
def test_a_process_whose_pipes_nobody_reads_ends(code: str) -> None:
    process = run(f"[{code} for _ in range(3000)]; sys.exit(7)", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.wait(20) == 7
    process.stdout.close(), process.stderr.close()  # type: ignore[union-attr]


def test_the_last_lines_are_written_at_the_end() -> None:
    process = run("[logging.info('%d', n) for n in range(3000)]; print('end')", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, logged = process.communicate(timeout=20)
    assert printed == b"end\n"
    assert [json.loads(line[line.index(b"{") :])["message"] for line in logged.splitlines()] == [str(n) for n in range(3000)]


def test_a_closed_stderr_is_not_written_to_although_a_file_has_its_number(tmp_path: object) -> None:
    path = f"{tmp_path}/data"
    code = f"data = open({path!r}, 'wb', buffering=0); logging.error('x'); log.close(); print(data.fileno(), flush=True)"
    program = [
        sys.executable,
        "-c",
        f"import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, '-c', {SETS_UP + code!r}])",
    ]
    printed = subprocess.run(program, stdout=subprocess.PIPE, check=True, timeout=20).stdout
    assert os.path.getsize(path) == 0, printed
