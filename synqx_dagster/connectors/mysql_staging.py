"""Staging tables of MySQL and MariaDB, where creating and dropping a table commits.

A staging table's name tells its target and the epoch of the attempt that made it, so that a later load finds and drops
what a dead one left. Several sessions may fill one: each holds a lock by name while it does, which dies with its
connection, and by which a newer attempt finds the sessions of an older one. The servers' own lists of who holds a
table need rights that a loader rarely has, or are not kept at all.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from synqx_dagster.connectors.mysql_errors import code_of
from synqx_dagster.connectors.mysql_merge import find_collations, index_parts
from synqx_dagster.connectors.mysql_names import qualify, quote
from synqx_dagster.connectors.mysql_types import native_type
from synqx_dagster.errors import DatabaseError, RetryableError, TargetMismatchError
from synqx_dagster.model.table import Column, TableName

#: How long the staging table of an earlier, perhaps still living attempt is waited for; then a later load drops it.
_ORPHAN_WAIT_SECONDS = 2

#: What follows the epoch in the name of the table that collects the bad rows of a load in ranges.
_BAD_ROWS_SUFFIX = "_bad"

#: As many sessions may fill one table at a time; a mapping's parallelism ends below.
_WRITERS = 128

#: How long the sessions of an older attempt are waited for while the server undoes what they wrote.
EVICTION_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.05

#: The session has ended by itself.
_NO_SUCH_THREAD = 1094


class StagingTables(ABC):
    """The part of a write session that makes, shares and drops staging tables.

    See `synqx_dagster.connectors.protocol.WriteSession` and `synqx_dagster.connectors.protocol.SharedWriteSession`.
    """

    _database: str
    _place: str

    #: Names of the locks that say which staging tables this session fills.
    _held: dict[TableName, str]

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement."""

    @abstractmethod
    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query."""

    @abstractmethod
    def _run(self, sql: str) -> int:
        """Run one statement; the driver's errors come as they are."""

    @abstractmethod
    def _errors(self, doing: str, columns: Sequence[str] = ()) -> AbstractContextManager[Any]:
        """Wraps the driver's errors."""

    @abstractmethod
    def _table_options(self) -> str:
        """Engine, character set and collation of a new table."""

    # --- tables ---------------------------------------------------------------------------------------------

    def create_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """Create an empty table for this epoch with an index on the key, and drop those of earlier epochs."""
        self._refuse_unsafe_engine(target)
        prefix = staging_prefix(target)
        self._drop_earlier(target, prefix, epoch)
        staging = TableName(f"{prefix}{epoch}", target.schema)
        collations = find_collations(self.fetch_all, target.schema or self._database, target.name)
        lines = [
            f"{quote(column.name)} {spelt}{'' if spelt == 'json' else collations.get(column.name, '')}"
            f" {'NULL' if column.nullable else 'NOT NULL'}"
            for column in columns
            for spelt in (native_type(column),)
        ]
        if key:
            lines.append(f"INDEX ({', '.join(index_parts(columns, key, quote))})")
        self.execute(f"CREATE TABLE {qualify(staging)} ({', '.join(lines)}) {self._table_options()}")
        return staging

    def _drop_earlier(self, target: TableName, prefix: str, epoch: int) -> None:
        rows = self.fetch_all(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND LEFT(table_name, ?) = ?",
            (target.schema or self._database, len(prefix), prefix),
        )
        self.execute(f"SET SESSION lock_wait_timeout = {_ORPHAN_WAIT_SECONDS}")
        for (name,) in rows:
            number = str(name).removeprefix(prefix).removesuffix(_BAD_ROWS_SUFFIX)
            if number.isdigit() and int(number) <= epoch:
                try:
                    self.drop_staging(TableName(str(name), target.schema))
                except RetryableError:
                    # Its attempt is paused in mid statement. That attempt is fenced off; a later load drops its table.
                    if int(number) == epoch:
                        raise
        self.execute("SET SESSION lock_wait_timeout = 60")

    def _refuse_unsafe_engine(self, target: TableName) -> None:
        rows = self.fetch_all(
            "SELECT engine FROM information_schema.tables WHERE table_schema = ? AND table_name = ?"
            " AND engine NOT IN (SELECT engine FROM information_schema.engines WHERE transactions = 'YES')",
            (target.schema or self._database, target.name),
        )
        if rows:
            raise TargetMismatchError(
                f"the table {target} is stored by {rows[0][0]}, which has no transactions: a load that fails would"
                " leave it half replaced",
                hint="ALTER TABLE ... ENGINE=InnoDB",
                table=str(target),
            )

    def drop_staging(self, staging: TableName) -> None:
        """Drop a staging table if it is there; commits."""
        self.execute(f"DROP TABLE IF EXISTS {qualify(staging)}")

    # --- several sessions, one table ------------------------------------------------------------------------

    def create_shared_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """As `create_staging`: a table is there for every session as soon as it is created."""
        return self.create_staging(target, columns, epoch=epoch, replaces=replaces, key=key)

    def join_writers(self, staging: TableName) -> None:
        """Take the first free lock of those that the sessions hold which fill this table."""
        if staging in self._held:
            return
        for name in self._lock_names(staging):
            try:
                is_free = self.fetch_all("SELECT GET_LOCK(?, 0)", (name,)) == [(1,)]
            except DatabaseError:
                # A cluster may forbid such locks (pxc_strict_mode). What a paused attempt holds is then waited for.
                return
            if is_free:
                self._held[staging] = name
                return
        raise RetryableError(f"writing to {self._place}: more than {_WRITERS} sessions fill one staging table")

    def leave_writers(self) -> None:
        """Give back the locks; a connection that goes back to its pool must not be taken for a writer any more.

        Raises:
            pymysql.err.Error: The connection is gone, and its locks with it.
        """
        held, self._held = self._held, {}
        for name in held.values():
            self._run(f"DO RELEASE_LOCK('{name}')")

    def evict_writers(self, staging: TableName) -> None:
        """End other sessions that fill a shared staging table, and wait until the server has undone their work.

        Raises:
            RetryableError: The server takes long to undo it.
        """
        deadline = time.monotonic() + EVICTION_SECONDS
        while writers := self._find_writers(staging):
            for thread in writers:
                self._end(thread)
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"writing to {self._place}: the server still undoes what an earlier attempt wrote to {staging}",
                    hint="the load may be run again",
                )
            time.sleep(_LOOK_AGAIN_SECONDS)

    def become_table(self, staging: TableName, target: TableName) -> bool:
        """No: a RENAME would commit."""
        return False

    def adopt_staging(self, staging: TableName) -> None:
        """Be found as one that uses the table: a paused publication would keep a newer attempt from its own."""
        self.join_writers(staging)

    def _find_writers(self, staging: TableName) -> set[int]:
        asked = ", ".join(f"IS_USED_LOCK('{name}')" for name in self._lock_names(staging))
        try:
            rows = self.fetch_all(f"SELECT CONNECTION_ID(), {asked}")
        except DatabaseError:
            # Where such locks are forbidden nobody has one.
            return set()
        own, *others = rows[0]
        return {int(str(thread)) for thread in others if thread is not None and thread != own}

    def _end(self, thread: int) -> None:
        import pymysql

        with self._errors("ending a session of"):
            try:
                self._run(f"KILL CONNECTION {thread}")
            except pymysql.err.Error as error:
                if code_of(error) != _NO_SUCH_THREAD:
                    raise

    def _lock_names(self, staging: TableName) -> list[str]:
        # Locks are the server's, not a database's; 64 characters at most.
        digest = hashlib.sha256(f"{staging.schema or self._database}\0{staging.name}".encode()).hexdigest()[:32]
        return [f"synqx_{digest}_{number}" for number in range(_WRITERS)]


def staging_prefix(target: TableName) -> str:
    """What the names of a target's staging tables begin with; 64 characters are left for any epoch."""
    digest = hashlib.sha256(target.name.encode()).hexdigest()[:8]
    return f"_synqx_staging_{target.name[:16]}_{digest}_"
