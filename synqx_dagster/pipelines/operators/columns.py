"""Transforms that work on columns, row by row: select, rename, cast, derive, mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from synqx_dagster.connectors.duckdb_types import from_canonical, native_type, to_canonical
from synqx_dagster.errors import PlanError
from synqx_dagster.mapping.casts import check_cast
from synqx_dagster.mapping.duckdb_casts import CARRIER_NAMES, make_cast
from synqx_dagster.model.base import Value
from synqx_dagster.model.pipeline import OperatorType
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.operators.checks import (
    check_expression,
    direct_origins,
    expression_origins,
    expression_sql,
    find_column,
    missing,
    quoted,
    repeated,
)
from synqx_dagster.pipelines.operators.protocol import (
    Input,
    NodeColumns,
    OperatorProblem,
    Origins,
    Relation,
    SqlOperator,
)

#: How DuckDB is told to fail on a value, and how its message is known again: no value of a row stands in it.
FAILURE_MARK = "synqx column "

#: DataType is validated from its text by Pydantic.
ColumnName = str


class _ColumnOperator(SqlOperator):
    operator_type: ClassVar[OperatorType] = "transform"
    keeps_rows = True


def _without(types: Mapping[str, DataType], names: Iterable[str]) -> dict[str, DataType]:
    gone = {name.casefold() for name in names}
    return {name: data_type for name, data_type in types.items() if name.casefold() not in gone}


class SelectConfig(Value):
    """Which columns stay, in which order."""

    columns: tuple[ColumnName, ...] = Field(min_length=1, max_length=1600)


class Select(_ColumnOperator):
    """Keep some columns."""

    operator_class = "select"
    config_type = SelectConfig
    keeps_types = True

    def check(self, config: SelectConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there, or there twice."""
        yield from missing(inputs[0], config.columns, ("columns",))
        yield from repeated(config.columns, ("columns",))

    def columns(self, config: SelectConfig, inputs: Sequence[Input]) -> NodeColumns:
        """Those that are named."""
        return config.columns

    def origins(self, config: SelectConfig, inputs: Sequence[Input]) -> Origins:
        """Themselves."""
        return direct_origins(inputs[0], config.columns)

    def sql(self, config: SelectConfig, inputs: Sequence[Relation]) -> str:
        """A list of names."""
        return f"SELECT {', '.join(map(quoted, config.columns))} FROM {inputs[0].sql_name}"


class RenameConfig(Value):
    """New names by old names; other columns keep theirs."""

    columns: dict[ColumnName, ColumnName] = Field(min_length=1)


