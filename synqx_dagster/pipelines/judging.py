"""The rows that a validate node lets pass; the others go to its spool, or end the stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from synqx_dagster.errors import BadRowsError
from synqx_dagster.pipelines.carriage import leaving_sql
from synqx_dagster.pipelines.database import StageDatabase
from synqx_dagster.pipelines.graph import Node
from synqx_dagster.pipelines.operators.checks import find_column
from synqx_dagster.pipelines.operators.protocol import Relation
from synqx_dagster.pipelines.operators.validate import ERRORS_COLUMN, ROW_COLUMN, ValidateConfig
from synqx_dagster.transfer.arrow import BATCH_ROWS, split_bad_rows
from synqx_dagster.transfer.quarantine import BadRowSpool

if TYPE_CHECKING:
    import pyarrow as pa


def judged_rows(
    database: StageDatabase, node: Node, relation: Relation, spool: BadRowSpool
) -> Iterator[pa.RecordBatch]:
    """The good rows of a validate node, as they travel.

    Args:
        relation: What the node's SQL gives: its columns, what is wrong with a row, and the row as JSON.
        spool: Takes the bad rows.

    Raises:
        BadRowsError: At the end, if a bad row fails the node, or there are more than it allows.
    """
    config = node.config
    assert isinstance(config, ValidateConfig)
    columns = relation.columns[:-2]
    sql = leaving_sql(columns, relation.sql_name, also=(ERRORS_COLUMN, ROW_COLUMN))
    key = [find_column(name, relation.names) or name for name in config.key]
    rows = 0
    for batch in split_bad_rows(database.stream(sql, BATCH_ROWS), spool, key):
        rows += batch.num_rows
        yield batch
    if not spool.rows:
        return
    total = rows + spool.rows
    what = f"node {node.node_id!r}: {spool.rows:,} of {total:,} rows break its rules"
    if config.on_bad_row == "fail":
        raise BadRowsError(
            f"{what}: {spool.describe()}",
            hint="nothing was loaded; correct them at the source, or set on_bad_row: quarantine",
            rows=spool.rows,
        )
    if config.max_bad_rows is not None and not config.max_bad_rows.allows(spool.rows, total):
        raise BadRowsError(
            f"{what}, and max_bad_rows allows {config.max_bad_rows}: {spool.describe()}",
            hint="nothing was loaded, nor quarantined; correct them at the source, or raise max_bad_rows",
            rows=spool.rows,
        )
