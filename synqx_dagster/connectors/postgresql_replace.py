"""Puts a staging table in its target's place, with everything that belongs to the target made anew on it.

Guarantee: the swapped table has the target's name, columns, indexes, constraints, sequences, owner, grants, options
and comments, under the same names, or the attempt leaves no trace and says so.

The staged rows were copied with FREEZE: a reader whose snapshot is older than the swap, and who first touches the
table after it, sees the new rows instead of an empty table (PostgreSQL manual, Caveats of MVCC).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from synqx_dagster.connectors.postgresql_errors import sqlstate_of
from synqx_dagster.connectors.postgresql_names import qualify, quote, quote_text
from synqx_dagster.connectors.queries import load_query
from synqx_dagster.errors import TargetMismatchError
from synqx_dagster.model.table import TableName

#: How long the swap waits for readers of the old table. New readers queue behind it meanwhile.
SWAP_LOCK_MILLISECONDS = 2000

#: The states in which the swap gives way to DELETE and INSERT: lock not available, deadlock, dependent objects,
#: a missing privilege, an object in use or of another kind than thought.
_GIVES_WAY = frozenset({"55P03", "40P01", "2BP01", "42501", "55006", "42809", "0A000"})


#: The bit of pg_relation_is_updatable that stands for INSERT.
_TAKES_INSERT = 8


@dataclass(frozen=True)
class Part:
    """Something that belongs to a table; see ``postgresql_definition.sql``."""

    kind: str
    name: str
    definition: str
    comment: str | None


@dataclass(frozen=True)
class TableDefinition:
    """A table's OID and what has to be made anew on a table that takes its place."""

    oid: int
    owner: str
    has_statistics: bool
    parts: tuple[Part, ...]
    grants: tuple[tuple[str | None, str | None, str, bool], ...]
    #: Whether privileges are stored for the table; if not, the owner has them all and nobody else has any.
    has_grants: bool

    def of_kind(self, *kinds: str) -> tuple[Part, ...]:
        """The parts of some kinds, in order."""
        return tuple(part for part in self.parts if part.kind in kinds)


@dataclass(frozen=True)
class _Rename:
    """A name that an index or constraint gets once the old table's is free."""

    is_index: bool
    temporary: str
    name: str


