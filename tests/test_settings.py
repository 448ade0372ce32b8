"""config.toml and the environment become settings, and mistakes are named with their place."""

import json
from pathlib import Path

import pytest

from robodyne_rt.app import lifecycle
from robodyne_rt.settings import ConfigError, SerialPort, Settings, load, shown

ROOT = Path(__file__).parent.parent


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_writes_out_exactly_the_defaults() -> None:
    assert load(ROOT / "config.toml", {}) == Settings()


def test_the_shipped_file_names_every_key() -> None:
    text = (ROOT / "config.toml").read_text()
    for name, field in Settings.model_fields.items():
        section = SerialPort if name == "serial" else field.annotation
        assert f"[{name}]" in text, name
        for key in section.model_fields:  # type: ignore[union-attr]
            assert f"\n{key} = " in text or f"\n# {key} = " in text, f"[{name}] {key}"


def test_the_environment_overrides_and_lists_are_json(tmp_path: Path) -> None:
    path = config(tmp_path, "[server]\nport = 9000\n")
    environment = {
        "ROBODYNE_RT__SERVER__PORT": "9001",
        "ROBODYNE_RT__AUTH__ANONYMOUS_TOPICS": '["robots"]',
        "ROBODYNE_RT__SERIAL": '[{"port": "/dev/ttyUSB0", "framing": "lines"}]',
        "ROBODYNE_RT__DATABASE__NOTIFY": "false",
        "UNRELATED": "1",
    }
    settings = load(path, environment)
    assert settings.server.port == 9001
    assert settings.auth.anonymous_topics == ["robots"]
    assert settings.serial == [SerialPort(port="/dev/ttyUSB0", framing="lines")]
    assert settings.database.notify is False


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "[server]\nport = 8000\n\n[hub]\nping_intervall_s = 3\n",
            ':5: unknown key "hub.ping_intervall_s" (did you mean "ping_',
        ),
        ("[serverr]\nport = 1\n", ':1: unknown key "serverr" (did you mean "server"?)'),
        ("[server]\nport = 70000\n", ":2: server.port = 70000"),
        ("[devices]\n\ntrusted_networks = ['nonsense']\n", ":3: devices.trusted_networks.0 = 'nonsense'"),
        ("[[serial]]\nport = 'a'\n[[serial]]\nport = 'b'\nspeed = 1\n", ':5: unknown key "serial.1.speed"'),
        ("[server\n", "not TOML"),
        ('[auth]\nmode = "off"\n', 'host = "127.0.0.1"'),
        ('[database]\nurl = "mysql://x"\n', "sqlite:///FILE"),
        ('[server]\ntls_cert = "a.pem"\n', "belong together"),
        ("[server]\nport = 8001\n", "are both 8001"),
        ('[sessions]\nstore = "redis"\n', "[sessions] store: this version cannot do that yet"),
        ('[redis]\nurl = "redis://localhost"\n', "[redis] url: this version cannot do that yet"),
        ('[assistant]\nkind = "llm"\n', "[assistant] kind: this version cannot do that yet"),
        ('[assistant]\nbase_url = "http://x"\n', "[assistant] base_url: this version cannot do that yet"),
        ('[assistant]\nmodel = "x"\n', "[assistant] model: this version cannot do that yet"),
        ('[sessions]\nsingle_session_per_user = "user"\n', ":2: sessions.single_session_per_user"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(config(tmp_path, text), {})
    assert wanted in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("ROBODYNE_RT__SERVER__PROT", "1", 'environment ROBODYNE_RT__SERVER__PROT: unknown key "server.prot"'),
        ("ROBODYNE_RT__SERVER__PORT", "many", "environment ROBODYNE_RT__SERVER__PORT: server.port = 'many'"),
        ("ROBODYNE_RT__AUTH__ANONYMOUS_TOPICS", "[robots", "not JSON"),
        ("ROBODYNE_RT__A__B__C", "1", "expected ROBODYNE_RT__SECTION__KEY"),
        ("ROBODYNE_RT__SERIAL__PORT", "x", "give the whole as JSON"),
    ],
)
def test_a_mistake_in_the_environment_is_named_with_its_variable(name: str, value: str, wanted: str) -> None:
    base = {"ROBODYNE_RT__SERIAL": "[]"} if name == "ROBODYNE_RT__SERIAL__PORT" else {}
    with pytest.raises(ConfigError) as error:
        load(None, base | {name: value})
    assert wanted in str(error.value)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("device", "device")])
