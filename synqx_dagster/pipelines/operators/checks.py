"""What the checks of several operators share: columns that are not there, and expressions that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from synqx_dagster.errors import ConfigurationError, PlanError
from synqx_dagster.mapping.casts import INTEGER_KINDS
from synqx_dagster.mapping.names import nearest
from synqx_dagster.mapping.quoting import quote_name
from synqx_dagster.model.table import Column
from synqx_dagster.pipelines.operators.protocol import Input, NodeColumns, OperatorProblem, Origins

#: The dialect of every expression in a pipeline.
DIALECT = "duckdb"

Path = tuple[str | int, ...]


def quoted(name: str) -> str:
    """A column's name as SQL."""
    return quote_name(name, DIALECT)


def find_column(name: str, columns: Sequence[str]) -> str | None:
    """The column as it is stored; DuckDB does not tell upper case from lower."""
    if name in columns:
        return name
    return next((column for column in columns if column.casefold() == name.casefold()), None)


def missing(given: Input, names: Sequence[str], path: Path) -> Iterator[OperatorProblem]:
    """Columns that an input does not have; nothing where its columns are not known."""
    if given.columns is None:
        return
    for name in names:
        if find_column(name, given.columns) is None:
            yield OperatorProblem(path, f"{given.node_id!r} gives no column {name!r}", nearest(name, given.columns))


def repeated(names: Sequence[str], path: Path) -> Iterator[OperatorProblem]:
    """Names that stand twice in one output."""
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            yield OperatorProblem(path, f"the column {name!r} would be there twice", "DuckDB ignores case in names")
        seen.add(name.casefold())


def require_comparable(one: Column, other: Column) -> None:
    """Refuse to put two columns on one footing where DuckDB would change values for it, or compare them as others.

    Raises:
        PlanError: They are of types that have no common one which holds the values of both.
    """
    kinds = (one.data_type.kind, other.data_type.kind)
    same = (one.native_type, one.data_type) == (other.native_type, other.data_type)
    # An integer, or a decimal, is widened to the larger of two.
    numbers = all(kind in (*INTEGER_KINDS, "decimal") for kind in kinds)
    if same or numbers or set(kinds) == {"real", "float"}:
        return
    raise PlanError(
        f"the columns {one.name!r} ({one.native_type or one.data_type}) and {other.name!r}"
        f" ({other.native_type or other.data_type}) have no type in common that holds the values of both",
        hint="cast one of them before",
        column=one.name,
    )


def check_expression(
    text: str, given: Sequence[Input], path: Path, *, aggregates: bool = False
) -> Iterator[OperatorProblem]:
    """Whether a text is one expression over columns that are there: scalar, or of aggregates."""
    from synqx_dagster.mapping.expressions import parse_expression, resolve_names

    try:
        parsed = parse_expression(text, DIALECT, aggregates=aggregates)
    except ConfigurationError as exc:
        yield OperatorProblem(path, exc.message, exc.hint)
        return
    known = known_columns(given)
    if known is not None:
        for name in resolve_names(parsed, known, DIALECT)[1]:
            yield OperatorProblem(path, f"the expression reads {name!r}, which no input gives", nearest(name, known))


def known_columns(given: Sequence[Input]) -> list[str] | None:
    """The columns of all inputs together; None where one of them is not known."""
    columns: list[str] = []
    for one in given:
        if one.columns is None:
            return None
        columns.extend(one.columns)
    return columns


def expression_sql(text: str, *, aggregates: bool = False) -> str:
    """An expression that has been checked, as it may be put into brackets."""
    from synqx_dagster.mapping.expressions import parse_expression

    return parse_expression(text, DIALECT, aggregates=aggregates).text


def expression_origins(text: str, given: Input, *, aggregates: bool = False) -> tuple[tuple[str, str], ...]:
    """The columns that an expression reads."""
    from synqx_dagster.mapping.expressions import parse_expression, resolve_names

    parsed = parse_expression(text, DIALECT, aggregates=aggregates)
    if given.columns is None:
        return tuple((given.node_id, name) for name, _ in parsed.names)
    found = resolve_names(parsed, list(given.columns), DIALECT)[0]
    return tuple((given.node_id, name) for name in dict.fromkeys(found.values()))


def direct_origins(given: Input, names: NodeColumns) -> Origins:
    """Every column comes from the one of its own name."""
    return None if names is None else {name: ((given.node_id, name),) for name in names}
