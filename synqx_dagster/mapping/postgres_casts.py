"""Casts as PostgreSQL SQL with the meaning that `duckdb_casts` gives them; none of them raises.

PostgreSQL has no TRY_CAST, so every cast that could raise stands behind a CASE whose condition is the check.
Where no exact check can be written for all supported versions, there is no cast here and the field is not
pushed down.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from synqx_dagster.mapping.casts import (
    EXACT_EXPONENTS,
    EXACT_INTEGERS,
    FALSE_TEXTS,
    FLOAT_KINDS,
    INTEGER_KINDS,
    MAX_DECIMAL_CHARACTERS,
    TRUE_TEXTS,
    cast_rule,
    integer_digits,
)
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import INTEGER_BOUNDS, DataType, TypeKind

_TYPE_NAMES: dict[TypeKind, str] = {
    "string": "text",
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "decimal": "numeric",
    "real": "real",
    "float": "double precision",
    "boolean": "boolean",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "json": "json",
    "uuid": "uuid",
    "binary": "bytea",
}

_MODIFIERS = r"(\(\d+(,\s*-?\d+)?\))?"
#: Spellings of types whose SQL behaves as the logical type does; others (inet, an enum, a padded char) do not.
_PLAIN: dict[str, re.Pattern[str]] = {
    kind: re.compile(pattern.replace("#", _MODIFIERS))
    for kind, pattern in {
        "string": "text|character varying#|varchar#",
        "smallint": "smallint|int2",
        "integer": "integer|int|int4",
        "bigint": "bigint|int8",
        "decimal": "(numeric|decimal)#",
        "real": "real|float4",
        "float": "double precision|float8",
        "boolean": "boolean|bool",
        "date": "date",
        "time": "time#( without time zone)?",
        "timestamp": "timestamp#( without time zone)?",
        "timestamptz": "timestamp# with time zone|timestamptz#",
        "json": "jsonb?",
        "uuid": "uuid",
        "binary": "bytea",
    }.items()
}


@dataclass(frozen=True)
class PostgresCast:
    """One cast; `check` is true where the value arrives unchanged, None when it always does."""

    value: Callable[[str], str]
    check: Callable[[str], str] | None = None


def type_name(data_type: DataType) -> str:
    """PostgreSQL's name of the type that the SQL of a logical type yields."""
    if data_type.kind == "decimal" and data_type.precision is not None:
        return f"numeric({data_type.precision},{data_type.scale or 0})"
    return _TYPE_NAMES[data_type.kind]


def is_plain(column: Column) -> bool:
    """Whether a column's SQL type behaves as its logical type does; a described type must be known by name."""
    if column.native_type is None:
        return True
    return _PLAIN[column.data_type.kind].fullmatch(column.native_type.strip().lower()) is not None


def find_cast(source: DataType, target: DataType) -> PostgresCast | None:
    """The cast between two types whose rule is not ``refused``; None where it cannot be pushed down."""
    cast = _find_cast(source, target)
    if cast is not None and cast_rule(source, target).rule == "lossless":
        return PostgresCast(cast.value)
    return cast


def _find_cast(source: DataType, target: DataType) -> PostgresCast | None:
    name = type_name(target)
    if source == target:
        return PostgresCast(lambda value: value)
    if source.kind == "string":
        return _from_text(target)
    if source.kind in FLOAT_KINDS:
        return _from_float(target)
    if target.kind == "string":
        return PostgresCast(lambda value: f"CAST({value} AS text)")
    if source.kind in INTEGER_KINDS:
        return _from_integer(target)
    if source.kind == "boolean":
        return PostgresCast(lambda value: f"CAST(CAST({value} AS integer) AS {name})")
    if source.kind == "decimal":
        return _from_decimal(target)
    return _between_instants(source.kind, target.kind)


def _integer_range(kind: TypeKind) -> str:
    low, high = INTEGER_BOUNDS[kind]
    return f"CAST('{low}' AS numeric) AND CAST('{high}' AS numeric)"


