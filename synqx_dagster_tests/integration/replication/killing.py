"""Runs of a replication in processes of their own, which may be killed or interrupted at any moment."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Replication
from synqx_dagster.replication.follow import follow
from synqx_dagster.replication.progress import FollowRequest
from synqx_dagster_tests.forked import ForkedWork, forked
from synqx_dagster_tests.integration.transfer.loading import connect


@dataclass(frozen=True)
class RunRequest:
    """What a run follows; the connections are opened by it."""

    replication: Replication
    source: ConnectionConfig
    target: ConnectionConfig
    run_id: str
    spill: Path
    memory_bytes: int = 8 * 1024**2


@dataclass(frozen=True)
class Report:
    """How a run ended that was not killed: its ending, or the name of its error."""

    ending: str | None
    error: str | None
    message: str
    seconds: float
    changes: int


def following(request: RunRequest) -> AbstractContextManager[ForkedWork[Report]]:
    """A run that has begun, and is over at the end of the block."""
    return forked(_follow, request, [__name__])


def _follow(request: RunRequest) -> Report:
    is_asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_asked_to_end.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    start = time.monotonic()
    source, target = connect(request.source), connect(request.target)
    ending, error, message, changes = None, None, "", 0
    try:
        report = follow(
            FollowRequest(
                replication=request.replication,
                source=source,
                target=target,
                run_id=request.run_id,
                spill_directory=request.spill,
                memory_bytes=request.memory_bytes,
                is_interrupted=is_asked_to_end.is_set,
            )
        )
        ending, changes = report.ending, report.changes
    except SynqxError as caught:
        error, message = type(caught).__name__, str(caught)
    finally:
        source.close()
        target.close()
    return Report(ending, error, message, time.monotonic() - start, changes)
