"""The database itself, for commands where no server runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robodyne_rt.settings import ConfigError, Settings
from robodyne_rt.store.engine.database import DbConnection, open_database
from robodyne_rt.store.engine.ownership import Ownership

SQLITE = "sqlite:///"


@contextmanager
def opened(settings: Settings, *, make: bool = False, any_schema: bool = False) -> Iterator[DbConnection]:
    """Open it, and say on the console which one it is.

    Args:
        make: whether it may be a new one.
        any_schema: whether it may be of another version.
    Raises:
        ConfigError: there is none. A command in the wrong folder would make another one, that no server knows.
        DataOwned: another process has it, perhaps a server that cannot be reached.
        SchemaMismatch: it is of another version; only `serve`, `init` and `migrate` move a schema.
    """
    url = settings.database.url
    if url.startswith(SQLITE) and not make:
        path = Path(url.removeprefix(SQLITE)).absolute()
        if not path.exists():
            raise ConfigError(
                f"no server runs here, and there is no database {path}: go to the server's folder, which files named in the"
                " configuration are relative to (`robodyne-rt init` makes a new one)"
            )
        print(f"no server runs here; using {path}", file=sys.stderr)
    database = open_database(settings.database)
    with Ownership(database.files).take():
        db = database.open_writer()
        try:
            if make:
                database.prepare(db)
            elif not any_schema:
                database.check_schema(db)
            yield db
        finally:
            db.close()
