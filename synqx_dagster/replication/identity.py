"""Whether the log will tell a table's rows apart, and what to change where it will not. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from synqx_dagster.mapping.quoting import quote_name
from synqx_dagster.model.replication import ReplicatedTable, ReplicationMode
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.changes import ReplicaIdentity

IDENTITIES: dict[str, ReplicaIdentity] = {"d": "default", "n": "nothing", "f": "full", "i": "index"}


@dataclass(frozen=True)
class SourceProblem:
    """Why a source cannot be followed as it is, and what to do about it: a statement where one will do."""

    message: str
    remedy: str
    table: TableName | None = None

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})"


@dataclass(frozen=True)
class TableFacts:
    """A table of a source as its catalog describes it.

    Attributes:
        root: The OID of the partitioned table that it is a part of, at any depth.
        identity_index: Columns of the index that its replica identity names.
        candidate: A unique index without NULLs that could be named.
        computed_when_read: Its virtual generated columns, which are in no log.
    """

    oid: int
    table: TableName
    is_partitioned: bool
    root: int | None
    is_permanent: bool
    replica_identity: ReplicaIdentity
    is_owned: bool
    may_read: bool
    inherits: bool
    primary_key: tuple[str, ...]
    identity_index: tuple[str, ...]
    candidate: str | None
    computed_when_read: tuple[str, ...]

    @property
    def identity(self) -> tuple[str, ...] | None:
        """Columns that the log tells of an old row; None for all, empty for none."""
        if self.replica_identity == "full":
            return None
        if self.replica_identity == "nothing":
            return ()
        return self.primary_key if self.replica_identity == "default" else self.identity_index

    @property
    def sql(self) -> str:
        """Its quoted name with its schema."""
        return sql_name(self.table)


def sql_name(table: TableName) -> str:
    """A table's quoted name with its schema."""
    return f"{quote_name(table.schema or 'public', 'postgres')}.{quote_name(table.name, 'postgres')}"


def key_of(facts: TableFacts, entry: ReplicatedTable) -> tuple[str, ...]:
    """What a table's rows are matched by; empty when nothing tells them apart."""
    if entry.key:
        return entry.key
    identity = facts.identity
    return facts.primary_key if identity is None else identity


def judge_identity(
    facts: TableFacts,
    entry: ReplicatedTable,
    mode: ReplicationMode,
    *,
    leaves: tuple[TableFacts, ...] = (),
    limits_columns: bool,
) -> Iterator[SourceProblem]:
    """What of a table's replica identity is in the way.

    Args:
        facts: The table.
        entry: What is wanted of it.
        mode: Of the replication.
        leaves: Its partitions that hold rows.
        limits_columns: The server itself leaves out the columns that are not wanted.
    """
    identity = facts.identity
    if identity == ():
        yield SourceProblem(
            f"{facts.table}: it has no {'primary key' if facts.replica_identity == 'default' else 'replica identity'},"
            " so that the log does not tell its rows apart, and published it would refuse UPDATE and DELETE",
            _remedy(facts, mode),
            facts.table,
        )
        return
    key = key_of(facts, entry)
    if mode != "history":
        if not key:
            yield SourceProblem(
                f"{facts.table}: it has no key by which rows could be matched",
                f"name columns in key, use mode: history, or ALTER TABLE {facts.sql} ADD PRIMARY KEY (...)",
                facts.table,
            )
        elif identity is not None and (missing := [name for name in key if name not in identity]):
            yield SourceProblem(
                f"{facts.table}: the log does not tell {_names(missing)} of a row that is updated or deleted",
                f"leave key out, or ALTER TABLE {facts.sql} REPLICA IDENTITY FULL",
                facts.table,
            )
    yield from _judge_columns(facts, entry, mode, key, limits_columns=limits_columns)
    for leaf in leaves:
        theirs = leaf.identity
        covers = theirs is None or (identity is not None and set(identity) <= set(theirs))
        if not covers or theirs == ():
            yield SourceProblem(
                f"{leaf.table}: the log does not tell of this partition's rows what it tells of {facts.table}'s",
                f"ALTER TABLE {leaf.sql} REPLICA IDENTITY "
                + ("DEFAULT" if facts.replica_identity == "default" and leaf.primary_key else "FULL"),
                leaf.table,
            )


def _judge_columns(
    facts: TableFacts, entry: ReplicatedTable, mode: ReplicationMode, key: tuple[str, ...], *, limits_columns: bool
) -> Iterator[SourceProblem]:
    if entry.columns is None:
        return
    identity = facts.identity
    if identity is None and limits_columns:
        yield SourceProblem(
            f"{facts.table}: with replica identity full its columns cannot be limited",
            "leave columns out"
            + (f", or ALTER TABLE {facts.sql} REPLICA IDENTITY DEFAULT" if facts.primary_key else ""),
            facts.table,
        )
        return
    needed = dict.fromkeys((*(identity or ()), *(key if mode != "history" else ())))
    if missing := [name for name in needed if name not in entry.columns]:
        yield SourceProblem(
            f"{facts.table}: columns leaves out {_names(missing)}, which tell its rows apart",
            f"add {', '.join(missing)} to columns",
            facts.table,
        )


def _remedy(facts: TableFacts, mode: ReplicationMode) -> str:
    alter = f"ALTER TABLE {facts.sql}"
    if facts.primary_key:
        return f"{alter} REPLICA IDENTITY DEFAULT"
    if facts.candidate is not None:
        return f"{alter} REPLICA IDENTITY USING INDEX {quote_name(facts.candidate, 'postgres')}"
    if mode == "history":
        return f"{alter} REPLICA IDENTITY FULL"
    return f"{alter} ADD PRIMARY KEY (...), or {alter} REPLICA IDENTITY FULL and name columns in key"


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