def test_one_session_may_be_for_a_user_or_for_each_device(tmp_path: Path, text: str, value: bool | str) -> None:
    from_environment = load(None, {"ROBODYNE_RT__SESSIONS__SINGLE_SESSION_PER_USER": text})
    quoted = f'"{text}"' if isinstance(value, str) else text
    from_file = load(config(tmp_path, f"[sessions]\nsingle_session_per_user = {quoted}\n"), {})
    assert from_environment.sessions.single_session_per_user == from_file.sessions.single_session_per_user == value


def test_a_password_in_a_url_that_is_refused_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(config(tmp_path, '[redis]\nurl = "redis://:s3cr3t@cache/0"\n'), {})
    assert "s3cr3t" not in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", {})


def test_passwords_are_not_shown() -> None:
    urls = {"database": "postgresql+psycopg://kim:s3cr3t@db/x", "redis": "redis://:s3cr3t@cache/0"}
    settings = Settings.model_validate({section: {"url": url} for section, url in urls.items()})
    text = shown(settings)
    assert "s3cr3t" not in text and "kim:***@db/x" in text


def test_rights_may_name_roles_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[rights]\ncourier = ["read:tables", "message"]\nkitchen = ["query"]\n', encoding="utf-8")
    rights = load(path, {}).rights.model_dump()
    assert (rights["courier"], rights["kitchen"]) == (["read:tables", "message"], ["query"])
    assert rights["admin"] == ["*"]
    assert load(path, {"ROBODYNE_RT__RIGHTS__RIDER": '["look"]'}).rights.model_dump()["rider"] == ["look"]
    for bad in ('courier = ["reed:tables"]', 'courier = "query"', "courier = 1", '"a b" = ["query"]', '"a:b" = ["query"]'):
        path.write_text(f"[rights]\n{bad}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r":[12]: rights"):
            load(path, {})


def test_an_issuer_s_words_are_mapped_to_roles_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[auth]\nrole_map = { platform_admin = "admin", rider = "courier" }\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="role_map: there is no role 'courier'; known: admin"):
        load(path, {})
    path.write_text(path.read_text() + '[rights]\ncourier = ["look"]\n', encoding="utf-8")
    assert load(path, {}).auth.role_map == {"platform_admin": "admin", "rider": "courier"}
    assert load(None, {"ROBODYNE_RT__AUTH__ROLE_MAP": '{"boss": "admin"}'}).auth.role_map == {"boss": "admin"}


