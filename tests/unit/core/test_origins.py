"""Origins are compared as scheme, host and port, whatever their text."""

import pytest

from robodyne_rt.core.origins import OriginKind, Origins, parse

LISTED = Origins(["https://till.example", "http://pos.example:8080/", "capacitor://localhost", "https://주방.example", "null"])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://kds.example", "kds.example"),
        ("http://kds.example", "kds.example:80"),
        ("http://kds.example:80", "kds.example"),
        ("https://kds.example", "kds.example"),
        ("https://kds.example", "kds.example:443"),
        ("https://kds.example:443", "kds.example"),
        ("http://kds.example", "kds.example:"),
        ("http://kds.example:8000", "kds.example:8000"),
        ("http://kds.example:8000", "KDS.Example:8000"),
        ("HTTP://Kds.example", "kds.example"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[::1]", "[::1]:80"),
        ("http://[0:0:0:0:0:0:0:1]", "[::1]"),
        ("http://[FE80::A]", "[fe80::a]"),
        ("http://192.168.0.7", "192.168.0.7:80"),
    ],
)
def test_our_own_pages_are_known_whatever_stands_for_the_default_port(origin: str, host: str) -> None:
    assert Origins([]).kind(origin, host=host) is OriginKind.OWN


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://kds.example", "kds.example:443"),
        ("https://kds.example", "kds.example:80"),
        ("http://kds.example", "kds.example:8000"),
        ("http://kds.example:8000", "kds.example"),
        ("http://kds.example:8000", "kds.example:8001"),
        ("http://kds.example.evil", "kds.example"),
        ("http://evil.example", "kds.example"),
        ("http://kds.example/", "kds.example"),
        ("http://kds.example@evil.example", "kds.example"),
        ("http://kds.example http://evil.example", "kds.example"),
        ("http://kds.example, http://kds.example", "kds.example"),
        ("http://kds.example:99999", "kds.example:99999"),
        ("http://kds.example:0", "kds.example:0"),
        ("http://[::1", "[::1"),
        ("http://[::1]x", "[::1]"),
        ("http://[::2]", "[::1]"),
        ("http://::1", "[::1]"),
        ("ws://kds.example", "kds.example"),
        ("file://kds.example", "kds.example"),
        ("file://", ""),
        ("http://", ""),
        ("kds.example", "kds.example"),
        ("null", "null"),
        ("", ""),
        ("http://" + "x" * 400, "x" * 400),
    ],
)
def test_every_other_page_is_foreign(origin: str, host: str) -> None:
    assert Origins([]).kind(origin, host=host) is OriginKind.FOREIGN


@pytest.mark.parametrize(
    ("origin", "kind"),
    [
        ("https://till.example", OriginKind.LISTED),
        ("https://till.example:443", OriginKind.LISTED),
        ("https://TILL.example", OriginKind.LISTED),
        ("http://pos.example:8080", OriginKind.LISTED),
        ("capacitor://localhost", OriginKind.LISTED),
        ("https://xn--vh3bn8u.example", OriginKind.LISTED),
        ("http://till.example", OriginKind.FOREIGN),
        ("https://till.example:80", OriginKind.FOREIGN),
        ("https://till.example.evil", OriginKind.FOREIGN),
        ("http://pos.example", OriginKind.FOREIGN),
        ("null", OriginKind.FOREIGN),
    ],
)
def test_a_listed_page_is_known_and_null_cannot_be_listed(origin: str, kind: OriginKind) -> None:
    assert LISTED.kind(origin, host="kds.example") is kind


def test_without_an_origin_no_page_sends_it() -> None:
    assert LISTED.kind(None, host="kds.example") is OriginKind.ABSENT


def test_an_origin_has_one_text() -> None:
    for text in ("HTTPS://Till.example:443", "https://till.example"):
        assert str(parse(text)) == "https://till.example"
    assert str(parse("http://[0::1]:8000")) == "http://[::1]:8000"
