"""One line for each request: who asked for which path, from where, what they got, and how long it took.

Query strings are left out, because login links and some clients have secrets in them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synqx_dagster.people.identity import Client, Identity

#: Its level says whether there is an access log: INFO, or none.
logger = logging.getLogger("synqx_dagster.access")

#: Asked for every few seconds by what watches the server, and of no interest while all is well.
_QUIET = frozenset({"/health", "/metrics"})
_LONGEST_PATH = 500

_KEY = "synqx_access_log"


class AccessLog:
    """ASGI middleware, around everything else, so that what is refused at the door is logged, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and log the answer."""
        if scope["type"] not in ("http", "websocket") or not logger.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            return
        answer = _Answer()
        # Further in, the state is another dictionary with the same entries.
        scope = {**scope, "state": {**(scope.get("state") or {}), _KEY: answer}}

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
            elif message["type"] == "websocket.accept":
                answer.status = 101
            elif message["type"] == "websocket.close" and not answer.status:
                answer.status = 403
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except BaseException:
            answer.status = answer.status or 500
            raise
        finally:
            if scope["path"] not in _QUIET or answer.status >= 400:
                _write(scope, answer)


class NoteCaller:
    """ASGI middleware, behind the one that identifies callers: notes for the access log whom that one found."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note, and pass on."""
        state = scope.get("state") or {}
        answer = state.get(_KEY)
        if isinstance(answer, _Answer):
            answer.identity = state.get("identity")
            answer.client = state.get("client")
        await self.app(scope, receive, send)


@dataclass
class _Answer:
    status: int = 0
    identity: Identity | None = None
    client: Client | None = None
    started: float = field(default_factory=time.monotonic)


def _write(scope: Scope, answer: _Answer) -> None:
    identity, client = answer.identity, answer.client
    method = scope.get("method", "WEBSOCKET")
    path = scope["path"][:_LONGEST_PATH]
    address = client.address if client is not None else (scope.get("client") or ("",))[0]
    fields = {
        "request_id": client.request_id if client is not None else None,
        "method": method,
        "path": path,
        "status": answer.status,
        "seconds": round(time.monotonic() - answer.started, 4),
        "user": None if identity is None else identity.username,
        "login": None if identity is None else identity.method,
        "address": address,
    }
    # `ascii`, so that a path cannot write a line of its own.
    logger.info("%s %s %d", method, ascii(path)[1:-1], answer.status, extra={"synqx_fields": fields})
