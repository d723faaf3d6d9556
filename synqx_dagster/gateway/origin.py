"""Whether a request comes from a page that this server itself has served, as far as the browser says."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from synqx_dagster.gateway.login_links import is_loopback


def is_foreign(connection: HTTPConnection, *, trusted: tuple[str, ...] = ()) -> bool:
    """Whether a browser says that another site's page sends this; without such a header nothing is known, so False.

    Args:
        trusted: More origins that count as own, such as the public URL behind a proxy that does not pass the host on.
    """
    origin = connection.headers.get("origin")
    # A neighbour by domain or by port is no less another's page.
    fetched_from = connection.headers.get("sec-fetch-site")
    if origin is None or origin == "null":
        return fetched_from in ("cross-site", "same-site") or (origin == "null" and fetched_from != "same-origin")
    return not _is_own(connection, origin, trusted)


def is_same_origin(connection: HTTPConnection, *, trusted: tuple[str, ...] = ()) -> bool:
    """Whether a browser says that our own page sends this; False where it says nothing."""
    origin = connection.headers.get("origin")
    return origin is not None and _is_own(connection, origin, trusted)


def _is_own(connection: HTTPConnection, origin: str, trusted: tuple[str, ...]) -> bool:
    if origin.lower() in {item.lower() for item in trusted}:
        return True
    # Host and port, and not this server's scheme, which a proxy that ends TLS may keep to itself.
    authority = _authority(origin)
    return authority is not None and authority == connection.headers.get("host", "").lower()


def _authority(origin: str) -> str | None:
    """Host and port of an origin that can be ours; a page that came over a network without TLS can be anybody's."""
    try:
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except ValueError:
        return None
    is_local = is_loopback(host) or host.endswith(".localhost")
    return parts.netloc.lower() if parts.scheme == "https" or (parts.scheme == "http" and is_local) else None
