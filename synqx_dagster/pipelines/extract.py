"""Reading an extract's source into DuckDB: every value exactly, or the node fails and names the column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from synqx_dagster.connectors.duckdb_types import from_canonical, holds
from synqx_dagster.connectors.protocol import Connector, ReadSession, direct_type
from synqx_dagster.errors import SourceChangedError
from synqx_dagster.mapping.duckdb_casts import CARRIER_NAMES
from synqx_dagster.mapping.duckdb_select import ERRORS_COLUMN
from synqx_dagster.model.mapping import LoadMode
from synqx_dagster.model.partitions import Partitions
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.carriage import column_of, native_of
from synqx_dagster.pipelines.graph import Node
from synqx_dagster.pipelines.loading import source_mapping
from synqx_dagster.pipelines.operators.checks import quoted
from synqx_dagster.pipelines.operators.columns import FAILURE_MARK
from synqx_dagster.pipelines.operators.ends import ExtractConfig, IncrementalConfig
from synqx_dagster.transfer.arrow import BATCH_ROWS
from synqx_dagster.transfer.facts import describe_source
from synqx_dagster.transfer.partition import plan_reading
from synqx_dagster.transfer.plan import PreviewPlan, plan_preview
from synqx_dagster.transfer.result import PartitionSlice, ReadWindow
from synqx_dagster.transfer.watermark import Watermark
from synqx_dagster.transfer.window import Window, plan_window

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ReadSoFar:
    """What an incremental extract goes on from.

    Attributes:
        mode: The mode of the load that its rows reach, which decides what becomes of rows at the newest value.
        watermark: What lies in the ledger of the load's target; None for a first load.
    """

    mode: LoadMode
    watermark: str | None
    asked: ReadWindow = field(default_factory=ReadWindow)


@dataclass(frozen=True)
class Extract:
    """An extract whose source has been asked for its columns; `iter_batches` reads it, once."""

    node_id: str
    columns: tuple[Column, ...]
    window: Window | None
    _plan: PreviewPlan
    _read: ReadSession

    @property
    def schema(self) -> pa.Schema:
        """The schema of the batches, which are in the carriers of the connectors."""
        return self._plan.read_schema

    def iter_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, as the source sends them."""
        return self._read.iter_batches(self._plan.read_sql, self._plan.read_schema, batch_rows=BATCH_ROWS)

    def cancel(self) -> None:
        """Have the source end what it does."""
        self._read.cancel()

    def sql(self) -> str:
        """DuckDB's SELECT over the batches, registered as ``source``, that gives `columns` in DuckDB's types."""
        failure = f"error('{FAILURE_MARK}' || hex({ERRORS_COLUMN}[1].\"column\") || ' ' || {ERRORS_COLUMN}[1].reason)"
        direct = {field.name for field in self.schema if field.type == direct_type(DataType("date"))}
        items = ", ".join(
            quoted(column.name) if column.name in direct else _native(column, given)
            for column, given in zip(self.columns, self._plan.columns, strict=True)
        )
        return (
            f"SELECT {items} FROM ({self._plan.transform_sql})"
            f" WHERE CASE WHEN {ERRORS_COLUMN} IS NULL THEN true ELSE {failure} END"
        )


def _native(column: Column, given: Column) -> str:
    name = quoted(column.name)
    if given.data_type.kind in CARRIER_NAMES or column.data_type.kind == "string":
        return f"CAST({name} AS {native_of(column)}) AS {name}"
    return f"CAST({from_canonical(name, column.data_type)} AS {native_of(column)}) AS {name}"


@dataclass(frozen=True)
class ReadPartitions:
    """The partitions that a run is of, in a pipeline that has some."""

    partitions: Partitions
    asked: PartitionSlice


def open_extract(
    node: Node, source: Connector, read: ReadSession, so_far: ReadSoFar | None, part: ReadPartitions | None = None
) -> Extract:
    """Plan to read an extract's table or query.

    Raises:
        PlanError, SourceChangedError, QueryRefusedError, DataError: It cannot be read; names the node's table or query.
    """
    config = node.config
    assert isinstance(config, ExtractConfig)
    cursor = config.cursor if isinstance(config, IncrementalConfig) else None
    mapping = source_mapping(node, config, cursor, so_far.mode if so_far is not None else "append")
    predicates: list[str] = []
    if config.where is not None:
        from synqx_dagster.mapping.expressions import parse_expression

        predicates.append(parse_expression(config.where, source.dialect).text)
    window = None
    if cursor is not None and so_far is not None:
        before = None if so_far.watermark is None else Watermark.from_json(so_far.watermark)
        columns = describe_source(mapping, source, read)
        window = plan_window(mapping, so_far.asked, source, read, columns, before)
        predicates.extend(window.predicates)
    if config.partition_column is not None and part is not None:
        column = _find_partition_column(describe_source(mapping, source, read), config.partition_column)
        predicates.extend(plan_reading(mapping, part.partitions, part.asked, column, source, read))
    plan = plan_preview(
        mapping, None, source, read, holds=_holds, predicates=tuple(predicates), direct_kinds=frozenset({"date"})
    )
    columns = tuple(column_of(column.name, column.data_type) for column in plan.columns)
    return Extract(node.node_id, columns, window, plan, read)


def _find_partition_column(columns: Sequence[Column], name: str) -> Column:
    column = next((column for column in columns if column.name == name), None)
    if column is None:
        raise SourceChangedError(f"the source has no column {name!r} for its partition_column", column=name)
    return column


def _holds(data_type: DataType) -> str | None:
    # What DuckDB has no decimal for travels as text, which holds everything.
    kept = column_of("value", data_type).data_type
    return holds(data_type) if kept == data_type else None
