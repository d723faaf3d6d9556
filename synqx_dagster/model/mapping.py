"""Mappings: which columns of a source become which columns of a target, and how the rows are loaded."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from synqx_dagster.model.base import Label, Name, Record, RecordKind, Value
from synqx_dagster.model.partitions import Partitions
from synqx_dagster.model.schema import ColumnName, Evolution, Schema
from synqx_dagster.model.table import TableName

LoadMode = Literal["replace", "append", "merge", "scd2"]
#: The modes that match rows by a key.
KEYED_MODES: frozenset[LoadMode] = frozenset({"merge", "scd2"})
#: Tables beside a target that SynqX keeps: ledger, fence, quarantine, staging.
RESERVED_PREFIX = "_synqx_"
OnBadRow = Literal["fail", "quarantine"]
VerifyWhen = Literal["on_demand", "after_load"]


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


class Cursor(Value):
    """Read only what is new: rows whose cursor column is at or after the watermark.

    Attributes:
        column: A column of the source that never goes back: an ``updated_at``, a sequence, a version as text.
        lag_seconds: How far before the watermark to look again, for rows that commit late. For times only.
        late_commits: ``by_lag`` trusts `lag_seconds`. ``by_snapshot`` (PostgreSQL) also reads what was written by a
            transaction that was still open when the watermark was taken, however long it stayed open.
    """

    column: ColumnName
    lag_seconds: int = Field(default=0, ge=0, le=31_536_000)
    late_commits: Literal["by_lag", "by_snapshot"] = "by_lag"


class HistoryColumns(Value):
    """The target's columns that a load in mode ``scd2`` keeps: half-open validity, and which version is current."""

    valid_from: ColumnName = "valid_from"
    valid_to: ColumnName = "valid_to"
    is_current: ColumnName = "is_current"

    @property
    def names(self) -> tuple[str, str, str]:
        """The three columns, in this order."""
        return (self.valid_from, self.valid_to, self.is_current)


