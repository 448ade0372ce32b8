"""The rig: one server under load, in one folder, with what a fault needs to hurt it and a judge at the end.

with Rig(folder, seed=7) as rig:
    rig.wait(0.5)
    rig.victim.kill()
    rig.start_again()
    tally = rig.verdict()
"""

import contextlib
import dataclasses
import http.client
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests import processes
from tests.e2e.server import Replica
from tests.faults.judge import Tally, judge
from tests.faults.load import Ledger, Load, Plan
from tests.faults.shim import Kind, Shim
from tests.faults.store import Died, Sqlite, Store, StoreFactory, Victim

EXIT_STORAGE = 3
"""With this code the server says that its store cannot be trusted, and waits to be started again."""

SETTLED_WITHIN_S = 30.0
RECOVERED_WITHIN_S = 30.0

TRIALS_PER_SERVER = 25
"""Then a fresh folder: what the judge reads must not grow with the number of trials."""


class Rig:
    """One server, its store and its load.

    Args:
        folder: empty, or not there yet.
        plan: of the load; port, ledger and seed are set here.
        shim: whether the server's disk and clock can be steered, by `rig.shim`.
        proxy: makes what stands between load and server, of the server's port; it has a `port` of its own.
        sabotage: see `sabotage.py`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        plan: Plan | None = None,
        shim: bool = False,
        proxy: Callable[[int], Any] | None = None,
        sabotage: str = "",
        store: StoreFactory = Sqlite,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._plan = dataclasses.replace(plan or Plan(), seed=seed)
        self._wants_shim = shim
        self._make_proxy = proxy
        self._sabotage = sabotage
        self._settings = settings or {}
        self._stack = contextlib.ExitStack()
        self.folder = folder
        self.rng = random.Random(seed)
        self.store: Store = store(folder / "data")
        self.tally = Tally()
        self.shim: Any = None

    def __enter__(self) -> "Rig":
        with contextlib.ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            data = self.folder / "data"
            data.mkdir(exist_ok=True)
            stack.callback(self.store.stop)
            self.store.start()
            environment = {}
            if self._wants_shim:
                self.shim = Shim(data, shadow=self.folder / "shadow", control=self.folder / "control")
                stack.callback(self.shim.close)
                environment = self.shim.environment
            self.victim = Victim(
                data,
                log=self.folder / "server.log",
                settings={"SERVER__SHUTDOWN_GRACE_S": "1", **self.store.settings, **self._settings},
                environment=environment,
                sabotage=self._sabotage,
                wrapper=self.store.wrapper,
            )
            stack.callback(self.victim.end)
            self.victim.start()
            port = self.victim.devices_port
            if self._make_proxy is not None:
                self.proxy = stack.enter_context(self._make_proxy(port))
                port = self.proxy.port
            self.load = Load(dataclasses.replace(self._plan, port=port), self.folder / "ledger.jsonl")
            stack.callback(self.load.kill)
            self.load.wait_for_first()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def ledger(self) -> Ledger:
        return self.load.ledger.read()

    # -- what a fault does -----------------------------------------------------------------------------------------

    def wait(self, seconds: float, *, restarts: bool = False) -> None:
        """Let the load go on; with `restarts` start a server again that says that its store is broken, as systemd would.

        Raises:
            Died: the server ended by itself.
        """
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            if not self.victim.is_running:
                if not restarts:
                    raise Died(f"the server ended by itself: {self.victim.log()[-1500:]}")
                self.restart_broken()
            time.sleep(min(0.02, left_s))

    def wait_until(self, holds: Callable[[], bool], *, within_s: float = 10.0, restarts: bool = False) -> bool:
        """Let the load go on until `holds()`; return whether it came to that."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                return False
            self.wait(0.02, restarts=restarts)
        return True

    def start_again(self) -> None:
        """Start the killed server, and note how long the first new acknowledgement takes."""
        self.recovered(since=self._start())

    def _start(self) -> float:
        since = time.monotonic()
        self.victim.start()
        return since

    def restart_broken(self) -> None:
        """Start a server again that ended by itself, until it stays up; it must have said why."""
        assert self.victim.process is not None
        deadline = time.monotonic() + RECOVERED_WITHIN_S
        while time.monotonic() < deadline:
            code = self.victim.process.wait(10)
            if code != EXIT_STORAGE:
                self.broke(f"exit code {code} instead of {EXIT_STORAGE}")
            with contextlib.suppress(Died):
                self.victim.start()
                return
            time.sleep(0.1)
        raise Died(f"the server does not stay up: {self.victim.log()[-1500:]}")

    def recovered(self, since: float, *, restarts: bool = False) -> None:
        """Note how long after `since` a message that was sent later was acknowledged."""
        looked, found = 0, 0.0

        def is_answered() -> bool:
            nonlocal looked, found
            acks = self.ledger.acks
            found = next((ack.at for ack in acks[looked:] if ack.sent_at >= since), 0.0)
            looked = len(acks)
            return found > 0

        if self.wait_until(is_answered, within_s=RECOVERED_WITHIN_S, restarts=restarts):
            self.tally.recovery_s.append(found - since)
        else:
            self.broke(f"nothing was acknowledged for {RECOVERED_WITHIN_S:.0f} s after the fault")

    def broke(self, text: str) -> None:
        """Note a broken promise."""
        self.tally.violations.append(text)

    # -- the end ---------------------------------------------------------------------------------------------------

    def verdict(self, *, tracebacks: bool = False, restarts: bool = False) -> Tally:
        """End the load, wait until everything is stored, stop the server, and return what the judge finds.

        Args:
            tracebacks: whether the log may hold any: only where the fault is meant to end the process.
            restarts: as in `wait`.
        """
        try:
            self._end(restarts=restarts)
        except Died as death:
            self.broke(str(death))
        if not tracebacks:
            try:
                processes.assert_no_faults(self.victim.log())
            except AssertionError as error:
                self.broke(str(error))
        if self.shim is not None:
            calls = list(self.shim.control.calls)
            if self.shim.control.broken or not calls[Kind.SYNC] or not calls[Kind.WRITE]:
                raise AssertionError(f"the shim did not work: calls {calls}, broken {self.shim.control.broken}")
        self.tally += judge(self.store, self.ledger)
        return self.tally

    def _end(self, *, restarts: bool) -> None:
        if not self.victim.is_running:
            self.restart_broken() if restarts else self._start()
        if not self.load.finish():
            self.broke("not everything was answered in the end")
        if not self.wait_until(self._is_settled, within_s=SETTLED_WITHIN_S, restarts=restarts):
            self.broke(f"not ready {SETTLED_WITHIN_S:.0f} s after the fault: {self.victim.checks()}")
        if (code := self.victim.stop()) != 0:
            self.broke(f"exit code {code} at the end")

    def _is_settled(self) -> bool:
        """Whether the server is ready and stores nothing more: whatever was put aside is in its place."""
        before = self._stored()
        if self.victim.get("/readyz")[0] != 200 or b"\nrobodyne_spool_depth 0.0\n" not in self.victim.get("/metrics")[2]:
            return False
        time.sleep(0.1)
        return bool(self._stored() == before)

    def _stored(self) -> Any:
        return self.store.rows("SELECT (SELECT count(*) FROM device_message), (SELECT count(*) FROM event)")


