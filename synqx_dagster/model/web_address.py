"""Addresses of pages: which of them a browser takes for secure, and which are a server's own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine itself."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def is_trustworthy(scheme: str, host: str) -> bool:
    """Whether a browser takes a page for secure: it came over TLS, or never left the machine.

    Source: W3C, Secure Contexts, "Is origin potentially trustworthy?".
    """
    return scheme in ("https", "wss") or is_loopback(host) or host.endswith(".localhost")


def is_own_origin(origin: str, host: str, trusted: Iterable[str] = ()) -> bool:
    """Whether an ``Origin`` is that of the server whose ``Host`` was asked.

    Host and port count, and not the server's scheme, which a proxy that ends TLS may keep to itself. A page that came
    over a network without TLS can be anybody's, whatever host it says to be of.

    Args:
        trusted: More origins that are own, such as the public URL behind a proxy that does not pass the host on.
    """
    if origin.lower() in {item.lower() for item in trusted}:
        return True
    try:
        parts = urlsplit(origin)
        name = parts.hostname or ""
    except ValueError:
        return False
    fits = parts.scheme in ("http", "https") and is_trustworthy(parts.scheme, name)
    return fits and bool(parts.netloc) and parts.netloc.lower() == host.lower()
