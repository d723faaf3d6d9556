"""Replications: tables that follow another PostgreSQL database's changes as they are committed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from synqx_dagster.model.base import Name, Record, RecordKind, Value
from synqx_dagster.model.mapping import RESERVED_PREFIX, ColumnMapping
from synqx_dagster.model.schema import ColumnName, Evolution
from synqx_dagster.model.table import TableName
from synqx_dagster.model.table_pattern import is_pattern

#: ``mirror`` deletes what the source deletes, ``soft_delete`` marks it, ``history`` appends every change.
ReplicationMode = Literal["mirror", "soft_delete", "history"]
#: ``initial`` copies a table's rows once; ``never`` follows changes only; ``again`` copies at each start of a slot.
SnapshotMode = Literal["initial", "never", "again"]
#: What is done about a slot that keeps too much write-ahead log.
GuardAction = Literal["warn", "pause", "drop_slot"]

#: Kinds of connections whose changes can be followed, and into which they can be written.
SOURCE_TYPES = frozenset({"postgresql"})
TARGET_TYPES = frozenset({"postgresql", "mysql", "duckdb"})

#: Where a source table lies of which no schema is given.
DEFAULT_SCHEMA = "public"

#: PostgreSQL's rule for slots; publications are named alike.
_SLOT_NAME = r"^[a-z0-9_]{1,63}$"
SlotName = Annotated[str, Field(pattern=_SLOT_NAME)]


class ReplicatedTable(Value):
    """Tables that a replication follows, by name or by a pattern of names, and what of them.

    Attributes:
        name: ``table`` or ``schema.table``; ``*`` and ``?`` stand for characters of a part. Without a schema: public.
        columns: Only these columns; left out: all. The key's must be among them.
        where: Only rows for which this SQL condition over the source's columns holds (PostgreSQL 15 and later).
        target: The target table; left out: as `Replication.target_naming` says. For one table, not for a pattern.
        key: What rows are matched by; left out: the columns of the table's replica identity.
        column_mappings: Which source columns become which target fields; left out: each becomes one of its name.

    A table of which there is nothing else to say may be written as its name alone.
    """

    name: str = Field(min_length=1, max_length=512)
    columns: tuple[ColumnName, ...] | None = Field(default=None, min_length=1, max_length=1600)
    where: str | None = Field(default=None, min_length=1, max_length=10_000)
    target: str | None = Field(default=None, min_length=1, max_length=512)
    key: tuple[ColumnName, ...] = ()
    column_mappings: tuple[ColumnMapping, ...] | None = Field(default=None, min_length=1, max_length=1600)

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: object) -> object:
        # What has been in Python's hands is no JSON any more, and strictly a list is no tuple there.
        return {"name": value} if isinstance(value, str) else _as_tuples(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say how users write it: a name alone, or keys."""
        written = handler(schema)
        if handler.mode != "validation":
            return written
        return {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 512}, handler.resolve_ref_schema(written)]}

    @field_validator("name", "target")
    @classmethod
    def _check_table(cls, text: str | None) -> str | None:
        if text is not None:
            TableName.parse(text)
        return text

    @model_validator(mode="after")
    def _check_whole(self) -> ReplicatedTable:
        for field in ("columns", "key"):
            names = getattr(self, field) or ()
            if len(set(names)) != len(names):
                raise ValueError(f"{field} names a column twice")
        if self.is_pattern:
            for field in ("columns", "where", "target", "key", "column_mappings"):
                if getattr(self, field):
                    raise ValueError(f"{field} is for one table, and {self.name!r} is a pattern")
        if self.target is not None and TableName.parse(self.target).name.casefold().startswith(RESERVED_PREFIX):
            raise ValueError(f"names that begin with {RESERVED_PREFIX} are SynqX's own")
        fields: set[str] = set()
        for column_mapping in self.column_mappings or ():
            for field in column_mapping.target_fields:
                if field in fields:
                    raise ValueError(f"column_mappings fill the field {field!r} twice")
                fields.add(field)
        return self

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for any number of tables."""
        return is_pattern(self.name)

    @property
    def source(self) -> TableName:
        """The table, or the pattern, at the source; its schema is never left out."""
        table = TableName.parse(self.name)
        return TableName(table.name, table.schema or DEFAULT_SCHEMA)


def _as_tuples(value: object) -> object:
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


class TargetNaming(Value):
    """Where a source table's rows go: ``{schema}`` and ``{table}`` stand for the source's names."""

    target_schema: str | None = Field(default=None, min_length=1, max_length=255)
    table: str = Field(default="{table}", min_length=1, max_length=255)

    @model_validator(mode="after")
    def _check(self) -> TargetNaming:
        for text in (self.target_schema or "", self.table):
            rest = text.replace("{schema}", "").replace("{table}", "")
            if "{" in rest or "}" in rest or "\x00" in rest:
                raise ValueError("target_naming knows {schema} and {table}, and no other braces")
        if "{table}" not in self.table:
            raise ValueError("target_naming.table needs {table}, or all tables would be one")
        return self

    def apply(self, table: TableName) -> TableName:
        """The target of a source table."""
        values = {"{schema}": table.schema or DEFAULT_SCHEMA, "{table}": table.name}
        schema, name = self.target_schema, self.table
        for mark, value in values.items():
            schema = None if schema is None else schema.replace(mark, value)
            name = name.replace(mark, value)
        return TableName(name, schema)


class SoftDelete(Value):
    """The target's columns that mode ``soft_delete`` keeps: whether and when the source deleted a row."""

    is_deleted: ColumnName = "is_deleted"
    deleted_at: ColumnName = "deleted_at"