class Rename(_ColumnOperator):
    """Give columns other names."""

    operator_class = "rename"
    config_type = RenameConfig

    def check(self, config: RenameConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there, and names that are there already."""
        yield from missing(inputs[0], list(config.columns), ("columns",))
        if inputs[0].columns is not None:
            yield from repeated(self.columns(config, inputs) or (), ("columns",))

    def columns(self, config: RenameConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The input's, some under another name."""
        given = inputs[0].columns
        return None if given is None else tuple(_renamed(config, name) for name in given)

    def types(self, config: RenameConfig, inputs: Sequence[Input]) -> Mapping[str, DataType]:
        """The input's, some under another name."""
        return {_renamed(config, name): data_type for name, data_type in inputs[0].types.items()}

    def origins(self, config: RenameConfig, inputs: Sequence[Input]) -> Origins:
        """The column under its old name."""
        given = inputs[0]
        if given.columns is None:
            return None
        return {_renamed(config, name): ((given.node_id, name),) for name in given.columns}

    def sql(self, config: RenameConfig, inputs: Sequence[Relation]) -> str:
        """Every column under its new name."""
        items = (f"{quoted(name)} AS {quoted(_renamed(config, name))}" for name in inputs[0].names)
        return f"SELECT {', '.join(items)} FROM {inputs[0].sql_name}"


def _renamed(config: RenameConfig, name: str) -> str:
    return next((new for old, new in config.columns.items() if old.casefold() == name.casefold()), name)


class CastConfig(Value):
    """Types by column: ``bigint``, ``decimal(12,2)``, ``date`` and so on, as in a schema."""

    columns: dict[ColumnName, DataType] = Field(min_length=1)


class Cast(_ColumnOperator):
    """Turn columns into other types; a value that would change fails the node."""

    operator_class = "cast"
    config_type = CastConfig

    def check(self, config: CastConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there, and types that DuckDB does not have."""
        yield from missing(inputs[0], list(config.columns), ("columns",))
        for name, data_type in config.columns.items():
            try:
                native_type(Column(name, data_type))
            except PlanError as exc:
                yield OperatorProblem(("columns", name), exc.message, "give a precision of up to 38 digits")

    def columns(self, config: CastConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The input's."""
        return inputs[0].columns

    def types(self, config: CastConfig, inputs: Sequence[Input]) -> Mapping[str, DataType]:
        """The input's, and those that it casts to."""
        return {**_without(inputs[0].types, config.columns), **config.columns}

    def origins(self, config: CastConfig, inputs: Sequence[Input]) -> Origins:
        """Themselves."""
        return direct_origins(inputs[0], inputs[0].columns)

    def sql(self, config: CastConfig, inputs: Sequence[Relation]) -> str:
        """The mapping compiler's casts, which neither round nor trim nor guess."""
        wanted = {name.casefold(): data_type for name, data_type in config.columns.items()}
        items = (
            f"{_cast(column, wanted[column.name.casefold()])} AS {quoted(column.name)}"
            if column.name.casefold() in wanted
            else quoted(column.name)
            for column in inputs[0].columns
        )
        return f"SELECT {', '.join(items)} FROM {inputs[0].sql_name}"


def _cast(column: Column, wanted: DataType) -> str:
    name, data_type = quoted(column.name), column.data_type
    if data_type == wanted:
        return name
    check_cast(data_type, wanted, field=column.name, what=f"column {column.name!r}")
    cast = make_cast(data_type, wanted)
    carrier = (
        f"CAST({name} AS {CARRIER_NAMES[data_type.kind]})"
        if data_type.kind in CARRIER_NAMES
        else to_canonical(name, data_type)
    )
    prepared = cast.prepare(carrier) if cast.prepare else carrier
    value = cast.value(prepared)
    native = native_type(Column(column.name, wanted))
    result = f"CAST({value if wanted.kind in CARRIER_NAMES else from_canonical(value, wanted)} AS {native})"
    if cast.check is None:
        return result
    failure = f"error('{FAILURE_MARK}{column.name.encode().hex()} is not {wanted}')"
    checked = f"coalesce({cast.check(prepared)}, false)"
    return f"CASE WHEN {name} IS NULL THEN NULL WHEN {checked} THEN {result} ELSE {failure} END"


class DeriveConfig(Value):
    """Expressions of DuckDB over the input's columns, by the column that they make or replace."""

    columns: dict[ColumnName, str] = Field(min_length=1)


class Derive(_ColumnOperator):
    """Compute columns from others of the same row."""

    operator_class = "derive"
    config_type = DeriveConfig

    def check(self, config: DeriveConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Expressions that cannot be read or read what is not there."""
        for name, text in config.columns.items():
            yield from check_expression(text, inputs, ("columns", name))
        yield from repeated(list(config.columns), ("columns",))

    def columns(self, config: DeriveConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The input's, then the new ones."""
        given = inputs[0].columns
        if given is None:
            return None
        return (*given, *(name for name in config.columns if find_column(name, given) is None))

    def types(self, config: DeriveConfig, inputs: Sequence[Input]) -> Mapping[str, DataType]:
        """The input's; what an expression gives DuckDB knows."""
        return _without(inputs[0].types, config.columns)

    def origins(self, config: DeriveConfig, inputs: Sequence[Input]) -> Origins:
        """The columns that an expression reads; others come from themselves."""
        origins = direct_origins(inputs[0], inputs[0].columns)
        if origins is None:
            return None
        for name, text in config.columns.items():
            origins[find_column(name, tuple(origins)) or name] = expression_origins(text, inputs[0])
        return origins

    def sql(self, config: DeriveConfig, inputs: Sequence[Relation]) -> str:
        """Replaced columns stay where they are."""
        names = inputs[0].names
        replaced = {find_column(name, names): expression_sql(text) for name, text in config.columns.items()}
        items = [f"({replaced[name]}) AS {quoted(name)}" if name in replaced else quoted(name) for name in names]
        items += [
            f"({expression_sql(text)}) AS {quoted(name)}"
            for name, text in config.columns.items()
            if find_column(name, names) is None
        ]
        return f"SELECT {', '.join(items)} FROM {inputs[0].sql_name}"

    def parts(self, config: DeriveConfig, inputs: Sequence[Relation]) -> Sequence[tuple[str, str]]:
        """Each expression."""
        return [
            (f"column {name!r}", f"SELECT ({expression_sql(text)}) FROM {inputs[0].sql_name}")
            for name, text in config.columns.items()
        ]


class MaskConfig(Value):
    """How values are hidden.

    Attributes:
        method: ``hash`` gives the SHA-256 of the text as 64 hex digits, equal for equal values; ``redact`` gives
            ``replacement``; ``keep_last`` keeps the last ``characters`` and writes ``*`` for the others; ``null`` gives
            NULL. NULL stays NULL.
        salt: Put before the text that is hashed, so that equal values of two pipelines differ.
    """

    columns: tuple[ColumnName, ...] = Field(min_length=1)
    method: Literal["hash", "redact", "keep_last", "null"] = "hash"
    salt: str = Field(default="", max_length=256)
    replacement: str = Field(default="***", max_length=256)
    characters: int = Field(default=4, ge=0, le=1000)


class Mask(_ColumnOperator):
    """Hide what columns say."""

    operator_class = "mask"
    config_type = MaskConfig

    def check(self, config: MaskConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Columns that are not there."""
        yield from missing(inputs[0], config.columns, ("columns",))
        yield from repeated(config.columns, ("columns",))

    def columns(self, config: MaskConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The input's."""
        return inputs[0].columns

    def types(self, config: MaskConfig, inputs: Sequence[Input]) -> Mapping[str, DataType]:
        """The input's, but of what is masked."""
        return _without(inputs[0].types, config.columns)

    def origins(self, config: MaskConfig, inputs: Sequence[Input]) -> Origins:
        """Themselves."""
        return direct_origins(inputs[0], inputs[0].columns)

    def sql(self, config: MaskConfig, inputs: Sequence[Relation]) -> str:
        """Masked columns are text, but for ``null``."""
        hidden = {name.casefold() for name in config.columns}
        items = (
            f"{_mask(column, config)} AS {quoted(column.name)}"
            if column.name.casefold() in hidden
            else quoted(column.name)
            for column in inputs[0].columns
        )
        return f"SELECT {', '.join(items)} FROM {inputs[0].sql_name}"


def _mask(column: Column, config: MaskConfig) -> str:
    name = quoted(column.name)
    if config.method == "null":
        return f"CAST(NULL AS {native_type(column)})"
    if column.data_type.kind == "binary":
        raise PlanError(
            f"column {column.name!r} is binary, and {config.method} masks text",
            hint="derive its text first, such as hex(x), or mask it by null",
            column=column.name,
        )
    text = to_canonical(name, column.data_type)
    match config.method:
        case "hash":
            salted = f"{_literal(config.salt)} || {text}" if config.salt else text
            return f"CASE WHEN {name} IS NOT NULL THEN sha256({salted}) END"
        case "redact":
            return f"CASE WHEN {name} IS NOT NULL THEN {_literal(config.replacement)} END"
        case _:
            kept = config.characters
            stars = f"repeat('*', greatest(length({text}) - {kept}, 0))"
            # A text no longer than what is kept would be shown whole.
            tail = f"CASE WHEN length({text}) > {kept} THEN right({text}, {kept}) ELSE '' END" if kept else "''"
            short = f"CASE WHEN length({text}) > {kept} THEN {stars} ELSE repeat('*', length({text})) END"
            return f"CASE WHEN {name} IS NOT NULL THEN {short} || {tail} END"


def _literal(text: str) -> str:
    from synqx_dagster.mapping.quoting import quote_text

    return quote_text(text, "duckdb")


OPERATORS: tuple[Any, ...] = (Select(), Rename(), Cast(), Derive(), Mask())
