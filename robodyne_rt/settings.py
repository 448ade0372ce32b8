"""config.toml and the environment -> typed sections.

`config.toml` is the whole configuration (SPEC section 12); `ROBODYNE_RT__SECTION__KEY` overrides one key, lists and
tables as JSON. Every part receives its own section or plain values, never the whole Settings. Unknown keys and wrong values
are a `ConfigError` that names each with file, line and key: a typing error must never become a silent default. Types are
strict in the file; the environment knows text only, so there "8000" is a number.
"""

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from robodyne_rt import toml_file
from robodyne_rt.toml_file import Location, TomlError

ENVIRONMENT_PREFIX = "ROBODYNE_RT__"

DATABASE_URLS = ("sqlite:///", "postgresql+psycopg://", "postgresql://", "postgres://")


class ConfigError(Exception):
    """The configuration cannot be used; the text is for the person at the console: a line for each mistake, which names file,
    line and key."""


def _network(text: str) -> str:
    ipaddress.ip_network(text, strict=False)
    return text


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?", re.IGNORECASE)


def _origin(text: str) -> str:
    """Check that browsers may send a text as Origin (RFC 6454 section 7): what never equals one would be a silent refusal."""
    match = _ORIGIN.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        raise ValueError(
            'expected an origin as browsers send it: SCHEME://HOST or SCHEME://HOST:PORT, without a path and without "*", '
            'a name with other than ASCII letters as xn--..., e.g. "https://till.example"'
        )
    return text


def _host_name(text: str) -> str:
    if not text or re.search(r"[\s/:@?#*]", text):
        raise ValueError('expected the name of a host alone, without scheme, port, path and "*", e.g. "till.example"')
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
Origin = Annotated[str, AfterValidator(_origin)]
HostName = Annotated[str, AfterValidator(_host_name)]
FileName = Annotated[str, Field(min_length=1)]
Right = Annotated[str, AfterValidator(_right)]
Role = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,50}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
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
    allowed_origins: list[Origin] = []
    allowed_hosts: list[HostName] = []
    trusted_proxies: list[Network] = []
    shutdown_grace_s: Positive = 5
    io_uring: Literal["auto", "off"] = "auto"


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
    port: FileName
    baudrate: AtLeastOne = 115200
    framing: Literal["crc", "lines"] = "crc"


class Database(Section):
    url: str = "sqlite:///robodyne.db"
    batch_max: AtLeastOne = 500
    changes_retained: AtLeastOne = 10000
    notify: bool = True
    doorbell: bool = True
    spool_path: FileName = "spool.db"
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
    secret_file: FileName = "secret.key"
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
    single_session_per_user: bool | Literal["device"] = False
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
    ask_undeclared: bool = False
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
        """Return what no single key shows: combinations that would be unsafe or cannot work. Each begins with its key:
        `[section] key`."""
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
        later = {
            "[sessions] store": self.sessions.store == "redis",
            "[redis] url": self.redis.url != "",
            "[assistant] kind": self.assistant.kind == "llm",
            "[assistant] base_url": self.assistant.base_url != "",
            "[assistant] model": self.assistant.model != "",
        }
        found += [f"{key}: this version cannot do that yet; leave it out" for key, is_wanted in later.items() if is_wanted]
        if self.auth.jwks_url and not _is_safe_url(self.auth.jwks_url):
            found.append(f'[auth] jwks_url = "{self.auth.jwks_url}": expected https:// (http:// on loopback only)')
        if not self.database.url.startswith(DATABASE_URLS):
            kind = self.database.url.partition("://")[0]
            found.append(f'[database] url = "{kind}:...": expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME')
        if self.database.url == "sqlite:///":
            found.append('[database] url = "sqlite:///": expected sqlite:///FILE')
        ports = [port.port for port in self.serial]
        found += [f"[[serial]] port = {port!r} stands there twice" for port in sorted(set(ports)) if ports.count(port) > 1]
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


class _Mistake(NamedTuple):
    """A key, and what is wrong with it."""

    location: Location
    text: str


def load(
    path: Path | None,
    environment: Mapping[str, str] = os.environ,
    *,
    check: Callable[[Settings], Iterable[str]] = lambda settings: (),
) -> Settings:
    """Return the settings of `path` (None: defaults only) with the environment laid over them.

    Args:
        check: says what else is wrong with the settings, in the form of `Settings.problems`.
    Raises:
        ConfigError: file unreadable, not TOML, unknown keys, wrong values or unsafe combinations; the text names all of them,
            each with its place.
    Source: SPEC section 12.
    """
    text, values = "", dict[str, Any]()
    if path is not None:
        try:
            text = toml_file.read(path)
            values = toml_file.parse(text)
        except TomlError as error:
            raise ConfigError(f"{path}:{error.line}: {error}" if error.line else f"{path}: {error}") from error
    lines = cache(lambda: toml_file.lines(text))
    wrong = _take_out_mistakes(values, strict=True)
    told = [(_line(lines(), location), what) for location, what in wrong]
    found = [f"{path}:{line}: {what}" for line, what in sorted(told)]
    variables: dict[tuple[str, ...], str] = {}
    for name in filter(lambda name: name.upper().startswith(ENVIRONMENT_PREFIX), environment):
        try:
            keys, value = _variable(name, environment[name])
        except ConfigError as error:
            found.append(f"environment {name}: {error}")
            continue
        if mistakes := _take_out_mistakes(_laid_over({}, keys, value), strict=False):
            wrong += mistakes
            found += [f"environment {name}: {what}" for _, what in mistakes]
            continue
        variables[keys] = name
        values = _laid_over(values, keys, value)
    settings = Settings.model_validate(values)
    for problem in (*settings.problems(), *check(settings)):
        if not any(_names(problem, location) for location, _ in wrong):  # else its default brought that about
            found.append(f"{_place_of(problem, path, variables, lines)}: {problem}")
    if found:
        raise ConfigError("\n".join(found))
    return settings


