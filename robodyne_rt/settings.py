"""config.toml and the environment -> typed sections.

`config.toml` is the whole configuration (SPEC section 12); `ROBODYNE_RT__SECTION__KEY` overrides one key, lists and
tables as JSON. Every part receives its own section or plain values, never the whole Settings. An unknown key or a wrong
value is a `ConfigError` that names file, line and key: a typing error must never become a silent default.
"""

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

ENVIRONMENT_PREFIX = "ROBODYNE_RT__"

DATABASE_URLS = ("sqlite:///", "postgresql+psycopg://", "postgresql://", "postgres://")


class ConfigError(Exception):
    """The configuration cannot be used; the text is for the person at the console and names file, line and key."""


def _network(text: str) -> str:
    ipaddress.ip_network(text, strict=False)
    return text


RIGHTS = ("query", "message", "sessions", "look", "operate", "send_device_messages", "administer")
"""What a role may be allowed besides `read:TOPIC`; `*` is everything."""

_WALL = ["read:robots", "read:tables", "read:orders", "read:events", "read:inventory", "read:status"]
"""What hangs on walls: no guests, no logs, no video."""


def _right(word: str) -> str:
    if word != "*" and word not in RIGHTS and not word.startswith("read:"):
        raise ValueError(f"unknown right {word!r}; known: *, read:TOPIC, {', '.join(RIGHTS)}")
    return word


Network = Annotated[str, AfterValidator(_network)]
Right = Annotated[str, AfterValidator(_right)]
Role = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,50}$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Days = Annotated[int, Field(ge=0, le=36500)]
AtLeastOne = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not changed at run time."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Section):
    host: str = "0.0.0.0"
    port: Port = 8000
    name: str = "robodyne"
    tls_cert: str = ""
    tls_key: str = ""
    allowed_origins: list[str] = []
    allowed_hosts: list[str] = []
    trusted_proxies: list[Network] = []
    shutdown_grace_s: Positive = 5


class Devices(Section):
    host: str = "0.0.0.0"
    port: Port = 8001
    auth: Literal["key", "none"] = "key"
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    trusted_networks: list[Network] = ["127.0.0.0/8", "::1/128"]
    offline_after_s: Positive = 10
    max_message_bytes: AtLeastOne = 65536
    max_connections: AtLeastOne = 500


class SerialPort(Section):
    port: str
    baudrate: AtLeastOne = 115200
    framing: Literal["crc", "lines"] = "crc"


class Database(Section):
    url: str = "sqlite:///robodyne.db"
    batch_max: AtLeastOne = 500
    changes_retained: AtLeastOne = 10000
    notify: bool = True
    doorbell: bool = True
    spool_path: str = "spool.db"
    spool_max_bytes: Count = 1073741824
    push_deadline_ms: Count = 50


class Hub(Section):
    max_connections_per_topic: AtLeastOne = 100
    topic_limits: dict[str, AtLeastOne] = {}
    display_reserve: Count = 0
    ping_interval_s: Positive = 30
    pong_timeout_s: Positive = 10
    max_missed_pongs: AtLeastOne = 3
    send_buffer_limit_bytes: AtLeastOne = 262144
    slow_client_timeout_s: Positive = 30
    memory_limit_bytes: AtLeastOne = 134217728
    fallback_interval_s: Positive = 10
    max_client_message_bytes: AtLeastOne = 65536


class Topics(Section):
    events_window: AtLeastOne = 20
    systemlogs_window: AtLeastOne = 30
    orders_finished_minutes: Count = 60


class Auth(Section):
    mode: Literal["local", "oidc", "off"] = "local"
    secret_file: str = "secret.key"
    issuer: str = ""
    audience: str = ""
    jwks_url: str = ""
    clients: list[str] = []
    role_map: dict[str, str] = {}
    anonymous_topics: list[str] = []
    anonymous_networks: list[Network] = []


