"""What went wrong with a login by an OpenID provider, as a page: a browser is sent there, and nobody reads it JSON.

The API answers such a route with a problem (RFC 9457). A program that asks for it gets it; a browser gets its words in
a page like the login's, with the way back.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synqx_dagster.api.problems import MEDIA_TYPE
from synqx_dagster.api.routes.oidc import ATTEMPT_COOKIE, BROWSER_PATHS, read_attempt
from synqx_dagster.errors import LoginFailedError
from synqx_dagster.gateway.guard import LOGIN, wants_html
from synqx_dagster.gateway.pages.forms import safe_next
from synqx_dagster.gateway.pages.rendering import render_page

_HEADINGS = {401: "You are not logged in", 404: "There is no such login", 429: "Too many attempts"}
_OTHERWISE = "The login does not work now"
#: Of the answer that the page takes the place of; the rest says what is kept, such as when to come again.
_OF_THE_BODY = frozenset({b"content-type", b"content-length"})


class LoginProblems:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; a problem becomes a page on its way to a browser."""
        if scope["type"] != "http" or scope["path"].rstrip("/") not in BROWSER_PATHS:
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        if not wants_html(request) or "json" in request.headers.get("accept", ""):
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def turn(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    page = _page(request, start["status"], json.loads(body))
                    own = {name.lower() for name, _ in page.raw_headers} | _OF_THE_BODY
                    page.raw_headers += [item for item in start["headers"] if item[0].lower() not in own]
                    await page(scope, receive, send)

        await self.app(scope, receive, turn)


def _is_problem(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(MEDIA_TYPE.encode()) for name, value in start["headers"]
    )


def _page(request: Request, status: int, problem: dict[str, Any]) -> Response:
    hint = problem.get("hint")
    paragraphs = [f"{problem['detail'].removesuffix('.')}."]
    if hint and hint != "log in again":  # the button says it
        paragraphs.append(f"What to do: {hint}.")
    request_id = problem.get("request_id")
    page = render_page(
        request,
        "message.html",
        status=status,
        heading=_HEADINGS.get(status, _OTHERWISE),
        paragraphs=paragraphs,
        commands=(),
        link=f"{LOGIN}?next={quote(_wanted(request), safe='/')}",
        link_text="Back to the login",
        fine=f"The server's log has it as request {request_id}." if request_id else None,
    )
    page.headers["Vary"] = "Accept"
    return page


def _wanted(request: Request) -> str:
    """Where the browser wanted to go when it began."""
    if (there := request.query_params.get("next")) is not None:
        return safe_next(there)
    try:
        return safe_next(read_attempt(request.cookies.get(ATTEMPT_COOKIE, ""))[1])
    except LoginFailedError:
        return "/"