class BadRowLimit(Value):
    """How many bad rows a load may have before it fails: a number of rows, or a share of the rows read."""

    rows: int | None = None
    percent: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"rows": value}
        if isinstance(value, str) and value.endswith("%"):
            try:
                return {"percent": float(value[:-1])}
            except ValueError:
                return value
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say how users write it, not which fields it has."""
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?%$"}]}

    @model_validator(mode="after")
    def _check(self) -> BadRowLimit:
        if (self.rows is None) == (self.percent is None):
            raise ValueError("give a number of rows, such as 100, or a share of the rows read, such as 0.5%")
        if self.rows is not None and self.rows < 0:
            raise ValueError("a number of rows is not negative")
        if self.percent is not None and not 0 <= self.percent <= 100:
            raise ValueError("a percentage lies between 0% and 100%")
        return self

    @model_serializer
    def _write(self) -> int | str | None:
        return self.rows if self.percent is None else f"{self.percent:g}%"

    def allows(self, bad_rows: int, rows_in: int) -> bool:
        """Whether so many bad rows of so many rows read may be set aside."""
        if self.percent is not None:
            return bad_rows * 100 <= self.percent * rows_in
        return bad_rows <= (self.rows or 0)

    def __str__(self) -> str:
        return str(self._write())


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
    #: What ``merge`` and ``scd2`` match rows by; left out: the schema's primary key, else the target's or the source's.
    key: tuple[ColumnName, ...] = ()
    #: ``merge`` and ``scd2``: rows of the target whose key the source no longer has are deleted (closed in ``scd2``).
    delete_missing: bool = False
    #: ``merge`` and ``scd2``: a column of the source that is true, or not NULL if it is no boolean, in deleted rows.
    soft_delete_column: ColumnName | None = None
    history: HistoryColumns = HistoryColumns()
    cursor: Cursor | None = None
    #: The parts of the target that are loaded each by itself; the rows of each are replaced as a whole.
    partitions: Partitions | None = None
    #: The target field whose value says to which partition a row belongs.
    partition_column: ColumnName | None = None
    #: How many ranges of the source table are read at the same time.
    parallelism: int = Field(default=1, ge=1, le=64)
    #: A source table with more rows is loaded in ranges of about so many, each of which survives a crash of the load.
    range_rows: int | None = Field(default=None, ge=1_000)
    #: What may happen to the target's columns by itself; left out: what its schema says, else nothing.
    evolution: Evolution | None = None
    on_bad_row: OnBadRow = "fail"
    #: With ``on_bad_row: quarantine``: more bad rows than this fail the load.
    max_bad_rows: BadRowLimit | None = None
    column_mappings: tuple[ColumnMapping, ...] | None = Field(default=None, min_length=1, max_length=1600)
    group: Label | None = None
    tags: dict[Label, str] = Field(default_factory=dict)
    freshness: Freshness | None = None
    #: When the target's content is compared with the source's: by `synqx verify`, or at the end of each load, too.
    verify: VerifyWhen = "on_demand"
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
        self._check_mode()
        seen: set[str] = set()
        for field in self.target_fields:
            if field in seen:
                raise ValueError(f"column_mappings fill the field {field!r} twice")
            seen.add(field)
        self._check_partitions()
        return self

    def _check_partitions(self) -> None:
        if (self.partitions is None) != (self.partition_column is None):
            raise ValueError("partitions and partition_column go together: which parts, and which field tells them")
        if self.partitions is None:
            return
        if self.mode != "replace":
            raise ValueError(f"partitions are replaced as a whole; this mapping has mode {self.mode}, not replace")
        if self.partition_source is None:
            raise ValueError(
                f"partition_column {self.partition_column!r} must be filled by one column of the source (type: direct),"
                " so that its value is the same on both sides"
            )

    def _check_mode(self) -> None:
        keyed = self.mode in KEYED_MODES
        for name in ("key", "delete_missing", "soft_delete_column"):
            if getattr(self, name) and not keyed:
                raise ValueError(f"{name} is for the modes merge and scd2; this mapping has mode {self.mode}")
        if len(set(self.key)) != len(self.key):
            raise ValueError("key names a column twice")
        if self.mode != "scd2" and self.history != HistoryColumns():
            raise ValueError(f"history is for the mode scd2; this mapping has mode {self.mode}")
        if len(set(self.history.names)) != len(self.history.names):
            raise ValueError("history gives two of its columns one name")
        if self.cursor is not None:
            if self.mode == "replace":
                raise ValueError("a cursor reads only what is new, and replace removes the rest; use merge or append")
            if self.delete_missing:
                raise ValueError("delete_missing needs all rows of the source, and a cursor reads only what is new")
        if self.max_bad_rows is not None and self.on_bad_row != "quarantine":
            raise ValueError("max_bad_rows is for on_bad_row: quarantine")

    @property
    def source(self) -> TableName | None:
        """The source table; None for a query."""
        return TableName.parse(self.source_table) if self.source_table is not None else None

    @property
    def target(self) -> TableName:
        """The target table."""
        return TableName.parse(self.target_table)

    def filled_part(self, schema: Schema | None) -> Schema | None:
        """What of a target's schema the source fills: all but the columns that a load in mode ``scd2`` keeps itself."""
        if schema is None or self.mode != "scd2":
            return schema
        kept = set(self.history.names)
        return schema.model_copy(
            update={
                "columns": tuple(column for column in schema.columns if column.name not in kept),
                "primary_key": tuple(name for name in schema.primary_key if name not in kept),
            }
        )

    @property
    def partition_source(self) -> str | None:
        """The source column that fills `partition_column`; None where none does so directly."""
        if self.column_mappings is None:
            return self.partition_column
        for column_mapping in self.column_mappings:
            if isinstance(column_mapping, DirectMapping) and column_mapping.target_fields[0] == self.partition_column:
                return column_mapping.source_columns[0]
        return None

    @property
    def target_fields(self) -> tuple[str, ...]:
        """The fields that `column_mappings` fill, in their order; empty when every column is direct."""
        return tuple(field for column_mapping in self.column_mappings or () for field in column_mapping.target_fields)
