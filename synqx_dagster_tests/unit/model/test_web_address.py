"""Which pages are a server's own, and which a browser takes for secure."""

from __future__ import annotations

import pytest

from synqx_dagster.model.web_address import is_loopback, is_own_origin, is_trustworthy


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("https://synqx.example", "synqx.example", True),
        ("https://SYNQX.example:8443", "synqx.example:8443", True),
        ("http://127.0.0.1:3000", "127.0.0.1:3000", True),
        ("http://[::1]:3000", "[::1]:3000", True),
        ("http://synqx.localhost:3000", "synqx.localhost:3000", True),
        ("https://public.example", "inside:3000", True),
        # Over a network without TLS a page can be anybody's.
        ("http://synqx.example", "synqx.example", False),
        ("https://synqx.example:444", "synqx.example", False),
        ("https://synqx.example.evil", "synqx.example", False),
        ("https://evil.example", "synqx.example", False),
        ("http://127.0.0.1:3001", "127.0.0.1:3000", False),
        ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", False),
        ("wss://synqx.example", "synqx.example", False),
        ("null", "null", False),
        ("https://", "", False),
        ("", "", False),
        ("https://[", "[", False),
    ],
)
def test_an_origin_is_own_by_host_and_port(origin: str, host: str, own: bool) -> None:
    assert is_own_origin(origin, host, ("https://PUBLIC.example",)) is own


def test_what_stays_on_the_machine() -> None:
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "::1%lo"):
        assert is_loopback(host)
        assert is_trustworthy("http", host)
    for host in ("", "0.0.0.0", "192.0.2.1", "localhost.evil.example", "::", "127.0.0.1.evil.example"):
        assert not is_loopback(host)
        assert not is_trustworthy("http", host)
        assert is_trustworthy("https", host)
    assert is_trustworthy("http", "a.localhost")
    assert not is_loopback("a.localhost"), "a resolver may know it as another machine"
