"""What a run has done so far, shared by its parts: figures, warnings, how far behind; and whether it is to end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from synqx_dagster.model.table import TableName
from synqx_dagster.replication.position import TableState
from synqx_dagster.replication.progress import Ending, FollowProgress, FollowReport, FollowRequest, TableFigures
from synqx_dagster.replication.report import BatchReport
from synqx_dagster.replication.slot import SlotState
from synqx_dagster.transfer.result import Progress

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.5


@dataclass
class _Totals:
    transactions: int = 0
    batches: int = 0
    changes: int = 0


class Account:
    """The account of one run. Figures of copies come from other threads."""

    def __init__(self, request: FollowRequest) -> None:
        self._request = request
        self._replication = request.replication
        self._started = time.monotonic()
        self._figures: dict[TableName, TableFigures] = {}
        self._totals = _Totals()
        self._warnings: dict[str, str] = {}
        self.slot: SlotState | None = None
        self.lag_seconds: float | None = None
        self._lock = threading.Lock()
        self._progress_due = 0.0

    def why_end(self) -> Ending | None:
        """Why the run is to end now, whatever there is to do."""
        if self._request.is_interrupted():
            return "interrupted"
        if self._request.is_paused():
            return "paused"
        if time.monotonic() - self._started >= self._replication.max_run_seconds:
            return "max_run"
        return None

    def warn(self, key: str, text: str) -> None:
        """Say something that should be looked at; once, until it changes."""
        if self._warnings.get(key) != text:
            logger.warning("%s: %s", self._replication.name, text)
        self._warnings[key] = text

    def _figures_of(self, source: TableName, target: TableName) -> TableFigures:
        return self._figures.setdefault(target, TableFigures(source, target))

    def take_states(self, states: Mapping[TableName, TableState]) -> None:
        """Tables as the target's state has them now."""
        with self._lock:
            for source, state in states.items():
                figures = self._figures_of(source, state.target)
                figures.status, figures.reason = state.status, state.reason
        for source in states:
            self.forget_warning(f"unknown {source}")

    def take_batch(self, report: BatchReport) -> None:
        """What a batch has done."""
        with self._lock:
            self._totals.batches += 1
            self._totals.transactions += report.transactions
            self._totals.changes += report.changes
            for target, counts in report.tables.items():
                figures = self._figures.get(target)
                if figures is not None:
                    figures.rows_inserted += counts.inserted
                    figures.rows_updated += counts.updated
                    figures.rows_deleted += counts.deleted
        for source in report.unknown:
            # Somebody has added it to the publication, or it has just come.
            self.warn(
                f"unknown {source}", f"{source}: the log has changes of it, and it is not followed: they are left out"
            )
        for source, reason in report.stopped.items():
            self.warn(f"stopped {source}", f"{source} has stopped: {reason}")

    def tell_copy(self, source: TableName, progress: Progress) -> None:
        """How far a copy is; from any thread."""
        listener = self._request.on_progress
        if listener is not None:
            listener(FollowProgress("copy", source, progress.rows, progress.total_rows))

    def tell_stream(self, now: float) -> None:
        """How far the stream is; at a bounded rate."""
        listener = self._request.on_progress
        if listener is None or now < self._progress_due:
            return
        self._progress_due = now + _PROGRESS_SECONDS
        listener(
            FollowProgress(
                "stream",
                changes=self._totals.changes,
                lag_seconds=self.lag_seconds,
                lag_bytes=None if self.slot is None else self.slot.confirmed_lag_bytes,
            )
        )

    def take_copy(self, source: TableName, target: TableName, rows: int) -> None:
        """A table that was copied."""
        with self._lock:
            self._figures_of(source, target).rows_copied = rows

    def forget_warning(self, key: str) -> None:
        """What was said is over."""
        self._warnings.pop(key, None)

    def report(self, ending: Ending, position: int | None, *, with_columns: bool = False) -> FollowReport:
        """What was done so far; `with_columns` asks the target for the columns of what has changed."""
        if with_columns:
            self._read_columns()
        with self._lock:
            tables = tuple(replace(figures) for figures in self._figures.values())
        return FollowReport(
            ending=ending,
            position=position,
            tables=tables,
            transactions=self._totals.transactions,
            batches=self._totals.batches,
            changes=self._totals.changes,
            lag_seconds=self.lag_seconds,
            lag_bytes=self._lag_bytes(position),
            seconds=time.monotonic() - self._started,
            warnings=tuple(self._warnings.values()),
        )

    def _lag_bytes(self, position: int | None) -> int | None:
        """What of the log the target does not have; the server may not show yet what was confirmed just now."""
        if self.slot is None or position is None:
            return None
        return max(0, self.slot.wal_end - position)

    def _read_columns(self) -> None:
        changed = [figures for figures in self._figures.values() if figures.has_changed and not figures.columns]
        if not changed:
            return
        with self._request.target.write() as session:
            for figures in changed:
                figures.columns = session.find_columns(figures.target) or ()
