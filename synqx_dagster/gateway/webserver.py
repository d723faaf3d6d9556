"""Dagster's own web UI, for people who are logged in: its webserver, with roles, an audit trail and an account menu.

The class is private to Dagster and pinned by a contract test. What of it is replaced: the GraphQL endpoints (only JSON
by POST changes anything, and only from the own origin), the routes (each behind a permission), and the page (which
shows who is logged in).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from dagster_webserver.webserver import DagsterWebserver
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from synqx_dagster.api.problems import problem_response
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.gateway.dagster_permissions import ROUTES, UNKNOWN
from synqx_dagster.gateway.guard import (
    WS_FORBIDDEN,
    WS_LOGIN,
    RouteGuard,
    identity_of,
    refuse_websocket,
    request_id_of,
    wants_html,
)
from synqx_dagster.gateway.mutation_trail import MutationTrail
from synqx_dagster.gateway.mutations import guard_mutations, refuse
from synqx_dagster.gateway.operations import Operation, read_operation
from synqx_dagster.gateway.origin import is_foreign, is_same_origin
from synqx_dagster.gateway.workspace import GatewayProcessContext, GatewayRequestContext, RequestSource
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

if TYPE_CHECKING:
    from graphene import Schema

_log = logging.getLogger(__name__)

#: A backfill names each of its partitions, and its request is the largest that the page sends.
MAXIMUM_BODY_BYTES = 4 * 1024 * 1024
#: How long a stream may outlive the session that opened it.
RECHECK_SECONDS = 15.0

#: Finds out anew whose a connection is, by what it was opened with.
Identify = Callable[[HTTPConnection, Identity], Identity | None]
#: What the page shows of whoever is logged in: a piece of HTML, given the request and the nonce of its policy.
AccountMenu = Callable[[Request, str], str]


class GatewayWebserver(DagsterWebserver[GatewayProcessContext, GatewayRequestContext]):
    """Dagster's webserver behind `RouteGuard`; expects the middleware that identifies callers in front of it.

    Args:
        process_context: The workspace.
        trail: Where mutations are entered.
        identify: Finds out anew who a connection is of; for streams that outlive their first look.
        account_menu: See `AccountMenu`.
        trusted_origins: Origins beside the request's own host whose pages are ours.
    """

    def __init__(
        self,
        process_context: GatewayProcessContext,
        *,
        trail: MutationTrail,
        identify: Identify,
        account_menu: AccountMenu | None = None,
        trusted_origins: tuple[str, ...] = (),
    ) -> None:
        self._trail = trail
        self._identify = identify
        self._account_menu = account_menu
        self._trusted = trusted_origins
        super().__init__(process_context, live_data_poll_rate=2000)

    def build_graphql_schema(self) -> Schema:
        """Dagster's schema, with every mutation guarded."""
        schema = super().build_graphql_schema()
        guard_mutations(schema.graphql_schema, self._trail)
        return schema

    def build_middleware(self) -> list[Middleware]:
        """None: Dagster's own counts its calls into a header, which is nobody's business outside."""
        return []

    # --- routes ---------------------------------------------------------------------------------------------------

    def build_routes(self) -> list[BaseRoute]:
        """Dagster's routes, each behind what it needs; one that no table knows is for administrators."""
        routes: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call]  # Dagster's
        for route in routes:
            if isinstance(route, (Route, WebSocketRoute, Mount)):
                route.app = RouteGuard(route.app, route_permission(route))
            else:
                raise TypeError(f"Dagster's webserver has a route of an unknown kind: {type(route).__name__}")
        return routes

    # --- GraphQL over HTTP ----------------------------------------------------------------------------------------

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Answer a query; a mutation only as JSON by POST, which no page of another site can send unasked."""
        if request.method == "GET":
            if wants_html(request):
                page: Response = await super().graphql_http_endpoint(request)
                return page
            given: dict[str, Any] = dict(request.query_params)
            if isinstance(text := given.get("variables"), str) and (text := text.strip()):
                try:
                    given["variables"] = json.loads(text)
                except ValueError:
                    return _problem(request, 400, "`variables` is not JSON")
        else:
            if is_foreign(request, trusted=self._trusted):
                return _problem(request, 403, "Another site's page must not send this")
            body = await _read_json(request)
            if isinstance(body, Response):
                return body
            given = body
        query, variables, name = given.get("query"), given.get("variables"), given.get("operationName")
        try:
            operation = read_operation(query, variables, name)
        except ConfigurationError as exc:
            return _problem(request, 400, exc.message)
        if request.method == "GET" and not operation.is_query:
            return _problem(request, 405, "Over GET there are only queries", headers={"Allow": "POST"})
        if operation.is_subscription:
            return _problem(request, 400, "Subscriptions need a websocket")
        caller = RequestSource.of(request)
        if operation.is_mutation and (refusal := await run_in_threadpool(refuse, self._trail, caller, operation)):
            return JSONResponse({"data": None, "errors": [{"message": refusal}]}, status_code=403)
        assert isinstance(query, str)
        return await self.execute_graphql_request(
            request=request, query=query, variables=variables, operation_name=name or None
        )

    def execute_in_process(self, caller: RequestSource, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Execute an operation as somebody, from a thread without an event loop; gives ``data`` and ``errors``.

        Permissions, the trail and tags are those of `caller`.
        """
        operation: Operation = read_operation(query, variables)
        if operation.is_mutation and (refusal := refuse(self._trail, caller, operation)):
            return {"data": None, "errors": [{"message": refusal}]}
        with self._process_context.create_request_context(caller) as context:
            answer = asyncio.run(
                self.gen_graphql_response(
                    request_context=context, query=query, variables=variables, operation_name=None
                )
            )
        document: dict[str, Any] = json.loads(bytes(answer.body))
        return document

    # --- GraphQL over a websocket ---------------------------------------------------------------------------------

    async def graphql_ws_endpoint(self, websocket: WebSocket) -> None:
        """Streams of logs, for our own page or a program with a key, and for no longer than the login lasts."""
        identity = identity_of(websocket)
        if identity is None:
            await refuse_websocket(websocket, WS_LOGIN)
            return
        # A browser sends its cookie whichever page opens the socket, and always says which page that is.
        by_cookie = identity.method == "session"
        if is_foreign(websocket, trusted=self._trusted) or (
            by_cookie and not is_same_origin(websocket, trusted=self._trusted)
        ):
            await refuse_websocket(websocket, WS_FORBIDDEN)
            return
        stream = asyncio.ensure_future(super().graphql_ws_endpoint(websocket))
        watch = asyncio.ensure_future(self._wait_for_end_of_login(websocket, identity))
        try:
            await asyncio.wait({stream, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not stream.done():
                await _close(websocket, WS_LOGIN)
        finally:
            watch.cancel()
            stream.cancel()
            ended = await asyncio.gather(stream, watch, return_exceptions=True)
        if isinstance(ended[0], Exception):
            # A message that is no JSON, or not of the protocol: the client's fault, and the end of its stream.
            _log.info("a stream ended: %s", type(ended[0]).__name__)
            await _close(websocket, 1003)

    async def execute_graphql_subscription(
        self,
        websocket: WebSocket,
        operation_id: str,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> Any:
        """Start a stream; nothing else is executed over a websocket."""
        try:
            operation = read_operation(query, variables, operation_name)
        except ConfigurationError as exc:
            return None, {"message": exc.message}
        if not operation.is_subscription:
            return None, {"message": "Over a websocket there are only subscriptions"}
        return await super().execute_graphql_subscription(
            websocket=websocket,
            operation_id=operation_id,
            query=query,
            variables=variables,
            operation_name=operation_name,
        )

    async def _wait_for_end_of_login(self, websocket: WebSocket, identity: Identity) -> None:
        """Return once the login that opened a websocket has ended, or permits less than it did."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                now = await run_in_threadpool(self._identify, websocket, identity)
            except Exception:  # noqa: BLE001 - whatever keeps it from being checked, unchecked it must not go on
                _log.exception("the login of a stream cannot be checked")
                return
            if now is None or now.user_id != identity.user_id or not now.permissions >= identity.permissions:
                return

    # --- the page -------------------------------------------------------------------------------------------------

    def index_html_endpoint(self, request: Request) -> HTMLResponse:
        """Dagster's page, with the account menu; without it where Dagster's page is not what it was."""
        page: HTMLResponse = super().index_html_endpoint(request)
        page.headers["X-Frame-Options"] = "DENY"
        # The older name of a header that every answer has.
        del page.headers["Feature-Policy"]
        if self._account_menu is None:
            return page
        text = bytes(page.body).decode()
        before, end, after = text.rpartition("</body>")
        if not end:
            _log.warning("Dagster's page has no end that the account menu could be put before")
            return page
        menu = self._account_menu(request, _nonce(page))
        headers = {name: value for name, value in page.headers.items() if name != "content-length"}
        return HTMLResponse(before + menu + end + after, headers=headers)


def route_permission(route: Route | WebSocketRoute | Mount) -> Permission:
    """What one of Dagster's routes needs."""
    if isinstance(route, Mount):
        return Permission.RUNS_READ if isinstance(route.app, StaticFiles) else UNKNOWN
    if route.name == "root_static":
        return Permission.RUNS_READ
    return ROUTES.get(route.path, UNKNOWN)


async def _read_json(request: Request) -> dict[str, Any] | Response:
    """The body as a JSON object, or the answer why not."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return _problem(request, 415, "GraphQL takes application/json, and nothing else")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAXIMUM_BODY_BYTES:
            return _problem(request, 413, f"A request may have {MAXIMUM_BODY_BYTES} bytes")
    try:
        given = json.loads(bytes(body).decode("utf-8"))
    except (ValueError, RecursionError):
        return _problem(request, 400, "The body is not JSON")
    return given if isinstance(given, dict) else _problem(request, 400, "The body is not a JSON object")


async def _close(websocket: WebSocket, code: int) -> None:
    try:
        await websocket.close(code)
    except RuntimeError:
        return  # it is closed already


def _nonce(page: HTMLResponse) -> str:
    policy = page.headers.get("content-security-policy", "")
    return policy.partition("'nonce-")[2].partition("'")[0]


def _problem(request: Request, status: int, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    return problem_response(
        request_id_of(request),
        request.url.path,
        HTTPStatus(status),
        detail,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
