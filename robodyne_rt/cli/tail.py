"""`robodyne-rt tail TOPIC`: follow a topic in the terminal."""

import argparse
import os
import sys
from datetime import datetime
from typing import Any

import anyio
import orjson

from robodyne_rt.client.errors import Refused
from robodyne_rt.client.follow import follow
from robodyne_rt.model.topics import STATUS, TOPIC_NAMES
from robodyne_rt.settings import ConfigError

_NAMED_BY = ("robot_id", "table_number", "name", "type", "level")
_HIDDEN = {"id", "data", "joints", "last_seen", "reported_at", "updated_at"}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `tail` to the command line."""
    parser = commands.add_parser(
        "tail",
        help="follow a topic in the terminal",
        description="Follow a topic of a running server: first the state, then each change.",
    )
    parser.add_argument("topic", metavar="TOPIC", help=f"one of: {', '.join(TOPIC_NAMES)}")
    parser.add_argument("--url", default="http://localhost:8000", help="of the server (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=0.0, metavar="S", help="at most one update in this many seconds")
    parser.add_argument(
        "--token", default=os.environ.get("ROBODYNE_TOKEN", ""), help="who asks (default: environment ROBODYNE_TOKEN)"
    )
    parser.add_argument("--json", action="store_true", help="print the messages as they come, one JSON object per line")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.topic not in TOPIC_NAMES:
        raise ConfigError(f"unknown topic {options.topic!r}; known: {', '.join(TOPIC_NAMES)}")
    if not options.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {options.url}: expected http://HOST:PORT")
    try:
        anyio.run(_tail, options)
    except Refused as error:
        print(error.text, file=sys.stderr)
        if error.reason != "unknown_topic":
            print("who may: --token, or ROBODYNE_TOKEN (`robodyne-rt token create --help` makes one)", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
    return 0


async def _tail(options: argparse.Namespace) -> None:
    async for message in follow(options.url, options.topic, interval_s=options.interval, token=options.token):
        if options.json:
            print(orjson.dumps(message).decode(), flush=True)
            continue
        for line in lines_of(message):
            print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


def lines_of(message: dict[str, Any]) -> list[str]:
    """Return a message as lines for people."""
    kind = message["type"]
    if kind == "lost":
        return [f"-- lost: {_plain(message['data']['reason'])}; trying again"]
    if kind != "update":
        return [f"-- {kind}: {_plain(message.get('data'))}"]
    if message["topic"] == STATUS:
        return [_plain(message["data"])]
    mark = "=" if message.get("snapshot") else "~" if message.get("volatile") else "+"
    lines = [f"{mark} {_entity(entity)}" for entity in message["data"]]
    lines += [f"- {key} removed" for key in message.get("removed", ())]
    if message.get("snapshot"):
        lines.insert(0, f"-- snapshot of {len(message['data'])} at offset {message['offset']}, epoch {message['epoch']}")
    return lines


def _entity(entity: dict[str, Any]) -> str:
    name = next((f"{entity[key]}" for key in _NAMED_BY if entity.get(key) is not None), f"{entity['id']}")
    rest = [
        f"{key}={_plain(value)}"
        for key, value in entity.items()
        if key not in _HIDDEN and value is not None and f"{value}" != name
    ]
    return f"{name}  {' '.join(rest)}"


def _plain(value: Any) -> str:
    """Return a value on one line, without anything a terminal would obey."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return "".join(char if char.isprintable() else "?" for char in text)
