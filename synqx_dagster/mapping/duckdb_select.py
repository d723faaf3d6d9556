"""The DuckDB rendering: one SELECT over carriers that casts, checks and explains every row, and never raises.

The statement is a pile of projections, each reading the one below: texts are read, values made text where an
operation wants text, operations run, results cast, and the errors of a row collected at the top. Columns travel
under positional names inside, because DuckDB takes ``Name`` and ``name`` for one column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import carrier_type, direct_type
from synqx_dagster.mapping.casts import NUMBER_KINDS
from synqx_dagster.mapping.constants import constant_sql
from synqx_dagster.mapping.contract import (
    DOES_NOT_FIT,
    EXTRA_PARTS,
    IS_NULL,
    PlannedField,
    cast_reason,
    not_a_value,
)
from synqx_dagster.mapping.duckdb_casts import Cast, from_text, make_cast, text_of_date
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
from synqx_dagster.mapping.quoting import SOURCE, quote_name, quote_text
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

ERRORS_COLUMN = "_synqx_errors"
ROW_COLUMN = "_synqx_row"

#: Levels of the pile; a cast takes three (prepare, check, value).
_READ, _TEXT, _OPERATE, _RESULT, _CAST = 0, 3, 6, 7, 10
_ERRORS, _BAD = 13, 14
_LEVELS = 15
_ERROR_TYPE = 'STRUCT("column" VARCHAR, reason VARCHAR)[]'


@dataclass(frozen=True)
class Arriving:
    """A column of the relation ``source``: a source column, or an expression that the source computed."""

    name: str
    data_type: DataType
    #: The key of its value in the JSON of a bad row.
    label: str


class _Pile:
    """Projections on top of each other; equal expressions of a level are computed once."""

    def __init__(self) -> None:
        self._levels: list[dict[str, str]] = [{} for _ in range(_LEVELS)]
        self._count = 0

    def add(self, level: int, sql: str) -> str:
        """The name under which a level's expression is seen by all levels above."""
        known = self._levels[level]
        if sql not in known:
            known[sql] = f"v{self._count}"
            self._count += 1
        return known[sql]

    def cast(self, level: int, value: str, cast: Cast) -> tuple[str, str | None]:
        """A cast value, and the condition under which it could not be cast (None: always could)."""
        prepared = self.add(level, cast.prepare(value)) if cast.prepare else value
        result = cast.value(prepared)
        if cast.check is None:
            return (result, None) if result == value else (self.add(level + 2, result), None)
        ok = self.add(level + 1, f"coalesce({cast.check(prepared)}, false)")
        bad = self.add(level + 2, f"CASE WHEN {value} IS NULL THEN false ELSE NOT {ok} END")
        return self.add(level + 2, f"CASE WHEN {ok} THEN {result} END"), bad

    def wrap(self, relation: str) -> str:
        for level in self._levels:
            if level:
                columns = ", ".join(f"{sql} AS {name}" for sql, name in level.items())
                relation = f"(SELECT *, {columns} FROM {relation})"
        return relation


@dataclass(frozen=True)
class _Value:
    """A value in the pile: its name, its type, and conditions that spoil it with their reasons."""

    sql: str
    data_type: DataType
    flaws: tuple[tuple[str, str], ...] = ()


def render_select(
    fields: Sequence[PlannedField],
    arriving: Sequence[Arriving],
    arrow_types: Mapping[str, pa.DataType],
    holds: Mapping[str, str],
) -> str:
    """The whole SELECT. ``arriving`` is in the order of the relation's columns."""
    return _Select(fields, arriving, arrow_types, holds).render()


