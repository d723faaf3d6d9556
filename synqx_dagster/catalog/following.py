"""The latest revision's records, kept in memory and brought up to date by what changed since.

Guarantee: `SnapshotFollower.latest` is the latest revision as a whole, as `Catalog.snapshot` reads it; the time it
takes grows with what changed since the last call, and not with the catalog.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.catalog import revisions, tables
from synqx_dagster.catalog.revisions import RecordKey, decode_body
from synqx_dagster.catalog.snapshot import CatalogSnapshot


class SnapshotFollower:
    """Holds one snapshot. Safe to share between threads: whoever finds it behind brings it up to date, others wait.

    Args:
        read: Opens a transaction that reads.
    """

    def __init__(self, read: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._snapshot: CatalogSnapshot | None = None

    def latest(self) -> CatalogSnapshot:
        """The records of the latest revision."""
        with self._lock, self._read() as connection:
            number = revisions.read_latest(connection)
            known = self._snapshot
            # A catalog that went back was restored from a backup: what is known may be of another history.
            if known is None or number < known.revision:
                known = CatalogSnapshot.from_records(number, revisions.iter_records(connection, number))
            elif number > known.revision:
                known = _follow(connection, known, number)
            self._snapshot = known
            return known


def _follow(connection: Connection, known: CatalogSnapshot, number: int) -> CatalogSnapshot:
    """The snapshot of a revision from that of an earlier one."""
    record, version = tables.record, tables.record_version
    query = (
        sa.select(
            record.c.kind, record.c.name, version.c.body, version.c.digest, version.c.valid_from, version.c.valid_to
        )
        .join_from(version, record, record.c.record_id == version.c.record_id)
        .where(
            sa.or_(
                version.c.valid_from.between(known.revision + 1, number),
                version.c.valid_to.between(known.revision + 1, number),
            )
        )
    )
    changed, ended = [], set[RecordKey]()
    for row in connection.execute(query):
        if row.valid_to is not None and row.valid_to <= number:
            ended.add((row.kind, row.name))
        elif row.valid_from <= number:
            changed.append(decode_body(row.kind, row.name, row.body, row.digest))
    return known.moved_to(number, changed, ended)
