"""Looks whether a source can be followed as a replication wants it, and says what to grant or change where it cannot.

Guarantee: changes nothing. What is reported as right does not make the source's own statements fail: PostgreSQL
refuses an UPDATE of a published table whose rows it cannot identify.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from synqx_dagster.connectors.protocol import WriteSession
from synqx_dagster.mapping.quoting import quote_name
from synqx_dagster.model.mapping import RESERVED_PREFIX
from synqx_dagster.model.replication import ReplicatedTable, Replication
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.table_pattern import matches
from synqx_dagster.replication import publication as publications
from synqx_dagster.replication.changes import ReplicaIdentity
from synqx_dagster.replication.identity import IDENTITIES, SourceProblem, TableFacts, judge_identity, key_of
from synqx_dagster.replication.publication import PublicationState, PublishedTable
from synqx_dagster.replication.queries import load_query
from synqx_dagster.replication.slot import SlotState, find_slot

_DEFAULT_SCHEMA = "public"
#: Slots of a standby can be read from this version on; its publications are the primary's.
_STANDBY_VERSION = 160_000


@dataclass(frozen=True)
class SourceServer:
    """What the server and the user's rights allow."""

    version: int
    wal_level: str
    user: str
    database: str
    is_standby: bool
    may_replicate: bool
    may_create: bool
    max_slots: int
    used_slots: int
    idle_slots: tuple[str, ...]
    max_wal_senders: int
    used_wal_senders: int


@dataclass(frozen=True)
class SourceTable:
    """A table that a replication follows.

    Attributes:
        entry: What of the replication's definition it comes from.
        columns: Those that come through copy and stream, in order; none counts as generated, as the values come too.
        left_out: Wanted columns whose values are in no log: generated ones, as far as the version does not send them.
        key: What rows are matched by; empty in mode ``history`` where nothing is.
        identity: Columns that the log tells of an old row; None for all.
    """

    table: TableName
    entry: ReplicatedTable
    columns: tuple[Column, ...]
    left_out: tuple[str, ...]
    key: tuple[str, ...]
    replica_identity: ReplicaIdentity
    identity: tuple[str, ...] | None
    is_partitioned: bool
    leaves: tuple[TableName, ...] = ()

    @property
    def published(self) -> PublishedTable:
        """What of it is to be published."""
        names = None if self.entry.columns is None else tuple(column.name for column in self.columns)
        return PublishedTable(self.table, names, self.entry.where, self.is_partitioned, self.leaves)


@dataclass(frozen=True)
class SourceReport:
    """What there is to follow, and what is in the way of it."""

    server: SourceServer
    tables: tuple[SourceTable, ...]
    problems: tuple[SourceProblem, ...]
    publication: PublicationState
    slot: SlotState | None

    @property
    def published(self) -> tuple[PublishedTable, ...]:
        """What the publication is to cover; for `ensure_publication`."""
        return tuple(table.published for table in self.tables)


def inspect_source(session: WriteSession, replication: Replication) -> SourceReport:
    """Look at everything that following a source needs; problems are reported together, each with its remedy."""
    server = _read_server(session)
    facts = _read_tables(session)
    slot = find_slot(session, replication.slot_name)
    problems = list(_judge_server(server, slot, replication))
    tables: list[SourceTable] = []
    for one, entry in _match(facts, replication.tables, problems):
        leaves = tuple(leaf for leaf in facts if leaf.root == one.oid and not leaf.is_partitioned)
        table, found = _judge_table(session, server, replication, one, entry, leaves)
        problems += found
        if table is not None:
            tables.append(table)
    wanted = [table.published for table in tables]
    found_publication = publications.find_publication(session, replication.publication_name, server.version)
    state = publications.compare(found_publication, wanted, server.version)
    if not state.is_sufficient and wanted:
        owned = {one.table for one in facts if one.is_owned}
        problems += _judge_rights(server, replication, state, wanted, owned)
    if server.version >= publications.LISTS_VERSION and not server.is_standby:
        for table_name, reason in publications.check_filters(session, wanted).items():
            problems.append(
                SourceProblem(f"{table_name}: where is refused: {reason}", "write one SQL condition", table_name)
            )
    return SourceReport(server, tuple(tables), tuple(problems), state, slot)


