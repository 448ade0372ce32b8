"""`/metrics`: the plain numbers of all parts in Prometheus' text format, prefix `robodyne_`, base units (SPEC section 12)."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from robodyne_rt import __version__
from robodyne_rt.devices.receiver import ReceiverStats
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.sessions.manager import SessionManager
from robodyne_rt.store.intake.intake import Intake
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.web.connections import HttpConnections
from robodyne_rt.work.requests import RequestDesk


class Metrics(Collector):
    """Reads the parts' numbers when asked; the hot path only counts plain integers."""

    def __init__(
        self,
        *,
        hub: ConnectionManager,
        receiver: ReceiverStats,
        writer: WriterStats,
        intake: Intake,
        sessions: SessionManager,
        desk: RequestDesk,
        http: HttpConnections,
        task_failures: Mapping[str, int],
        log_lines_lost: Callable[[], int],
        log_lines_skipped: Callable[[], int],
    ) -> None:
        self._hub = hub
        self._receiver = receiver
        self._writer = writer
        self._intake = intake
        self._sessions = sessions
        self._desk = desk
        self._http = http
        self._task_failures = task_failures
        self._log_lines_lost = log_lines_lost
        self._log_lines_skipped = log_lines_skipped
        self._registry = CollectorRegistry()
        self._commit_s = Histogram(
            "robodyne_db_commit_seconds",
            "Time of one transaction, from its begin to its commit on disk",
            registry=self._registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
        )
        self._batch = Histogram(
            "robodyne_db_batch_size",
            "Writes in one transaction",
            registry=self._registry,
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
        )
        self._registry.register(self)

    def render(self) -> bytes:
        """Return the text."""
        stats = self._writer
        durations, stats.commit_s = stats.commit_s, []
        sizes, stats.batch_sizes = stats.batch_sizes, []
        for duration in durations:
            self._commit_s.observe(duration)
        for size in sizes:
            self._batch.observe(size)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield each family; called by the registry."""
        info = GaugeMetricFamily("robodyne_build_info", "Version of the server", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._of_hub()
        yield from self._of_devices()
        stats, intake = self._writer, self._intake
        yield _gauge("robodyne_db_queue_depth", "Writes that wait for their commit", intake.queued)
        yield _counter("robodyne_db_commits", "Transactions committed", stats.commits)
        yield _counter("robodyne_db_write_errors", "Writes that failed by their own fault", stats.errors)
        yield _gauge("robodyne_db_wal_pages", "Pages in the write-ahead log at the last checkpoint", stats.wal_pages)
        yield _gauge("robodyne_change_lag_seconds", "Age of the newest change when it reached the hub", stats.change_lag_s)
        yield _gauge("robodyne_spool_depth", "Messages in the spool", intake.spool_backlog)
        yield _counter("robodyne_spool_drained", "Messages drained from the spool", stats.drained)
        yield _counter(
            "robodyne_spool_lost", "Messages that were acknowledged and lost with the spool's file", intake.spool_lost
        )
        yield _counter("robodyne_db_failures", "Times that the database was found away, locked or full", stats.failures)
        yield _counter("robodyne_dead_letters", "Writes parked as dead letters", stats.dead_letters)
        yield _counter("robodyne_rows_expired", "Rows deleted because they were older than they are kept", stats.rows_expired)
        yield _counter("robodyne_data_regressed", "Times that the database came back older than it was", stats.regressions)
        states = GaugeMetricFamily("robodyne_storage_state", "State of storage: the one that holds is 1", labels=["state"])
        for state in ("ok", "late", "spooling", "draining", "refusing"):
            states.add_metric([state], float(intake.state == state))
        yield states
        yield _gauge("robodyne_http_connections", "HTTP connections, WebSockets among them", len(self._http))
        yield _counter("robodyne_http_connections_cut", "HTTP connections cut off or refused: too many", self._http.cut)
        yield _gauge("robodyne_sessions", "Sessions with a connection", len(self._sessions))
        yield _gauge("robodyne_callbacks_open", "Questions to clients that wait for an answer", len(self._desk.callbacks))
        yield _counter("robodyne_callbacks", "Questions that clients were asked", self._desk.stats.callbacks)
        yield _counter("robodyne_request_work_seconds", "Time spent on requests", self._desk.stats.work_s)
        requests = CounterMetricFamily("robodyne_requests", "Final answers of requests", labels=["result"])
        for result, count in self._desk.stats.answered.items():
            requests.add_metric([result], count)
        yield requests
        failures = CounterMetricFamily("robodyne_task_failures", "Failures of the server's own tasks", labels=["task"])
        for task, count in sorted(self._task_failures.items()):
            failures.add_metric([task], count)
        yield failures
        yield _counter("robodyne_log_lines_lost", "Lines of the log that nobody read in time", self._log_lines_lost())
        yield _counter("robodyne_log_lines_skipped", "Warnings and errors not stored as system logs", self._log_lines_skipped())

    def _of_hub(self) -> Iterator[Metric]:
        hub = self._hub
        clients = GaugeMetricFamily("robodyne_ws_connections", "Open WebSockets", labels=["topic"])
        updates = CounterMetricFamily("robodyne_updates", "Updates made", labels=["topic"])
        delivered = CounterMetricFamily("robodyne_updates_sent", "Writes of live updates to subscribers", labels=["topic"])
        volatile = CounterMetricFamily("robodyne_volatile_updates", "Live telemetry taken", labels=["topic"])
        snapshots = CounterMetricFamily("robodyne_snapshots_sent", "Snapshots handed out", labels=["topic"])
        caught_up = CounterMetricFamily(
            "robodyne_catch_ups_sent", "Catch-ups of paced, paused and slow clients", labels=["topic"]
        )
        slow = CounterMetricFamily("robodyne_ws_slow_clients", "Times that a client was found slow", labels=["topic"])
        sent_bytes = hub.stats.bytes_sent
        by_topic = hub.connections_by_topic
        for name, feed in hub.feeds.items():
            clients.add_metric([name], by_topic[name])
            updates.add_metric([name], feed.stats.updates)
            delivered.add_metric([name], feed.stats.delivered)
            volatile.add_metric([name], feed.stats.volatile)
            snapshots.add_metric([name], feed.stats.snapshots)
            caught_up.add_metric([name], feed.stats.caught_up)
            slow.add_metric([name], feed.slow_clients)
            sent_bytes += feed.stats.bytes_sent
        yield from (clients, updates, delivered, volatile, snapshots, caught_up, slow)
        yield _counter("robodyne_ws_sent_bytes", "Bytes written to WebSockets", sent_bytes)
        closes = CounterMetricFamily("robodyne_ws_closes", "WebSockets ended", labels=["code", "reason"])
        for (code, reason), count in hub.stats.closes.items():
            closes.add_metric([str(code), reason], count)
        yield closes
        errors = CounterMetricFamily("robodyne_ws_errors", "Errors told to living connections", labels=["code"])
        for word, count in hub.stats.errors.items():
            errors.add_metric([word], count)
        yield errors
        yield _gauge(
            "robodyne_event_loop_lag_seconds", "The longest that the loop was late within 15 s", hub.stats.longest_lag_s
        )
        yield _gauge("robodyne_hub_io_uring", "Whether updates are sent by io_uring", hub.sends_by_ring)
        yield _gauge("robodyne_hub_held_bytes", "What is held for all clients together", hub.stats.held_bytes)
        yield _counter("robodyne_hub_given_up", "Windows, backlogs and clients given up for their memory", hub.stats.given_up)

    def _of_devices(self) -> Iterator[Metric]:
        receiver = self._receiver
        messages = CounterMetricFamily("robodyne_device_messages", "Messages of devices", labels=["type", "result"])
        for (kind, result), count in receiver.messages.items():
            messages.add_metric([kind, result], count)
        yield messages
        connections = GaugeMetricFamily("robodyne_device_connections", "Open wires to devices", labels=["port"])
        for port, count in receiver.connections.items():
            connections.add_metric([port], count)
        yield connections
        noise = CounterMetricFamily("robodyne_device_noise", "Bytes on a wire that were no message", labels=["kind"])
        for kind, count in receiver.noise.items():
            noise.add_metric([kind], count)
        yield noise
        refused = CounterMetricFamily("robodyne_device_refused", "Devices turned away", labels=["code"])
        for code, count in receiver.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield _counter("robodyne_device_clock_faults", "Messages whose ts could not be meant", receiver.clock_faults)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(name, help, value=value)
