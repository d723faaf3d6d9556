"""The first rows of a mapping as they would arrive, without a target and without a trace.

The source's query runs in a read-only transaction under a time-out and limits of rows and bytes, and is rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synqx_dagster.connectors.protocol import Connector, ReadLimits
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column
from synqx_dagster.transfer.arrow import BATCH_ROWS, Transform
from synqx_dagster.transfer.plan import plan_preview
from synqx_dagster.transfer.quarantine import Breach

TIMEOUT_SECONDS = 30.0
MAX_ROWS = 1_000
MAX_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class PreviewRow:
    """One row; values are canonical text, None is NULL. A row with breaches would not be loaded."""

    values: tuple[str | None, ...]
    breaches: tuple[Breach, ...] = ()


@dataclass(frozen=True)
class Preview:
    """The first rows of a mapping's output, in no order but the source's."""

    columns: tuple[Column, ...]
    rows: tuple[PreviewRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The preview as plain values for JSON."""
        return {
            "columns": [{"name": column.name, "type": str(column.data_type)} for column in self.columns],
            "rows": [
                {
                    "values": list(row.values),
                    "errors": [{"column": breach.column, "reason": breach.reason} for breach in row.breaches],
                }
                for row in self.rows
            ],
        }


def preview_mapping(mapping: Mapping, schema: Schema | None, source: Connector, *, limit_rows: int = 20) -> Preview:
    """Read and transform the first rows of a mapping.

    Args:
        limit_rows: How many rows at most; 1 to `MAX_ROWS`.

    Raises:
        QueryRefusedError: The mapping's query is not exactly one SELECT, or the server refused it as not read-only.
        StatementTimeoutError: The source took longer than `TIMEOUT_SECONDS`.
        PlanError, SourceChangedError: The mapping does not fit the source.
    """
    limit_rows = max(1, min(limit_rows, MAX_ROWS))
    limits = ReadLimits(timeout_seconds=TIMEOUT_SECONDS, max_rows=limit_rows, max_bytes=MAX_BYTES)
    with source.read(limits) as read:
        plan = plan_preview(mapping, schema, source, read)
        sql = plan.read_sql
        if source.capabilities.limit_clause:
            # The read's own limit ends it too; the server, when told, plans for a few rows.
            sql = f"SELECT * FROM (\n{sql}\n) preview LIMIT {limit_rows}"
        rows: list[PreviewRow] = []
        with Transform(plan.transform_sql, plan.read_schema) as transform:
            for batch in transform.run(
                read.iter_batches(sql, plan.read_schema, batch_rows=min(BATCH_ROWS, limit_rows))
            ):
                errors_at = batch.num_columns - 2
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    breaches = tuple(Breach(item["column"], item["reason"]) for item in values[errors_at] or ())
                    texts = tuple(_as_text(value) for value in values[:errors_at])
                    rows.append(PreviewRow(texts, breaches))
    return Preview(plan.columns, tuple(rows[:limit_rows]))


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)