def _variable(name: str, text: str) -> tuple[tuple[str, ...], Any]:
    """Return which key ROBODYNE_RT__SECTION__KEY sets, and to what.

    Raises:
        ConfigError: it sets none.
    """
    keys = tuple(part.lower() for part in name[len(ENVIRONMENT_PREFIX) :].split("__"))
    if len(keys) > 2 or not all(keys):
        raise ConfigError(f"expected {ENVIRONMENT_PREFIX}SECTION__KEY")
    field = Settings.model_fields.get(keys[0])
    if len(keys) == 2 and field is not None and not _is_section(field.annotation):
        raise ConfigError(f"[{keys[0]}] is no table of single keys; give the whole as JSON")
    if text[:1] not in ("[", "{"):
        return keys, text
    try:
        return keys, json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}") from error


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _laid_over(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return values with one section, or one key of a section, replaced."""
    return {**values, keys[0]: value if len(keys) == 1 else {**values.get(keys[0], {}), keys[1]: value}}


def _take_out_mistakes(values: dict[str, Any], *, strict: bool) -> list[_Mistake]:
    """Remove from `values` what is wrong, and return it; what remains is valid.

    Args:
        strict: whether "8000" is no number.
    """
    try:
        Settings.model_validate(values, strict=strict)
    except ValidationError as error:
        found: dict[Location, list[Any]] = {}
        for item in error.errors():
            location = item["loc"] if item["type"] == "missing" else _known_part(values, item["loc"])
            found.setdefault(location, []).append(item)
        mistakes = [_Mistake(location, _explain(items, location)) for location, items in found.items()]
    else:
        return []
    for mistake in mistakes:
        section, *keys = mistake.location
        if keys and isinstance(values.get(str(section)), dict):
            values[str(section)].pop(keys[0], None)
        else:
            values.pop(str(section), None)
    return mistakes


def _known_part(values: Any, location: Location) -> Location:
    """Return the part of a location that is written out: validators add to it which of several forms was tried."""
    for length, part in enumerate(location):
        try:
            values = values[part]
        except (LookupError, TypeError):
            return location[:length]
    return location


def _explain(items: list[Any], location: Location) -> str:
    name, first = ".".join(map(str, location)), items[0]
    match first["type"]:
        case "extra_forbidden":
            return f'unknown key "{name}"{_did_you_mean(location)}'
        case "missing":
            return f'key "{name}" is missing'
        case "model_type":
            return f"{name} = {first['input']!r:.100}: expected a table, e.g. [{name}]"
    return f"{name} = {first['input']!r:.100}: {' or '.join(item['msg'].removeprefix('Value error, ') for item in items)}"


def _keys(section: str) -> list[str]:
    """Return the keys of a section, in the file's order; none where there is no such section."""
    field = Settings.model_fields.get(section)
    model: Any = SerialPort if section == "serial" else field.annotation if field else None
    return list(getattr(model, "model_fields", {}))


def _did_you_mean(location: Location) -> str:
    section, key = str(location[0]), str(location[-1])
    known = _keys(section) if len(location) > 1 else list(Settings.model_fields)
    if close := difflib.get_close_matches(key, known, n=1):
        return f' (did you mean "{close[0]}"?)'
    if elsewhere := [f"[{name}] {key}" for name in Settings.model_fields if key in _keys(name)]:
        return f" (did you mean {' or '.join(elsewhere)}?)"
    return f" (known here: {', '.join(known)})"


def _line(lines: Mapping[Location, int], location: Location) -> int:
    """Return the line of a key; of what it stands in, where it is not written out."""
    return next((lines[location[:length]] for length in range(len(location), 0, -1) if location[:length] in lines), 1)


def _names(problem: str, location: Location) -> bool:
    """Return whether a problem is about a key, or about a section as a whole."""
    section, *keys = map(str, location)
    return f"[{section}]" in problem and (not keys or keys[0] in re.findall(r"\w+", problem))


def _place_of(
    problem: str, path: Path | None, variables: Mapping[tuple[str, ...], str], lines: Callable[[], Mapping[Location, int]]
) -> str:
    """Return where the first key that a problem names, and that is written out, stands."""
    named: list[tuple[str, ...]] = re.findall(r"\[(\w+)\]+ (\w+)", problem)
    for keys in (*named, *((section,) for section, _ in named)):
        if keys in variables:
            return f"environment {variables[keys]}"
        if keys in lines():
            return f"{path}:{lines()[keys]}"
    return f"{path or 'environment'}"
