"""Every setting, topic, code and message type is documented."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from robodyne_rt import errors
from robodyne_rt.core import wire
from robodyne_rt.core.device_messages import MESSAGES, ErrorCode
from robodyne_rt.model import entities, words
from robodyne_rt.model.topics import TOPIC_NAMES, TOPICS
from robodyne_rt.settings import Settings

ROOT = Path(__file__).parent.parent
CLIENTS = (ROOT / "docs/protocol-clients.md").read_text()
DEVICES = (ROOT / "docs/protocol-devices.md").read_text()
README = (ROOT / "README.md").read_text()


def test_every_topic_and_its_fields_are_documented() -> None:
    for name in TOPIC_NAMES:
        assert name in CLIENTS and name in README
    for topic in TOPICS.values():
        row = next(line for line in CLIENTS.splitlines() if line.startswith(f"| {topic.name} |"))
        columns = entities.Robot.metadata.tables[topic.table].columns
        assert all(column.name in row for column in columns), topic.name


def test_every_device_message_and_its_fields_are_documented() -> None:
    for name, model in MESSAGES.items():
        rows = [line for line in DEVICES.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert rows, name
        own = set(model.model_fields) - {"msg_type", "id", "ts", "key", "position", "proof", "client_nonce"}
        told = " ".join(rows)
        for field in own:
            prefix = re.sub(r"(_[a-z]+|\d)$", "", field)
            assert field in told or prefix in told, f"{name}.{field}"


def test_every_error_code_is_documented() -> None:
    for code in ErrorCode.__args__:  # type: ignore[attr-defined]
        assert f"`{code}`" in DEVICES
    for error in errors.RobodyneError.__subclasses__():
        if error.close_reason not in ("internal", "forbidden"):
            assert f"`{error.close_reason}`" in CLIENTS
    for kind in wire.CLIENT_TYPES:
        assert f'"type":"{kind}"' in CLIENTS


def test_every_word_of_an_enum_is_documented() -> None:
    both = CLIENTS + DEVICES
    for enum in (words.RobotStatus, words.TableStatus, words.OrderStatus, words.Severity, words.Link):
        assert all(member.value in both for member in enum)


def test_every_setting_named_in_the_docs_exists() -> None:
    known = {key for field in Settings.model_fields.values() for key in getattr(field.annotation, "model_fields", {})}
    for text in (README, CLIENTS, DEVICES):
        for section, keys in re.findall(r"`\[(\w+)\] ([\w` ]+?)`", text):
            assert section in Settings.model_fields
            assert set(keys.replace("`", "").split()) <= known


@pytest.mark.parametrize("command", [[], ["serve"], ["demo"], ["sim"], ["check-config"], ["tail"], ["version"]])
def test_every_command_has_help_and_stands_in_the_readme(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "robodyne_rt", *command, "--help"], capture_output=True, text=True, check=True)
    assert "usage: robodyne-rt" in done.stdout
    assert f"robodyne-rt {' '.join(command)}".strip() in README


def test_the_readmes_python_client_works_as_printed(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    from tests.e2e.server import Server

    with Server(tmp_path) as server:
        script = (
            code[1].replace("ws://localhost:8000", f"ws://127.0.0.1:{server.port}").replace("print(", "print(flush=True, *[")
        )
        script = re.sub(r"print\(flush=True, \*\[(.*)\)\n", r"print(\1, flush=True)\n", script)
        client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "{}\n"
            server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING"})
            assert client.stdout.readline() == "{'alba-1': 'SERVING'}\n"
        finally:
            client.kill()
            client.wait()
            client.stdout.close()


def test_the_registry_is_one_line_per_topic() -> None:
    assert all(dataclasses.is_dataclass(topic) for topic in TOPICS.values())