class Rights(Section):
    """What each role may do; a role that is written out here has these rights instead of the default ones. Any other name
    makes a role of one's own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[Role, list[Right]] = Field(init=False)

    admin: list[Right] = ["*"]
    manager: list[Right] = ["read:*", "query", "message", "sessions", "look"]
    kitchen: list[Right] = [*_WALL, "query", "message"]
    staff: list[Right] = [*_WALL, "read:customers", "query", "message"]
    display: list[Right] = _WALL
    technician: list[Right] = [
        *_WALL,
        "read:systemlogs",
        "read:video_streams",
        "query",
        "message",
        "sessions",
        "look",
        "operate",
        "send_device_messages",
    ]


class Limits(Section):
    query_requests: AtLeastOne = 10
    query_window_s: Positive = 60
    share_rate_limit: bool = True


class Sessions(Section):
    store: Literal["memory", "redis"] = "memory"
    ttl_s: Positive = 86400
    stale_after_s: Positive = 3600
    single_session_per_user: bool = False
    max_connections: AtLeastOne = 1000


class Queue(Section):
    max_attempts: AtLeastOne = 3
    retention_days: AtLeastOne = 14


class Retention(Section):
    events_days: Days = 90
    systemlogs_days: Days = 30
    orders_days: Days = 400
    customers_days: Days = 30
    chat_days: Days = 90
    messages_days: Days = 90
    operations_days: Days = 30
    backups: AtLeastOne = 7


class Backup(Section):
    every_h: Count = 24


class Redis(Section):
    url: str = ""


class Assistant(Section):
    kind: Literal["rules", "llm"] = "rules"
    base_url: str = ""
    model: str = ""


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"


class Settings(Section):
    """The whole configuration. Built by `load`, read by `app/` only."""

    server: Server = Server()
    devices: Devices = Devices()
    serial: list[SerialPort] = []
    database: Database = Database()
    hub: Hub = Hub()
    topics: Topics = Topics()
    auth: Auth = Auth()
    rights: Rights = Rights()
    limits: Limits = Limits()
    sessions: Sessions = Sessions()
    queue: Queue = Queue()
    retention: Retention = Retention()
    backup: Backup = Backup()
    redis: Redis = Redis()
    assistant: Assistant = Assistant()
    log: Log = Log()

    def problems(self) -> list[str]:
        """Return what no single key shows: combinations that would be unsafe or cannot work."""
        found = []
        if self.auth.mode == "off" and not is_loopback(self.server.host):
            found.append(
                f'[auth] mode = "off" lets everybody in and is allowed on loopback only: set [server] host = "127.0.0.1" '
                f'(now "{self.server.host}") or choose mode = "local"'
            )
        if self.server.port == self.devices.port != 0:
            found.append(f"[server] port and [devices] port are both {self.server.port}: browsers and devices need one each")
        if bool(self.server.tls_cert) != bool(self.server.tls_key):
            found.append("[server] tls_cert and tls_key belong together: one of them is empty")
        if bool(self.devices.tls_cert) != bool(self.devices.tls_key):
            found.append("[devices] tls_cert and tls_key belong together: one of them is empty")
        if self.devices.tls_client_ca and not self.devices.tls_cert:
            found.append("[devices] tls_client_ca needs tls_cert and tls_key")
        if self.auth.mode == "oidc" and not (self.auth.issuer and self.auth.audience and self.auth.jwks_url):
            found.append('[auth] mode = "oidc" needs issuer, audience and jwks_url')
        if unknown := sorted(set(self.auth.role_map.values()) - self.rights.model_dump().keys()):
            found.append(f"[auth] role_map: there is no role {unknown[0]!r}; known: {', '.join(self.rights.model_dump())}")
        later = {"[sessions] store": self.sessions.store == "redis", "[assistant] kind": self.assistant.kind == "llm"}
        found += [f"{key}: this version cannot do that yet; leave it out" for key, is_wanted in later.items() if is_wanted]
        if self.auth.jwks_url and not _is_safe_url(self.auth.jwks_url):
            found.append(f'[auth] jwks_url = "{self.auth.jwks_url}": expected https:// (http:// on loopback only)')
        if not self.database.url.startswith(DATABASE_URLS):
            kind = self.database.url.partition("://")[0]
            found.append(f'[database] url = "{kind}:...": expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME')
        return found


def shown(settings: Settings, *, indent: int | None = None) -> str:
    """Return the settings as JSON, with the passwords in URLs hidden."""
    values = settings.model_dump(mode="json")
    for section in ("database", "redis"):
        values[section]["url"] = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", values[section]["url"])
    return json.dumps(values, indent=indent, ensure_ascii=False)


def control_socket(settings: Settings) -> Path:
    """Return where a server listens for commands on its own machine: beside its spool."""
    return Path(settings.database.spool_path).absolute().with_name("robodyne-rt.sock")


def owned_files(settings: Settings) -> list[Path]:
    """Return the files that belong to the one process that writes: the spool, and a SQLite database."""
    files = [Path(settings.database.spool_path).absolute()]
    if settings.database.url.startswith("sqlite:///"):
        files.append(Path(settings.database.url.removeprefix("sqlite:///")).absolute())
    return files


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_safe_url(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of `path` (None: defaults only) with the environment laid over them.

    Raises:
        ConfigError: file unreadable, not TOML, unknown key, wrong value or an unsafe combination; the text names where.
    Source: SPEC section 12.
    """
    text = ""
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    origin = _overlay(values, environment)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        lines = [_explain(item, path, text, origin) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error
    if problems := settings.problems():
        raise ConfigError("\n".join(f"{path or 'environment'}: {problem}" for problem in problems))
    return settings


def _overlay(values: dict[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Lay ROBODYNE_RT__SECTION__KEY over `values`; return which variable set which key."""
    origin: dict[tuple[str, ...], str] = {}
    for name, text in environment.items():
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        keys = tuple(part.lower() for part in name[len(ENVIRONMENT_PREFIX) :].split("__"))
        if len(keys) > 2 or not all(keys):
            raise ConfigError(f"environment {name}: expected {ENVIRONMENT_PREFIX}SECTION__KEY")
        value: Any = text
        if text[:1] in ("[", "{"):
            try:
                value = json.loads(text)
            except ValueError as error:
                raise ConfigError(f"environment {name}: not JSON: {error}") from error
        if len(keys) == 1:
            values[keys[0]] = value
        else:
            section = values.setdefault(keys[0], {})
            if not isinstance(section, dict):
                raise ConfigError(f"environment {name}: [{keys[0]}] is no table of single keys; give the whole as JSON")
            section[keys[1]] = value
        origin[keys] = name
    return origin


def _explain(item: Any, path: Path | None, text: str, origin: dict[tuple[str, ...], str]) -> str:
    location = tuple(str(part) for part in item["loc"])
    name = ".".join(location)
    variable = origin.get(location[:2]) or origin.get(location[:1])
    where = f"environment {variable}" if variable else f"{path}:{_line_of(text, location)}"
    if item["type"] == "extra_forbidden":
        return f'{where}: unknown key "{name}"{_did_you_mean(location)}'
    return f"{where}: {name} = {item['input']!r}: {item['msg']}"


def _did_you_mean(location: tuple[str, ...]) -> str:
    known: list[str] = list(Settings.model_fields)
    if len(location) > 1:
        field = Settings.model_fields.get(location[0])
        section: Any = field.annotation if field else None
        section = SerialPort if location[0] == "serial" else section
        known = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(location[-1], known, n=1)
    return f' (did you mean "{close[0]}"?)' if close else f" (known here: {', '.join(known)})"


def _line_of(text: str, location: tuple[str, ...]) -> int:
    """Return the line of a key in TOML text, counted from 1; the section's line where the key is not written out."""
    section, found, entry = "", 1, -1
    names = [part for part in location if not part.isdigit()]
    # ("serial", "1", "port"): the second [[serial]]; ("auth", "anonymous_topics", "0"): an item of a list.
    wanted_entry = int(location[1]) if len(location) > 1 and location[1].isdigit() else None
    wanted_key = (names[0], names[1]) if len(names) > 1 else ("", names[0])
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            section = header[1]
            if section == names[0]:
                entry += 1
                if wanted_entry in (None, entry):
                    found = number
            continue
        key = re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line)
        if key and (section, key[1]) == wanted_key and wanted_entry in (None, entry):
            return number
        if key and not section and key[1] in (names[0], ".".join(names)):
            return number
    return found
