"""Work in processes of its own, which start in a moment and may be killed or interrupted at any other.

A process that imports the engine takes a second to start; these are forked from one that has imported it.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import psutil

ReportT = TypeVar("ReportT")
_RequestT = TypeVar("_RequestT")

#: Nothing of these is used before the fork, so that no thread of theirs is lost in it.
_IMPORTED_BEFORE_THE_FORK = (
    "pytest",
    "duckdb",
    "pyarrow.compute",
    "psycopg2.extras",
    "pymysql",
    "adbc_driver_postgresql.dbapi",
    "sqlglot",
    "synqx_dagster.connectors.registry",
    "synqx_dagster.transfer.load",
    "synqx_dagster.replication.follow",
    "synqx_dagster.api.app",
    __name__,
)

#: Work that is not killed ends by then; generous, for a machine that is busy.
PATIENCE_SECONDS = 240.0


def fork_context(imported: Sequence[str] = ()) -> ForkServerContext:
    """Where processes come from that have the engine and these modules imported, and nothing of this process's.

    The first to ask decides what is imported; the other's modules are imported by their own processes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED_BEFORE_THE_FORK, *imported])
    return context


class ForkedWork(Generic[ReportT]):
    """One piece of work, which has begun."""

    def __init__(self, work: Callable[[Any], ReportT], request: object, imported: Sequence[str]) -> None:
        context = fork_context(imported)
        self._reports, there = context.Pipe(duplex=False)
        self.process = context.Process(target=_run, args=(work, request, there), daemon=True)
        self.process.start()
        there.close()
        assert self._reports.poll(PATIENCE_SECONDS), "the work did not start"
        assert self._reports.recv() == "started"

    def wait(self, *, kill_after_seconds: float | None = None) -> ReportT | None:
        """How it ended; None when it had not by then, and was killed."""
        ended = self._reports.poll(PATIENCE_SECONDS if kill_after_seconds is None else kill_after_seconds)
        if not ended and kill_after_seconds is None:
            raise AssertionError(f"the work did not end in {PATIENCE_SECONDS:g} s")
        if not ended:
            self.process.kill()
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode == -signal.SIGKILL:
            return None
        # It may have ended while we were about to kill it.
        assert self.process.exitcode == 0, self.process.exitcode
        report: ReportT = self._reports.recv()
        return report

    def interrupt_after(self, seconds: float) -> ReportT | None:
        """As `wait`, after asking it to end by SIGTERM."""
        if not self._reports.poll(seconds):
            self.process.terminate()
        return self.wait()

    def wait_until_stopped(self) -> None:
        """Wait until it has stopped itself."""
        wait_until_stopped(self.process)

    def resume(self) -> None:
        """Let it go on after it has stopped itself."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the process, if it is still there."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self._reports.close()


def wait_until_stopped(process: BaseProcess) -> None:
    """Wait until a process has stopped itself. It is its server's child, so the system does not tell us of it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.is_alive(), "the process has ended"
        assert time.monotonic() < deadline, "the process does not stop"
        time.sleep(0.01)


@contextmanager
def forked(
    work: Callable[[_RequestT], ReportT], request: _RequestT, imported: Sequence[str] = ()
) -> Iterator[ForkedWork[ReportT]]:
    """Work that has begun, and is over at the end of the block.

    Args:
        work: A function of a module, called in the process; what it returns is its report.
        imported: Modules that are imported before the fork, beside the engine.
    """
    started: ForkedWork[ReportT] = ForkedWork(work, request, imported)
    try:
        yield started
    finally:
        started.close()


def _run(work: Callable[[Any], Any], request: object, reports: Connection) -> None:
    # Who asks it to end has to be heard: a function that listens for SIGTERM lets it in once it does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # What hangs says where, before it is given up.
    faulthandler.dump_traceback_later(PATIENCE_SECONDS - 20)
    reports.send("started")
    reports.send(work(request))
