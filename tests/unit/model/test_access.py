"""Addresses as they are counted, and what a proxy says of them."""

import pytest

from robodyne_rt.model.access import AccessPolicy, host_of, is_reserved, source_of


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_an_ipv6_network_of_64_bits_is_one_source(address: str, source: str) -> None:
    assert source_of(address) == source


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:5678", "10.1.2.3"),
        ("[2001:db8::1]:5678", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[::ffff:10.1.2.3]:1", "::ffff:10.1.2.3"),
        ("2001:db8::1", "2001:db8::1"),
        ("10.1.2.3:", "10.1.2.3:"),
        ("10.1.2.3:x", "10.1.2.3:x"),
        ("10.1.2.3:1234567", "10.1.2.3:1234567"),
        ("10.1.2.3:1 10.9.9.9", "10.1.2.3:1 10.9.9.9"),
        ("[2001:db8::1]x", "[2001:db8::1]x"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_a_port_that_a_proxy_adds_is_no_part_of_the_address(said: str, address: str) -> None:
    assert host_of(said) == address


def test_a_name_with_a_meaning_of_its_own_is_nobody_s() -> None:
    assert all(map(is_reserved, ("anonymous", "local", "role:kitchen", "oidc:https://sso.example#7", "kim@oidc")))
    assert not any(map(is_reserved, ("kim", "oidc", "kim@oidc.example", "https://sso.example#7")))


def test_the_roles_are_those_of_the_table_of_rights() -> None:
    policy = AccessPolicy(
        mode="local",
        rights={"admin": ["*"], "courier": ["read:tables"]},
        anonymous_topics=[],
        anonymous_networks=[],
        device_networks=[],
    )
    assert policy.roles == ("admin", "courier")
    assert policy.rights_of(["courier", "nobody"]) == {"read:tables"}