def _read_server(session: WriteSession) -> SourceServer:
    row = cast("list[tuple[Any, ...]]", session.fetch_all(load_query("source_server")))[0]
    version, wal_level, user, database, standby, replicate, create, slots, used, idle, senders, used_senders = row
    return SourceServer(
        version, wal_level, user, database, standby, replicate, create, slots, used, tuple(idle), senders, used_senders
    )


def _read_tables(session: WriteSession) -> list[TableFacts]:
    return [
        TableFacts(
            oid,
            TableName(name, schema),
            partitioned,
            root,
            permanent,
            IDENTITIES[identity],
            owned,
            may_read,
            inherits,
            tuple(primary_key),
            tuple(identity_index),
            candidate,
            tuple(computed),
        )
        for (
            oid,
            schema,
            name,
            partitioned,
            root,
            permanent,
            identity,
            owned,
            may_read,
            inherits,
            primary_key,
            identity_index,
            candidate,
            computed,
        ) in cast("list[tuple[Any, ...]]", session.fetch_all(load_query("source_tables")))
    ]


# --- which tables ---------------------------------------------------------------------------------------------------


def _match(
    facts: Sequence[TableFacts], entries: Sequence[ReplicatedTable], problems: list[SourceProblem]
) -> list[tuple[TableFacts, ReplicatedTable]]:
    """Tables with the entry that speaks of each: one by name before any pattern, and of patterns the first."""
    chosen: dict[int, tuple[TableFacts, ReplicatedTable]] = {}
    for entry in sorted(entries, key=lambda entry: entry.is_pattern):
        name = TableName.parse(entry.name)
        schema = name.schema or _DEFAULT_SCHEMA
        found = [one for one in facts if _is_meant(one, schema, name.name, is_pattern=entry.is_pattern)]
        if not found:
            problems.append(
                SourceProblem(
                    f"{entry.name}: the source has no such table",
                    "correct the name, or grant USAGE on its schema; views, foreign and temporary tables have no log",
                )
            )
        for one in found:
            chosen.setdefault(one.oid, (one, entry))
    # A partition comes as part of the whole.
    return sorted(
        (pair for pair in chosen.values() if pair[0].root not in chosen),
        key=lambda pair: (pair[0].table.schema or "", pair[0].table.name),
    )


def _is_meant(one: TableFacts, schema: str, name: str, *, is_pattern: bool) -> bool:
    if not is_pattern:
        return one.table == TableName(name, schema)
    return (
        one.root is None
        and not one.table.name.casefold().startswith(RESERVED_PREFIX)
        and matches(schema, one.table.schema or "")
        and matches(name, one.table.name)
    )


def _judge_table(
    session: WriteSession,
    server: SourceServer,
    replication: Replication,
    facts: TableFacts,
    entry: ReplicatedTable,
    leaves: tuple[TableFacts, ...],
) -> tuple[SourceTable | None, list[SourceProblem]]:
    problems: list[SourceProblem] = []

    def report(message: str, remedy: str) -> None:
        problems.append(SourceProblem(f"{facts.table}: {message}", remedy, facts.table))

    has_lists = server.version >= publications.LISTS_VERSION
    if not facts.is_permanent:
        report("it is unlogged, so that its changes are in no log", f"ALTER TABLE {facts.sql} SET LOGGED")
    if facts.inherits:
        report("other tables inherit from it, or it from them", "leave it out; partitions can be followed")
    if facts.is_partitioned and server.version < publications.PARTITION_ROOT_VERSION:
        report("version 12 publishes partitions, and not partitioned tables", "name its partitions one by one")
    if not facts.may_read and replication.snapshot != "never":
        user, schema = quote_name(server.user, "postgres"), quote_name(facts.table.schema or "", "postgres")
        report(
            "the user may not read it, as the first copy does",
            f"GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {facts.sql} TO {user}",
        )
    if entry.where is not None and not has_lists:
        report("row filters came with version 15", "leave where out, or filter at the target")
    problems += judge_identity(facts, entry, replication.mode, leaves=leaves, limits_columns=has_lists)
    columns = session.find_columns(facts.table)
    if columns is None:
        report("it was dropped a moment ago", "look again")
        return None, problems
    names = {column.name for column in columns}
    for field, wanted in (("columns", entry.columns or ()), ("key", entry.key)):
        if unknown := [name for name in wanted if name not in names]:
            report(f"it has no column {', '.join(map(repr, unknown))}", f"correct {field}")
    wanted_columns = [column for column in columns if entry.columns is None or column.name in entry.columns]
    sends_generated = server.version >= publications.GENERATED_VERSION
    left_out = tuple(
        column.name
        for column in wanted_columns
        if column.generated and (not sends_generated or column.name in facts.computed_when_read)
    )
    kept = tuple(replace(column, generated=False) for column in wanted_columns if column.name not in left_out)
    return (
        SourceTable(
            facts.table,
            entry,
            kept,
            left_out,
            key_of(facts, entry),
            facts.replica_identity,
            facts.identity,
            facts.is_partitioned,
            tuple(leaf.table for leaf in leaves),
        ),
        problems,
    )


