"""The contract of a target: its columns, its key, and the reasons for which a row breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from synqx_dagster.mapping.casts import INTEGER_KINDS
from synqx_dagster.mapping.operations import Operation, Portable, Take
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

IS_NULL = "is null"
EXTRA_PARTS = "has more parts than fields"
DOES_NOT_FIT = "does not fit the target"


def not_a_value(data_type: DataType) -> str:
    """The reason when a text is no value of a type."""
    article = "an" if data_type.kind[0] in "aeiou" else "a"
    return f"is not {article} {data_type}"


def cast_reason(source: DataType, target: DataType) -> str:
    """The reason when a value cannot become a type unchanged."""
    return not_a_value(target) if source.kind == "string" else f"does not fit {target} unchanged"


@dataclass(frozen=True)
class PlannedField:
    """One target field: the column that receives it, and what makes its value."""

    column: Column
    operation: Operation

    @property
    def is_identity(self) -> bool:
        """Whether the value passes unchanged from one source column."""
        return isinstance(self.operation, Take) and self.operation.data_type == self.column.data_type

    @property
    def types(self) -> tuple[DataType, ...]:
        """The types that the value goes through, from the operation's to the column's, each once.

        A computed integer is exact; where it becomes an integer or a decimal, only that type bounds it, else the type
        that the source would give it.
        """
        target = self.column.data_type
        stations = [self.operation.data_type]
        if isinstance(self.operation, Portable) and target.kind not in (*INTEGER_KINDS, "decimal"):
            stations.append(self.operation.result)
        return tuple(dict.fromkeys([*stations, target]))

    @property
    def needs_null_check(self) -> bool:
        """Whether NULL breaks the contract and the source does not already rule it out."""
        if self.column.nullable:
            return False
        operation = self.operation
        return not (isinstance(operation, Take) and not operation.column.nullable)


def column_of_schema(schema: Schema, name: str, key: Sequence[str]) -> Column:
    """The target column that a schema declares.

    Raises:
        KeyError: The schema has no column of this name.
    """
    for column in schema.columns:
        if column.name == name:
            return Column(
                name=name,
                data_type=column.data_type,
                nullable=schema.is_nullable(column),
                key_position=key.index(name) + 1 if name in key else None,
            )
    raise KeyError(name)


def keyed(planned: PlannedField, key: Sequence[str]) -> PlannedField:
    """The same field as part of a key, if it is in it: at its position, and never NULL."""
    if planned.column.name not in key:
        return planned
    column = replace(planned.column, nullable=False, key_position=key.index(planned.column.name) + 1)
    return PlannedField(column, planned.operation)
