"""The source's rendering of a mapping: expressions for its fields and predicates for its bad rows.

It exists only where every part means exactly what the DuckDB rendering means; otherwise it says why not. PostgreSQL
takes nearly all of it. The other sources only hand columns and their own expressions through: their texts, casts
and empty strings follow rules that no predicate here could make equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synqx_dagster.mapping.casts import NUMBER_KINDS
from synqx_dagster.mapping.contract import EXTRA_PARTS, IS_NULL, PlannedField, cast_reason
from synqx_dagster.mapping.operations import (
    TEXT,
    Computed,
    Constant,
    Deleted,
    Digest,
    Join,
    Operation,
    Portable,
    SplitPart,
    Take,
)
from synqx_dagster.mapping.postgres_casts import PostgresCast, find_cast, is_plain, type_name
from synqx_dagster.mapping.quoting import quote_name, quote_text, source_column
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType


@dataclass(frozen=True)
class PushdownField:
    """A target field as SQL over the relation ``source``.

    Attributes:
        name: The target field.
        sql: Its value; NULL where a violation of the field is true.
        data_type: The logical type of `sql`.
        native_type: The source's spelling of the SQL type of `sql`; for binary COPY the target's must be equal.
        sql_of_good: The same value, cheaper, in an outermost SELECT whose WHERE leaves out every row with a violation;
            for other rows, and where conditions on it come from outside, it may raise.
    """

    name: str
    sql: str
    data_type: DataType
    native_type: str | None
    sql_of_good: str


@dataclass(frozen=True)
class Violation:
    """A predicate over ``source`` that is true for a bad row and false for others, never NULL."""

    field: str
    reason: str
    sql: str


@dataclass(frozen=True)
class Pushdown:
    """A whole mapping in the source's SQL."""

    fields: tuple[PushdownField, ...]
    violations: tuple[Violation, ...]


#: How many arguments a function of PostgreSQL takes. Source: PostgreSQL manual, PostgreSQL Limits.
MAX_ARGUMENTS = 100


class NotPushableError(Exception):
    """A field cannot be rendered for the source; says which and why."""


def render_pushdown(fields: Sequence[PlannedField], dialect: str) -> Pushdown:
    """Render all fields for the source.

    Raises:
        NotPushableError: One of them cannot be.
    """
    rendered: list[PushdownField] = []
    violations: list[Violation] = []
    for field in fields:
        render = _postgres_field if dialect == "postgres" else _plain_field
        pushed, flaws = render(field, dialect)
        rendered.append(pushed)
        violations.extend(Violation(field.column.name, reason, sql) for sql, reason in flaws)
    return Pushdown(tuple(rendered), tuple(violations))


# --- any source ---------------------------------------------------------------------------------------------


def _plain_field(field: PlannedField, dialect: str) -> tuple[PushdownField, list[tuple[str, str]]]:
    """A column or a source's expression that needs no cast."""
    operation, column = field.operation, field.column
    if not isinstance(operation, (Take, Computed)):
        raise NotPushableError(f"field {column.name!r}: {dialect} has no rendering that is certain to mean the same")
    if operation.data_type != column.data_type:
        raise NotPushableError(f"field {column.name!r}: a cast from {operation.data_type} is made outside of {dialect}")
    if dialect == "sqlite":
        raise NotPushableError(f"field {column.name!r}: SQLite may hold values of another type than the column says")
    sql = _source_value(operation, dialect)
    native = operation.column.native_type
    return PushdownField(column.name, sql, column.data_type, native, sql), _null_flaws(field, f"({sql} IS NULL)")


def _source_value(operation: Take | Computed, dialect: str) -> str:
    if isinstance(operation, Take):
        return source_column(operation.column.name, dialect)
    return f"({operation.parsed.text})"


def _null_flaws(field: PlannedField, is_null: str) -> list[tuple[str, str]]:
    return [(is_null, IS_NULL)] if field.needs_null_check else []


# --- PostgreSQL ---------------------------------------------------------------------------------------------