class ChangeColumns(Value):
    """The target's columns that mode ``history`` puts before a change's own: what, where in the log, when.

    Attributes:
        operation: ``insert``, ``update``, ``delete``, ``truncate``, or ``copy`` for a row of the snapshot.
        commit_lsn: Where the source committed it, as PostgreSQL's ``X/X``.
        ordinal: Its place among the changes of its transaction, from 1. With `commit_lsn` the key of a change.
        committed_at: When the source committed it.
    """

    operation: ColumnName = "change_operation"
    commit_lsn: ColumnName = "change_lsn"
    ordinal: ColumnName = "change_ordinal"
    committed_at: ColumnName = "change_committed_at"


class WalGuard(Value):
    """What is done before a slot that lags endangers the source's disk.

    Attributes:
        max_lag_bytes: How much write-ahead log the slot may hold back.
        min_safe_bytes: How much may still be written before the server gives the slot up (``safe_wal_size``).
        action: ``warn`` tells and goes on; ``pause`` disables the source connection's other schedules until it is
            over; ``drop_slot`` gives the slot up and marks the replication for a resync.
    """

    max_lag_bytes: int | None = Field(default=10 * 1024**3, ge=1024**2)
    min_safe_bytes: int | None = Field(default=None, ge=0)
    action: GuardAction = "warn"


class Replication(Record):
    """Tables of a PostgreSQL database that another database follows through a publication and a slot."""

    kind: ClassVar[RecordKind] = "replication"

    source_connection: Name
    target_connection: Name
    tables: tuple[ReplicatedTable, ...] = Field(min_length=1, max_length=10_000)
    target_naming: TargetNaming = TargetNaming()
    mode: ReplicationMode = "mirror"
    soft_delete: SoftDelete = SoftDelete()
    change_columns: ChangeColumns = ChangeColumns()
    snapshot: SnapshotMode = "initial"
    #: What may happen to a target's columns when the source's change in mid stream.
    evolution: Evolution = "add_columns"
    #: Left out: ``synqx_`` and the name.
    slot: SlotName | None = None
    publication: SlotName | None = None
    #: Whether it is started; `synqx replications start` and `pause` change it.
    enabled: bool = False
    #: A run goes on while there is nothing to do, and another follows it at once.
    continuous: bool = False
    #: How long one run streams at most, and how long it waits for changes before it ends.
    max_run_seconds: int = Field(default=3600, ge=10, le=86_400)
    idle_seconds: int = Field(default=10, ge=1, le=3600)
    #: How often the sensor looks whether the slot has work.
    interval_seconds: int = Field(default=30, ge=5, le=86_400)
    #: A batch is applied when it has so many changes, or its first is so old.
    batch_changes: int = Field(default=100_000, ge=1, le=10_000_000)
    batch_seconds: float = Field(default=0.25, gt=0, le=3600)
    #: How many tables are copied at the same time.
    parallelism: int = Field(default=2, ge=1, le=64)
    #: How often an idle database gets a mark of its own in the log, so that its slot moves; 0: never.
    heartbeat_seconds: int = Field(default=30, ge=0, le=3600)
    wal_guard: WalGuard = WalGuard()

    @model_validator(mode="after")
    def _check_tables(self) -> Replication:
        seen: set[TableName] = set()
        for table in self.tables:
            if table.source in seen:
                raise ValueError(f"tables names {table.name!r} twice")
            seen.add(table.source)
        return self

    def target_of(self, table: ReplicatedTable) -> TableName:
        """Where a table's rows go; of a pattern, a pattern of names."""
        return TableName.parse(table.target) if table.target is not None else self.target_naming.apply(table.source)

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """The target's columns that the mode keeps beside those of the source."""
        match self.mode:
            case "mirror":
                return ()
            case "soft_delete":
                return (self.soft_delete.is_deleted, self.soft_delete.deleted_at)
            case "history":
                columns = self.change_columns
                return (columns.operation, columns.commit_lsn, columns.ordinal, columns.committed_at)

    @property
    def slot_name(self) -> str:
        """The slot at the source."""
        return self.slot or _default_slot(self.name)

    @property
    def publication_name(self) -> str:
        """The publication at the source."""
        return self.publication or _default_slot(self.name)


def _default_slot(name: str) -> str:
    kept = "".join(character if character in _SLOT_CHARACTERS else "_" for character in name.lower())
    return f"synqx_{kept}"[:63]


_SLOT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")
