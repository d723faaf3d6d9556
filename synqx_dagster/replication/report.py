"""What a batch of transactions did to the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from synqx_dagster.model.table import TableName


@dataclass
class TableCounts:
    """Changes of one table as the source made them; of a truncation the rows are not known."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    truncated: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.inserted + self.updated + self.deleted + self.truncated


@dataclass(frozen=True)
class BatchReport:
    """What was committed with one batch.

    Attributes:
        position: Everything before it is stored; what may be confirmed to the source.
        transactions, skipped: How many were applied, and how many had been before.
        changes: How many changes were brought into the target; those of tables that do not take them are not counted.
        tables: By target table; those without changes are left out.
        unknown: Changes of source tables that the publication has and the replication does not follow.
        waiting: Changes of tables that are to be copied: the copy will bring them.
        stopped: Tables that this batch has stopped, by source table, with the reason.
        schema_changes: What happened to target tables, in words.
        committed_at: When the source committed the last of the transactions; None without one.
    """

    position: int
    transactions: int = 0
    skipped: int = 0
    changes: int = 0
    tables: Mapping[TableName, TableCounts] = field(default_factory=dict)
    unknown: Mapping[TableName, int] = field(default_factory=dict)
    waiting: Mapping[TableName, int] = field(default_factory=dict)
    stopped: Mapping[TableName, str] = field(default_factory=dict)
    schema_changes: tuple[str, ...] = ()
    committed_at: datetime | None = None
