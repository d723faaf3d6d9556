"""The middleware that finds out who sends a request, before anything else looks at it.

Guarantee: whatever stands behind it sees an identity that was proven by a session, a token or a key, or none; what a
client says of itself in headers is gone. A change that only a cookie vouches for must come from a page of this server.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synqx_dagster.api.access import SAFE_METHODS
from synqx_dagster.api.problems import headers_of, problem_response, status_of
from synqx_dagster.audit.actor import set_actor
from synqx_dagster.errors import LoginFailedError, NotInitialisedError, SynqxError, TooManyAttemptsError
from synqx_dagster.model.web_address import is_own_origin
from synqx_dagster.people.identity import Client, Identity
from synqx_dagster.people.service import People, actor_of

if TYPE_CHECKING:
    from logging import LogRecord

SESSION_COOKIE = "__Host-synqx_session"
CSRF_HEADER = "X-CSRF-Token"

#: What requests of this path count against the limit of requests.
API_PREFIX = "/api/"

#: By which proxies tell servers who somebody is, and strangers would like to.
_IDENTITY_HEADERS = frozenset(
    {
        b"remote-user",
        b"x-remote-user",
        b"x-user",
        b"x-forwarded-user",
        b"x-forwarded-email",
        b"x-forwarded-groups",
        b"x-forwarded-preferred-username",
        b"x-auth-request-user",
        b"x-auth-request-email",
        b"x-auth-request-groups",
        b"x-webauth-user",
        b"x-request-id",
    }
)
_OWN_HEADERS = b"x-synqx-"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_request_id: ContextVar[str | None] = ContextVar("synqx_request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that is answered in this context."""
    return _request_id.get()


def put_request_ids_into_logs() -> None:
    """Give each log record a `request_id`, empty outside of requests. Idempotent."""
    make = logging.getLogRecordFactory()
    if getattr(make, "gives_request_ids", False):
        return

    def make_with_id(*arguments: Any, **options: Any) -> LogRecord:
        record = make(*arguments, **options)
        record.request_id = _request_id.get() or ""
        return record

    make_with_id.gives_request_ids = True  # type: ignore[attr-defined]  # so that it is not wrapped twice
    logging.setLogRecordFactory(make_with_id)


class IdentityMiddleware:
    """Pure ASGI, for HTTP and websockets alike.

    Sets in the request's state: `request_id`, `client` (`Client`), `identity` (`Identity`, or None) and
    `identity_error`: why there is none although a credential was sent (`SynqxError`, or None). Answers carry
    ``X-Request-ID``.

    Args:
        app: What stands behind it.
        people: Gives the people; raises `NotInitialisedError` while there is no catalog.
    """

    def __init__(self, app: ASGIApp, people: Callable[[], People]) -> None:
        self._app = app
        self._people = people

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        headers = list(scope["headers"])
        scope = {**scope, "headers": [item for item in headers if not _claims_identity(item[0])]}
        client = Client(
            address=scope["client"][0] if scope.get("client") else "",
            user_agent=_UNPRINTABLE.sub("", _one(headers, b"user-agent") or "")[:256],
            request_id=request_id,
        )
        state: dict[str, Any] = dict(scope.get("state") or {})
        state.update(request_id=request_id, client=client, identity=None, identity_error=None)
        scope["state"] = state
        token = _request_id.set(request_id)
        try:
            await self._answer(scope, receive, _naming(send, request_id), client)
        finally:
            _request_id.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, client: Client) -> None:
        state = scope["state"]
        credential = _Credential.of(scope)
        set_actor(actor_of(None, client))
        counts = scope["path"].startswith(API_PREFIX)
        if credential is not None or counts:
            try:
                found = await run_in_threadpool(self._look, credential, client, counts=counts)
            except (TooManyAttemptsError, _ForeignRequest) as exc:
                await _refuse(scope, receive, send, exc, client.request_id)
                return
            state["identity"], state["identity_error"] = found
        set_actor(actor_of(state["identity"], client))
        await self._app(scope, receive, send)

    def _look(
        self, credential: _Credential | None, client: Client, *, counts: bool
    ) -> tuple[Identity | None, SynqxError | None]:
        identity: Identity | None = None
        error: SynqxError | None = None
        try:
            identity = None if credential is None else self._identify(credential)
        except _ForeignRequest:
            raise
        except SynqxError as exc:
            # Routes that anybody may call still answer: they may be what helps.
            error = exc
        if counts:
            self._count(identity, client)
        return identity, error

    def _identify(self, credential: _Credential) -> Identity:
        people = self._people()
        if credential.session is None:
            found = people.identify_bearer(credential.bearer or "")
            if found is None:
                raise LoginFailedError("The token or key is not valid, or not any more", hint="log in again")
            return found
        found = people.identify_session(credential.session)
        if found is None:
            raise LoginFailedError("The session has ended", hint="log in again")
        if credential.is_change and not credential.is_same_origin(people.public_url):
            csrf_token = credential.csrf_token
            if csrf_token is None or not people.check_csrf(credential.session, csrf_token):
                raise _ForeignRequest
        return found

    def _count(self, identity: Identity | None, client: Client) -> None:
        try:
            people = self._people()
        except NotInitialisedError:
            return
        who = f"address:{client.address}" if identity is None else str(identity.credential_id or identity.user_id)
        people.throttle.count_request(who)


