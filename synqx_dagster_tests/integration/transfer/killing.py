"""Attempts at a load in processes of their own, which start in a moment and may be killed at any other.

A process that imports the engine takes a second to start; these are forked from one that has imported it.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest
from synqx_dagster_tests.integration.transfer.loading import connect

#: Nothing of these is used before the fork, so that no thread of theirs is lost in it.
_IMPORTED_BEFORE_THE_FORK = [
    "pytest",
    "duckdb",
    "pyarrow.compute",
    "psycopg2",
    "pymysql",
    "adbc_driver_postgresql.dbapi",
    "sqlglot",
    "synqx_dagster.connectors.registry",
    "synqx_dagster.transfer.load",
    __name__,
]

#: An attempt that is not killed ends by then; generous, for a machine that is busy.
PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class AttemptRequest:
    """What an attempt loads; the connections are opened by it."""

    source: ConnectionConfig
    target: ConnectionConfig
    mapping: Mapping
    load_id: str
    run_id: str


@dataclass(frozen=True)
class Report:
    """How an attempt ended that was not killed.

    Attributes:
        error: The name of its error, None if the load is committed.
        message: The error's.
        seconds: From the call to its end.
    """

    error: str | None
    message: str
    seconds: float
    already_committed: bool


class Attempt:
    """One attempt, which has begun."""

    def __init__(self, request: AttemptRequest) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED_BEFORE_THE_FORK)
        self._reports, there = context.Pipe(duplex=False)
        self.process = context.Process(target=_run, args=(request, there), daemon=True)
        self.process.start()
        there.close()
        assert self._reports.poll(PATIENCE_SECONDS), "the attempt did not start"
        assert self._reports.recv() == "started"

    def wait(self, *, kill_after_seconds: float | None = None) -> Report | None:
        """How the attempt ended; None when it had not by then, and was killed."""
        ended = self._reports.poll(PATIENCE_SECONDS if kill_after_seconds is None else kill_after_seconds)
        if not ended and kill_after_seconds is None:
            raise AssertionError(f"the attempt did not end in {PATIENCE_SECONDS:g} s")
        if not ended:
            self.process.kill()
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
def attempt(request: AttemptRequest) -> Iterator[Attempt]:
    """An attempt that has begun, and is over at the end of the block."""
    started = Attempt(request)
    try:
        yield started
    finally:
        started.close()


def _run(request: AttemptRequest, reports: Connection) -> None:
    reports.send("started")
    start = time.monotonic()
    source, target = connect(request.source), connect(request.target)
    error, message, already_committed = None, "", False
    try:
        result = run_load(LoadRequest(request.mapping, None, source, target, request.run_id, request.load_id))
        already_committed = result.already_committed
    except SynqxError as caught:
        error, message = type(caught).__name__, str(caught)
    finally:
        source.close()
        target.close()
    reports.send(Report(error, message, time.monotonic() - start, already_committed))
