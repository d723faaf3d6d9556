"""Merges staged rows into a PostgreSQL target, and keeps history in one; all within the open transaction.

Guarantee: rows of the target are compared with the staged ones by their stored image, so that -0.0 and 0.0, ``1.0`` and
``1.00``, and ``a`` and ``A`` under any collation differ, types without equality (json, xml, point) compare too, and a
row that is the same is not written again. Works alike on all versions from 12 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synqx_dagster.connectors.merge_sql import MergeDialect, render_history, render_merge, render_single_merge
from synqx_dagster.connectors.postgresql_names import qualify, quote, quote_names, quote_text
from synqx_dagster.connectors.protocol import HistorySpec, MergeSpec, RowChanges
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import TypeKind

#: What one hash table of a merge may take; the server's default of 4 MB sends the staged rows to disk.
WORK_MEMORY_KIB = 64 * 1024

_UNIQUE_KEYS_SQL = """
select array_agg(a.attname::text order by k.position)
from pg_catalog.pg_index i
cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, position)
left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
    and k.position <= i.indnkeyatts
group by i.indexrelid, i.indisprimary
order by i.indisprimary desc, i.indexrelid
"""

#: MERGE came with the first of these versions, and with the second it tells what it did with each row.
MERGE_VERSION = 150000
MERGE_RETURNING_VERSION = 170000

#: Per cent of each page that rows fill in a table made for merges. A row that is updated finds room on its page, and
#: the indexes stay as they are: merging a changed tenth took a fifth less of the server's time.
MERGE_FILLFACTOR = 90

#: Types of which equal values have one image, those first that most often tell of a change.
_COMPARED_FIRST: tuple[TypeKind, ...] = (
    "timestamptz",
    "timestamp",
    "date",
    "time",
    "bigint",
    "integer",
    "smallint",
    "boolean",
    "uuid",
)

#: The table, its partitions and its other children: MERGE changes their rows, too.
_TAKES_MERGE_SQL = """
with recursive family as (
    select %(oid)s::oid as oid
    union
    select i.inhrelid from pg_catalog.pg_inherits i join family f on i.inhparent = f.oid
)
select bool_and(c.relkind in ('r', 'p') and not c.relhasrules and not c.relrowsecurity) and not exists (
    select from pg_catalog.pg_trigger t join family f on t.tgrelid = f.oid
    where not t.tgisinternal and t.tgenabled <> 'D'
) and not exists (
    select from pg_catalog.pg_index i join family f on i.indrelid = f.oid
    where (i.indisunique or i.indisexclusion) and (
        i.indpred is not null or i.indexprs is not null or (
            select array_agg(a.attname::text order by a.attname::text)
            from unnest(i.indkey::smallint[]) with ordinality as k (attnum, position)
            join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
            where k.position <= i.indnkeyatts
        ) <> (select array_agg(name order by name) from unnest(%(key)s::text[]) as name)
    )
)
from pg_catalog.pg_class c join family using (oid)
"""

_ALWAYS_IDENTITY_SQL = """
select a.attname::text from pg_catalog.pg_attribute a where a.attrelid = %s and a.attidentity = 'a'
"""


def find_unique_keys(cursor: Any, oid: int) -> tuple[tuple[str, ...], ...]:
    """Columns of each unique index that covers all rows; the primary key first."""
    cursor.execute(_UNIQUE_KEYS_SQL, (oid,))
    return tuple(tuple(names) for (names,) in cursor.fetchall())


def lock_table(cursor: Any, table: TableName, oid: int) -> None:
    """Have other writers wait until the transaction ends; readers go on. A view is not locked."""
    cursor.execute("SELECT relkind IN ('r', 'p') FROM pg_catalog.pg_class WHERE oid = %s", (oid,))
    if cursor.fetchone()[0]:
        cursor.execute(f"LOCK TABLE {qualify(table)} IN SHARE ROW EXCLUSIVE MODE")


def keep_room(cursor: Any, table: TableName) -> None:
    """Have the pages of an empty table keep room for updates."""
    cursor.execute(f"ALTER TABLE {qualify(table)} SET (fillfactor = {MERGE_FILLFACTOR})")


def create_current_index(cursor: Any, table: TableName, key: Sequence[str], is_current: str) -> None:
    """An index over the current versions alone; it also keeps a key from having two."""
    cursor.execute(f"CREATE UNIQUE INDEX ON {qualify(table)} ({quote_names(key)}) WHERE {quote(is_current)}")


def merge_rows(
    cursor: Any, staging: TableName, target: TableName, oid: int, columns: Sequence[Column], merge: MergeSpec
) -> RowChanges:
    """Delete, update and insert in one statement, so that foreign keys are checked when all of it is done."""
    _prepare(cursor, staging, merge)
    dialect = _dialect(cursor, oid)
    if merge.rows_before is not None and _takes_merge(cursor, oid, merge):
        return _merge_at_once(cursor, dialect, staging, target, columns, merge, merge.rows_before)
    sql = render_merge(dialect, qualify(staging), qualify(target), columns, merge)
    parts = {"gone": sql.delete, "changed": sql.update, "added": sql.insert}
    given = {name: part for name, part in parts.items() if part is not None}
    # The parts see the same rows, from before the statement: no key is in two of them. They run in the order in
    # which their counts are asked for, so that a value of a unique column is free before another row takes it.
    ctes = ", ".join(f"{name} AS ({part} RETURNING 1)" for name, part in given.items())
    counts = ", ".join(f"(SELECT count(*) FROM {name})" if name in given else "0" for name in parts)
    cursor.execute(f"WITH {ctes} SELECT {counts}")
    deleted, updated, inserted = cursor.fetchone()
    return RowChanges(inserted, updated, deleted)


def _merge_at_once(
    cursor: Any,
    dialect: MergeDialect,
    staging: TableName,
    target: TableName,
    columns: Sequence[Column],
    merge: MergeSpec,
    rows_before: int,
) -> RowChanges:
    sql = render_single_merge(dialect, qualify(staging), qualify(target), columns, merge)
    if cursor.connection.server_version >= MERGE_RETURNING_VERSION:
        # The target is not counted again: beside a MERGE of 1.0 s that touched all of its pages this took 0.2 s.
        cursor.execute(
            f"WITH merged (action) AS ({sql} RETURNING merge_action())"
            " SELECT count(*), count(*) FILTER (WHERE action = 'INSERT') FROM merged"
        )
        changed, inserted = cursor.fetchone()
        return RowChanges(inserted, changed - inserted, total=rows_before + inserted)
    cursor.execute(sql)
    changed = cursor.rowcount
    cursor.execute(f"SELECT count(*) FROM {qualify(target)}")
    total = cursor.fetchone()[0]
    inserted = total - rows_before
    return RowChanges(inserted, changed - inserted, total=total)


def _takes_merge(cursor: Any, oid: int, merge: MergeSpec) -> bool:
    """Whether MERGE does the same as the statements, in half of their time.

    The order of its rows must not matter, which it does where another unique index than the key's lets one row take
    what another gives up. Rules, views and foreign partitions want the statements; so do triggers, which may add or
    remove rows of the target: how many it has afterwards is then known from neither what MERGE did nor its growth.
    """
    if merge.delete_missing or merge.deleted_flag is not None or cursor.connection.server_version < MERGE_VERSION:
        return False
    cursor.execute(_TAKES_MERGE_SQL, {"oid": oid, "key": list(merge.key)})
    takes_merge: bool = cursor.fetchone()[0]
    return takes_merge


def keep_history(
    cursor: Any,
    staging: TableName,
    target: TableName,
    columns: Sequence[Column],
    history: HistorySpec,
    kept: Sequence[Column],
) -> RowChanges:
    """Close the versions that ended, then open those that are new."""
    _prepare(cursor, staging, history.merge)
    sql = render_history(spell_merge(frozenset()), qualify(staging), qualify(target), columns, history, kept)
    counts = []
    for statement in (sql.open, sql.close_changed, sql.close_gone)[::-1]:
        if statement is not None:
            cursor.execute(statement)
        counts.append(cursor.rowcount if statement is not None else 0)
    deleted, updated, inserted = counts
    return RowChanges(inserted, updated, deleted)


def _prepare(cursor: Any, staging: TableName, merge: MergeSpec) -> None:
    # Compiling takes longer than it saves in statements that wait for the disk.
    cursor.execute("SET LOCAL jit = off")
    cursor.execute(
        "SELECT pg_catalog.set_config('work_mem', %s, true) FROM pg_catalog.pg_settings"
        " WHERE name = 'work_mem' AND setting::bigint < %s",
        (str(WORK_MEMORY_KIB), WORK_MEMORY_KIB),
    )
    # Nobody else will: autovacuum does not see a table of an open transaction.
    cursor.execute(f"ANALYZE {qualify(staging)} ({quote_names(merge.key)})")


def _dialect(cursor: Any, oid: int) -> MergeDialect:
    cursor.execute(_ALWAYS_IDENTITY_SQL, (oid,))
    return spell_merge(frozenset(name for (name,) in cursor.fetchall()))


def spell_merge(fixed: frozenset[str]) -> MergeDialect:
    """The dialect, for a target of which these columns cannot be set by an UPDATE."""
    return MergeDialect(
        quote=quote,
        same=lambda left, right, column: f"ROW({left})::record OPERATOR(pg_catalog.*=) ROW({right})::record",
        differs=_images_differ,
        moment=_moment,
        insert=(
            "INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE"
            " SELECT {values} FROM {staging} s LEFT JOIN {target} t ON {match} WHERE {where}"
        ),
        fixed=fixed,
    )


def _images_differ(sides: Sequence[tuple[str, str, Column]]) -> str:
    """Whether two rows differ in their binary image. Source: PostgreSQL manual, Composite Type Comparison.

    Records are made for it, which takes most of its time. Values of some types are equal only if their images are, so
    these are compared first: mostly one of them tells that a row has changed, such as the moment of its change.
    """
    exact = [side for side in sides if side[2].data_type.kind in _COMPARED_FIRST]
    others = [side for side in sides if side[2].data_type.kind not in _COMPARED_FIRST]
    exact.sort(key=lambda side: _COMPARED_FIRST.index(side[2].data_type.kind))
    tests = [f"{left} IS DISTINCT FROM {right}" for left, right, _ in exact]
    if others:
        ours = ", ".join(left for left, _, _ in others)
        theirs = ", ".join(right for _, right, _ in others)
        # Without the casts the parser compares column by column, and there is no such operator for a column.
        tests.append(f"ROW({ours})::record OPERATOR(pg_catalog.*<>) ROW({theirs})::record")
    return f"({' OR '.join(tests)})"


def _moment(text: str, column: Column) -> str:
    # The session's time zone is UTC, which is also what a column without one is meant to hold.
    spelling = "timestamptz" if column.data_type.kind == "timestamptz" else "timestamp"
    return f"{quote_text(text)}::timestamptz::{spelling}"
