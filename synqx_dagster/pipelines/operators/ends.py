"""The two ends of a pipeline: extracts that read a connection, and loads that fill a table of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Name, Value
from synqx_dagster.model.mapping import (
    RESERVED_PREFIX,
    BadRowLimit,
    ColumnMapping,
    Cursor,
    Freshness,
    HistoryColumns,
    LoadMode,
    OnBadRow,
)
from synqx_dagster.model.schema import ColumnName, Evolution
from synqx_dagster.model.table import TableName
from synqx_dagster.pipelines.operators.checks import missing
from synqx_dagster.pipelines.operators.protocol import (
    ExtractOperator,
    Input,
    LoadOperator,
    NodeColumns,
    OperatorProblem,
)


class ExtractConfig(Value):
    """What is read; a node with a ``source_asset`` has its connection and its table or query from there.

    Attributes:
        columns: The columns that are read, in this order; left out: all.
        where: A condition in the source's own SQL; only rows for which it is true are read.
        partition_column: In a pipeline with partitions: the source's column that says to which one a row belongs; only
            those of the run's partitions are read. Left out: all rows are.
    """

    connection: Name | None = None
    table: str | None = None
    query: str | None = Field(default=None, min_length=1, max_length=100_000)
    columns: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=1600)
    where: str | None = Field(default=None, min_length=1, max_length=10_000)
    partition_column: ColumnName | None = None

    @field_validator("table")
    @classmethod
    def _check_table(cls, text: str | None) -> str | None:
        if text is not None:
            TableName.parse(text)
        return text

    @model_validator(mode="after")
    def _check_whole(self) -> ExtractConfig:
        if self.table is not None and self.query is not None:
            raise ValueError("give either table or query")
        return self


class IncrementalConfig(ExtractConfig):
    """An extract that reads what is new since the last run; the watermark lies in the ledger of the load's target."""

    cursor: Cursor


class _Extract(ExtractOperator):
    def columns(self, config: ExtractConfig, inputs: Sequence[Input]) -> NodeColumns:
        """Those that are asked for; else nobody knows before the source is asked."""
        return config.columns


class TableExtract(_Extract):
    """Read a table."""

    operator_class = "table"
    config_type = ExtractConfig


class QueryExtract(_Extract):
    """Read what a query gives."""

    operator_class = "query"
    config_type = ExtractConfig


class FileExtract(_Extract):
    """Read a file of a ``files`` connection."""

    operator_class = "file"
    config_type = ExtractConfig


class IncrementalExtract(_Extract):
    """Read the rows that are new since the last run."""

    operator_class = "incremental"
    config_type = IncrementalConfig


class LoadConfig(Value):
    """How a table is filled: the fields of a mapping that speak of its target, with the same meaning.

    A node with a ``destination_asset`` has its connection and table from there. In a pipeline with partitions
    ``partition_column`` is the field that says to which one a row belongs; those of the run's partitions are replaced.
    """

    connection: Name | None = None
    table: str | None = None
    target_schema: Name | None = None
    mode: LoadMode = "replace"
    key: tuple[str, ...] = ()
    delete_missing: bool = False
    soft_delete_column: str | None = None
    history: HistoryColumns = HistoryColumns()
    evolution: Evolution | None = None
    on_bad_row: OnBadRow = "fail"
    max_bad_rows: BadRowLimit | None = None
    column_mappings: tuple[ColumnMapping, ...] | None = Field(default=None, min_length=1, max_length=1600)
    partition_column: ColumnName | None = None
    #: Left out: what the pipeline says.
    freshness: Freshness | None = None

    @field_validator("table")
    @classmethod
    def _check_table(cls, text: str | None) -> str | None:
        if text is not None and TableName.parse(text).name.casefold().startswith(RESERVED_PREFIX):
            raise ValueError(f"names that begin with {RESERVED_PREFIX} are SynqX's own")
        return text


class TableLoad(LoadOperator):
    """Fill a table, by any load mode."""

    operator_class = "table"
    config_type = LoadConfig

    def check(self, config: LoadConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Column mappings of columns that are not there."""
        for index, column_mapping in enumerate(config.column_mappings or ()):
            sources = getattr(column_mapping, "source_columns", ())
            yield from missing(inputs[0], sources, ("column_mappings", index, "source_columns"))
        if config.column_mappings is None:
            yield from missing(inputs[0], config.key, ("key",))


OPERATORS: tuple[Any, ...] = (TableExtract(), QueryExtract(), FileExtract(), IncrementalExtract(), TableLoad())
