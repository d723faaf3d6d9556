"""Runs of a replication in processes of their own, which may be killed or interrupted at any moment.

A process that imports the engine takes a second to start; these are forked from one that has imported it.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Replication
from synqx_dagster.replication.follow import follow
from synqx_dagster.replication.progress import FollowRequest
from synqx_dagster_tests.integration.transfer.loading import connect

_IMPORTED_BEFORE_THE_FORK = [
    "pytest",
    "duckdb",
    "pyarrow.compute",
    "psycopg2",
    "psycopg2.extras",
    "sqlglot",
    "synqx_dagster.connectors.registry",
    "synqx_dagster.replication.follow",
    __name__,
]

#: A run that is let alone ends by then; generous, for a machine that is busy.
PATIENCE_SECONDS = 240.0


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


class FollowProcess:
    """One run, which has begun."""

    def __init__(self, request: RunRequest) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED_BEFORE_THE_FORK)
        self._reports, there = context.Pipe(duplex=False)
        self.process = context.Process(target=_run, args=(request, there), daemon=True)
        self.process.start()
        there.close()
        assert self._reports.poll(PATIENCE_SECONDS), "the run did not start"
        assert self._reports.recv() == "started"

    def kill_after(self, seconds: float) -> Report | None:
        """How the run ended; None when it had not by then, and was killed."""
        if not self._reports.poll(seconds):
            self.process.kill()
        return self._ended()

    def interrupt_after(self, seconds: float) -> Report | None:
        """As `wait`, after asking it to end."""
        if not self._reports.poll(seconds) and self.process.pid is not None:
            self.process.terminate()
        return self.wait()

    def wait(self) -> Report | None:
        """How the run ended."""
        assert self._reports.poll(PATIENCE_SECONDS), f"the run did not end in {PATIENCE_SECONDS:g} s"
        return self._ended()

    def _ended(self) -> Report | None:
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode == -signal.SIGKILL:
            return None
        # It may have ended while we were about to kill it.
        assert self.process.exitcode == 0, self.process.exitcode
        report = self._reports.recv()
        assert isinstance(report, Report)
        return report

    def close(self) -> None:
        """End the process, if it is still there."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self._reports.close()


@contextmanager
def following(request: RunRequest) -> Iterator[FollowProcess]:
    """A run that has begun, and is over at the end of the block."""
    started = FollowProcess(request)
    try:
        yield started
    finally:
        started.close()


def _run(request: RunRequest, reports: Connection) -> None:
    is_asked_to_end = threading.Event()
    # A run that hangs says where, before it is given up.
    faulthandler.dump_traceback_later(PATIENCE_SECONDS - 20)
    signal.signal(signal.SIGTERM, lambda *_: is_asked_to_end.set())
    reports.send("started")
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
    reports.send(Report(ending, error, message, time.monotonic() - start, changes))
