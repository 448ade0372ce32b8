"""What all tests share: databases of both kinds, and that nothing is skipped on CI."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from robodyne_rt.sim.cluster import Cluster
from tests import stores
from tests.no_skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  (hooks)
from tests.stores import Store

# A machine that is busy with something else is no fault of ours.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def cluster_of() -> Iterator[Callable[[], Cluster]]:
    """A Postgres server, started when it is first asked for."""
    with ExitStack() as stack:
        running: list[Cluster] = []

        def start() -> Cluster:
            if not running:
                running.append(stack.enter_context(stores.cluster()))
            return running[0]

        yield start


@pytest.fixture(params=stores.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, cluster_of: Callable[[], Cluster]) -> Store:
    """A fresh database of each kind."""
    return stores.make_store(request.param, tmp_path, cluster_of)