def _postgres_field(field: PlannedField, dialect: str) -> tuple[PushdownField, list[tuple[str, str]]]:
    name, target, operation = field.column.name, field.column.data_type, field.operation
    try:
        value, flaws = _postgres_value(field)
    except NotPushableError as exc:
        raise NotPushableError(f"field {name!r}: {exc}") from exc
    source_type = operation.data_type
    native = operation.column.native_type if isinstance(operation, (Take, Computed)) else type_name(source_type)
    if isinstance(operation, (Take, Computed)) and source_type == target:
        flaws = _null_flaws(field, f"({value} IS NULL)")
        if flaws and isinstance(operation, Computed) and operation.parsed.is_volatile:
            raise NotPushableError(f"field {name!r}: its expression gives another value each time it is checked")
        return PushdownField(name, value, target, native or type_name(target), value), flaws
    if isinstance(operation, (Take, Computed)) and not is_plain(operation.column):
        raise NotPushableError(f"field {name!r}: the text of a {operation.column.native_type} is made outside")
    if isinstance(operation, Computed) and operation.parsed.is_volatile:
        raise NotPushableError(f"field {name!r}: its expression gives another value each time it is checked")
    # the operation's own NULL, before a cast that failed makes another
    nulls = _null_flaws(field, _postgres_is_null(operation, value))
    good = value
    for station in field.types[1:]:
        cast = find_cast(source_type, station)
        if cast is None:
            raise NotPushableError(f"field {name!r}: PostgreSQL cannot safely make a {station} of a {source_type}")
        value, flaws = _guard(value, cast, flaws, cast_reason(source_type, station))
        good = cast.value(good)
        source_type = station
    return PushdownField(name, value, target, type_name(target), good), [*flaws, *nulls]


def _guard(
    value: str, cast: PostgresCast, flaws: list[tuple[str, str]], reason: str
) -> tuple[str, list[tuple[str, str]]]:
    if cast.check is None:
        return cast.value(value), flaws
    check = cast.check(value)
    guarded = f"(CASE WHEN {check} THEN {cast.value(value)} END)"
    return guarded, [*flaws, (f"(({value}) IS NOT NULL AND ({check}) IS NOT TRUE)", reason)]


def _postgres_value(field: PlannedField) -> tuple[str, list[tuple[str, str]]]:
    """SQL of the operation's value, and what spoils it."""
    operation = field.operation
    match operation:
        case Take() | Computed():
            return _source_value(operation, "postgres"), []
        case Constant():
            return _postgres_constant(operation), []
        case SplitPart():
            return _postgres_split(operation)
        case Join():
            return _postgres_join(operation), []
        case Digest():
            text = _postgres_text(operation.column)
            salted = f"{quote_text(operation.salt, 'postgres')} || {text}" if operation.salt else text
            # textsend() is quicker, and gives the client's encoding: UTF-8 in our sessions, but not in the workers of a
            # parallel query, which take the database's. The SELECT has this asked once, not for each row.
            octets = (
                f"CASE WHEN (SELECT getdatabaseencoding() = 'UTF8') THEN textsend({salted})"
                f" ELSE convert_to({salted}, 'UTF8') END"
            )
            return f"encode(sha256({octets}), 'hex')", []
        case Deleted():
            return _postgres_deleted(operation), []
        case Portable():
            return _postgres_portable(operation), []


def _postgres_is_null(operation: Operation, value: str) -> str:
    """Whether the operation's value is NULL, without computing it where its inputs tell."""
    match operation:
        case Digest(column=column) | SplitPart(column=column, part=1):
            return f"({source_column(column.name, 'postgres')} IS NULL)"
        case Join():
            names = [source_column(column.name, "postgres") for column in operation.inputs]
            return f"({' AND '.join(f'{name} IS NULL' for name in names)})"
    return f"({value} IS NULL)"