def _decimal_fits(number: str, target: DataType) -> str:
    """Whether a finite numeric keeps its value in a decimal with precision."""
    return (
        f"{number} = trunc({number}, {target.scale or 0})"
        f" AND abs({number}) < CAST('1e{integer_digits(target)}' AS numeric)"
    )


def _is_digits(text: str, *, around: str = "") -> str:
    """Whether a text is digits, on both sides of something.

    Bytes are trimmed about five times faster than a regular expression is matched, or than characters are trimmed,
    and all encodings of a server have digits as ASCII has them. `around` may have digits on one of its sides only, or
    none.
    """
    trimmed = f"btrim(textsend({text}), CAST('0123456789' AS bytea))"
    return f"{trimmed} = CAST('{around}' AS bytea)" + ("" if around else f" AND length({text}) > 0")


def _from_text(target: DataType) -> PostgresCast | None:
    kind, name = target.kind, type_name(target)

    def plain(text: str) -> str:
        # a nondeterministic collation refuses regular expressions and calls different texts equal
        return f'(({text}) COLLATE "C")'

    def texts(values: tuple[str, ...]) -> str:
        return ", ".join(f"'{value}'" for value in values)

    if kind in INTEGER_KINDS:
        return PostgresCast(
            lambda text: f"CAST(CAST({text} AS numeric) AS {name})",
            lambda text: (
                # A few digits always fit; of more of them the number is looked at.
                f"CASE WHEN length({text}) < {len(str(INTEGER_BOUNDS[kind][1]))}"
                f" AND ({_is_digits(text)} OR {plain(text)} ~ '^[+-]?[0-9]+$')"
                f" THEN true WHEN length({text}) <= 1000 AND {plain(text)} ~ '^[+-]?[0-9]+$'"
                f" THEN CAST({text} AS numeric) BETWEEN {_integer_range(kind)} ELSE false END"
            ),
        )
    if kind == "decimal":
        special = "'NaN'" if target.precision is not None else "'NaN', 'Infinity', '-Infinity'"

        def fits(text: str) -> str:
            return "true" if target.precision is None else _decimal_fits(f"CAST({text} AS numeric)", target)

        def surely_fits(text: str) -> str:
            digits, scale = integer_digits(target), target.scale or 0
            if target.precision is None or digits < 1 or scale < 0:
                return ""
            # Cheaper than the number: no more characters than it may have digits before the point.
            fraction = f"(?:[.][0-9]{{1,{scale}}})?" if scale else ""
            unsigned = _is_digits(text)
            if scale:
                too_long = f"{plain(text)} LIKE '%.{'_' * (scale + 1)}%'"
                unsigned = (
                    f"{_is_digits(text, around='.')} AND {plain(text)} LIKE '_%._%' AND NOT {too_long} OR {unsigned}"
                )
            return (
                f"WHEN length({text}) <= {digits} AND ({unsigned} OR {plain(text)} ~ '^[+-]?[0-9]+{fraction}$')"
                " THEN true "
            )

        return PostgresCast(
            lambda text: f"CAST({text} AS {name})",
            lambda text: (
                f"CASE {surely_fits(text)}WHEN {plain(text)} IN ({special}) THEN true"
                f" WHEN length({text}) <= {MAX_DECIMAL_CHARACTERS}"
                f" AND {plain(text)} ~ '^[+-]?[0-9]+([.][0-9]+)?$' THEN {fits(text)} ELSE false END"
            ),
        )
    if kind == "boolean":
        return PostgresCast(
            lambda text: f"lower({plain(text)}) IN ({texts(TRUE_TEXTS)})",
            lambda text: f"lower({plain(text)}) IN ({texts(TRUE_TEXTS + FALSE_TEXTS)})",
        )
    if kind == "uuid":
        return PostgresCast(
            lambda text: f"CAST({text} AS uuid)",
            lambda text: f"{plain(text)} ~ '^[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}$'",
        )
    return None


