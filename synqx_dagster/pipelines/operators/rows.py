"""Transforms that work on rows: filter, join, union, aggregate, deduplicate, sort, sample, and SQL of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from synqx_dagster.errors import ConfigurationError, PlanError
from synqx_dagster.model.base import Value
from synqx_dagster.model.pipeline import OperatorType
from synqx_dagster.model.table import Column
from synqx_dagster.pipelines.operators.checks import (
    DIALECT,
    check_expression,
    direct_origins,
    expression_origins,
    expression_sql,
    find_column,
    known_columns,
    missing,
    quoted,
    repeated,
    require_comparable,
)
from synqx_dagster.pipelines.operators.protocol import (
    Input,
    NodeColumns,
    OperatorProblem,
    Origins,
    Relation,
    SqlOperator,
)


class _RowOperator(SqlOperator):
    operator_type: ClassVar[OperatorType] = "transform"


class _SameColumns(_RowOperator):
    """Gives the input's columns as they are."""

    keeps_types = True

    def columns(self, config: Any, inputs: Sequence[Input]) -> NodeColumns:
        """The input's."""
        return inputs[0].columns

    def origins(self, config: Any, inputs: Sequence[Input]) -> Origins:
        """Themselves."""
        return direct_origins(inputs[0], inputs[0].columns)


class FilterConfig(Value):
    """Which rows stay: those for which the expression is true."""

    condition: str = Field(min_length=1, max_length=10_000)