STRICT = [
    ('[server]\nport = "8000"\n', ":2: server.port = '8000': Input should be a valid integer"),
    ("[server]\nport = 8000.0\n", ":2: server.port = 8000.0"),
    ("[server]\nname = 5\n", ":2: server.name = 5"),
    ("[hub]\nping_interval_s = true\n", ":2: hub.ping_interval_s = True: Input should be a valid number"),
    ('[hub]\nping_interval_s = "30"\n', ":2: hub.ping_interval_s = '30'"),
    ("[hub]\nping_interval_s = inf\n", ":2: hub.ping_interval_s = inf"),
    ("[hub]\nping_interval_s = nan\n", ":2: hub.ping_interval_s = nan"),
    ("[hub]\ntopic_limits = { robots = true }\n", ":2: hub.topic_limits.robots = True"),
    ('[hub.topic_limits]\n\nrobots = "3"\n', ":3: hub.topic_limits.robots = '3'"),
    ('hub.topic_limits.robots = "3"\n', ":1: hub.topic_limits.robots = '3'"),
    ("[limits]\nshare_rate_limit = 1\n", ":2: limits.share_rate_limit = 1"),
    ('[limits]\nshare_rate_limit = "yes"\n', ":2: limits.share_rate_limit = 'yes'"),
    ("[database]\nurl = 2026-11-27\n", ":2: database.url = datetime.date"),
    ('[auth]\nanonymous_topics = "robots"\n', ":2: auth.anonymous_topics = 'robots'"),
    ('[auth]\nanonymous_networks = [\n    "10.0.0.0/8",\n    7,\n]\n', ":4: auth.anonymous_networks.1 = 7"),
    ("server = 5\n", ":1: server = 5: expected a table, e.g. [server]"),
    ("[server]\n[[serial]]\nbaudrate = 9600\n", ':2: key "serial.0.port" is missing'),
    ("[[serial]]\nport = ''\n", ":2: serial.0.port = ''"),
    ('[[serial]]\nport = "a"\n[[serial]]\nport = "a"\n', ":1: [[serial]] port = 'a' stands there twice"),
    ('[database]\nspool_path = ""\n', ":2: database.spool_path = ''"),
    ('[auth]\nsecret_file = ""\n', ":2: auth.secret_file = ''"),
    ('[database]\nurl = "sqlite:///"\n', ":2: [database] url"),
    ("port = 9000\n", ':1: unknown key "port" (did you mean [server] port or [devices] port or [serial] port?)'),
    ("[server]\nbatch_max = 5\n", ':2: unknown key "server.batch_max" (did you mean [database] batch_max?)'),
    ("[auth]\n\n['hub']\n'ping_intervall_s' = 3\n", ':4: unknown key "hub.ping_intervall_s" (did you mean "ping_interval_s"?)'),
    ("server = { prot = 1 }\n", ':1: unknown key "server.prot" (did you mean "port"?)'),
]


@pytest.mark.parametrize(("text", "wanted"), STRICT)
def test_types_in_the_file_are_strict_and_named_in_their_line(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(config(tmp_path, text), {})
    assert str(error.value).startswith(f"{tmp_path}/config.toml{wanted}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "origin",
    [
        "till.example",
        "https://till.example/",
        "https://till.example/app",
        "https://",
        "https://till.example:70000",
        "https://till.example:",
        "https://kim@till.example",
        "https://*.till.example",
        "https://가게.example",
        "https://till.example https://b.example",
        "//till.example",
        "*",
        "null",
        "",
        "file://",
        "https://till.example\n",
    ],
)
def test_what_no_browser_sends_as_origin_is_refused(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ConfigError, match=r":2: server.allowed_origins.0 = .*expected an origin"):
        load(config(tmp_path, f"[server]\nallowed_origins = [{json.dumps(origin)}]\n"), {})
    with pytest.raises(ConfigError, match=r"environment ROBODYNE_RT__SERVER__ALLOWED_ORIGINS: .*expected an origin"):
        load(None, {"ROBODYNE_RT__SERVER__ALLOWED_ORIGINS": json.dumps([origin])})


def test_origins_and_hosts_of_every_kind_are_taken(tmp_path: Path) -> None:
    origins = [
        "https://till.example",
        "http://192.168.0.7:3000",
        "http://[::1]:80",
        "capacitor://localhost",
        "https://xn--9i.kr",
    ]
    path = config(tmp_path, f"[server]\nallowed_origins = {json.dumps(origins)}\nallowed_hosts = ['till.example', 'tills']\n")
    assert load(path, {}).server.allowed_origins == origins


@pytest.mark.parametrize("host", ["https://till.example", "till.example:80", "till.example/", "*.example", "", "a b"])
def test_what_is_no_host_name_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r":2: server.allowed_hosts.0 = .*expected the name of a host"):
        load(config(tmp_path, f"[server]\nallowed_hosts = [{json.dumps(host)}]\n"), {})


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = '[hub]\nping_interval_s = true\nnonsense = 1\n[server]\ntls_cert = "a"\nport = "8000"\n[auth]\nmode = "oidc"\n'
    environment = {"ROBODYNE_RT__QUEUE__MAX_ATTEMPTS": "0", "ROBODYNE_RT__A__B__C": "1", "ROBODYNE_RT__SERVER__NAME": "x"}
    with pytest.raises(ConfigError) as error:
        load(config(tmp_path, text), environment, check=lambda settings: ["[auth] mode: not today", "[log] level: too low"])
    places = [line.removeprefix(f"{tmp_path}/").partition(": ")[0] for line in str(error.value).splitlines()]
    assert places == [
        "config.toml:2",
        "config.toml:3",
        "config.toml:6",
        "environment ROBODYNE_RT__QUEUE__MAX_ATTEMPTS",
        "environment ROBODYNE_RT__A__B__C",
        "config.toml:5",  # tls_cert without tls_key
        "config.toml:8",  # oidc without issuer
        "config.toml:8",
        "config.toml",
    ]