def _postgres_constant(constant: Constant) -> str:
    name = type_name(constant.data_type)
    if constant.text is None:
        return f"CAST(NULL AS {name})"
    if "\x00" in constant.text:
        raise NotPushableError("PostgreSQL has no NUL character")
    return f"CAST({quote_text(constant.text, 'postgres')} AS {name})"


def _postgres_text(column: Column) -> str:
    """The canonical text of a column."""
    if not is_plain(column):
        raise NotPushableError(f"the text of a {column.native_type} is made outside of PostgreSQL")
    sql = source_column(column.name, "postgres")
    if column.data_type == TEXT:
        return sql
    cast = find_cast(column.data_type, TEXT)
    if cast is None:
        raise NotPushableError(f"the text of a {column.data_type} is made outside of PostgreSQL")
    return cast.value(sql)


def _postgres_join(operation: Join) -> str:
    texts = [_postgres_text(column) for column in operation.inputs]
    items = ", ".join(text if operation.nulls == "skip" else f"coalesce({text}, '')" for text in texts)
    separator = quote_text(operation.separator, "postgres")
    if not any(column.nullable for column in operation.inputs):
        # Nothing to skip or to fill in; concat_ws() would ask for each value how its type is printed.
        return "(" + f" || {separator} || ".join(f"CAST({text} AS text)" for text in texts) + ")"
    if len(texts) < MAX_ARGUMENTS:
        joined = f"concat_ws({separator}, {items})"
    else:
        joined = f"array_to_string(ARRAY[{items}], {separator})"
    if not all(column.nullable for column in operation.inputs):
        return joined
    return f"(CASE WHEN {_postgres_is_null(operation, '')} THEN NULL ELSE {joined} END)"


def _postgres_split(operation: SplitPart) -> tuple[str, list[tuple[str, str]]]:
    # a nondeterministic collation refuses to search in texts
    text = f'({_postgres_text(operation.column)} COLLATE "C")'
    if "\x00" in operation.delimiter:
        raise NotPushableError("PostgreSQL has no NUL character")
    delimiter = quote_text(operation.delimiter, "postgres")
    if operation.part == 1 and not (operation.is_last and operation.extra_is_bad):
        return f"split_part({text}, {delimiter}, 1)", []
    if operation.part == 2 and operation.is_last and not operation.extra_is_bad:
        # It is looked for once: of NULL, for a text without it, everything is NULL.
        found = f"nullif(strpos({text}, {delimiter}), 0)"
        return f"substr({text}, {found} + length({delimiter}))", []
    parts = f"string_to_array({text}, {delimiter})"
    count = f"cardinality({parts})"
    # an empty text has one empty part here and in DuckDB, but no part at all in string_to_array
    if operation.part == 1:
        value = f"(CASE WHEN {text} = '' THEN '' ELSE ({parts})[1] END)"
    elif operation.is_last and not operation.extra_is_bad:
        rest = f"array_to_string(({parts})[{operation.part}:], {delimiter})"
        value = f"(CASE WHEN {count} >= {operation.part} THEN {rest} END)"
    else:
        value = f"({parts})[{operation.part}]"
    if operation.is_last and operation.extra_is_bad:
        return value, [(f"(coalesce({count} > {operation.parts}, false))", EXTRA_PARTS)]
    return value, []


def _postgres_deleted(operation: Deleted) -> str:
    value = source_column(operation.column.name, "postgres")
    kind = operation.column.data_type.kind
    if kind == "boolean":
        return f"coalesce({value}, false)"
    return f"coalesce({value} <> 0, false)" if kind in NUMBER_KINDS else f"({value} IS NOT NULL)"


def _postgres_portable(operation: Portable) -> str:
    from synqx_dagster.mapping.portable import Renderer

    renderer = Renderer("postgres", operation.find_column, lambda name: source_column(name, "postgres"))
    return renderer.render(operation.parsed.tree).sql


def alias_sql(text: str, alias: str, dialect: str) -> str:
    """A source's expression as an item of a SELECT list over ``source``."""
    return f"({text}) AS {quote_name(alias, dialect)}"