class Filter(_SameColumns):
    """Keep the rows for which a condition is true."""

    operator_class = "filter"
    config_type = FilterConfig

    def check(self, config: FilterConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """A condition that cannot be read, or reads what is not there."""
        yield from check_expression(config.condition, inputs, ("condition",))

    def sql(self, config: FilterConfig, inputs: Sequence[Relation]) -> str:
        """A WHERE."""
        return f"SELECT * FROM {inputs[0].sql_name} WHERE ({expression_sql(config.condition)})"


class JoinConfig(Value):
    """How two inputs meet.

    Attributes:
        left, right: The nodes; left out: the first and the second edge that lead here.
        on: Columns that are equal: a name for both sides, or pairs of left and right by name.
        how: ``semi`` keeps the left rows that have a partner, ``anti`` those that have none.
        suffix: Put behind a right column whose name the left has, too; the right columns of `on` are left out.
    """

    left: str | None = None
    right: str | None = None
    on: tuple[str, ...] | dict[str, str] = Field(min_length=1)
    how: Literal["inner", "left", "right", "full", "semi", "anti"] = "inner"
    suffix: str = Field(default="_right", min_length=1, max_length=64)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Left and right columns that are equal."""
        return tuple(self.on.items()) if isinstance(self.on, dict) else tuple((name, name) for name in self.on)


class Join(_RowOperator):
    """Put the rows of two inputs beside each other."""

    operator_class = "join"
    config_type = JoinConfig
    least_inputs = 2
    most_inputs = 2

    def holds_rows(self, config: Any) -> bool:
        """Beyond its memory they are on disk."""
        return True

    def check(self, config: JoinConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Inputs and columns that are not there."""
        node_ids = [given.node_id for given in inputs]
        for side in ("left", "right"):
            name = getattr(config, side)
            if name is not None and name not in node_ids:
                yield OperatorProblem((side,), f"no edge leads here from {name!r}", f"inputs: {', '.join(node_ids)}")
                return
        if config.left is not None and config.left == config.right:
            yield OperatorProblem(("right",), "left and right are the same node")
            return
        left, right = self._sides(config, inputs)
        yield from missing(left, [pair[0] for pair in config.pairs], ("on",))
        yield from missing(right, [pair[1] for pair in config.pairs], ("on",))
        if left.columns is not None and right.columns is not None:
            yield from repeated(self.columns(config, inputs) or (), ("suffix",))

    def columns(self, config: JoinConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The left columns, then the right ones that are not joined on."""
        left, right = self._sides(config, inputs)
        if left.columns is None or right.columns is None:
            return None
        return (*left.columns, *(new for _, new in self._right_names(config, left.columns, right.columns)))

    def origins(self, config: JoinConfig, inputs: Sequence[Input]) -> Origins:
        """One side, or both for a column of a right or full join that is joined on."""
        left, right = self._sides(config, inputs)
        if left.columns is None or right.columns is None:
            return None
        origins = {name: ((left.node_id, name),) for name in left.columns}
        result: dict[str, tuple[tuple[str, str], ...]] = dict(origins)
        if config.how in ("right", "full"):
            for one, other in config.pairs:
                name = find_column(one, left.columns) or one
                result[name] = ((left.node_id, name), (right.node_id, find_column(other, right.columns) or other))
        for old, new in self._right_names(config, left.columns, right.columns):
            result[new] = ((right.node_id, old),)
        return result

    def sql(self, config: JoinConfig, inputs: Sequence[Relation]) -> str:
        """A join by equality; NULLs have no partner."""
        left, right = self._sides(config, inputs)
        for one, other in config.pairs:
            require_comparable(left.column(one), right.column(other))
        on = " AND ".join(f"l.{quoted(one)} = r.{quoted(other)}" for one, other in config.pairs)
        joined = {one.casefold(): other for one, other in config.pairs}
        both = config.how in ("right", "full")
        items = [
            f"coalesce(l.{quoted(name)}, r.{quoted(joined[name.casefold()])}) AS {quoted(name)}"
            if both and name.casefold() in joined
            else f"l.{quoted(name)}"
            for name in left.names
        ]
        items += [
            f"r.{quoted(old)} AS {quoted(new)}" for old, new in self._right_names(config, left.names, right.names)
        ]
        how = config.how.upper()
        return f"SELECT {', '.join(items)} FROM {left.sql_name} AS l {how} JOIN {right.sql_name} AS r ON {on}"

    def _sides(self, config: JoinConfig, inputs: Sequence[Any]) -> tuple[Any, Any]:
        by_id = {given.node_id: given for given in inputs}
        left = by_id.get(config.left or "")
        right = by_id.get(config.right or "")
        if left is None:
            left = next(given for given in inputs if given is not right)
        if right is None:
            right = next(given for given in inputs if given is not left)
        return left, right

    @staticmethod
    def _right_names(config: JoinConfig, left: Sequence[str], right: Sequence[str]) -> list[tuple[str, str]]:
        if config.how in ("semi", "anti"):
            return []
        joined = {other.casefold() for _, other in config.pairs}
        taken = {name.casefold() for name in left}
        return [
            (name, f"{name}{config.suffix}" if name.casefold() in taken else name)
            for name in right
            if name.casefold() not in joined
        ]


class UnionConfig(Value):
    """How rows are put below each other: columns are matched by name, and those that an input lacks are NULL."""

    missing_columns: Literal["refuse", "null"] = "refuse"


class Union(_RowOperator):
    """Put the rows of several inputs below each other; duplicates stay."""

    operator_class = "union"
    config_type = UnionConfig
    least_inputs = 2
    most_inputs = None
    keeps_rows = True

    def check(self, config: UnionConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that only some inputs have."""
        if config.missing_columns == "null" or known_columns(inputs) is None:
            return
        for given in inputs[1:]:
            yield from missing(given, inputs[0].columns or (), ())
            yield from missing(inputs[0], given.columns or (), ())

    def columns(self, config: UnionConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The first input's, then those that others add."""
        return None if known_columns(inputs) is None else _united([given.columns or () for given in inputs])

    def origins(self, config: UnionConfig, inputs: Sequence[Input]) -> Origins:
        """The column of that name in every input that has it."""
        names = self.columns(config, inputs)
        if names is None:
            return None
        found = {name: [(given, find_column(name, given.columns or ())) for given in inputs] for name in names}
        return {
            name: tuple((given.node_id, column) for given, column in columns if column is not None)
            for name, columns in found.items()
        }

    def sql(self, config: UnionConfig, inputs: Sequence[Relation]) -> str:
        """UNION ALL BY NAME."""
        names = _united([given.names for given in inputs])
        for given in inputs:
            lacking = [name for name in names if find_column(name, given.names) is None]
            if lacking and config.missing_columns == "refuse":
                raise PlanError(
                    f"{given.node_id!r} gives no column {lacking[0]!r}, which another input has",
                    hint="select the same columns before, or set missing_columns: null",
                    column=lacking[0],
                )
        first: dict[str, Column] = {}
        for given in inputs:
            for column in given.columns:
                require_comparable(first.setdefault(column.name.casefold(), column), column)
        return " UNION ALL BY NAME ".join(f"SELECT * FROM {given.sql_name}" for given in inputs)


def _united(columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
    names: dict[str, str] = {}
    for one in columns:
        for name in one:
            names.setdefault(name.casefold(), name)
    return tuple(names.values())


class AggregateConfig(Value):
    """Groups, and what is computed for each.

    Attributes:
        group_by: Columns; none gives one row for all rows.
        columns: Aggregate expressions of DuckDB by the column that they make: ``sum(price)``, ``count(*)``.
    """

    group_by: tuple[str, ...] = ()
    columns: dict[str, str] = Field(min_length=1)


class Aggregate(_RowOperator):
    """One row for each group of rows."""

    operator_class = "aggregate"
    config_type = AggregateConfig

    def holds_rows(self, config: Any) -> bool:
        """Beyond its memory they are on disk."""
        return True

    def check(self, config: AggregateConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there, and expressions that cannot be read."""
        yield from missing(inputs[0], config.group_by, ("group_by",))
        for name, text in config.columns.items():
            yield from check_expression(text, inputs, ("columns", name), aggregates=True)
        yield from repeated([*config.group_by, *config.columns], ("columns",))

    def columns(self, config: AggregateConfig, inputs: Sequence[Input]) -> NodeColumns:
        """Groups, then aggregates."""
        return (*config.group_by, *config.columns)

    def origins(self, config: AggregateConfig, inputs: Sequence[Input]) -> Origins:
        """The columns that stand in an aggregate."""
        node_id = inputs[0].node_id
        origins: dict[str, tuple[tuple[str, str], ...]] = {name: ((node_id, name),) for name in config.group_by}
        for name, text in config.columns.items():
            origins[name] = expression_origins(text, inputs[0], aggregates=True)
        return origins

    def sql(self, config: AggregateConfig, inputs: Sequence[Relation]) -> str:
        """A GROUP BY."""
        items = [quoted(name) for name in config.group_by]
        items += [
            f"({expression_sql(text, aggregates=True)}) AS {quoted(name)}" for name, text in config.columns.items()
        ]
        groups = f" GROUP BY {', '.join(quoted(name) for name in config.group_by)}" if config.group_by else ""
        return f"SELECT {', '.join(items)} FROM {inputs[0].sql_name}{groups}"


class DeduplicateConfig(Value):
    """Which of several rows with one key stays.

    Attributes:
        key: The columns that make rows the same.
        order_by: The first row in this order stays; a ``-`` before a column turns the order round. Rows that are equal
            here, too, are told apart by all their columns, so that the same rows give the same result.
    """

    key: tuple[str, ...] = Field(min_length=1)
    order_by: tuple[str, ...] = ()


class Deduplicate(_SameColumns):
    """Keep one row of each key."""

    operator_class = "deduplicate"
    config_type = DeduplicateConfig

    def holds_rows(self, config: Any) -> bool:
        """Beyond its memory they are on disk."""
        return True

    def check(self, config: DeduplicateConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there."""
        yield from missing(inputs[0], config.key, ("key",))
        yield from missing(inputs[0], [name for name, _ in _orders(config.order_by)], ("order_by",))

    def sql(self, config: DeduplicateConfig, inputs: Sequence[Relation]) -> str:
        """A window, whose order is total."""
        order = _order_sql((*config.order_by, *(name for name in inputs[0].names if name not in config.key)))
        key = ", ".join(map(quoted, config.key))
        window = f"row_number() OVER (PARTITION BY {key}{f' ORDER BY {order}' if order else ''})"
        return f"SELECT * FROM {inputs[0].sql_name} QUALIFY {window} = 1"


class SortConfig(Value):
    """The order: columns, with a ``-`` before those that go down. NULLs stand last."""

    by: tuple[str, ...] = Field(min_length=1)


class Sort(_SameColumns):
    """Put rows in an order, in which a load writes them."""

    operator_class = "sort"
    config_type = SortConfig
    keeps_rows = True

    def holds_rows(self, config: Any) -> bool:
        """Beyond its memory they are on disk."""
        return True

    def check(self, config: SortConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there."""
        yield from missing(inputs[0], [name for name, _ in _orders(config.by)], ("by",))

    def sql(self, config: SortConfig, inputs: Sequence[Relation]) -> str:
        """An ORDER BY."""
        return f"SELECT * FROM {inputs[0].sql_name} ORDER BY {_order_sql(config.by)}"


def _orders(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name[1:], "DESC") if name.startswith("-") else (name, "ASC") for name in names]


def _order_sql(names: Sequence[str]) -> str:
    return ", ".join(f"{quoted(name)} {direction} NULLS LAST" for name, direction in _orders(names))


class SampleConfig(Value):
    """How much stays: a share of the rows by a hash of columns, or the first rows.

    Attributes:
        percent: Rows whose key falls into this share: the same rows each time, and the same keys in every table.
        key: The columns that decide; left out: all of them.
        rows: The first so many rows, as they come.
    """

    percent: float | None = Field(default=None, gt=0, le=100)
    key: tuple[str, ...] = ()
    rows: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_whole(self) -> SampleConfig:
        if (self.percent is None) == (self.rows is None):
            raise ValueError("give either percent or rows")
        if self.key and self.percent is None:
            raise ValueError("key is for percent")
        return self


class Sample(_SameColumns):
    """Keep some rows."""

    operator_class = "sample"
    config_type = SampleConfig

    def check(self, config: SampleConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there."""
        yield from missing(inputs[0], config.key, ("key",))

    def sql(self, config: SampleConfig, inputs: Sequence[Relation]) -> str:
        """By a hash that every run and every version computes alike, or by a LIMIT."""
        relation = inputs[0].sql_name
        if config.rows is not None:
            return f"SELECT * FROM {relation} LIMIT {config.rows}"
        key = ", ".join(
            f"coalesce(CAST({quoted(name)} AS VARCHAR), chr(1))" for name in (config.key or inputs[0].names)
        )
        # 28 bits of an MD5; DuckDB's own hash may change from version to version.
        bucket = f"CAST('0x' || substr(md5(concat_ws(chr(0), {key})), 1, 7) AS UBIGINT)"
        return f"SELECT * FROM {relation} WHERE {bucket} < {int(2**28 * (config.percent or 0) / 100)}"


class SqlConfig(Value):
    """One SELECT of DuckDB over the inputs, which have the names of their nodes."""

    query: str = Field(min_length=1, max_length=100_000)


class Sql(_RowOperator):
    """SQL of one's own."""

    operator_class = "sql"
    config_type = SqlConfig
    least_inputs = 1
    most_inputs = None

    def holds_rows(self, config: Any) -> bool:
        """Beyond its memory they are on disk."""
        return True

    def check(self, config: SqlConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """What is not one SELECT, and inputs that it does not read."""
        from synqx_dagster.mapping.lineage import tables_of
        from synqx_dagster.mapping.query import clean_query

        try:
            read = {table.name.casefold() for table in tables_of(clean_query(config.query, DIALECT), DIALECT)}
        except ConfigurationError as exc:
            yield OperatorProblem(("query",), exc.message, exc.hint)
            return
        names = {given.node_id.casefold(): given.node_id for given in inputs}
        for table in sorted(read - set(names)):
            yield OperatorProblem(
                ("query",),
                f"the query reads {table!r}, and no edge leads here from such a node",
                f"inputs: {', '.join(names.values())}",
            )
        for name in sorted(set(names) - read):
            yield OperatorProblem(("query",), f"the query does not read its input {names[name]!r}", "remove the edge")

    def columns(self, config: SqlConfig, inputs: Sequence[Input]) -> NodeColumns:
        """As far as the query itself tells."""
        traced = self._trace(config, inputs)
        return tuple(traced) or None

    def origins(self, config: SqlConfig, inputs: Sequence[Input]) -> Origins:
        """What the query itself tells."""
        names = {given.node_id.casefold(): given.node_id for given in inputs}
        origins = {
            column: tuple(
                (names[table.name.casefold()], name)
                for table, name in found
                if table is not None and table.name.casefold() in names
            )
            for column, found in self._trace(config, inputs).items()
        }
        return origins or None

    def _trace(self, config: SqlConfig, inputs: Sequence[Input]) -> dict[str, tuple[Any, ...]]:
        from synqx_dagster.mapping.lineage import trace_query

        known = {given.node_id: given.columns for given in inputs if given.columns is not None}
        return trace_query(config.query, DIALECT, known)

    def sql(self, config: SqlConfig, inputs: Sequence[Relation]) -> str:
        """The query over common table expressions that have the inputs' names."""
        from synqx_dagster.mapping.query import clean_query

        named = ", ".join(f"{quoted(given.node_id)} AS (SELECT * FROM {given.sql_name})" for given in inputs)
        return f"WITH {named} SELECT * FROM (\n{clean_query(config.query, DIALECT)}\n)"


OPERATORS: tuple[Any, ...] = (Filter(), Join(), Union(), Aggregate(), Deduplicate(), Sort(), Sample(), Sql())