# --- the server and the user ----------------------------------------------------------------------------------------


def _judge_server(server: SourceServer, slot: SlotState | None, replication: Replication) -> Iterator[SourceProblem]:
    user = quote_name(server.user, "postgres")
    if server.wal_level != "logical":
        yield SourceProblem(
            f"the server's wal_level is {server.wal_level!r}, so that its log does not tell of rows",
            "ALTER SYSTEM SET wal_level = 'logical', and restart the server"
            " (a managed one: its parameter rds.logical_replication or cloudsql.logical_decoding)",
        )
    if server.is_standby and server.version < _STANDBY_VERSION:
        yield SourceProblem("the server is a standby, which has slots from version 16 on", "connect to the primary")
    if not server.may_replicate:
        yield SourceProblem(
            f"the user {server.user!r} may not replicate",
            f"ALTER ROLE {user} REPLICATION (on Amazon RDS: GRANT rds_replication TO {user})",
        )
    if server.used_wal_senders >= server.max_wal_senders:
        yield SourceProblem(
            f"all {server.max_wal_senders} WAL senders of the server are in use",
            f"ALTER SYSTEM SET max_wal_senders = {server.max_wal_senders + 5}, and restart the server",
        )
    yield from _judge_slot(server, slot, replication)


def _judge_slot(server: SourceServer, slot: SlotState | None, replication: Replication) -> Iterator[SourceProblem]:
    name = replication.slot_name
    if slot is None:
        if server.used_slots >= server.max_slots:
            idle = f"; nobody reads {', '.join(server.idle_slots)}" if server.idle_slots else ""
            yield SourceProblem(
                f"all {server.max_slots} replication slots of the server are in use{idle}",
                f"ALTER SYSTEM SET max_replication_slots = {server.max_slots + 5}, and restart the server; or"
                " SELECT pg_drop_replication_slot('...') for one that nobody needs",
            )
    elif not slot.is_here:
        yield SourceProblem(
            f"the slot {name!r} belongs to database {slot.database!r} and plugin {slot.plugin!r}",
            "give the replication another slot",
        )
    elif slot.is_lost:
        why = f" ({slot.invalidation_reason})" if slot.invalidation_reason else ""
        yield SourceProblem(
            f"the server has given up the slot {name!r}{why}: what it needs of the log is gone",
            f"synqx replications resync {replication.name}",
        )


def _judge_rights(
    server: SourceServer,
    replication: Replication,
    state: PublicationState,
    wanted: Sequence[PublishedTable],
    owned: set[TableName],
) -> Iterator[SourceProblem]:
    """Why the user cannot make the publication what it has to be."""
    name = replication.publication_name
    if server.is_standby:
        yield SourceProblem(f"the publication {name!r} can only be made at the primary", "make it there")
        return
    statements = "; ".join(publications.render_remedy(name, wanted, state, server.version))
    if state.found is not None and not state.found.is_ours:
        yield SourceProblem(
            f"the publication {name!r} does not fit ({'; '.join(state.lacking)}), and is somebody else's",
            f"its owner runs: {statements}",
        )
    elif state.found is None and not server.may_create:
        database, user = quote_name(server.database, "postgres"), quote_name(server.user, "postgres")
        yield SourceProblem(
            f"the user {server.user!r} may not make publications in this database",
            f"GRANT CREATE ON DATABASE {database} TO {user}",
        )
    for one in wanted:
        if one.table not in owned:
            yield SourceProblem(
                f"{one.table}: only its owner can publish it",
                f"the tables' owner, or a superuser, runs: {statements}",
                one.table,
            )
