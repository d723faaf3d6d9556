"""Replica identities of tables without a key: without one a published table takes no UPDATE and no DELETE.

Source: PostgreSQL manual, Logical Replication, Publication.
"""

from __future__ import annotations

from typing import Any

from synqx_dagster.connectors.postgresql_names import qualify
from synqx_dagster.model.table import TableName

#: By default the primary key is the identity, so a table that has one needs no other.
_NEEDS_ONE = """
SELECT c.relkind = 'r' AND c.relpersistence = 'p' AND (
    c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
    )
)
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)
"""

#: One that publishes insertions alone asks for no identity.
_IS_PUBLISHED = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_publication_tables p
    JOIN pg_catalog.pg_publication b ON b.pubname = p.pubname AND (b.pubupdate OR b.pubdelete)
    JOIN pg_catalog.pg_class c ON c.relname = p.tablename
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = p.schemaname
    WHERE c.oid = pg_catalog.to_regclass(%s)
)
"""


def set_full_identity(cursor: Any, table: TableName) -> None:
    """Have the whole row be the identity of a table that has no other."""
    name = qualify(table)
    cursor.execute(_NEEDS_ONE, (name,))
    row = cursor.fetchone()
    if row is not None and row[0]:
        cursor.execute(f"ALTER TABLE {name} REPLICA IDENTITY FULL")


def lacks_identity(cursor: Any, table: TableName) -> bool:
    """Whether a table's changes are published and nothing tells its rows apart, so that the server refuses some."""
    name = qualify(table)
    cursor.execute(_NEEDS_ONE, (name,))
    row = cursor.fetchone()
    if row is None or not row[0]:
        return False
    cursor.execute(_IS_PUBLISHED, (name,))
    return bool(cursor.fetchone()[0])
