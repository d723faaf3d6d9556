"""Everything on one port: who asks is found out first, then the API, our own pages, or Dagster's web UI answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synqx_dagster.api.app import create_app
from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.identify import IdentityMiddleware
from synqx_dagster.api.problems import problem_response, status_of
from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.errors import SynqxError
from synqx_dagster.gateway.access_log import AccessLog, NoteCaller
from synqx_dagster.gateway.cookies import session_token
from synqx_dagster.gateway.guard import ask_for_login, forbid, identity_of, request_id_of, wants_html
from synqx_dagster.gateway.headers import SecurityHeaders
from synqx_dagster.gateway.login_links import LoginLinks
from synqx_dagster.gateway.metrics import MEDIA_TYPE, Metrics
from synqx_dagster.gateway.mutation_trail import MutationTrail
from synqx_dagster.gateway.pages.account import account_menu
from synqx_dagster.gateway.pages.context import PagesContext
from synqx_dagster.gateway.pages.not_ready import not_ready
from synqx_dagster.gateway.pages.problems import LoginProblems
from synqx_dagster.gateway.pages.routes import PAGES, create_pages
from synqx_dagster.gateway.run_control import DagsterRunControl
from synqx_dagster.gateway.state import ServerState, read_state
from synqx_dagster.gateway.webserver import GatewayWebserver
from synqx_dagster.gateway.workspace import GatewayProcessContext, attribute_runs
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

if TYPE_CHECKING:
    import dagster as dg

_log = logging.getLogger(__name__)

#: What belongs to the API, by the first part of a path.
API = frozenset({"api", "docs", "openapi.json", "health"})


@dataclass(frozen=True)
class Gateway:
    """The server as an ASGI application, and what its process talks to it by."""

    app: ASGIApp
    context: ApiContext
    links: LoginLinks
    state: Callable[[], ServerState]
    instance: dg.DagsterInstance


def create_gateway(
    context: ApiContext,
    process_context: GatewayProcessContext,
) -> Gateway:
    """Put everything together.

    Args:
        context: The catalog, its people, and the settings. Its `runs` are set to Dagster's.
        process_context: Dagster's workspace.
    """
    settings = context.settings.server
    trusted = () if settings.public_url is None else (settings.public_url,)
    links = LoginLinks()

    def state() -> ServerState:
        return read_state(lambda: context.catalog)

    pages = PagesContext(
        catalog=lambda: context.catalog,
        people=lambda: context.people,
        state=state,
        links=links,
        trusted_origins=trusted,
        oidc_name=None if settings.oidc is None else "your organisation's login",
    )
    webserver = GatewayWebserver(
        process_context,
        trail=MutationTrail(lambda: AuditTrail(context.catalog)),
        identify=lambda connection, identity: _identify_again(context, connection, identity),
        account_menu=account_menu(pages),
        trusted_origins=trusted,
    )
    attribute_runs(process_context.instance)
    context.runs = DagsterRunControl(webserver, process_context)
    switch = _Switch(
        api=create_app(context),
        pages=create_pages(pages),
        dagster=webserver.create_asgi_app(),
        metrics=Metrics(process_context.instance, lambda: context.catalog),
        metrics_open=settings.metrics_open,
        state=state,
    )
    # Inside as well, where a request has its id.
    identified = IdentityMiddleware(LastResort(NoteCaller(switch)), lambda: context.people)
    app = AccessLog(SecurityHeaders(LoginProblems(LastResort(identified))))
    return Gateway(app, context, links, state, process_context.instance)


@dataclass(frozen=True)
class _Switch:
    """Sends each request where its path belongs."""

    api: ASGIApp
    pages: ASGIApp
    dagster: ASGIApp
    metrics: Metrics
    metrics_open: bool
    state: Callable[[], ServerState]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.api(scope, receive, send)
            return
        first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        if scope["type"] == "http":
            if first in API:
                await self.api(scope, receive, send)
                return
            if first in PAGES:
                await self.pages(scope, receive, send)
                return
            request = Request(scope, receive)
            answer = await self._own_answer(request)
            if answer is not None:
                await answer(scope, receive, send)
                return
        await self.dagster(scope, receive, send)

    async def _own_answer(self, request: Request) -> Response | None:
        """What is answered in Dagster's place."""
        path = request.url.path
        if path == "/metrics":
            return await self._metrics(request)
        if path == "/" and not wants_html(request) and request.method in ("GET", "HEAD"):
            state = await run_in_threadpool(self.state)
            body = {"name": "SynqX", "status": state.status, "api": "/api/v1", "docs": "/docs", "health": "/health"}
            return JSONResponse(body, headers={"Cache-Control": "no-store"})
        if identity_of(request) is None and wants_html(request):
            state = await run_in_threadpool(self.state)
            if state.status in ("not_initialised", "unavailable"):
                return not_ready(request, state.status)
        return None

    async def _metrics(self, request: Request) -> Response:
        identity = identity_of(request)
        if not self.metrics_open:
            if identity is None:
                return ask_for_login(request)
            if not identity.may(Permission.RUNS_READ):
                return forbid(request, identity, Permission.RUNS_READ)
        try:
            text = await run_in_threadpool(self.metrics.text)
        except SynqxError as exc:
            return problem_response(
                request_id_of(request), request.url.path, status_of(exc), exc.message, hint=exc.hint
            )
        return PlainTextResponse(text, headers={"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"})


class LastResort:
    """ASGI middleware: an exception that nobody else answers becomes a problem that tells nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; answer if that fails before an answer has begun."""
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] in ("http.response.start", "websocket.accept", "websocket.close")
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            if scope["type"] != "http" or begun:
                raise
            _log.exception("%s %s failed", scope["method"], ascii(scope["path"])[1:-1][:500])
            answer = problem_response(
                request_id_of(HTTPConnection(scope)),
                scope["path"],
                500,
                "The server failed; its log has more under the request's id",
            )
            await answer(scope, receive, send)


def _identify_again(context: ApiContext, connection: HTTPConnection, identity: Identity) -> Identity | None:
    """Whose a connection is now, by the credential that it was opened with."""
    people = context.people
    if identity.method == "session":
        token = session_token(connection)
        return None if token is None else people.identify_session(token)
    authorization = connection.headers.get("authorization", "")
    scheme, _, value = authorization.partition(" ")
    key = value.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "").strip()
    return people.identify_bearer(key) if key else None
