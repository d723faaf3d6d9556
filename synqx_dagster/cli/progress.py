"""How far a run is: bars on a terminal, a plain line now and then elsewhere; always on standard error."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from synqx_dagster.cli.figures import format_bytes, format_count, format_rate, format_seconds
from synqx_dagster.cli.output import Output, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from synqx_dagster.transfer.result import Progress

#: Between two plain lines of one load, besides its first and its commit.
_LINE_INTERVAL_SECONDS = 5.0

#: The engine's name of the phase after which the rows are there.
_COMMIT = "commit"


class ProgressDisplay(AbstractContextManager["ProgressDisplay"], Protocol):
    """Shows the progress of loads by name; may be called from several threads."""

    def __call__(self, name: str, progress: Progress) -> None:
        """Show how far a load is."""
        ...


def make_progress_display(output: Output) -> ProgressDisplay:
    """Bars when standard error is a terminal, else plain lines."""
    return ProgressBars(output) if sys.stderr.isatty() else ProgressLines(output)


class ProgressBars(ProgressDisplay):
    """One bar for each load: rows, bytes and rows per second."""

    def __init__(self, output: Output) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[figures]}", markup=False),
            console=output.error_console(),
            transient=True,
            # Standard output is the result's; nothing may be drawn into it.
            redirect_stdout=False,
            redirect_stderr=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._starting: TaskID | None = None

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        self._starting = self._bars.add_task("starting Dagster", total=None, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, name: str, progress: Progress) -> None:
        """Show how far a load is."""
        with self._lock:
            if self._starting is not None:
                self._bars.remove_task(self._starting)
                self._starting = None
            if name not in self._tasks:
                self._finish_others()
                self._tasks[name] = self._bars.add_task(printable(name), total=None, figures="")
        self._bars.update(
            self._tasks[name],
            completed=progress.rows,
            total=progress.total_rows,
            figures=describe_progress(progress),
        )

    def _finish_others(self) -> None:
        """Stop the bars of earlier loads: in this process one load follows another."""
        for task in self._bars.tasks:
            if not task.finished and task.fields["figures"].startswith(_COMMIT):
                self._bars.update(task.id, total=task.completed or 1, completed=task.completed or 1)


class ProgressLines(ProgressDisplay):
    """A line when a load starts and when it commits, and every few seconds within a long one."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, name: str, progress: Progress) -> None:
        """Show how far a load is, unless that was shown a moment ago."""
        now = time.monotonic()
        with self._lock:
            phase, shown_at = self._last.get(name, ("", -_LINE_INTERVAL_SECONDS))
            commits = progress.phase == _COMMIT and phase != _COMMIT
            if not commits and now - shown_at < _LINE_INTERVAL_SECONDS:
                return
            self._last[name] = (progress.phase, now)
        self._output.note(f"{printable(name)}: {describe_progress(progress)}")


def describe_progress(progress: Progress) -> str:
    """A load's phase and figures in one line; what is not known yet is left out."""
    parts = [progress.phase]
    if progress.rows:
        of_total = f" of {format_count(progress.total_rows)}" if progress.total_rows else ""
        parts.append(f"{format_count(progress.rows)}{of_total} rows")
    if progress.bytes:
        parts.append(format_bytes(progress.bytes))
    if progress.rows and progress.seconds:
        parts.append(f"{format_rate(progress.rows, progress.seconds)} rows/s")
    if progress.seconds >= 1:
        parts.append(format_seconds(progress.seconds))
    return ", ".join(parts)
