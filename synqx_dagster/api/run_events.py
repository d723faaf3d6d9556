"""A run's log and state as server-sent events, until the run has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool

from synqx_dagster.api.event_stream import HEARTBEAT, format_event
from synqx_dagster.api.run_views import LogLineView, RunView
from synqx_dagster.defs.run_tail import RunTail, TailPiece
from synqx_dagster.errors import NotFoundError

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0

#: As long as an access token is good: after it the client comes again, and shows that it still may.
MAX_SECONDS = 600.0

#: What browsers wait before they come again.
_RETRY_MILLISECONDS = 2000

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


async def iter_events(tail: RunTail, *, level: str = "DEBUG", step: str | None = None) -> AsyncIterator[str]:
    """The events ``status``, ``log`` and ``end`` of a run.

    Lines carry their numbers. The thread pool is used for each look at the storage, and not between two of them.
    """
    shown = frozenset(_LEVELS[_LEVELS.index(level) :])
    started = said = time.monotonic()
    status: str | None = None
    yield f"retry: {_RETRY_MILLISECONDS}\n\n"
    while True:
        try:
            piece: TailPiece = await run_in_threadpool(tail.read)
        except NotFoundError:  # deleted meanwhile
            yield format_event("end", {"status": None})
            return
        if piece.info.status != status:
            status, said = piece.info.status, time.monotonic()
            yield format_event("status", _document(RunView.of(piece.info)))
        for numbered in piece.lines:
            if numbered.line.level in shown and step in (None, numbered.line.step):
                said = time.monotonic()
                yield format_event("log", _document(LogLineView.of(numbered)), numbered.number)
        if piece.is_over:
            yield format_event("end", {"status": status})
            return
        if piece.has_more:
            continue
        now = time.monotonic()
        if now - started >= MAX_SECONDS:
            return
        if now - said >= HEARTBEAT_SECONDS:
            said = now
            yield HEARTBEAT
        await asyncio.sleep(POLL_SECONDS)


def _document(view: RunView | LogLineView) -> dict[str, Any]:
    return view.model_dump(mode="json")
