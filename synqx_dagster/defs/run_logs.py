"""The log of a run as plain lines, read from Dagster's storage; a run under way can be followed."""

from __future__ import annotations

import difflib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.event_api import EventLogCursor

from synqx_dagster.defs.run_failures import failure_report
from synqx_dagster.errors import NotFoundError

_PAGE_RECORDS = 500
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}

#: How long a transaction that took an earlier place in the log may stay open; a step of another process writes one.
_SETTLING_SECONDS = 10.0


@dataclass(frozen=True)
class LogLine:
    """One line of a run's log. ``step`` is None for the run as a whole, ``event`` for a message of the code."""

    time: datetime
    level: str
    step: str | None
    message: str
    event: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True)
class NumberedLine:
    """A line with its number in the storage: greater for what was written later, and with gaps."""

    number: int
    line: LogLine


@dataclass(frozen=True)
class LogPage:
    """Some lines of a log, oldest first. ``last`` is the number to go on after; None where there is no more now."""

    lines: tuple[NumberedLine, ...]
    last: int | None


class LogReader:
    """Reads the log of one run, each call what is new; oldest first, and events that say nothing are left out.

    Guarantee: no line is given twice, and none is passed over that another process began to write before a later one
    and finished within ten seconds after it.
    """

    def __init__(self, instance: dg.DagsterInstance, run_id: str, *, after: int | None = None) -> None:
        """Read on after a line, by its number; None: from the beginning."""
        self._instance = instance
        self._run_id = run_id
        #: Where earlier calls ended, and when; what lies before the first is settled.
        self._ends: deque[tuple[float, str]] = deque()
        self._start = None if after is None else EventLogCursor.from_storage_id(after).to_string()
        self._seen: set[int] = set()

    def read_new(self) -> Iterator[LogLine]:
        """The lines that no earlier call gave; must be read to the end."""
        return (numbered.line for numbered in self.read_numbered())

    def read_numbered(self) -> Iterator[NumberedLine]:
        """As `read_new`, with the number of each line."""
        now = time.monotonic()
        while self._ends and now - self._ends[0][0] >= _SETTLING_SECONDS:
            self._start = self._ends.popleft()[1]
        cursor, seen = self._start, set[int]()
        while True:
            page = self._instance.get_records_for_run(self._run_id, cursor=cursor, limit=_PAGE_RECORDS)
            for record in page.records:
                seen.add(record.storage_id)
                if record.storage_id not in self._seen and (line := _log_line(record.event_log_entry)) is not None:
                    yield NumberedLine(record.storage_id, line)
            cursor = page.cursor
            if not page.has_more:
                break
        self._seen = seen
        self._ends.append((now, cursor))


def iter_logs(instance: dg.DagsterInstance, run_id: str) -> Iterator[LogLine]:
    """The log of a run as it is now, oldest first."""
    return LogReader(instance, run_id).read_new()


def read_page(
    instance: dg.DagsterInstance,
    run_id: str,
    *,
    after: int | None = None,
    limit: int = 500,
    wanted: Callable[[LogLine], bool] = lambda line: True,
) -> LogPage:
    """A page of a run's log: up to so many of the wanted lines that stand after a number."""
    lines: list[NumberedLine] = []
    position = after
    while True:
        cursor = None if position is None else EventLogCursor.from_storage_id(position).to_string()
        page = instance.get_records_for_run(run_id, cursor=cursor, limit=_PAGE_RECORDS)
        for record in page.records:
            position = record.storage_id
            line = _log_line(record.event_log_entry)
            if line is None or not wanted(line):
                continue
            lines.append(NumberedLine(record.storage_id, line))
            if len(lines) == limit:
                return LogPage(tuple(lines), position)
        if not page.has_more:
            return LogPage(tuple(lines), None)


def check_step(instance: dg.DagsterInstance, run_id: str, step: str) -> None:
    """Refuse a step that a run does not have.

    Raises:
        NotFoundError: It has none of this name; the hint gives the nearest.
    """
    run = instance.get_run_by_id(run_id)
    known = step_keys(instance, run) if run is not None else ()
    if not known or step in known:
        return
    near = difflib.get_close_matches(step, known, n=1)
    listed = f"did you mean {near[0]!r}?" if near else f"its steps: {', '.join(known[:10])}"
    raise NotFoundError(f"run {run_id[:8]} has no step {step!r}", hint=listed)


def step_keys(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str, ...]:
    """The steps that a run is to execute, in the order of its plan; none while there is no plan."""
    if run.execution_plan_snapshot_id is None:
        return tuple(run.step_keys_to_execute or ())
    return tuple(instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).step_keys_to_execute)


def _log_line(entry: dg.EventLogEntry) -> LogLine | None:
    event = entry.dagster_event
    message = entry.message or (event.message if event else "") or ""
    if event is not None and event.is_failure and event.is_step_event:
        message = f"{message}\n{failure_report(event).message}"
    if not message:
        return None
    return LogLine(
        time=datetime.fromtimestamp(entry.timestamp, UTC),
        level=_LEVELS.get(int(entry.level), str(entry.level)),
        step=entry.step_key,
        message=message,
        event=None if event is None else event.event_type_value,
    )
