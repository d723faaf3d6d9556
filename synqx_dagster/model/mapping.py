"""Mappings: which columns of a source become which columns of a target, and how the rows are loaded."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Label, Name, Record, RecordKind, Value
from synqx_dagster.model.schema import ColumnName
from synqx_dagster.model.table import TableName

LoadMode = Literal["replace", "append"]
#: Tables beside a target that SynqX keeps: ledger, fence, quarantine, staging.
RESERVED_PREFIX = "_synqx_"
OnBadRow = Literal["fail", "quarantine"]


class DirectMapping(Value):
    """A source column becomes a target field; its value is cast to the field's type."""

    type: Literal["direct"]
    source_columns: tuple[ColumnName] = Field(min_length=1, max_length=1)
    target_fields: tuple[ColumnName] = Field(min_length=1, max_length=1)


class SplitConfig(Value):
    """How a text is split. With too many parts the rest goes to the last field, or the row is bad."""

    delimiter: str = Field(min_length=1, max_length=64)
    extra_parts: Literal["last_field", "bad_row"] = "last_field"


class SplitMapping(Value):
    """One text column becomes several fields; missing parts are NULL."""

    type: Literal["split"]
    source_columns: tuple[ColumnName] = Field(min_length=1, max_length=1)
    target_fields: tuple[ColumnName, ...] = Field(min_length=2, max_length=100)
    config: SplitConfig


class JoinConfig(Value):
    """How values are joined. ``skip`` leaves NULLs out with their separator; ``keep`` reads them as empty text."""

    separator: str = Field(max_length=64)
    nulls: Literal["skip", "keep"] = "skip"


class JoinMapping(Value):
    """Several columns become one text; all of them NULL gives NULL."""

    type: Literal["join"]
    source_columns: tuple[ColumnName, ...] = Field(min_length=2, max_length=1600)
    target_fields: tuple[ColumnName] = Field(min_length=1, max_length=1)
    config: JoinConfig


class ExpressionMapping(Value):
    """An SQL expression over the source's columns becomes one field."""

    type: Literal["expression"]
    expression: str = Field(min_length=1, max_length=10_000)
    target_fields: tuple[ColumnName] = Field(min_length=1, max_length=1)


class ConstantMapping(Value):
    """The same value in every row."""

    type: Literal["constant"]
    value: str | int | float | bool | None
    target_fields: tuple[ColumnName] = Field(min_length=1, max_length=1)


class HashConfig(Value):
    """What is put before the text before it is hashed, so that equal values of two mappings differ."""

    salt: str = Field(default="", max_length=256)


class HashMapping(Value):
    """The SHA-256 of a column's UTF-8 text as 64 lower-case hex digits, for masking; NULL stays NULL."""

    type: Literal["hash"]
    source_columns: tuple[ColumnName] = Field(min_length=1, max_length=1)
    target_fields: tuple[ColumnName] = Field(min_length=1, max_length=1)
    config: HashConfig = Field(default_factory=HashConfig)


ColumnMapping = Annotated[
    DirectMapping | SplitMapping | JoinMapping | ExpressionMapping | ConstantMapping | HashMapping,
    Field(discriminator="type"),
]


class Freshness(Value):
    """How old the target's last load may be before a check fails."""

    maximum_age_seconds: int = Field(ge=60)


class Mapping(Record):
    """A load of one target table from one source table or query."""

    kind: ClassVar[RecordKind] = "mapping"

    source_connection: Name
    source_table: str | None = None
    source_query: str | None = Field(default=None, min_length=1, max_length=100_000)
    target_connection: Name
    target_table: str
    target_schema: Name | None = None
    mode: LoadMode = "replace"
    on_bad_row: OnBadRow = "fail"
    column_mappings: tuple[ColumnMapping, ...] | None = Field(default=None, min_length=1, max_length=1600)
    group: Label | None = None
    owners: tuple[Label, ...] = ()
    tags: dict[Label, str] = Field(default_factory=dict)
    freshness: Freshness | None = None
    #: How often Dagster runs the load again after a retryable failure.
    max_retries: int = Field(default=0, ge=0, le=20)

    @field_validator("source_table", "target_table")
    @classmethod
    def _check_table(cls, text: str | None) -> str | None:
        if text is not None:
            TableName.parse(text)
        return text

    @field_validator("target_table")
    @classmethod
    def _check_target(cls, text: str) -> str:
        if TableName.parse(text).name.casefold().startswith(RESERVED_PREFIX):
            raise ValueError(f"names that begin with {RESERVED_PREFIX} are SynqX's own")
        return text

    @model_validator(mode="after")
    def _check_whole(self) -> Mapping:
        if (self.source_table is None) == (self.source_query is None):
            raise ValueError("give either source_table or source_query")
        seen: set[str] = set()
        for field in self.target_fields:
            if field in seen:
                raise ValueError(f"column_mappings fill the field {field!r} twice")
            seen.add(field)
        return self

    @property
    def source(self) -> TableName | None:
        """The source table; None for a query."""
        return TableName.parse(self.source_table) if self.source_table is not None else None

    @property
    def target(self) -> TableName:
        """The target table."""
        return TableName.parse(self.target_table)

    @property
    def target_fields(self) -> tuple[str, ...]:
        """The fields that `column_mappings` fill, in their order; empty when every column is direct."""
        return tuple(field for column_mapping in self.column_mappings or () for field in column_mapping.target_fields)
