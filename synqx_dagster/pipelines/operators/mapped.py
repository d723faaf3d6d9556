"""The transform `mapping`: column mappings as mappings have them, over the rows of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from synqx_dagster.connectors.duckdb_types import DIALECT, from_canonical, native_type, parse_native, to_canonical
from synqx_dagster.connectors.protocol import carrier_type
from synqx_dagster.errors import PlanError
from synqx_dagster.mapping.compile import CompiledMapping, compile_mapping
from synqx_dagster.mapping.duckdb_casts import CARRIER_NAMES
from synqx_dagster.mapping.duckdb_select import ERRORS_COLUMN
from synqx_dagster.model.base import Value
from synqx_dagster.model.mapping import ColumnMapping, ExpressionMapping, Mapping
from synqx_dagster.model.pipeline import OperatorType
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.carriage import native_of
from synqx_dagster.pipelines.operators.checks import (
    check_expression,
    expression_origins,
    missing,
    quoted,
    repeated,
)
from synqx_dagster.pipelines.operators.columns import FAILURE_MARK
from synqx_dagster.pipelines.operators.protocol import (
    Input,
    NodeColumns,
    OperatorProblem,
    Origins,
    Relation,
    SqlOperator,
)


class MappedConfig(Value):
    """Column mappings, of which each fills the fields that it names; other columns are left out."""

    column_mappings: tuple[ColumnMapping, ...] = Field(min_length=1, max_length=1600)


class Mapped(SqlOperator):
    """Fill fields by column mappings; a value that breaks one fails the node and names the field."""

    operator_type: ClassVar[OperatorType] = "transform"
    operator_class = "mapping"
    config_type = MappedConfig
    keeps_rows = True

    def check(self, config: MappedConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there, and fields that are filled twice."""
        for index, one in enumerate(config.column_mappings):
            path = ("column_mappings", index)
            if isinstance(one, ExpressionMapping):
                yield from check_expression(one.expression, inputs, (*path, "expression"))
            yield from missing(inputs[0], getattr(one, "source_columns", ()), (*path, "source_columns"))
        yield from repeated(_fields(config), ("column_mappings",))

    def columns(self, config: MappedConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The fields, in the order of the mappings."""
        return _fields(config)

    def origins(self, config: MappedConfig, inputs: Sequence[Input]) -> Origins:
        """The columns that each field is made of."""
        origins: dict[str, tuple[tuple[str, str], ...]] = {}
        for one in config.column_mappings:
            found = tuple((inputs[0].node_id, name) for name in getattr(one, "source_columns", ()))
            if isinstance(one, ExpressionMapping):
                found = expression_origins(one.expression, inputs[0])
            origins.update(dict.fromkeys(one.target_fields, found))
        return origins

    def sql(self, config: MappedConfig, inputs: Sequence[Relation]) -> str:
        """The compiler's own SELECT over the input in its carriers, and DuckDB's types of the result."""
        compiled = _compile(config, inputs[0].columns)
        found = {column.name: (f"source.{quoted(column.name)}", column.data_type) for column in inputs[0].columns}
        arriving = {name: found[name] for name in compiled.used_columns}
        arriving |= {one.alias: (f"({one.sql})", one.data_type) for one in compiled.source_expressions}
        # A mapping of constants alone still needs one row for each row of the input.
        carriers = ", ".join(f"{_carrier(*one)} AS {quoted(name)}" for name, one in arriving.items()) or "1 AS one"
        types = {name: carrier_type(data_type) for name, (_, data_type) in arriving.items()}
        items = ", ".join(_native(field.column) for field in compiled.fields)
        failure = f"error('{FAILURE_MARK}' || hex({ERRORS_COLUMN}[1].\"column\") || ' ' || {ERRORS_COLUMN}[1].reason)"
        return (
            f"WITH source AS (SELECT {carriers} FROM {inputs[0].sql_name} AS source)"
            f" SELECT {items} FROM ({compiled.duckdb(types, holds={})})"
            f" WHERE CASE WHEN {ERRORS_COLUMN} IS NULL THEN true ELSE {failure} END"
        )


def _fields(config: MappedConfig) -> tuple[str, ...]:
    return tuple(name for one in config.column_mappings for name in one.target_fields)


def _compile(config: MappedConfig, columns: Sequence[Column]) -> CompiledMapping:
    record = Mapping(
        name="rows",
        source_connection="rows",
        source_table="rows",
        target_connection="rows",
        target_table="rows",
        column_mappings=config.column_mappings,
    )
    return compile_mapping(record, None, columns, source_dialect=DIALECT, describe=partial(_describe, columns))


def _describe(columns: Sequence[Column], items: str) -> Sequence[Column]:
    """The types of expressions that DuckDB alone can compute, found over no rows.

    Raises:
        PlanError: DuckDB does not take them.
    """
    import duckdb

    nulls = ", ".join(f"CAST(NULL AS {native_of(column)}) AS {quoted(column.name)}" for column in columns)
    with duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": "false"}) as connection:
        try:
            rows = connection.execute(f"DESCRIBE SELECT {items} FROM (SELECT {nulls}) AS source").fetchall()
        except duckdb.Error as exc:
            # Nothing of a row stands in it: there is none.
            raise PlanError(f"an expression of column_mappings: {exc}") from None
    return [Column(str(name), parse_native(str(native)), native_type=str(native)) for name, native, *_ in rows]


def _carrier(expression: str, data_type: DataType) -> str:
    kind = data_type.kind
    return (
        f"CAST({expression} AS {CARRIER_NAMES[kind]})" if kind in CARRIER_NAMES else to_canonical(expression, data_type)
    )


def _native(column: Column) -> str:
    name, kind = quoted(column.name), column.data_type.kind
    try:
        native = native_type(Column(column.name, column.data_type))
    except PlanError:
        return name  # A decimal that DuckDB has no type for stays text, which keeps every digit.
    return f"CAST({name if kind in CARRIER_NAMES else from_canonical(name, column.data_type)} AS {native}) AS {name}"


OPERATORS: tuple[Any, ...] = (Mapped(),)
