"""How far a run is: bars on a terminal, a plain line now and then elsewhere; always on standard error."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from synqx_dagster.cli.figures import format_bytes, format_count, format_rate, format_seconds, plural
from synqx_dagster.cli.output import Output, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from synqx_dagster.transfer.result import Progress

#: Between two plain lines of one load, besides its first and its commit.
_LINE_INTERVAL_SECONDS = 5.0

#: The engine's name of the phase after which the rows are there.
_COMMIT = "commit"

#: Its name of the phase in which rows come.
_COPY = "copy"


class ProgressDisplay(AbstractContextManager["ProgressDisplay"], Protocol):
    """Shows the progress of loads by name; may be called from several threads."""

    def __call__(self, name: str, progress: Progress) -> None:
        """Show how far a load is."""
        ...

    def expect(self, loads: int) -> None:
        """Be told how many loads there are going to be."""
        ...


def make_progress_display(output: Output) -> ProgressDisplay:
    """Bars when standard error is a terminal, else plain lines."""
    return ProgressBars(output) if sys.stderr.isatty() else ProgressLines(output)


class ProgressBars(ProgressDisplay):
    """A bar for each load that runs, and one for all of them when there are several; what is done makes room."""

    def __init__(self, output: Output) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        self._bars = Bars(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True, ratio=4)),
            # Goes on while a phase has nothing to say, such as the building of an index.
            TimeElapsedColumn(),
            console=output.error_console(),
            expand=True,
            transient=True,
            # Standard output is the result's; nothing may be drawn into it.
            redirect_stdout=False,
            redirect_stderr=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._latest: dict[str, Progress] = {}
        self._lock = threading.Lock()
        self._starting: TaskID | None = None
        self._summary: TaskID | None = None
        self._expected = 0
        self._done = 0
        self._done_rows = 0

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        self._starting = self._bars.add_task("starting Dagster", total=None, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def expect(self, loads: int) -> None:
        """Show how many of so many loads are done."""
        with self._lock:
            self._end_start()
            self._expected = loads
            if loads > 1:
                self._summary = self._bars.add_task(f"{loads:,} loads", total=loads, figures=self._describe_done())

    def __call__(self, name: str, progress: Progress) -> None:
        """Show how far a load is."""
        with self._lock:
            self._end_start()
            if name not in self._tasks:
                self._finish_others()
                self._tasks[name] = self._bars.add_task(printable(name), total=None, figures="")
            self._latest[name] = progress
            fraction = 1.0 if progress.phase == _COMMIT else progress.fraction
            self._bars.update(
                self._tasks[name],
                completed=0 if fraction is None else fraction,
                total=None if fraction is None else 1,
                figures=describe_progress(progress, with_seconds=False),
            )

    def _end_start(self) -> None:
        if self._starting is not None:
            self._bars.remove_task(self._starting)
            self._starting = None

    def _finish_others(self) -> None:
        """Take away the bars of earlier loads: in this process one load follows another."""
        for name, task in self._tasks.items():
            self._bars.remove_task(task)
            self._done += 1
            self._done_rows += self._latest[name].rows if self._latest[name].phase == _COMMIT else 0
        self._tasks.clear()
        if self._summary is not None:
            self._bars.update(self._summary, completed=self._done, figures=self._describe_done())

    def _describe_done(self) -> str:
        rows = f", {plural(self._done_rows, 'row')}" if self._done_rows else ""
        return f"{self._done:,} of {self._expected:,} done{rows}"


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

    def expect(self, loads: int) -> None:
        """Nothing: each load has lines of its own."""

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


def describe_progress(progress: Progress, *, with_seconds: bool = True) -> str:
    """A load's phase and figures in one line; what is not known yet is left out."""
    parts = [progress.phase]
    if progress.rows:
        if progress.total_rows and _is_going_on(progress):
            parts.append(f"{format_count(progress.rows)} of {plural(progress.total_rows, 'row')}")
        else:
            parts.append(plural(progress.rows, "row"))
    if progress.bytes:
        of_total = ""
        if progress.total_bytes and not progress.rows:
            of_total = f" of about {format_bytes(progress.total_bytes)}"
        parts.append(f"{format_bytes(progress.bytes)}{of_total}")
    if progress.rows and progress.seconds:
        parts.append(f"{format_rate(progress.rows, progress.seconds)} rows/s")
    elif progress.bytes and progress.seconds:
        parts.append(f"{format_bytes(round(progress.bytes / progress.seconds))}/s")
    if with_seconds and progress.seconds >= 1:
        parts.append(format_seconds(progress.seconds))
    if _is_going_on(progress) and (remaining := progress.remaining_seconds) is not None and remaining >= 1:
        parts.append(f"ETA {format_seconds(float(round(remaining)))}")
    return ", ".join(parts)


def _is_going_on(progress: Progress) -> bool:
    return progress.phase == _COPY