def _from_integer(target: DataType) -> PostgresCast:
    kind, name = target.kind, type_name(target)
    if kind in INTEGER_KINDS:
        return PostgresCast(
            lambda value: f"CAST({value} AS {name})",
            lambda value: f"CAST({value} AS numeric) BETWEEN {_integer_range(kind)}",
        )
    if kind in FLOAT_KINDS:
        limit = EXACT_INTEGERS[kind]
        return PostgresCast(
            lambda value: f"CAST({value} AS {name})", lambda value: f"{value} BETWEEN -{limit} AND {limit}"
        )
    if kind == "boolean":
        return PostgresCast(lambda value: f"({value} = 1)", lambda value: f"{value} IN (0, 1)")
    if target.precision is None:
        return PostgresCast(lambda value: f"CAST({value} AS numeric)")
    return PostgresCast(
        lambda value: f"CAST({value} AS {name})",
        lambda value: f"abs(CAST({value} AS numeric)) < CAST('1e{integer_digits(target)}' AS numeric)",
    )


def _from_decimal(target: DataType) -> PostgresCast:
    kind, name = target.kind, type_name(target)
    if kind == "decimal":
        if target.precision is None:
            return PostgresCast(lambda value: f"CAST({value} AS numeric)")
        return PostgresCast(
            lambda value: f"CAST({value} AS {name})",
            lambda value: f"{value} = 'NaN' OR ({_decimal_fits(value, target)})",
        )
    if kind in INTEGER_KINDS:
        return PostgresCast(
            lambda value: f"CAST({value} AS {name})",
            lambda value: f"{value} = trunc({value}) AND {value} BETWEEN {_integer_range(kind)}",
        )
    limit = EXACT_EXPONENTS[kind]
    return PostgresCast(
        lambda value: f"CAST({value} AS {name})",
        # numeric made from a float has FLT_DIG or DBL_DIG digits, which is the very rule
        lambda value: (
            f"CASE WHEN {value} IN ('NaN', 'Infinity', '-Infinity', 0) THEN true"
            f" WHEN abs({value}) > 1e-{limit} AND abs({value}) < 1e{limit}"
            f" THEN CAST(CAST({value} AS {name}) AS numeric) = {value} ELSE false END"
        ),
    )


def _from_float(target: DataType) -> PostgresCast | None:
    kind, name = target.kind, type_name(target)
    if kind == "float":
        return PostgresCast(lambda value: f"CAST({value} AS {name})")
    if kind == "real":
        return PostgresCast(
            lambda value: f"CAST({value} AS real)",
            lambda value: (
                f"CASE WHEN {value} IN ('NaN', 'Infinity', '-Infinity', 0) THEN true"
                f" WHEN abs({value}) > 3.4028234663852886e38 OR abs({value}) < 1.401298464324817e-45 THEN false"
                f" ELSE CAST(CAST({value} AS real) AS double precision) = {value} END"
            ),
        )
    if kind in INTEGER_KINDS:
        low, high = INTEGER_BOUNDS[kind]

        def check(value: str) -> str:
            number = f"CAST({value} AS double precision)"
            return (
                f"{number} = trunc({number}) AND {number} >= CAST('{low}' AS double precision)"
                f" AND {number} < CAST('{high + 1}' AS double precision)"
            )

        return PostgresCast(lambda value: f"CAST({value} AS {name})", check)
    # PostgreSQL does not print the shortest digits where they lie half way between two floats (ryu without
    # accepted bounds): 51238694264772576 where DuckDB and Python print 5.123869426477258e+16
    return None


def _between_instants(source: TypeKind, target: TypeKind) -> PostgresCast:
    if source == "date":
        check: Callable[[str], str] = lambda value: (  # noqa: E731
            f"CASE WHEN isfinite({value}) THEN {value} <= DATE '294276-12-31' ELSE true END"
        )
        if target == "timestamp":
            return PostgresCast(lambda value: f"CAST({value} AS timestamp without time zone)", check)
        return PostgresCast(lambda value: f"(CAST({value} AS timestamp without time zone) AT TIME ZONE 'UTC')", check)
    if target == "date":
        clock = "{}" if source == "timestamp" else "({} AT TIME ZONE 'UTC')"
        return PostgresCast(
            lambda value: f"CAST({clock.format(value)} AS date)",
            lambda value: f"{clock.format(value)} = date_trunc('day', {clock.format(value)})",
        )
    return PostgresCast(lambda value: f"({value} AT TIME ZONE 'UTC')")
