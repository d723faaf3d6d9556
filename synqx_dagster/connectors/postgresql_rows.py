"""Moves staged rows into a target that stays where it is; all within the open transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synqx_dagster.connectors.postgresql_names import qualify, quote, quote_names
from synqx_dagster.connectors.protocol import RowChanges
from synqx_dagster.errors import TargetMismatchError
from synqx_dagster.model.table import TableName

#: Foreign keys of other tables that point here, and whether deleting a row changes those tables.
_INBOUND_SQL = """
select k.conrelid::regclass::text, k.confdeltype in ('c', 'n', 'd') as reaches_out
from pg_catalog.pg_constraint k
where k.contype = 'f' and k.confrelid = %s and k.conrelid <> k.confrelid
"""

_KEY_SQL = """
select a.attname::text
from pg_catalog.pg_index i
cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, position)
join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
where i.indrelid = %s and i.indisprimary and k.position <= i.indnkeyatts
order by k.position
"""

#: Sequences that a column of the target takes its values from (serial and identity), counting up.
_SEQUENCES_SQL = """
select a.attname::text, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(s.relname)
from pg_catalog.pg_depend d
join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S'
join pg_catalog.pg_namespace n on n.oid = s.relnamespace
join pg_catalog.pg_sequence q on q.seqrelid = s.oid and q.seqincrement > 0
join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
    and d.refobjid = %s and d.deptype in ('a', 'i')
    and pg_catalog.has_sequence_privilege(s.oid, 'USAGE, UPDATE')
"""


def append_rows(cursor: Any, staging: TableName, target: TableName, names: Sequence[str]) -> int:
    """Insert the staged rows, keys of identity columns included; returns how many."""
    columns = quote_names(names)
    cursor.execute(
        f"INSERT INTO {qualify(target)} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {qualify(staging)}"
    )
    inserted: int = cursor.rowcount
    return inserted


def replace_rows(
    cursor: Any, staging: TableName, target: TableName, oid: int, names: Sequence[str], inside: str | None = None
) -> RowChanges:
    """Make the staged rows the target's only rows, or those that hold a condition; readers go on, other writers wait.

    A table that foreign keys of others point to keeps the rows whose key stays: deleting one that comes back would
    be refused, or would cascade.

    Raises:
        TargetMismatchError: Foreign keys would cascade, and no primary key tells which rows stay.
    """
    cursor.execute("SELECT relkind IN ('r', 'p') FROM pg_catalog.pg_class WHERE oid = %s", (oid,))
    if cursor.fetchone()[0]:
        cursor.execute(f"LOCK TABLE {qualify(target)} IN SHARE ROW EXCLUSIVE MODE")
    cursor.execute(_INBOUND_SQL, (oid,))
    inbound = cursor.fetchall()
    if inbound:
        cursor.execute(_KEY_SQL, (oid,))
        key = [name for (name,) in cursor.fetchall()]
        if key and set(key) <= set(names):
            return _merge_rows(cursor, staging, target, names, key, inside)
        reaching = [table for table, reaches_out in inbound if reaches_out]
        if reaching:
            raise TargetMismatchError(
                f"{target}: replacing its rows would change {', '.join(reaching)} through foreign keys",
                hint="give the table a primary key that the mapping fills, so that rows that stay are kept",
                table=str(target),
            )
    cursor.execute(f"DELETE FROM {qualify(target)}" + ("" if inside is None else f" WHERE {inside}"))
    deleted: int = cursor.rowcount
    return RowChanges(inserted=append_rows(cursor, staging, target, names), deleted=deleted)


def _merge_rows(
    cursor: Any, staging: TableName, target: TableName, names: Sequence[str], key: Sequence[str], inside: str | None
) -> RowChanges:
    table, rows = qualify(target), qualify(staging)
    same_key = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in key)
    # A staged row with the key of a row that does not hold the condition is inserted, which the key refuses.
    holds = "TRUE" if inside is None else f"({inside})"
    same_row = " AND ".join(f"r.{quote(name)} = t.{quote(name)}" for name in key)
    is_replaced = "TRUE" if inside is None else f"EXISTS (SELECT FROM {table} r WHERE {same_row} AND {holds})"
    cursor.execute(f"DELETE FROM {table} t WHERE {holds} AND NOT EXISTS (SELECT FROM {rows} s WHERE {same_key})")
    deleted: int = cursor.rowcount
    updated = 0
    others = [name for name in names if name not in key]
    if others:
        assignments = ", ".join(f"{quote(name)} = s.{quote(name)}" for name in others)
        # As text, because some types (json, xml, point) have no equality, and some values are equal and differ (-0).
        differs = " OR ".join(f"t.{quote(name)}::text IS DISTINCT FROM s.{quote(name)}::text" for name in others)
        cursor.execute(
            f"UPDATE {table} t SET {assignments} FROM {rows} s WHERE {same_key} AND ({differs}) AND {is_replaced}"
        )
        updated = cursor.rowcount
    columns = quote_names(names)
    staged = ", ".join(f"s.{quote(name)}" for name in names)
    cursor.execute(
        f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {staged} FROM {rows} s"
        f" WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same_key} AND {holds})"
    )
    return RowChanges(cursor.rowcount, updated, deleted)


def advance_sequences(cursor: Any, staging: TableName, oid: int, names: Sequence[str]) -> None:
    """Move the target's sequences past the staged keys, so that a later insert does not meet one of them.

    Sequences do not roll back; one that was advanced for nothing only leaves a gap.
    """
    cursor.execute(_SEQUENCES_SQL, (oid,))
    for name, sequence in cursor.fetchall():
        if name in names:
            cursor.execute(
                "SELECT pg_catalog.setval(%s::regclass, staged.last) FROM"
                f" (SELECT max({quote(name)})::bigint AS last FROM {qualify(staging)}) AS staged"
                f" WHERE staged.last > (SELECT last_value FROM {sequence})",
                (sequence,),
            )
