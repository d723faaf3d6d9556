"""Checks of replications: what can be followed into what, and that no two things write one table or hold one slot."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping

from synqx_dagster.catalog.check_records import role_problem
from synqx_dagster.catalog.table_keys import TableKey, TableKeys
from synqx_dagster.catalog.union import RecordUnion
from synqx_dagster.catalog.yaml_tree import FieldPath, parse_path
from synqx_dagster.errors import Problem, QueryRefusedError
from synqx_dagster.model import Connection, ReplicatedTable, Replication, TableName
from synqx_dagster.model import Mapping as MappingRecord
from synqx_dagster.model.replication import SOURCE_TYPES, TARGET_TYPES
from synqx_dagster.model.table_pattern import tables_may_meet

#: What stands for a server: a slot is known there by its name, whatever the database.
_Server = tuple[object, ...]


def check_replication(union: RecordUnion, replication: Replication) -> Iterator[Problem]:
    """What can be told of one replication. Its connections must be there."""
    source = union.records.connections[replication.source_connection]
    target = union.records.connections[replication.target_connection]
    if source.db_type not in SOURCE_TYPES:
        yield union.problem(
            replication,
            ("source_connection",),
            f"changes of {source.db_type} cannot be followed",
            "the source is a PostgreSQL connection; elsewhere a mapping with a cursor reads what is new",
        )
    if target.db_type not in TARGET_TYPES:
        yield union.problem(
            replication,
            ("target_connection",),
            f"a replication cannot write to {target.db_type}",
            f"kinds of targets: {', '.join(sorted(TARGET_TYPES))}",
        )
    if source.role == "destination":
        yield union.problem(replication, ("source_connection",), role_problem(source))
    if target.role == "source":
        yield union.problem(replication, ("target_connection",), role_problem(target))
    yield from _check_pools(union, replication, source, target)
    for index, table in enumerate(replication.tables):
        yield from _check_column_mappings(union, replication, table, ("tables", index))
        yield from _check_filter(union, replication, table, ("tables", index))
        yield from _check_kept_columns(union, replication, table, ("tables", index))
    yield from _check_own_targets(union, replication)
    if _server_of(source, with_database=True) == _server_of(target, with_database=True):
        yield from _check_loop(union, replication, target)


def check_shared_tables(
    union: RecordUnion, replications: list[Replication], loads: Mapping[TableKey, str]
) -> Iterator[Problem]:
    """Tables that a replication writes and somebody else does, too.

    Names are compared with what mappings and pipelines load; patterns with those of other replications alone: which
    tables a pattern stands for only its source knows, and `synqx replications create` asks it.

    Args:
        loads: What loads a table, in words, by the table's key.
    """
    keys = TableKeys(union.records)
    names: dict[TableKey, Replication] = {}
    patterns: list[tuple[Replication, FieldPath, ReplicatedTable, TableName]] = []
    for replication in replications:
        connection = replication.target_connection
        for index, table in enumerate(replication.tables):
            place: FieldPath = ("tables", index)
            target = _full(keys.key_of(connection, replication.target_of(table)))
            if table.is_pattern:
                patterns.append((replication, place, table, target))
                continue
            key = keys.key_of(connection, replication.target_of(table))
            if key in loads:
                yield union.problem(
                    replication,
                    place,
                    f"{loads[key]} and this replication write one table: {target} at {connection}",
                    "give one of them another target table",
                )
            other = names.setdefault(key, replication)
            if other is not replication:
                yield _shared(union, replication, place, other, f"{target} at {connection}")
    yield from _check_patterns(union, patterns, names)


def check_slots(union: RecordUnion, replications: list[Replication]) -> Iterator[Problem]:
    """Slots and publications that two replications would share."""
    for field, name_of, with_database in (
        ("slot", _slot_of, False),
        ("publication", _publication_of, True),
    ):
        seen: dict[tuple[_Server, str], Replication] = {}
        for replication in replications:
            connection = union.records.connections[replication.source_connection]
            name = name_of(replication)
            server = _server_of(connection, with_database=with_database)
            other = seen.setdefault((server, name), replication)
            if other is not replication:
                yield union.problem(
                    replication,
                    (field,),
                    f"the replication {other.name!r} has the {field} {name!r} at this source, too",
                    f"give this one another {field}: a slot has one consumer, and what it has taken is gone",
                )


def _slot_of(replication: Replication) -> str:
    return replication.slot_name


def _publication_of(replication: Replication) -> str:
    return replication.publication_name


def _server_of(connection: Connection, *, with_database: bool) -> _Server:
    """Connections of one server have one; two names of one host are told apart, because nobody is asked here."""
    tunnel = connection.ssh_tunnel
    place = (connection.host, connection.port or 5432, None if tunnel is None else (tunnel.host, tunnel.port))
    if connection.host is None:
        # A file, or a server that the driver finds by itself.
        return (connection.db_type, connection.database or connection.name)
    return (connection.db_type, *place, connection.database if with_database else None)


# --- one replication ------------------------------------------------------------------------------------------


def _check_pools(
    union: RecordUnion, replication: Replication, source: Connection, target: Connection
) -> Iterator[Problem]:
    """Whether the pools allow a session for each table that is copied at the same time, and one beside."""
    needed: dict[str, int] = defaultdict(int)
    for connection in (source, target):
        needed[connection.name] += replication.parallelism + 1
    for connection in {source.name: source, target.name: target}.values():
        allowed = connection.pool.most_sessions
        if needed[connection.name] > allowed:
            yield union.problem(
                replication,
                ("parallelism",),
                f"parallelism {replication.parallelism} takes {needed[connection.name]} sessions of"
                f" {connection.name!r}, and its pool allows {allowed}",
                "lower parallelism, or raise pool.size or pool.max_overflow of the connection",
            )


def _check_column_mappings(
    union: RecordUnion, replication: Replication, table: ReplicatedTable, place: FieldPath
) -> Iterator[Problem]:
    from synqx_dagster.mapping.check import check_mapping

    if table.column_mappings is None:
        return
    mapping = MappingRecord(
        name=replication.name,
        source_connection=replication.source_connection,
        target_connection=replication.target_connection,
        source_table=table.name,
        target_table=str(replication.target_of(table)),
        column_mappings=table.column_mappings,
    )
    for problem in check_mapping(mapping, None, source_dialect="postgres"):
        field = problem.location.field if problem.location else None
        yield union.problem(replication, (*place, *parse_path(field or "")), problem.message, problem.hint)
    kept = {
        column_mapping.source_columns[0] for column_mapping in table.column_mappings if column_mapping.type == "direct"
    }
    for index, name in enumerate(table.key):
        if name not in kept:
            yield union.problem(
                replication,
                (*place, "key", index),
                f"no column mapping takes the key's column {name!r} as it is",
                "add a direct one for it: rows of the target are found by it",
            )


def _check_filter(
    union: RecordUnion, replication: Replication, table: ReplicatedTable, place: FieldPath
) -> Iterator[Problem]:
    """Whether a row filter is one expression, and a key is among the columns."""
    from synqx_dagster.mapping.expressions import parse_expression

    if table.where is not None:
        try:
            parse_expression(table.where, "postgres")
        except QueryRefusedError as exc:
            yield union.problem(replication, (*place, "where"), exc.message, exc.hint)
    for index, name in enumerate(table.key if table.columns is not None else ()):
        if name not in (table.columns or ()):
            yield union.problem(
                replication, (*place, "key", index), f"columns leave out {name!r}", "rows are matched by it"
            )


def _check_kept_columns(
    union: RecordUnion, replication: Replication, table: ReplicatedTable, place: FieldPath
) -> Iterator[Problem]:
    """Fields that have the name of a column that the mode keeps."""
    kept = {name.casefold() for name in replication.kept_columns}
    fields = [
        *(((*place, "columns", index), name) for index, name in enumerate(table.columns or ())),
        *(
            ((*place, "column_mappings", index, "target_fields"), name)
            for index, column_mapping in enumerate(table.column_mappings or ())
            for name in column_mapping.target_fields
        ),
    ]
    for path, name in fields:
        if name.casefold() in kept and not (path[-2] == "columns" and table.column_mappings is not None):
            field = "soft_delete" if replication.mode == "soft_delete" else "change_columns"
            yield union.problem(
                replication,
                path,
                f"mode {replication.mode} keeps a column {name!r} of its own",
                f"give it another name in {field}",
            )


def _check_own_targets(union: RecordUnion, replication: Replication) -> Iterator[Problem]:
    """Two tables of one replication that would become one."""
    keys = TableKeys(union.records)
    seen: dict[TableKey, str] = {}
    for index, table in enumerate(replication.tables):
        if table.is_pattern:
            continue
        target = replication.target_of(table)
        other = seen.setdefault(keys.key_of(replication.target_connection, target), table.name)
        if other != table.name:
            yield union.problem(
                replication,
                ("tables", index),
                f"{other} and {table.name} would become one table: {target}",
                "give one of them another target, or put {schema} into target_naming",
            )


def _check_loop(union: RecordUnion, replication: Replication, target: Connection) -> Iterator[Problem]:
    """Tables of one database that the replication would read and write."""
    keys = TableKeys(union.records)
    read = [(table, table.source) for table in replication.tables]
    for index, table in enumerate(replication.tables):
        written = _full(keys.key_of(target.name, replication.target_of(table)))
        if any(tables_may_meet(written, name) for _, name in read):
            yield union.problem(
                replication,
                ("tables", index),
                f"the replication would read what it writes: {written} is a table of its own source",
                "give it another target, or put another target_schema into target_naming",
            )


# --- replications together ------------------------------------------------------------------------------------


def _check_patterns(
    union: RecordUnion,
    patterns: list[tuple[Replication, FieldPath, ReplicatedTable, TableName]],
    names: Mapping[TableKey, Replication],
) -> Iterator[Problem]:
    told: set[tuple[str, str]] = set()
    for (first, _, _, one), (second, place, _, other) in itertools.combinations(patterns, 2):
        if first is second or first.target_connection != second.target_connection:
            continue
        if tables_may_meet(one, other) and (first.name, second.name) not in told:
            told.add((first.name, second.name))
            yield _shared(union, second, place, first, f"of {one} and {other} at {second.target_connection}")
    for replication, place, _, pattern in patterns:
        for key, other_replication in names.items():
            pair = (other_replication.name, replication.name)
            if other_replication is replication or key[0] != replication.target_connection or pair in told:
                continue
            if tables_may_meet(pattern, _full(key)):
                told.add(pair)
                yield _shared(union, replication, place, other_replication, f"{_full(key)} at {key[0]}")


def _shared(union: RecordUnion, replication: Replication, place: FieldPath, other: Replication, what: str) -> Problem:
    # What the user has just written is where to point.
    if (replication.kind, replication.name) not in union.positions and (other.kind, other.name) in union.positions:
        replication, other, place = other, replication, ("tables",)
    return union.problem(
        replication,
        place,
        f"the replication {other.name!r} may write the same table: {what}",
        "give one of them another target_naming, or other tables",
    )


def _full(key: TableKey) -> TableName:
    return TableName(key[2], key[1])
