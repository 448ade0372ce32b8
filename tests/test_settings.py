"""config.toml and the environment become settings, and mistakes are named with their place."""

from pathlib import Path

import pytest

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
        ('[assistant]\nkind = "llm"\n', "[assistant] kind: this version cannot do that yet"),
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
