"""Every setting, topic, code and message type is documented."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robodyne_rt.model import entities, enums
from robodyne_rt.model.access import ROLES
from robodyne_rt.model.topics import PUBLIC_TOPICS, TOPIC_NAMES, TOPICS
from robodyne_rt.protocol import errors, session_messages, topic_messages
from robodyne_rt.protocol.device_messages import MESSAGES, ErrorCode
from robodyne_rt.protocol.session_messages import CallbackKind
from robodyne_rt.settings import RIGHTS, Settings
from robodyne_rt.web.routes import ROUTES
from tests import processes

ROOT = Path(__file__).parent.parent
CLIENTS = (ROOT / "docs/protocol-clients.md").read_text()
PYTHON_CLIENT = (ROOT / "docs/client-python.md").read_text()
DEVICES = (ROOT / "docs/protocol-devices.md").read_text()
README = (ROOT / "README.md").read_text()


def test_every_topic_and_its_fields_are_documented() -> None:
    for name in TOPIC_NAMES:
        assert name in CLIENTS and name in README
    for topic in map(TOPICS.__getitem__, PUBLIC_TOPICS):
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
    for kind in {*topic_messages.CLIENT_TYPES, *session_messages.CLIENT_TYPES} - {"pause", "resume"}:
        assert f'"type":"{kind}"' in CLIENTS or f"`{kind}`" in CLIENTS, kind
    for callback in CallbackKind:
        assert f"`{callback}`" in CLIENTS or f"`{callback} " in CLIENTS, callback


def test_every_path_of_the_api_is_documented() -> None:
    both = CLIENTS + README + (ROOT / "docs/storage.md").read_text() + (ROOT / "docs/access.md").read_text()
    for route in ROUTES:
        bare = re.sub(r"\{(\w+):[^}]*\}+", r"{\1}", route.path)
        assert bare in both or bare.replace("{topic}", "TOPIC") in both, f"{route.method} {bare}"


def test_every_word_of_an_enum_is_documented() -> None:
    both = CLIENTS + DEVICES
    for enum in (enums.RobotStatus, enums.TableStatus, enums.OrderStatus, enums.Severity, enums.Link):
        assert all(member.value in both for member in enum)


def test_every_setting_named_in_the_docs_exists() -> None:
    known = {key for field in Settings.model_fields.values() for key in getattr(field.annotation, "model_fields", {})}
    for text in (README, CLIENTS, DEVICES, (ROOT / "docs/access.md").read_text()):
        for section, keys in re.findall(r"`\[(\w+)\] ([\w` ]+?)`", text):
            assert section in Settings.model_fields
            assert set(keys.replace("`", "").split()) <= known


@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["demo"], ["sim"], ["check-config"], ["tail"], ["version"], ["init"], ["user"], ["token"], ["device"]],
)
def test_every_command_has_help_and_stands_in_the_readme(command: list[str]) -> None:
    done = processes.run([*command, "--help"], folder=ROOT, environment={})
    assert done.returncode == 0 and "usage: robodyne-rt" in done.stdout
    assert f"robodyne-rt {' '.join(command)}".strip() in README


def test_the_readmes_python_client_works_as_printed(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    from tests.e2e.server import Server

    with Server(tmp_path) as server:
        script = code[1].replace("ws://localhost:8000", f"ws://127.0.0.1:{server.port}")
        client = subprocess.Popen([sys.executable, "-uc", script], stdout=subprocess.PIPE, text=True)
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "{}\n"
            server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING"})
            assert client.stdout.readline() == "{'alba-1': 'SERVING'}\n"
            server.sql("DELETE FROM robot")
            assert client.stdout.readline() == "{}\n"
            port = server.port
            server.kill()
            assert "close" in client.stdout.readline()
            server._settings["ROBODYNE_RT__SERVER__PORT"] = str(port)
            server.start()
            assert client.stdout.readline() == "{}\n"
        finally:
            client.kill()
            client.wait()
            assert client.stdout is not None
            client.stdout.close()


def test_every_right_and_role_is_explained() -> None:
    access = (ROOT / "docs/access.md").read_text()
    config = (ROOT / "config.toml").read_text()
    for word in (*RIGHTS, *ROLES):
        assert f"`{word}`" in access and word in config, word


async def test_the_kitchen_printer_prints(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", PYTHON_CLIENT, re.S)
    assert code is not None
    from tests.e2e.server import Server

    with Server(tmp_path) as server:
        server.sql("INSERT INTO menu_item(name) VALUES ('bibimbap')")
        server.sql("INSERT INTO table_(table_number) VALUES (4), (5), (6), (7)")
        environment = os.environ | {"ROBODYNE_URL": f"http://127.0.0.1:{server.port}", "TZ": "Asia/Seoul"}

        def order(table: int) -> None:
            (told,) = server.tell({"msg_type": "Order", "table_number": table, "items": [{"name": "bibimbap", "note": "hot"}]})
            assert told["status"] == "success"

        # What was ordered before, and what is; after a restart only what was not printed, also where cooking began meanwhile.
        for before, after in ((4, 5), (6, 7)):
            order(before)
            server.sql("UPDATE order_ SET status = 'PREPARING', preparing_at = timestamp WHERE status = 'PLACED'")
            command = [sys.executable, "-c", code[1]]
            printer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
            try:
                assert printer.stdout is not None
                for table in (before, after):
                    line = printer.stdout.readline()
                    assert line.startswith(f"--- table {table}"), line
                    hours = (int(line.split()[-1].partition(":")[0]) - time.gmtime().tm_hour) % 24
                    assert hours in (8, 9, 10), "local time"
                    assert printer.stdout.readline() == "  1 x bibimbap  hot\n"
                    if table == before:
                        order(after)
                while len((tmp_path / "printed.txt").read_text().split()) < after - 3:
                    time.sleep(0.01)  # what was printed and not noted would come out again
            finally:
                printer.kill()
                printer.wait()
                assert printer.stdout is not None
                printer.stdout.close()


def test_the_registry_is_one_line_per_topic() -> None:
    assert all(dataclasses.is_dataclass(topic) for topic in TOPICS.values())