class _ForeignRequest(SynqxError):
    """The session's cookie came with a change that no page of this server asked for"""

    def __init__(self) -> None:
        super().__init__(hint=f"send the session's CSRF token as {CSRF_HEADER}, or use a token instead of the cookie")


class _Credential:
    """What a request shows of who sends it."""

    def __init__(self, scope: Scope, bearer: str | None, session: str | None) -> None:
        headers = scope["headers"]
        self.bearer = bearer
        self.session = session
        self.csrf_token = _one(headers, CSRF_HEADER.lower().encode())
        # A websocket is opened by GET, and then changes what it likes; browsers open one from any page.
        self.is_change = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        self._origin = _one(headers, b"origin")
        self._host = _one(headers, b"host")
        self._fetch_site = _one(headers, b"sec-fetch-site")

    @classmethod
    def of(cls, scope: Scope) -> _Credential | None:
        """A token or key before a cookie: who sends one means it."""
        headers = scope["headers"]
        authorization = _one(headers, b"authorization")
        if authorization is not None:
            scheme, _, value = authorization.partition(" ")
            if scheme.lower() == "bearer":
                return cls(scope, value.strip(), None)
        key = _one(headers, b"x-api-key")
        if key is not None:
            return cls(scope, key.strip(), None)
        session = _find_cookie(headers)
        return None if session is None else cls(scope, None, session)

    def is_same_origin(self, public_url: str | None) -> bool:
        """Whether a page of this server sent it, as the browser says."""
        if self._origin is not None and self._origin != "null":
            trusted = () if public_url is None else (public_url,)
            return self._host is not None and is_own_origin(self._origin, self._host, trusted)
        # With a strict Referrer-Policy the origin of a form is null; this header says the same.
        return self._fetch_site == "same-origin"


def _claims_identity(name: bytes) -> bool:
    # Some servers take an underscore for a hyphen.
    name = name.lower().replace(b"_", b"-")
    return name in _IDENTITY_HEADERS or name.startswith(_OWN_HEADERS)


def _one(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The value of a header that stands there once; of two, nobody knows which one counts."""
    found = [value for key, value in headers if key.lower() == name]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _find_cookie(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    for key, value in headers:
        if key.lower() != b"cookie":
            continue
        for part in value.decode("latin-1").split(";"):
            name, equals, text = part.strip().partition("=")
            if equals and name == SESSION_COOKIE:
                return text.strip('"')
    return None


def _naming(send: Send, request_id: str) -> Send:
    async def send_named(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            headers = [item for item in message.get("headers", ()) if item[0].lower() != b"x-request-id"]
            message = {**message, "headers": [*headers, (b"x-request-id", request_id.encode())]}
        await send(message)

    return send_named


async def _refuse(scope: Scope, receive: Receive, send: Send, error: SynqxError, request_id: str) -> None:
    if scope["type"] == "websocket":
        # Before it is accepted, this is answered as 403.
        await send({"type": "websocket.close", "code": 1008})
        return
    status = 403 if isinstance(error, _ForeignRequest) else status_of(error)
    answer = problem_response(
        request_id, scope["path"], status, error.message, hint=error.hint, headers=headers_of(error)
    )
    await answer(scope, receive, send)
