"""Whether a request comes from a page that this server itself has served, as far as the browser says."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from synqx_dagster.model.web_address import is_own_origin


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
    return is_own_origin(origin, connection.headers.get("host", ""), trusted)