def find_oid(cursor: Any, table: TableName) -> int | None:
    """The OID of a table or view that rows can be written to; None if there is none.

    Raises:
        TargetMismatchError: It takes no rows: a materialised view, or a view over more than one table.
    """
    cursor.execute(
        "SELECT c.oid::bigint, c.relkind IN ('m', 'S')"
        " OR c.relkind IN ('v', 'f') AND pg_catalog.pg_relation_is_updatable(c.oid, true) & %s = 0"
        " FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)",
        (_TAKES_INSERT, qualify(table)),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    oid, is_read_only = row
    if is_read_only:
        raise TargetMismatchError(
            f"{table} is a view whose rows the server computes; no rows can be written to it",
            hint="load into a table, or give the view INSTEAD OF triggers",
            table=str(table),
        )
    return int(oid)


def find_obstacles(cursor: Any, oid: int) -> list[str]:
    """Why a table cannot be swapped; empty when it can."""
    cursor.execute(load_query("postgresql_obstacles"), {"oid": oid})
    return [reason for (reason,) in cursor.fetchall()]


def read_definition(cursor: Any, oid: int) -> TableDefinition:
    """What belongs to a table."""
    cursor.execute(
        "SELECT pg_catalog.pg_get_userbyid(relowner)::text, reltuples > 0, relacl IS NOT NULL"
        " FROM pg_catalog.pg_class WHERE oid = %s",
        (oid,),
    )
    owner, has_statistics, has_grants = cursor.fetchone()
    cursor.execute(load_query("postgresql_definition"), {"oid": oid})
    parts = tuple(Part(*row) for row in cursor.fetchall())
    return TableDefinition(oid, owner, has_statistics, parts, _read_grants(cursor, oid), has_grants)


def _read_grants(cursor: Any, oid: int) -> tuple[tuple[str | None, str | None, str, bool], ...]:
    cursor.execute(load_query("postgresql_grants"), {"oid": oid})
    return tuple(tuple(row) for row in cursor.fetchall())


def swap(cursor: Any, staging: TableName, target: TableName, oid: int) -> bool:
    """Replace the target by the staging table, within the open transaction.

    Returns:
        False when the target cannot be swapped now, because something depends on it, somebody reads it for long or a
        privilege is missing; then nothing has changed.

    Raises:
        psycopg2.Error: The rows break a constraint, or the server failed.
    """
    import psycopg2

    # That nothing stands in the way was seen when the staging table was made, and is seen again under the lock.
    cursor.execute("SAVEPOINT synqx_swap")
    try:
        definition = read_definition(cursor, oid)
        renames = _build(cursor, staging, definition)
        if _lock(cursor, target, definition):
            _exchange(cursor, staging, target, definition, renames)
            cursor.execute("RELEASE SAVEPOINT synqx_swap")
            return True
    except psycopg2.Error as error:
        if sqlstate_of(error) not in _GIVES_WAY:
            raise
    cursor.execute("ROLLBACK TO SAVEPOINT synqx_swap")
    cursor.execute("RELEASE SAVEPOINT synqx_swap")
    return False


def _build(cursor: Any, staging: TableName, definition: TableDefinition) -> list[_Rename]:
    """Make on the staging table what the target has, under names that are free until the target is gone."""
    table = qualify(staging)
    cursor.execute(f"ALTER TABLE {table} OWNER TO {quote(definition.owner)}")
    unique = uuid.uuid4().hex[:12]
    renames: list[_Rename] = []
    for number, part in enumerate(definition.of_kind("index", "constraint", "foreign key")):
        rename = _Rename(part.kind == "index", f"_synqx_{unique}_{number}", part.name)
        temporary = quote(rename.temporary)
        if rename.is_index:
            is_unique = "UNIQUE " if part.definition.startswith("UNIQUE ") else ""
            using = part.definition.removeprefix("UNIQUE ")
            cursor.execute(f"CREATE {is_unique}INDEX {temporary} ON {table}{using}")
            commented = f"INDEX {qualify(TableName(rename.temporary, staging.schema))}"
        else:
            cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {temporary} {part.definition}")
            commented = f"CONSTRAINT {temporary} ON {table}"
        if part.comment is not None:
            cursor.execute(f"COMMENT ON {commented} IS {quote_text(part.comment)}")
        renames.append(rename)
    _describe_constraint_indexes(cursor, staging, definition, renames)
    for part in definition.of_kind("option"):
        cursor.execute(f"ALTER TABLE {table} SET ({quote(part.name)} = {quote_text(part.definition)})")
    for part in definition.of_kind("comment"):
        cursor.execute(f"COMMENT ON TABLE {table} IS {quote_text(part.definition)}")
    _copy_grants(cursor, table, definition)
    return renames


def _describe_constraint_indexes(
    cursor: Any, staging: TableName, definition: TableDefinition, renames: list[_Rename]
) -> None:
    """Give the indexes that came with constraints what no definition of a constraint tells: options and comments."""
    made = {rename.name: rename.temporary for rename in renames if not rename.is_index}
    for part in definition.of_kind("index option", "index comment"):
        index = qualify(TableName(made[part.name], staging.schema))
        if part.kind == "index comment":
            cursor.execute(f"COMMENT ON INDEX {index} IS {quote_text(part.definition)}")
        else:
            option, _, value = part.definition.partition("=")
            cursor.execute(f"ALTER INDEX {index} SET ({quote(option)} = {quote_text(value)})")


def _copy_grants(cursor: Any, table: str, definition: TableDefinition) -> None:
    """Give the new table exactly the target's privileges; default privileges may have given it others."""
    cursor.execute("SELECT %s::regclass::oid::bigint", (table,))
    found = _read_grants(cursor, cursor.fetchone()[0])
    if found or definition.has_grants:
        for grantee in sorted({grantee for _, grantee, _, _ in found} | {definition.owner}, key=str):
            cursor.execute(f"REVOKE ALL ON TABLE {table} FROM {_role(grantee)}")
        if not definition.has_grants:
            # What the owner has of a table for which nothing is stored.
            cursor.execute(f"GRANT ALL ON TABLE {table} TO {_role(definition.owner)}")
    for column, grantee, privilege, grantable in definition.grants:
        on_column = f" ({quote(column)})" if column is not None else ""
        option = " WITH GRANT OPTION" if grantable else ""
        cursor.execute(f"GRANT {privilege}{on_column} ON TABLE {table} TO {_role(grantee)}{option}")


def _role(name: str | None) -> str:
    return "PUBLIC" if name is None else quote(name)


def _lock(cursor: Any, target: TableName, definition: TableDefinition) -> bool:
    """Lock the target against everybody; False if it is no longer what was built on the staging table."""
    cursor.execute("SELECT pg_catalog.current_setting('lock_timeout')")
    before = cursor.fetchone()[0]
    cursor.execute(f"SET LOCAL lock_timeout = {SWAP_LOCK_MILLISECONDS}")
    cursor.execute(f"LOCK TABLE {qualify(target)} IN ACCESS EXCLUSIVE MODE")
    cursor.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (before,))
    if find_oid(cursor, target) != definition.oid or find_obstacles(cursor, definition.oid):
        return False
    return read_definition(cursor, definition.oid) == definition


def _exchange(
    cursor: Any,
    staging: TableName,
    target: TableName,
    definition: TableDefinition,
    renames: list[_Rename],
) -> None:
    for part in definition.of_kind("sequence"):
        cursor.execute(f"ALTER SEQUENCE {part.definition} OWNED BY {qualify(staging)}.{quote(part.name)}")
    # RESTRICT, the default: should anything depend on it that was overlooked, the server refuses.
    cursor.execute(f"DROP TABLE {qualify(target)}")
    cursor.execute(f"ALTER TABLE {qualify(staging)} RENAME TO {quote(target.name)}")
    for rename in renames:
        if rename.is_index:
            index = qualify(TableName(rename.temporary, target.schema))
            cursor.execute(f"ALTER INDEX {index} RENAME TO {quote(rename.name)}")
        else:
            renamed = f"{quote(rename.temporary)} TO {quote(rename.name)}"
            cursor.execute(f"ALTER TABLE {qualify(target)} RENAME CONSTRAINT {renamed}")
    if definition.has_statistics:
        # The old table's statistics went with it; without any, plans are poor until autovacuum comes by.
        cursor.execute(f"ANALYZE {qualify(target)}")
