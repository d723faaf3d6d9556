"""Staging tables that are committed before they are published, so that several sessions fill them.

A table whose rows were committed one by one may only take its target's place when nobody holds a snapshot from before:
such a reader would find the new table empty (PostgreSQL manual, Caveats of MVCC), and FREEZE, which keeps this from
happening to a table of one transaction, is not to be had.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from synqx_dagster.connectors.postgresql_columns import find_columns
from synqx_dagster.connectors.postgresql_names import qualify
from synqx_dagster.model.table import Column, TableName

#: How long to wait for readers whose snapshot is older than the staged rows.
OLD_SNAPSHOT_SECONDS = 2.0
_LOOK_AGAIN_SECONDS = 0.1

#: Sessions that may read this database by a snapshot which does not see all of what transactions up to one have
#: written. Of other users' sessions an ordinary user sees that they are there, and nothing more: they count.
_OLDER_SQL = """
select exists (
    select from pg_catalog.pg_stat_activity a
    where a.datname = current_database() and a.pid <> pg_catalog.pg_backend_pid() and a.usesysid is not null
        and (a.state is null or a.backend_xmin is not null and age(a.backend_xmin) >= age(%s::text::xid))
)
"""


#: Only sessions of the same user: autovacuum gives way by itself, and nobody else writes to a staging table.
_EVICT_SQL = """
select count(pg_catalog.pg_terminate_backend(a.pid))
from pg_catalog.pg_stat_activity a
where a.pid <> pg_catalog.pg_backend_pid() and a.usename = current_user and a.backend_type = 'client backend'
    and a.pid in (
        select l.pid from pg_catalog.pg_locks l
        where l.database = (select oid from pg_catalog.pg_database where datname = current_database())
            and l.relation = pg_catalog.to_regclass(%s)
    )
"""


def evict_writers(cursor: Any, staging: TableName) -> None:
    """End the sessions that hold a staging table; their transactions roll back."""
    cursor.execute(_EVICT_SQL, (qualify(staging),))


def current_transaction(cursor: Any) -> int:
    """A transaction number after all that have ended; 64 bits. Must be called outside a transaction."""
    cursor.execute("SELECT txid_current()")
    number: int = cursor.fetchone()[0]
    return number


def may_take_place(cursor: Any, staging: TableName, target: TableName, transaction: int) -> bool:
    """Whether a staging table filled up to a transaction may be swapped in: it is like the target, and no reader is
    older. Waits a little for such readers; within the open transaction.
    """
    cursor.execute("SELECT relpersistence = 'p' FROM pg_catalog.pg_class WHERE oid = %s::regclass", (qualify(staging),))
    if not cursor.fetchone()[0]:
        return False
    if _shape(find_columns(cursor, staging) or ()) != _shape(find_columns(cursor, target) or ()):
        return False
    deadline = time.monotonic() + OLD_SNAPSHOT_SECONDS
    while True:
        cursor.execute(_OLDER_SQL, (str(transaction % 2**32),))
        if not cursor.fetchone()[0]:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_AGAIN_SECONDS)


def _shape(columns: Sequence[Column]) -> list[tuple[str, str | None, bool]]:
    # NOT NULL of the key comes with the key's index, which the staging table gets when it is swapped in.
    return [(column.name, column.native_type, column.generated) for column in columns]
