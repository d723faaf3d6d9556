"""Server-sent events (WHATWG HTML, 9.2): answers that go on, as many at once as the server bears.

Guarantee: a stream holds no thread while it waits, and what it holds is given back when it ends, whoever ends it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from synqx_dagster.api.problems import ApiError

MEDIA_TYPE = "text/event-stream"

#: Says nothing; tells proxies and the other end that somebody is there.
HEARTBEAT = ": still here\n\n"


class StreamSlots:
    """How many streams there may be, in all and of one user."""

    def __init__(self, total: int = 100, each: int = 10) -> None:
        self._total = total
        self._each = each
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    def take(self, user: str) -> Callable[[], None]:
        """A slot for a user's stream; gives what gives it back, which may be called more than once.

        Raises:
            ApiError: 503: there are too many.
        """
        with self._lock:
            if self._held[user] >= self._each or self._held.total() >= self._total:
                raise ApiError(
                    503, "Too many event streams are open", hint="close some of them", headers={"Retry-After": "10"}
                )
            self._held[user] += 1
        given = threading.Event()

        def give_back() -> None:
            with self._lock:
                if not given.is_set():
                    given.set()
                    self._held[user] -= 1
                    if not self._held[user]:
                        del self._held[user]

        return give_back

    @property
    def open_streams(self) -> int:
        """How many slots are taken."""
        with self._lock:
            return self._held.total()


class EventStream(StreamingResponse):
    """An answer of events; calls ``when_over`` at its end, also when the client goes away."""

    def __init__(self, events: AsyncIterator[str], when_over: Callable[[], None]) -> None:
        # Nothing on the way may keep events back: nginx honours the last one.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type=MEDIA_TYPE, headers=headers)
        self._when_over = when_over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._when_over()


def format_event(name: str, document: Any, number: int | None = None) -> str:
    """An event with a JSON document on one line; the number is what a client sends back as ``Last-Event-ID``."""
    identity = "" if number is None else f"id: {number}\n"
    return f"{identity}event: {name}\ndata: {json.dumps(document)}\n\n"
