"""A new topic takes the files that docs/architecture.md lists, and nothing else: done here on a copy of the program."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.server import Server, receive, updates_until

ROOT = Path(__file__).parents[2]

MODEL = '''

class Bell(SQLModel, table=True):
    """A bell that guests press."""

    __tablename__ = "bell"
    __table_args__ = table_args(IS_EXACT, at_most("name", MAX_NAME))
    id: int | None = identity()
    name: str = column(TEXT, nullable=False)
    presses: int = column(INTEGER, nullable=False, server_default="0")
'''

ROW = '''

class Bell(ReadModel):
    """A bell that guests press."""

    name: str
    presses: int
'''

STEP = '''"""Version {version}: bells."""

from robodyne_rt.store.migrations.migration import Migration, Statement

_COLUMNS = (
    "name text NOT NULL, presses {{}} NOT NULL DEFAULT 0, CONSTRAINT id_in_range CHECK (id BETWEEN 1 AND 9007199254740991), "
    "CONSTRAINT name_length CHECK (length(name) <= 200)"
)

BELLS = Migration(
    version={version},
    steps=(
        Statement(
            "CREATE TABLE bell (id INTEGER NOT NULL PRIMARY KEY, " + _COLUMNS.format("INTEGER") + ") STRICT",
            "CREATE TABLE bell (id bigserial PRIMARY KEY, " + _COLUMNS.format("bigint") + ")",
        ),
    ),
)
'''

RUN = "from robodyne_rt.cli.main import main; sys.exit(main(sys.argv[1:]))"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def add_topic(package: Path) -> None:
    """Do what docs/architecture.md says."""
    entities, registry, rows = (package / "model" / name for name in ("entities/restaurant.py", "topics.py", "read_models.py"))
    entities.write_text(entities.read_text() + MODEL)
    edit(
        registry,
        '        Topic("inventory", Rows("inventory")),\n',
        '        Topic("inventory", Rows("inventory")),\n        Topic("bells", Rows("bell")),\n',
    )
    edit(rows, "\n\nclass Status(BaseModel):", f"{ROW}\n\nclass Status(BaseModel):")
    edit(rows, '    "video_streams": VideoStream,\n}', '    "video_streams": VideoStream,\n    "bells": Bell,\n}')
    edit(rows, '"video_streams", "status"]', '"video_streams", "bells", "status"]')
    migrations = package / "store/migrations"
    version = 1 + max(int(path.name[1:5]) for path in migrations.glob("v0*.py"))
    (migrations / f"v{version:04}_bells.py").write_text(STEP.format(version=version))
    edit(
        migrations / "__init__.py",
        "\nMIGRATIONS: ",
        f"from robodyne_rt.store.migrations.v{version:04}_bells import BELLS\n\nMIGRATIONS: ",
    )
    text = (migrations / "__init__.py").read_text()
    (migrations / "__init__.py").write_text(re.sub(r"(MIGRATIONS: .* = \(.*)\)", r"\1, BELLS)", text))


async def test_a_topic_is_added_by_the_files_that_the_docs_list(tmp_path: Path) -> None:
    docs = (ROOT / "docs/architecture.md").read_text()
    for named in ("model/entities/", "model/topics.py", "model/read_models.py", "store/migrations/", "scripts/schema"):
        assert named in docs.partition("**A topic**")[2].partition("**A message of a device**")[0]
    with Server(tmp_path).start() as before:  # whose database is there already
        assert before.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "IDLE"})[0]["status"] == "success"
    package = tmp_path / "program" / "robodyne_rt"
    shutil.copytree(ROOT / "robodyne_rt", package, ignore=shutil.ignore_patterns("__pycache__"))
    add_topic(package)
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    made = "from robodyne_rt.store.engine import schema; schema.write()"
    subprocess.run([sys.executable, "-c", made], env=environment, cwd=package.parent, check=True)
    server = Server(tmp_path)
    server.program = ("-c", f"import sys; sys.path.insert(0, {str(package.parent)!r}); " + RUN)
    with server.start():
        assert server.sql("SELECT count(*) FROM robot") == [(1,)]
        async with server.watch("/ws/bells") as screen:
            assert (await receive(screen))["data"] == []
            server.sql("INSERT INTO bell(name, presses) VALUES ('window', 1)")
            update = await receive(screen)
            assert (update["data"], update["offset"]) == ([{"id": 1, "name": "window", "presses": 1}], 1)
            position = f"since=1&epoch={json.loads(server.get('/api/bells')[2])['epoch']}"
        server.sql("UPDATE bell SET presses = 2")
        async with server.watch(f"/ws/bells?{position}") as screen:
            caught_up = await updates_until(screen, lambda message: message["type"] == "update" and message["data"])
            assert caught_up[0]["recovered"] and caught_up[-1]["data"][0]["presses"] == 2
        contract = json.loads(server.get("/api/openapi.json")[2])
        assert contract["components"]["schemas"]["Bell"]["properties"].keys() == {"id", "name", "presses"}
        assert "bells" in contract["paths"]["/api/bells"]["get"]["x-right"]