def test_what_a_wrong_value_brings_about_is_not_told_besides(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(config(tmp_path, '[server]\nhost = 127\n[auth]\nmode = "off"\n'), {})
    assert "server.host = 127" in str(error.value) and "loopback" not in str(error.value)
    text = "[server]\nport = true\n[[serial]]\nport = 'a'\n[[serial]]\nport = 'a'\n"
    with pytest.raises(ConfigError) as error:
        load(config(tmp_path, text), {})
    assert "server.port = True" in str(error.value) and "stands there twice" in str(error.value), "another section's port"


def test_the_environment_is_taken_as_text(tmp_path: Path) -> None:
    environment = {
        "ROBODYNE_RT__HUB__PING_INTERVAL_S": "2.5",
        "ROBODYNE_RT__HUB__TOPIC_LIMITS": '{"robots": "7"}',
        "ROBODYNE_RT__LIMITS__SHARE_RATE_LIMIT": "0",
        "ROBODYNE_RT__SERVER": '{"name": "x"}',
    }
    settings = load(config(tmp_path, "[hub]\nping_interval_s = 9\npong_timeout_s = 2\n[server]\nport = 1\n"), environment)
    assert (settings.hub.ping_interval_s, settings.hub.pong_timeout_s, settings.hub.topic_limits) == (2.5, 2, {"robots": 7})
    assert settings.limits.share_rate_limit is False
    assert (settings.server.name, settings.server.port) == ("x", 8000), "a whole section takes the place of the file's"


def test_a_wrong_value_in_the_file_is_told_where_the_environment_overrides_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":2: server.port"):
        load(config(tmp_path, '[server]\nport = "8000"\n'), {"ROBODYNE_RT__SERVER__PORT": "9000"})


def test_a_place_in_the_environment_is_told_for_combinations_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^environment ROBODYNE_RT__AUTH__MODE: \[auth\] mode"):
        load(config(tmp_path, '[server]\nhost = "0.0.0.0"\n'), {"ROBODYNE_RT__AUTH__MODE": "off"})


def test_unknown_topics_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = '[auth]\nanonymous_topics = ["robot"]\n[hub]\ntopic_limits = { orderz = 5 }\n[rights]\nkitchen = ["read:dishes"]\n'
    with pytest.raises(ConfigError) as error:
        load(config(tmp_path, text + '[server]\ntls_cert = "none.pem"\ntls_key = "none.pem"\n'), {}, check=lifecycle.problems)
    for number, wanted in ((6, "'dishes'"), (2, "'robot'"), (8, "none.pem"), (4, "'orderz'")):
        assert any(f":{number}: " in line and wanted in line for line in str(error.value).splitlines()), number