class _Select:
    def __init__(
        self,
        fields: Sequence[PlannedField],
        arriving: Sequence[Arriving],
        arrow_types: Mapping[str, pa.DataType],
        holds: Mapping[str, str],
    ) -> None:
        self.fields = fields
        self.arriving = arriving
        self.arrow_types = arrow_types
        self.holds = holds
        self.pile = _Pile()
        self.raw = {column.name: f"c{position}" for position, column in enumerate(arriving)}
        self.types = {column.name: column.data_type for column in arriving}
        self._read: dict[str, _Value] = {}

    def render(self) -> str:
        outputs: list[str] = []
        errors: list[tuple[str, str, str]] = []
        for field in self.fields:
            sql, flaws = self._field(field)
            outputs.append(f"{sql} AS {quote_name(field.column.name, 'duckdb')}")
            errors.extend((condition, field.column.name, reason) for condition, reason in flaws)
        errors = [(self.pile.add(_ERRORS, condition), name, reason) for condition, name, reason in errors]
        bad = self.pile.add(_BAD, " OR ".join(dict.fromkeys(condition for condition, _, _ in errors)) or "false")
        error_list = _error_list(errors)
        outputs.append(f"CASE WHEN {bad} THEN {error_list} END AS {ERRORS_COLUMN}")
        outputs.append(f"CASE WHEN {bad} THEN {self._row()} END AS {ROW_COLUMN}")
        columns = ", ".join(self.raw.values())
        relation = self.pile.wrap(f"{SOURCE} AS {SOURCE}({columns})" if columns else SOURCE)
        return f"SELECT {', '.join(outputs)} FROM {relation}"

    # --- one field ------------------------------------------------------------------------------------------

    def _field(self, field: PlannedField) -> tuple[str, list[tuple[str, str]]]:
        """SQL of the field's carrier, and what makes its row bad: conditions with reasons."""
        value = self._operate(field.operation)
        flaws = list(value.flaws)
        for level, station in zip((_RESULT, _CAST), field.types[1:], strict=False):
            value = self._cast(level, value, station, flaws)
        if field.needs_null_check:
            spoiled = "".join(f"WHEN {condition} THEN false " for condition, _ in flaws)
            is_null = f"{value.sql} IS NULL"
            flaws.append((f"CASE {spoiled}ELSE {is_null} END" if spoiled else is_null, IS_NULL))
        limit = self.holds.get(field.column.name)
        if limit is not None:
            fits = limit.replace("{value}", self._as_carrier(field.operation, value.sql))
            flaws.append(
                (f"CASE WHEN {value.sql} IS NULL THEN false ELSE NOT coalesce({fits}, true) END", DOES_NOT_FIT)
            )
        return value.sql, flaws

    def _cast(self, level: int, value: _Value, target: DataType, flaws: list[tuple[str, str]]) -> _Value:
        sql, flaw = self.pile.cast(level, value.sql, make_cast(value.data_type, target))
        if flaw is not None:
            flaws.append((flaw, cast_reason(value.data_type, target)))
        return _Value(sql, target)

    # --- operations -----------------------------------------------------------------------------------------

    def _operate(self, operation: Operation) -> _Value:
        match operation:
            case Take():
                return self._input(operation.column.name)
            case Computed():
                return self._input(operation.alias)
            case Constant():
                return _Value(constant_sql(operation), operation.data_type)
            case SplitPart():
                return self._split(operation)
            case Join():
                return self._join(operation)
            case Digest():
                text = self._text(operation.column.name)
                salted = f"{quote_text(operation.salt, 'duckdb')} || {text.sql}" if operation.salt else text.sql
                return _Value(self.pile.add(_OPERATE, f"sha256({salted})"), TEXT, text.flaws)
            case Deleted():
                return self._deleted(operation)
            case Portable():
                return self._portable(operation)

    def _split(self, operation: SplitPart) -> _Value:
        text = self._text(operation.column.name)
        delimiter = quote_text(operation.delimiter, "duckdb")
        parts = f"string_split({text.sql}, {delimiter})"
        flaws = text.flaws
        if operation.is_last and not operation.extra_is_bad:
            rest = f"array_to_string({parts}[{operation.part}:], {delimiter})"
            sql = f"CASE WHEN len({parts}) >= {operation.part} THEN {rest} END"
        else:
            sql = f"{parts}[{operation.part}]"
            if operation.is_last:
                too_many = self.pile.add(_OPERATE, f"coalesce(len({parts}) > {operation.parts}, false)")
                flaws = (*flaws, (too_many, EXTRA_PARTS))
        return _Value(self.pile.add(_OPERATE, sql), TEXT, flaws)

    def _join(self, operation: Join) -> _Value:
        texts = [self._text(column.name) for column in operation.inputs]
        separator = quote_text(operation.separator, "duckdb")
        some = f"coalesce({', '.join(text.sql for text in texts)})"
        items = [text.sql if operation.nulls == "skip" else f"coalesce({text.sql}, '')" for text in texts]
        joined = f"array_to_string([{', '.join(items)}], {separator})"
        sql = self.pile.add(_OPERATE, f"CASE WHEN {some} IS NULL THEN NULL ELSE {joined} END")
        return _Value(sql, TEXT, _merge(texts))

    def _deleted(self, operation: Deleted) -> _Value:
        value = self._input(operation.column.name)
        match value.data_type.kind:
            case "boolean":
                sql = f"coalesce({value.sql}, false)"
            case "decimal":
                # Its carrier is text.
                sql = f"coalesce(NOT regexp_full_match({value.sql}, '-?0*(\\.0*)?'), false)"
            case kind if kind in NUMBER_KINDS:
                sql = f"coalesce({value.sql} <> 0, false)"
            case _:
                sql = f"{value.sql} IS NOT NULL"
        return _Value(self.pile.add(_OPERATE, sql), operation.data_type, value.flaws)

    def _portable(self, operation: Portable) -> _Value:
        from synqx_dagster.mapping.portable import Renderer

        inputs = [self._input(column.name) for column in operation.inputs]
        renderer = Renderer("duckdb", operation.find_column, lambda name: self._input(name).sql)
        term = renderer.render(operation.parsed.tree)
        sql = f"CAST({term.sql} AS VARCHAR)" if term.is_wide else term.sql
        return _Value(self.pile.add(_OPERATE, sql), operation.data_type, _merge(inputs))

    # --- inputs ---------------------------------------------------------------------------------------------

    def _input(self, name: str) -> _Value:
        """A column of the relation in its carrier, read from text where it arrives as something else."""
        if name not in self._read:
            self._read[name] = self._read_input(name)
        return self._read[name]

    def _read_input(self, name: str) -> _Value:
        data_type, raw = self.types[name], self.raw[name]
        if self.arrow_types[name] == carrier_type(data_type) or self._is_direct(name):
            return _Value(raw, data_type)
        if data_type.kind == "binary":
            return _Value(self.pile.add(_READ, f"CAST({raw} AS BLOB)"), data_type)
        text = raw if _is_text(self.arrow_types[name]) else f"CAST({raw} AS VARCHAR)"
        sql, flaw = self.pile.cast(_READ, text, from_text(data_type))
        return _Value(sql, data_type, ((flaw, not_a_value(data_type)),) if flaw else ())

    def _is_direct(self, name: str) -> bool:
        return bool(self.arrow_types[name] == direct_type(self.types[name]))

    def _as_carrier(self, operation: Operation, sql: str) -> str:
        """An operation's value in its carrier, in which predicates look at it."""
        return text_of_date(sql) if isinstance(operation, Take) and self._is_direct(operation.column.name) else sql

    def _text(self, name: str) -> _Value:
        """The canonical text of a column."""
        value = self._input(name)
        if value.data_type == TEXT:
            return value
        sql, _ = self.pile.cast(_TEXT, value.sql, make_cast(value.data_type, TEXT))
        return _Value(sql, TEXT, value.flaws)

    def _row(self) -> str:
        """The arriving row as JSON text; what JSON cannot say is text in it."""
        pairs = []
        for column in self.arriving:
            raw = self.raw[column.name]
            if self._is_direct(column.name):
                sql = text_of_date(raw)
            elif self.arrow_types[column.name] != carrier_type(column.data_type):
                sql = f"CAST({raw} AS VARCHAR)"
            elif column.data_type.kind == "binary":
                sql = f"'\\x' || lower(hex({raw}))"
            elif column.data_type.kind in {"real", "float"}:
                sql = f"CASE WHEN isfinite({raw}) THEN to_json({raw}) ELSE to_json(CAST({raw} AS VARCHAR)) END"
            else:
                sql = raw
            pairs.append(f"{quote_text(column.label, 'duckdb')}, {sql}")
        return f"CAST(json_object({', '.join(pairs)}) AS VARCHAR)"


def _error_list(errors: Sequence[tuple[str, str, str]]) -> str:
    """The list of a row's errors."""
    if not errors:
        return f"CAST(NULL AS {_ERROR_TYPE})"
    items = ", ".join(
        f"CASE WHEN {condition} THEN"
        f" [{{'column': {quote_text(name, 'duckdb')}, 'reason': {quote_text(reason, 'duckdb')}}}] END"
        for condition, name, reason in errors
    )
    return f"flatten([{items}])"


def _merge(values: Sequence[_Value]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys(flaw for value in values for flaw in value.flaws))


def _is_text(arrow_type: pa.DataType) -> bool:
    import pyarrow as pa

    check: Callable[[pa.DataType], bool] = pa.types.is_string
    return bool(check(arrow_type) or pa.types.is_large_string(arrow_type))
