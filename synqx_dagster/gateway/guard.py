"""What stands in front of each of Dagster's routes: nobody comes in without a login and the route's permission."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from synqx_dagster.api.problems import problem_response
from synqx_dagster.gateway.dagster_permissions import may_look
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

LOGIN = "/login"

#: Codes of a websocket's end, of the range that applications choose from: as 401 and 403.
WS_LOGIN, WS_FORBIDDEN = 4401, 4403


class RouteGuard:
    """An ASGI application behind a permission; answers itself whoever may not pass."""

    def __init__(self, app: ASGIApp, permission: Permission) -> None:
        self.app = app
        self.permission = permission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, redirect to the login, or refuse."""
        connection = HTTPConnection(scope)
        identity = identity_of(connection)
        if identity is not None and may_look(identity) and identity.may(self.permission):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse_websocket(WebSocket(scope, receive, send), WS_LOGIN if identity is None else WS_FORBIDDEN)
        elif identity is None:
            await ask_for_login(Request(scope, receive))(scope, receive, send)
        else:
            await forbid(connection, identity, self.permission)(scope, receive, send)


def identity_of(connection: HTTPConnection) -> Identity | None:
    """Who is logged in, as the middleware found; nobody where there was no middleware."""
    identity = (connection.scope.get("state") or {}).get("identity")
    return identity if isinstance(identity, Identity) else None


def wants_html(connection: HTTPConnection) -> bool:
    """Whether a person with a browser asks, and not a program."""
    return "text/html" in connection.headers.get("accept", "")


def ask_for_login(request: Request) -> Response:
    """To the login page for a browser that opens a page, which leads back; a problem answer for everything else."""
    if request.method in ("GET", "HEAD") and wants_html(request):
        there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        # 303 and no-store: a browser must ask again once it is logged in.
        return RedirectResponse(
            f"{LOGIN}?next={quote(there, safe='/')}", status_code=303, headers={"Cache-Control": "no-store"}
        )
    return problem_response(
        request_id_of(request),
        request.url.path,
        401,
        "Log in first",
        hint="send an access token or an API key as `Authorization: Bearer ...`, or open /login in a browser",
        headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"},
    )


def forbid(connection: HTTPConnection, identity: Identity, permission: Permission) -> Response:
    """403, with the permission that is missing."""
    return problem_response(
        request_id_of(connection),
        connection.url.path,
        403,
        f"This needs the permission {permission.value}, which the role {identity.role.value} or the key lacks",
        headers={"Cache-Control": "no-store"},
    )


async def refuse_websocket(websocket: WebSocket, code: int) -> None:
    """End a websocket before it is one; the server answers with 403."""
    await websocket.close(code)


def request_id_of(connection: HTTPConnection) -> str | None:
    """The id that the request got when it came in."""
    request_id = (connection.scope.get("state") or {}).get("request_id")
    return str(request_id) if request_id else None
