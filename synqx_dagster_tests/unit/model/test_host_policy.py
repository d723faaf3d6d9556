"""Which hosts an operator's lists let through, in every spelling that a resolver takes."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.host_policy import HostPolicy, is_local, normalise_host, parse_address

METADATA = ipaddress.IPv4Address("169.254.169.254")


def refused(text: str, policy: HostPolicy | None = None) -> bool:
    address = parse_address(text)
    assert address is not None
    return (policy or HostPolicy()).why_address_refused(address) is not None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
        "::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
    ],
)
def test_some_addresses_are_never_reached(address: str) -> None:
    assert refused(address)
    assert refused(address, HostPolicy.parse("0.0.0.0/0 ::/0", None))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.5", "8.8.8.8", "2001:db8::1", "::ffff:10.0.0.5"])
def test_others_are_reached_without_a_list(address: str) -> None:
    assert not refused(address)
    parsed = parse_address(address)
    assert parsed is not None
    assert HostPolicy().allows_address(parsed)


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_refused_in_all_of_its_forms_or_in_none(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    policy = HostPolicy.parse(None, "10.0.0.0/8 192.168.0.0/16")
    expected = policy.why_address_refused(plain) is not None
    for prefix in (0xFFFF << 32, 0x0064FF9B << 96):
        assert (policy.why_address_refused(ipaddress.IPv6Address(prefix | number)) is not None) == expected
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (number << 80))
    assert (policy.why_address_refused(sixtofour) is not None) == expected


def test_lists_hold_names_addresses_and_networks() -> None:
    policy = HostPolicy.parse(
        "db.example.org, *.internal.example 10.1.0.0/16 2001:db8::/32", "10.1.2.3 [2001:db8::bad]"
    )
    assert policy.allows_name("DB.example.org.")
    assert policy.allows_name("a.b.internal.example")
    assert not policy.allows_name("internal.example")
    assert not policy.allows_name("evildb.example.org")
    assert not policy.allows_name("db.example.org.evil.example")
    for text, allowed in (("10.1.9.9", True), ("10.2.0.1", False), ("2001:db8::1", True), ("::ffff:10.1.0.1", True)):
        address = parse_address(text)
        assert address is not None
        assert policy.allows_address(address) is allowed, text
    assert refused("10.1.2.3", policy)
    assert refused("2001:db8::bad", policy)
    assert HostPolicy.parse(None, "*.evil.example").why_name_refused("db.EVIL.example.") is not None


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "300.1.2.3", "0x7f.1", "2130706433", "http://x", "a/b", "x:5432", "-"])
def test_a_list_that_cannot_be_read_lets_nothing_through(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="SYNQX_DENIED_HOSTS"):
        HostPolicy.parse(None, f"db.example.org {entry}")


@pytest.mark.parametrize("name", ["metadata.google.internal", "METADATA.google.internal.", "metadata.goog"])
def test_metadata_services_are_refused_by_name(name: str) -> None:
    assert HostPolicy().why_name_refused(name) is not None


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("/var/run/postgresql", True),
        ("@abstract", True),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
    ],
)
def test_what_stays_on_this_machine(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_lookalike_digits_are_digits() -> None:
    assert parse_address(normalise_host("１６９.254.169.254")) == METADATA
