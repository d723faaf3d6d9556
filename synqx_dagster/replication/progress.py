"""What a run of a replication is asked for, what it says while it goes on, and what it says at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import Column, TableName

#: Why a run ended: nothing to do, its time was over, it was paused, or somebody interrupted it.
Ending = Literal["idle", "max_run", "paused", "interrupted"]
#: What a run does just now.
Phase = Literal["prepare", "copy", "stream"]


@dataclass(frozen=True)
class FollowProgress:
    """How far a run is.

    Attributes:
        table: The source table of which a copy says something; None while changes are streamed.
        rows: That it has copied.
        changes: Rows inserted, updated and deleted in all target tables so far.
        lag_seconds, lag_bytes: How far the target is behind; None before that is known.
    """

    phase: Phase
    table: TableName | None = None
    rows: int = 0
    total_rows: int | None = None
    changes: int = 0
    lag_seconds: float | None = None
    lag_bytes: int | None = None


@dataclass
class TableFigures:
    """What a run did to one target table.

    Attributes:
        columns: The target's, when the run ended.
        status: As the target's state has it.
        reason: Why it takes no changes; None where it does.
    """

    source: TableName
    target: TableName
    rows_copied: int | None = None
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    status: str = "pending"
    reason: str | None = None
    columns: tuple[Column, ...] = ()

    @property
    def has_changed(self) -> bool:
        """Whether the run copied it or brought any change."""
        return self.rows_copied is not None or bool(self.rows_inserted or self.rows_updated or self.rows_deleted)


@dataclass(frozen=True)
class FollowReport:
    """What a run did.

    Attributes:
        position: The changes of transactions that committed before it are stored.
        lag_seconds, lag_bytes: How far the target was behind at the end; None where nothing was streamed.
        transactions, batches: How many were applied.
        warnings: What should be looked at, in words: tables that stopped, what the guard found.
    """

    ending: Ending
    position: int | None
    tables: tuple[TableFigures, ...]
    transactions: int = 0
    batches: int = 0
    changes: int = 0
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def _never() -> bool:
    return False


def _nothing(_table: TableName) -> str | None:
    return None


@dataclass(frozen=True)
class FollowRequest:
    """One run of a replication.

    Attributes:
        spill_directory: Where changes lie that are too many for memory.
        memory_bytes: How much of it changes may take that are read ahead.
        is_paused: Asked every few seconds; the run then finishes its batch and ends.
        is_interrupted: Asked several times a second; as `is_paused`, for who presses Ctrl-C.
        on_progress: Called about twice a second, from several threads; must be quick and must not raise.
        on_tables: Called about every `report_seconds` with what was done since the last time, by the thread that
            follows; for who tells of a run that goes on for hours.
        find_load: What else loads a target table, in words; None where nothing does. Those that are loaded are refused.
    """

    replication: Replication
    source: Connector
    target: Connector
    run_id: str
    spill_directory: Path
    memory_bytes: int = 48 * 1024**2
    is_paused: Callable[[], bool] = _never
    is_interrupted: Callable[[], bool] = _never
    on_progress: Callable[[FollowProgress], None] | None = None
    on_tables: Callable[[FollowReport], None] | None = None
    report_seconds: float = 60.0
    find_load: Callable[[TableName], str | None] = _nothing
