"""What a comparison of content found, as plain values: counts for logs, keys and columns for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from synqx_dagster.transfer.result import CheckOutcome

DifferenceKind = Literal["missing", "extra", "different"]


@dataclass(frozen=True)
class ColumnDifference:
    """A column of a row that differs. The values are canonical text, cut if long; None unless they were asked for."""

    column: str
    source: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Difference:
    """A key whose rows differ.

    Attributes:
        kind: ``missing`` in the target, ``extra`` in the target, or in both and ``different``.
        key: The key's values as canonical text, in key order; empty without a key.
        columns: The columns that differ, for ``different`` rows of a unique key.
        rows: How many rows it is about; one, unless the key repeats.
    """

    kind: DifferenceKind
    key: tuple[str | None, ...]
    columns: tuple[ColumnDifference, ...] = ()
    rows: int = 1


@dataclass(frozen=True)
class SideReport:
    """One side: its rows, and where their digests were computed and why not in the database, if so."""

    connection: str
    relation: str
    rows: int
    computed_in: Literal["database", "here"]
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "connection": self.connection,
            "relation": self.relation,
            "rows": self.rows,
            "computed_in": self.computed_in,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class ContentReport:
    """The outcome of one comparison.

    ``missing``, ``extra`` and ``different`` count keys (rows, without a key) in the ranges that were looked into; all
    of them if ``complete``, else at least so many.

    Attributes:
        allows_extra: The mode of the load keeps rows that the source does not have; they are no fault.
        set_aside: Rows of the source that share a key, which a load in quarantine mode keeps out of the target.
        differences: The first of them, as many as were asked for.
    """

    mapping: str
    source: SideReport
    target: SideReport
    key: tuple[str, ...]
    columns: int
    ranges: int
    differing_ranges: int
    missing: int
    extra: int
    different: int
    set_aside: int
    complete: bool
    allows_extra: bool
    differences: tuple[Difference, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the target holds what the mapping says."""
        return self.complete and not (self.missing or self.different or (self.extra and not self.allows_extra))

    @property
    def description(self) -> str:
        """The outcome in one sentence, without a key or a value."""
        if self.passed:
            extra = f"; the target has {self.extra:,} more, which the load mode keeps" if self.extra else ""
            aside = f"; {self.set_aside:,} rows that share a key are set aside" if self.set_aside else ""
            rows = "1 row" if self.source.rows == 1 else f"{self.source.rows:,} rows"
            columns = "1 column" if self.columns == 1 else f"{self.columns} columns"
            verb = "is" if self.source.rows == 1 else "are"
            return f"{rows} of {columns} {verb} the same on both sides{extra}{aside}"
        what = ("keys" if self.key else "rows") + ("" if self.complete else ", at least")
        return (
            f"{self.missing:,} missing, {self.extra:,} extra, {self.different:,} different ({what}); the source has"
            f" {self.source.rows:,} rows, the target {self.target.rows:,}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "mapping": self.mapping,
            "passed": self.passed,
            "complete": self.complete,
            "source": self.source.to_dict(),
            "target": self.target.to_dict(),
            "key": list(self.key),
            "columns": self.columns,
            "ranges": self.ranges,
            "differing_ranges": self.differing_ranges,
            "missing": self.missing,
            "extra": self.extra,
            "different": self.different,
            "set_aside": self.set_aside,
            "allows_extra": self.allows_extra,
            "differences": [_difference(difference, self.key) for difference in self.differences],
            "seconds": round(self.seconds, 3),
        }

    def to_outcome(self) -> CheckOutcome:
        """The report as a check of the target's asset. No keys: the event log is kept, and read by many."""
        metadata: dict[str, int | str] = {
            "source_rows": self.source.rows,
            "target_rows": self.target.rows,
            "missing": self.missing,
            "extra": self.extra,
            "different": self.different,
            "ranges": self.ranges,
            "differing_ranges": self.differing_ranges,
            "computed_in": f"source: {self.source.computed_in}, target: {self.target.computed_in}",
            "milliseconds": round(self.seconds * 1000),
        }
        columns = sorted({column.column for difference in self.differences for column in difference.columns})
        if columns:
            metadata["differing_columns"] = ", ".join(columns)
        return CheckOutcome("content", self.passed, self.description, metadata)


def _difference(difference: Difference, key: tuple[str, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "kind": difference.kind,
        "key": dict(zip(key, difference.key, strict=True)) if key else None,
        "rows": difference.rows,
        "columns": [column.column for column in difference.columns],
    }
    values = {
        column.column: {"source": column.source, "target": column.target}
        for column in difference.columns
        if column.source is not None or column.target is not None
    }
    if values:
        document["values"] = values
    return document
