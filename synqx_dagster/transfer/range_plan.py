"""Decides whether a load runs in ranges, in how many and how many at a time, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import (
    Connector,
    ReadSession,
    SharedWriteSession,
    SnapshotConnector,
    SnapshotReadSession,
    WriteSession,
)
from synqx_dagster.errors import PlanError
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.sessions import find_pool_shortage
from synqx_dagster.model.table import Column
from synqx_dagster.transfer.ranges import Cut, Ranges, Whole, choose_cut


@dataclass(frozen=True)
class CutPlan:
    """A table that has been cut.

    Attributes:
        ranges: The condition of each range.
        parallelism: How many of them are read at the same time.
        description: The same in words.
    """

    ranges: Ranges
    parallelism: int
    description: str


@dataclass(frozen=True)
class RangePlan:
    """How a load is going to read its source; nothing has been cut yet.

    Attributes:
        cut: How the ranges are made; None where the source is read in one piece.
        parallelism: How many ranges are read at the same time at most.
        reason: Why it is one piece, or why fewer ranges are read at a time than were asked for; None: neither.
    """

    cut: Cut | None
    parallelism: int
    reason: str | None

    @property
    def description(self) -> str:
        """The plan in words."""
        if self.cut is None:
            return f"in one piece: {self.reason}"
        return self._describe(self.cut.most, self.cut.by)

    def _describe(self, count: int, by: str) -> str:
        how = f"{self.parallelism} at a time" if self.parallelism > 1 else "one after another"
        return f"{count:,} ranges by {by}, {how}" + ("" if self.reason is None else f"; {self.reason}")

    def to_dict(self) -> dict[str, object]:
        """The plan as plain values."""
        return {
            "count": 1 if self.cut is None else self.cut.most,
            "by": None if self.cut is None else self.cut.by,
            "parallelism": self.parallelism,
            "description": self.description,
        }

    def make(self) -> CutPlan | None:
        """Cut the table, in the snapshot of the session that the plan was made with; None: it is read in one piece."""
        ranges = None if self.cut is None else self.cut.make()
        if ranges is None:
            return None
        count = len(ranges.predicates)
        parallelism = min(self.parallelism, count)
        if parallelism == 1 and ranges.by == "position":
            return None
        return CutPlan(ranges, parallelism, self._describe(count, ranges.by))


def plan_ranges(
    mapping: Mapping,
    ends: tuple[Connector, Connector],
    read: ReadSession,
    write: WriteSession,
    source_columns: Sequence[Column],
    *,
    rows: int | None = None,
    may_count: bool = True,
) -> RangePlan:
    """Decide whether and how a load runs in ranges.

    Args:
        ends: The source and the target.
        rows: The source's own guess of its rows, if it has been asked for already.
        may_count: The source's rows may be counted where it has no guess.

    Raises:
        PlanError: The connections' pools do not allow so many sessions.
    """
    source, target = ends
    if not isinstance(write, SharedWriteSession):
        whole = f"a {target.db_type} target is loaded as a whole, and a load that dies begins anew"
        return RangePlan(None, 1, whole)
    cut = choose_cut(mapping, source, read, source_columns, rows, may_count=may_count)
    if isinstance(cut, Whole):
        return RangePlan(None, 1, cut.reason)
    reason = _why_not_parallel(mapping, source, target, read)
    parallelism = min(mapping.parallelism, cut.most) if reason is None else 1
    if parallelism > 1:
        _check_pools(mapping, ends, parallelism)
    elif cut.by == "position":
        return RangePlan(None, 1, reason or "only a key could cut it so that a load that died goes on")
    return RangePlan(cut, parallelism, reason)


def _why_not_parallel(mapping: Mapping, source: Connector, target: Connector, read: ReadSession) -> str | None:
    if mapping.parallelism == 1:
        return None
    if not target.capabilities.concurrent_writers:
        return f"{target.db_type} has one writer at a time"
    if not (isinstance(source, SnapshotConnector) and isinstance(read, SnapshotReadSession)):
        return f"sessions of {source.db_type} cannot share a snapshot"
    return None


def _check_pools(mapping: Mapping, ends: tuple[Connector, Connector], parallelism: int) -> None:
    pools = [(connector.config.name, connector.config.pool) for connector in ends]
    shortage = find_pool_shortage(pools, parallelism)
    if shortage is not None:
        raise PlanError(f"mapping {mapping.name!r}: {shortage.describe(mapping.parallelism)}", hint=shortage.hint)
