"""From a mapping to a plan of its fields, and from there to SQL for the source or for DuckDB.

What is compiled once serves both lanes: the two renderings come from the same operations, lineage is read off
them too, and where both exist they give the same rows and the same bad rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import DELETED_FLAG, carrier_type, direct_type
from synqx_dagster.errors import PlanError, QueryRefusedError, SourceChangedError
from synqx_dagster.mapping.casts import check_cast
from synqx_dagster.mapping.constants import make_constant, type_of_constant
from synqx_dagster.mapping.contract import PlannedField, column_of_schema, keyed
from synqx_dagster.mapping.duckdb_select import Arriving, render_select
from synqx_dagster.mapping.names import SourceColumns, nearest
from synqx_dagster.mapping.operations import (
    TEXT,
    Computed,
    Deleted,
    Digest,
    Join,
    Operation,
    Portable,
    SplitPart,
    Take,
)
from synqx_dagster.mapping.pushdown import (
    NotPushableError,
    Pushdown,
    PushdownField,
    Violation,
    alias_sql,
    render_pushdown,
)
from synqx_dagster.model.mapping import (
    ColumnMapping,
    ConstantMapping,
    DirectMapping,
    ExpressionMapping,
    HashMapping,
    JoinMapping,
    SplitMapping,
)
from synqx_dagster.model.mapping import Mapping as MappingRecord
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column, primary_key_of
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

    from synqx_dagster.mapping.expressions import Name, ParsedExpression

__all__ = [
    "CompiledField",
    "CompiledMapping",
    "Pushdown",
    "PushdownField",
    "SourceExpression",
    "Violation",
    "compile_mapping",
]

#: Describes items of a SELECT list over the relation ``source``: one column for each item, in order.
Describe = Callable[[str], Sequence[Column]]

_ALIAS = "_synqx_expression_"


@dataclass(frozen=True)
class CompiledField:
    """A target field.

    Attributes:
        column: The target's column; a mirrored one keeps the source's own type.
        source_columns: The source columns it is made of, in order of appearance.
        is_identity: The value of the one source column passes unchanged.
    """

    column: Column
    source_columns: tuple[str, ...]
    is_identity: bool


@dataclass(frozen=True)
class SourceExpression:
    """An expression that only the source can compute; the read returns it as one more column.

    Attributes:
        alias: The column's name in the read; no source column has it.
        sql: The expression in the source's dialect over the relation ``source``.
        data_type: Its logical type.
        native_type: The source's own name of the type.
        text: What the user wrote.
    """

    alias: str
    sql: str
    data_type: DataType
    native_type: str | None
    text: str


@dataclass(frozen=True)
class CompiledMapping:
    """A mapping over known source columns.

    Attributes:
        fields: In the order of the target's columns; with a soft-delete column, then one called `DELETED_FLAG`.
        primary_key: Target fields in key order; empty without a key.
        used_columns: Source columns to read, in source order. With ``on_bad_row: quarantine`` the source's key
            is among them, so that a quarantined row can be found again.
        source_expressions: What the read returns after `used_columns`.
    """

    fields: tuple[CompiledField, ...]
    primary_key: tuple[str, ...]
    used_columns: tuple[str, ...]
    source_expressions: tuple[SourceExpression, ...]
    source_dialect: str
    _planned: tuple[PlannedField, ...] = field(repr=False)
    _arriving: tuple[Arriving, ...] = field(repr=False)
    has_deleted_flag: bool = False

    @property
    def target_fields(self) -> tuple[CompiledField, ...]:
        """The fields that the target has."""
        return self.fields[:-1] if self.has_deleted_flag else self.fields

    @property
    def row_labels(self) -> tuple[str, ...]:
        """What a bad row's JSON calls the values of `used_columns` and then of `source_expressions`."""
        return tuple(arriving.label for arriving in self._arriving)

    def pushdown(self, dialect: str) -> Pushdown | None:
        """The mapping in the source's SQL; None where that would not mean the same (`why_not_pushdown`)."""
        if self.why_not_pushdown(dialect) is not None:
            return None
        return render_pushdown(self._planned, dialect)

    def why_not_pushdown(self, dialect: str) -> str | None:
        """Why the source cannot do the mapping's work; None when it can."""
        if dialect != self.source_dialect:
            return f"the source speaks {self.source_dialect}, not {dialect}"
        try:
            render_pushdown(self._planned, dialect)
        except NotPushableError as exc:
            return str(exc)
        return None

    def needs_transform(self, arrow_types: Mapping[str, pa.DataType], *, holds: Mapping[str, str]) -> bool:
        """Whether the arrow lane must run `duckdb`: False when batches may go to the target as they arrive.

        They arrive in the order of `used_columns`; the caller renames and reorders them by `fields`.
        """
        if holds:
            return True
        for planned in self._planned:
            operation = planned.operation
            if planned.needs_null_check or not isinstance(operation, Take) or not planned.is_identity:
                return True
            if arrow_types[operation.column.name] not in (
                carrier_type(operation.data_type),
                direct_type(operation.data_type),
            ):
                return True
        return False

    def requiring(self, names: Collection[str]) -> CompiledMapping:
        """The same mapping where NULL in one of these fields makes a row bad, because the target's table forbids it."""
        planned = tuple(
            replace(one, column=replace(one.column, nullable=False)) if one.column.name in names else one
            for one in self._planned
        )
        return replace(self, fields=tuple(map(_compiled_field, planned)), _planned=planned)

    def keyed_by(self, key: Sequence[str]) -> CompiledMapping:
        """The same mapping with another key, in whose fields NULL makes a row bad."""
        planned = tuple(
            keyed(replace(one, column=replace(one.column, key_position=None)), key) for one in self._planned
        )
        return replace(self, fields=tuple(map(_compiled_field, planned)), primary_key=tuple(key), _planned=planned)

    def duckdb(self, arrow_types: Mapping[str, pa.DataType], *, holds: Mapping[str, str]) -> str:
        """One SELECT over a relation named ``source``; it never raises for what a row holds.

        Args:
            arrow_types: Type of each column of the relation, by name. The relation has `used_columns` and then the
                aliases of `source_expressions`, in this order; it is read by position. A column in its direct form
                belongs to fields that take it unchanged.
            holds: DuckDB predicates over ``{value}`` (the carrier) by target field; where one is false the row is bad.

        Returns:
            The target fields in order in their carriers, or in the direct form in which they arrived, then
            ``_synqx_errors`` (a list of structs of ``column`` and ``reason``) and ``_synqx_row`` (the arriving row as
            JSON text), both NULL for a good row.
        """
        return render_select(self._planned, self._arriving, arrow_types, holds)


