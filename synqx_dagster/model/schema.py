"""Table schemas: the contract that a target's rows must keep."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from synqx_dagster.model.base import Record, RecordKind, Value
from synqx_dagster.model.types import DataType

ColumnName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]
Evolution = Literal["freeze", "add_columns", "widen"]


class SchemaColumn(Value):
    """One column of a target schema."""

    name: ColumnName
    data_type: DataType
    nullable: bool = True
    description: str | None = Field(default=None, max_length=4000)


class Schema(Record):
    """The columns, types and key that a target table has."""

    kind: ClassVar[RecordKind] = "schema"

    columns: tuple[SchemaColumn, ...] = Field(min_length=1, max_length=1600)
    primary_key: tuple[ColumnName, ...] = ()
    evolution: Evolution = "freeze"

    @model_validator(mode="after")
    def _check_columns(self) -> Schema:
        names = [column.name for column in self.columns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"column {name!r} is listed twice")
        for name in self.primary_key:
            if name not in names:
                raise ValueError(f"primary_key names {name!r}, which is not a column")
            if self.primary_key.count(name) > 1:
                raise ValueError(f"primary_key names {name!r} twice")
        return self

    def is_nullable(self, column: SchemaColumn) -> bool:
        """Whether NULL keeps the contract; never in the primary key."""
        return column.nullable and column.name not in self.primary_key
