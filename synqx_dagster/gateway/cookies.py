"""The cookie of a browser's session: where it can work, and what it looks like."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import HTTPConnection
from starlette.responses import Response

# Its prefix makes browsers refuse it from plain HTTP, with another path, and from a neighbour's domain
# (RFC 6265bis, 4.1.3.2).
from synqx_dagster.api.identify import SESSION_COOKIE
from synqx_dagster.model.web_address import is_trustworthy


def set_session_cookie(response: Response, token: str, expires_at: datetime) -> None:
    """Have the browser keep a session for as long as the server does."""
    seconds = max(0, int((expires_at - datetime.now(UTC)).total_seconds()))
    response.set_cookie(SESSION_COOKIE, token, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def delete_session_cookie(response: Response) -> None:
    """Have the browser forget its session."""
    response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="lax")


def session_token(connection: HTTPConnection) -> str | None:
    """What the browser sends of its session."""
    return connection.cookies.get(SESSION_COOKIE) or None


def keeps_secure_cookies(connection: HTTPConnection) -> bool:
    """Whether a browser keeps a secure cookie of this address: with TLS, and on the machine itself."""
    return is_trustworthy(connection.url.scheme, (connection.url.hostname or "").strip("[]"))