def compile_mapping(
    mapping: MappingRecord,
    schema: Schema | None,
    source_columns: Sequence[Column],
    *,
    source_dialect: str,
    describe: Describe | None = None,
) -> CompiledMapping:
    """Plan every field of a mapping.

    Args:
        mapping: The mapping record.
        schema: The target's schema; None to derive it from the source.
        source_columns: The columns that the source table or query has now.
        source_dialect: The sqlglot dialect of the source.
        describe: Asks the source for the types of expressions that only it can compute: takes the items of a SELECT
            list over a relation named ``source`` and returns one column for each. Needed for those only.

    Raises:
        SourceChangedError: The source has no column of a name that the mapping uses; names field and column.
        PlanError: A field cannot be filled, a cast is refused, or an expression is not one; names the field.
    """
    return _Compiler(mapping, mapping.filled_part(schema), source_columns, source_dialect, describe).compile()


class _Compiler:
    def __init__(
        self,
        mapping: MappingRecord,
        schema: Schema | None,
        source_columns: Sequence[Column],
        dialect: str,
        describe: Describe | None,
    ) -> None:
        self.mapping = mapping
        self.schema = schema
        self.dialect = dialect
        self.describe = describe
        what = "source_query" if mapping.source_table is None else f"the source table {mapping.source_table}"
        self.source = SourceColumns(source_columns, what)
        self.operations: dict[str, Operation] = {}

    def compile(self) -> CompiledMapping:
        if not self.source.columns:
            raise PlanError(f"{self.source.source} has no columns")
        for column_mapping in self.mapping.column_mappings or self._direct_mappings():
            self._add(column_mapping)
        self._describe_computed()
        planned = self._plan_fields()
        planned, key = self._with_key(planned)
        self._refuse_kept(planned)
        if self.mapping.soft_delete_column is not None:
            flag = Deleted(self._column(self.mapping.soft_delete_column, "soft_delete_column"))
            planned.append(PlannedField(Column(DELETED_FLAG, flag.data_type), flag))
        return self._compiled(planned, key)

    def _refuse_kept(self, planned: Sequence[PlannedField]) -> None:
        """Refuse fields under the names of columns that SynqX fills itself."""
        kept: tuple[str, ...] = self.mapping.history.names if self.mapping.mode == "scd2" else ()
        if self.mapping.soft_delete_column is not None:
            kept = (*kept, DELETED_FLAG)
        for one in planned:
            if one.column.name in kept:
                hint = "give the field another name"
                if one.column.name != DELETED_FLAG:
                    hint += ", or the history's column, by history"
                raise PlanError(
                    f"field {one.column.name!r}: SynqX keeps the column of this name itself",
                    hint=hint,
                    column=one.column.name,
                )

    def _direct_mappings(self) -> list[ColumnMapping]:
        names = [column.name for column in (self.schema.columns if self.schema else self.source.columns)]
        return [DirectMapping(type="direct", source_columns=(name,), target_fields=(name,)) for name in names]

    # --- operations -----------------------------------------------------------------------------------------

    def _add(self, column_mapping: ColumnMapping) -> None:
        for name in column_mapping.target_fields:
            if self.schema is not None and name not in {column.name for column in self.schema.columns}:
                raise PlanError(
                    f"field {name!r}: the schema {self.schema.name!r} has no such column",
                    hint=nearest(name, [column.name for column in self.schema.columns]),
                    column=name,
                )
        target = column_mapping.target_fields[0]
        match column_mapping:
            case DirectMapping():
                self.operations[target] = Take(self._column(column_mapping.source_columns[0], target))
            case SplitMapping():
                self._add_split(column_mapping)
            case JoinMapping():
                columns = tuple(self._text_column(name, target) for name in column_mapping.source_columns)
                config = column_mapping.config
                self.operations[target] = Join(columns, config.separator, config.nulls)
            case HashMapping():
                column = self._text_column(column_mapping.source_columns[0], target)
                self.operations[target] = Digest(column, column_mapping.config.salt)
            case ConstantMapping():
                data_type = self._target_type(target) or type_of_constant(column_mapping.value)
                self.operations[target] = make_constant(column_mapping.value, data_type, field=target)
            case ExpressionMapping():
                self.operations[target] = self._expression(column_mapping.expression, target)

    def _add_split(self, split: SplitMapping) -> None:
        fields, config = split.target_fields, split.config
        column = self._text_column(split.source_columns[0], fields[0])
        for part, name in enumerate(fields, start=1):
            self.operations[name] = SplitPart(
                column, config.delimiter, part, len(fields), config.extra_parts == "bad_row"
            )

    def _column(self, name: str, target: str) -> Column:
        return self.source.get(name, field=target)

    def _text_column(self, name: str, target: str) -> Column:
        column = self._column(name, target)
        check_cast(column.data_type, TEXT, field=target, what=f"the source column {name!r}")
        return column

    def _target_type(self, name: str) -> DataType | None:
        columns = self.schema.columns if self.schema else ()
        return next((column.data_type for column in columns if column.name == name), None)

    # --- expressions ----------------------------------------------------------------------------------------

    def _expression(self, text: str, target: str) -> Operation:
        from synqx_dagster.mapping.expressions import parse_expression, resolve_names

        try:
            parsed = parse_expression(text, self.dialect)
        except QueryRefusedError as exc:
            raise PlanError(f"field {target!r}: {exc.message}", hint=exc.hint, column=target) from exc
        found, missing = resolve_names(parsed, list(self.source.by_name), self.dialect)
        if missing:
            raise self.source.missing(missing[0], field=target)
        columns = tuple((name, self._column(stored, target)) for name, stored in found.items())
        portable = self._portable(parsed, columns)
        if portable is not None:
            return portable
        unknown = Column(name=self._alias(), data_type=TEXT)
        return Computed(parsed, unknown.name, unknown, tuple(dict.fromkeys(column for _, column in columns)))

    def _portable(self, parsed: ParsedExpression, columns: tuple[tuple[Name, Column], ...]) -> Portable | None:
        if self.dialect != "postgres":
            return None
        from synqx_dagster.mapping.expressions import name_of
        from synqx_dagster.mapping.portable import NotPortableError, Renderer

        by_name = dict(columns)
        try:
            term = Renderer("duckdb", lambda node: by_name[name_of(node)], lambda name: "value").render(parsed.tree)
        except NotPortableError:
            return None
        return None if term.data_type is None else Portable(parsed, columns, term.data_type, term.is_wide)

    def _alias(self) -> str:
        taken = {name.lower() for name in self.source.by_name}
        taken |= {operation.alias for operation in self.operations.values() if isinstance(operation, Computed)}
        number = 1
        while f"{_ALIAS}{number}" in taken:
            number += 1
        return f"{_ALIAS}{number}"

    def _describe_computed(self) -> None:
        """Replace what is not known of computed columns by what the source says."""
        computed = {name: operation for name, operation in self.operations.items() if isinstance(operation, Computed)}
        if not computed:
            return
        if self.describe is None:
            name, operation = next(iter(computed.items()))
            raise PlanError(
                f"field {name!r}: only the source knows the type of its expression",
                hint="compile the mapping with a connection to the source",
                column=name,
            )
        items = [alias_sql(operation.parsed.text, operation.alias, self.dialect) for operation in computed.values()]
        described = self.describe(", ".join(items))
        if len(described) != len(items):
            raise SourceChangedError("the source described another number of columns than were asked for")
        for (name, operation), column in zip(computed.items(), described, strict=True):
            self.operations[name] = Computed(operation.parsed, operation.alias, column, operation.reads)

    # --- fields ---------------------------------------------------------------------------------------------

    def _plan_fields(self) -> list[PlannedField]:
        if self.schema is None:
            return [self._derived_field(name, operation) for name, operation in self.operations.items()]
        planned = []
        for declared in self.schema.columns:
            column = column_of_schema(self.schema, declared.name, self.schema.primary_key)
            operation = self.operations.get(declared.name)
            if operation is None:
                if not column.nullable:
                    raise PlanError(
                        f"field {declared.name!r}: the schema {self.schema.name!r} requires it and no column mapping"
                        " fills it",
                        hint="add a column mapping for it, or declare it nullable",
                        column=declared.name,
                    )
                operation = make_constant(None, declared.data_type, field=declared.name)
            self._check_field_cast(declared.name, operation, declared.data_type)
            planned.append(PlannedField(column, operation))
        return planned

    def _check_field_cast(self, name: str, operation: Operation, target: DataType) -> None:
        what = "the value"
        if isinstance(operation, Take):
            what = f"the source column {operation.column.name!r}"
        elif isinstance(operation, (Portable, Computed)):
            what = "the expression"
        if isinstance(operation, Portable) and operation.is_wide:
            check_cast(operation.result, target, field=name, what=what)
        else:
            check_cast(operation.data_type, target, field=name, what=what)

    def _derived_field(self, name: str, operation: Operation) -> PlannedField:
        """A field without a schema: what the operation yields."""
        if isinstance(operation, (Take, Computed)):
            source = operation.column
            return PlannedField(
                Column(
                    name=name,
                    data_type=source.data_type,
                    nullable=source.nullable,
                    native_type=source.native_type,
                    native_dialect=source.native_dialect,
                ),
                operation,
            )
        data_type = operation.result if isinstance(operation, Portable) else operation.data_type
        nullable = operation.column.nullable if isinstance(operation, Digest) else True
        return PlannedField(Column(name=name, data_type=data_type, nullable=nullable), operation)

    def _with_key(self, planned: list[PlannedField]) -> tuple[list[PlannedField], tuple[str, ...]]:
        """The key: the schema's, else the source's if all of it passes unchanged."""
        if self.schema is not None:
            return planned, self.schema.primary_key
        passed: dict[str, str] = {}
        for one in planned:
            if isinstance(one.operation, Take) and one.is_identity:
                passed.setdefault(one.operation.column.name, one.column.name)
        source_key = primary_key_of(self.source.columns)
        if not all(name in passed for name in source_key):
            return planned, ()
        key = tuple(passed[name] for name in source_key)
        return [keyed(one, key) for one in planned], key

    # --- the result -----------------------------------------------------------------------------------------

    def _compiled(self, planned: list[PlannedField], key: tuple[str, ...]) -> CompiledMapping:
        used = {column.name for one in planned for column in one.operation.inputs}
        if self.mapping.on_bad_row == "quarantine":
            used |= set(primary_key_of(self.source.columns))
        used_columns = [column for column in self.source.columns if column.name in used]
        computed = [one.operation for one in planned if isinstance(one.operation, Computed)]
        if not used_columns and not computed:
            # a relation must have a column for its rows to be counted
            used_columns = [self.source.columns[0]]
        arriving = [Arriving(column.name, column.data_type, column.name) for column in used_columns]
        arriving += [Arriving(operation.alias, operation.data_type, _label(operation, used)) for operation in computed]
        return CompiledMapping(
            fields=tuple(_compiled_field(one) for one in planned),
            primary_key=key,
            used_columns=tuple(column.name for column in used_columns),
            source_expressions=tuple(
                SourceExpression(
                    alias=operation.alias,
                    sql=f"({operation.parsed.text})",
                    data_type=operation.data_type,
                    native_type=operation.column.native_type,
                    text=operation.parsed.text,
                )
                for operation in computed
            ),
            source_dialect=self.dialect,
            _planned=tuple(planned),
            _arriving=tuple(arriving),
            has_deleted_flag=self.mapping.soft_delete_column is not None,
        )


def _label(operation: Computed, used: set[str]) -> str:
    """The key of an expression's value in a bad row's JSON: its own words, unless a column is called so."""
    return operation.parsed.text if operation.parsed.text not in used else operation.alias


def _compiled_field(planned: PlannedField) -> CompiledField:
    operation = planned.operation
    columns = operation.reads if isinstance(operation, Computed) else operation.inputs
    return CompiledField(
        column=planned.column,
        source_columns=tuple(dict.fromkeys(column.name for column in columns)),
        is_identity=planned.is_identity,
    )
