"""The shipped schema is what the models say, and serving does not need the models."""

import subprocess
import sys
from importlib import resources

import pytest

from robodyne_rt.model import entities
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.store.engine import schema


@pytest.mark.parametrize("kind", schema.KINDS)
def test_the_shipped_schema_is_what_the_models_say(kind: str) -> None:
    assert schema._HEAD in schema.generate(kind)
    text = (resources.files("robodyne_rt.store.engine") / f"{kind}.sql").read_text()
    assert text == schema.generate(kind), "models or triggers changed: run scripts/schema, and write a migration"


def test_the_registry_knows_what_json_and_truth_values_are() -> None:
    for topic in TOPICS.values():
        for rows in (topic.rows, *(nested.rows for nested in topic.nested)):
            columns = entities.Robot.metadata.tables[rows.table].columns
            assert rows.json == tuple(column.name for column in columns if column.type is entities.JSON)
            assert rows.boolean == tuple(column.name for column in columns if column.type is entities.BOOLEAN)


def test_serving_does_not_load_the_models() -> None:
    script = "import sys, robodyne_rt.cli.main; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