def parts(rounds: int, folder: Path) -> Iterator[tuple[Path, range]]:
    """Yield a folder and its rounds, so that no database sees too many."""
    for first in range(0, rounds, TRIALS_PER_SERVER):
        yield folder / f"from-{first}", range(first, min(rounds, first + TRIALS_PER_SERVER))


def moment(rng: random.Random) -> float:
    """Return a random wait, 50 to 3000 ms, short ones as likely as long ones."""
    return math.exp(rng.uniform(math.log(0.05), math.log(3.0)))


def series(
    rounds: int,
    seed: int,
    folder: Path,
    trial: Callable[[Rig, int], None],
    *,
    tracebacks: bool = False,
    restarts: bool = False,
    before_verdict: Callable[[Rig], None] | None = None,
    **options: Any,
) -> Tally:
    """Run `trial(rig, number)` for each round; `options` are the rig's, the others those of its verdict."""
    tally = Tally()
    for part, numbers in parts(rounds, folder):
        with Rig(part, seed=seed + numbers.start, **options) as rig:
            try:
                for number in numbers:
                    rig.tally.trials += 1
                    trial(rig, number)
                if before_verdict is not None:
                    before_verdict(rig)
            except Died as death:
                rig.broke(str(death))
            if rig.shim is not None:
                rig.shim.heal()
            tally += rig.verdict(tracebacks=tracebacks, restarts=restarts)
    return tally


class Screen:
    """A screen on one topic, in a thread: it keeps the topic's state by the protocol's rules, and tells what went wrong."""

    def __init__(self, victim: Victim, topic: str) -> None:
        self.fault = ""
        self.updates = 0
        self.volatile: set[str] = set()
        self.optimistic: set[int] = set()
        """Rows that a volatile update showed."""
        self.stored: set[int] = set()
        """Rows that came with an offset."""
        self._url = f"ws://127.0.0.1:{victim.port}/ws/{topic}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        replica = Replica()
        try:
            with connect(self._url, max_size=None, compression=None, ping_interval=None) as socket:
                while not self._done.is_set():
                    with contextlib.suppress(TimeoutError):
                        message = json.loads(socket.recv(timeout=0.05))
                        if message["type"] == "ping":
                            socket.send(json.dumps({"type": "pong", "data": message["data"]}))
                        replica.apply(message)
                        self.updates += 1
                        if message.get("volatile"):
                            self.volatile |= {str(entity.get("robot_id")) for entity in message["data"]}
                            self.optimistic |= {entity["id"] for entity in message["data"]}
                        elif message["type"] == "update":
                            self.stored |= {entity["id"] for entity in message["data"]}
        except (WebSocketException, OSError, AssertionError) as error:
            self.fault = f"{type(error).__name__}: {error}"

    def __enter__(self) -> "Screen":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join(15)


class Pulse:
    """How long `/livez` takes while something else goes on: who waits for the disk on the loop is late here."""

    def __init__(self, port: int) -> None:
        self.latencies_s: list[float] = []
        self._port = port
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._done.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            started = time.monotonic()
            try:
                connection.request("GET", "/livez")
                connection.getresponse().read()
                self.latencies_s.append(time.monotonic() - started)
            except OSError:
                pass  # between two servers
            finally:
                connection.close()

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join(15)


def quantile(values: list[float], share: float) -> float:
    """Return the value that `share` of all stay below; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
