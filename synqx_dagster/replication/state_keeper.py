"""What one attempt knows of its replication and tables, and how it changes that in the target beside the batches.

Guarantee: each change is a transaction of its own, which commits only while no newer attempt has begun.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from synqx_dagster.connectors.protocol import Connector, WriteSession
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.replication.position import PositionBook, ReplicationState, TableState
from synqx_dagster.replication.source_columns import KnownRelation, SourceColumn
from synqx_dagster.replication.tables import FollowedTable, digest_definition, state_schema

logger = logging.getLogger(__name__)


class StateKeeper:
    """The states of a replication and its tables, for one attempt; the methods may be called by several threads."""

    def __init__(self, replication: Replication, target: Connector, tables: Sequence[FollowedTable]) -> None:
        self._replication = replication
        self._target = target
        self._followed = {table.source: table for table in tables}
        self._definitions = {table.source: digest_definition(replication, table) for table in tables}
        self._schema = state_schema(replication)
        self._state = ReplicationState()
        self._states: dict[TableName, TableState] = {}
        self._published: Mapping[TableName, str] = {}
        self._lock = threading.Lock()

    @property
    def state(self) -> ReplicationState:
        """The replication as this attempt has left it."""
        return self._state

    @property
    def table_states(self) -> Mapping[TableName, TableState]:
        """The followed tables by source table, as this attempt has left them."""
        with self._lock:
            return dict(self._states)

    def fits_target(self, source: TableName) -> bool:
        """Whether a table's state speaks of the target that the record names now."""
        return self._states[source].target == self._followed[source].target

    def fits_definition(self, source: TableName) -> bool | None:
        """Whether what is there of a table is what the record says now; None where an earlier version kept no note."""
        state = self._states[source]
        if not self.fits_target(source):
            return False
        return None if state.definition is None else state.definition == self._definitions[source]

    # --- states, each in a transaction of its own -------------------------------------------------------------

    def set_position(self, position: int | None, *, slot: str | None, status: str) -> None:
        """Enter a new slot's beginning, or that there is none any more.

        Raises:
            FencedError: A newer attempt has taken over.
        """
        with self._change_book() as (book, found):
            state = replace(found, position=position, slot=slot, status=status)
            book.advance(state)
        with self._lock:
            self._state = state

    def begin_copy(
        self,
        source: TableName,
        load_id: str,
        *,
        oid: int | None = None,
        columns: Sequence[Column] = (),
        found: Mapping[str, SourceColumn] | None = None,
        partitions: str | None = None,
    ) -> None:
        """Enter that a table is being copied by this load; until it follows, its changes are left to the copy.

        Args:
            oid, columns, found: The table as the copy reads it, so that a change of its columns since then is noticed.
            partitions: Its partitions as the copy reads them.
        """
        relation = None if oid is None else KnownRelation.of(oid, columns, found or {}).to_json()
        definition = self._definitions[source]
        self._put(
            source,
            lambda state: replace(
                state,
                status="copying",
                load_id=load_id,
                copied_at=None,
                relation=relation,
                reason=None,
                definition=definition,
                partitions=partitions,
                published=self._published.get(source),
            ),
        )

    def follow(
        self,
        source: TableName,
        copied_at: int,
        *,
        oid: int | None = None,
        columns: Sequence[Column] = (),
        found: Mapping[str, SourceColumn] | None = None,
        partitions: str | None = None,
    ) -> None:
        """Enter that a table takes the changes of transactions that commit at or after `copied_at`.

        Args:
            oid, columns, found, partitions: The table as it was then. Left out: as `begin_copy` has entered it.
        """
        relation = None if oid is None else KnownRelation.of(oid, columns, found or {}).to_json()
        self._put(
            source,
            lambda state: replace(
                state,
                status="following",
                copied_at=copied_at,
                relation=state.relation if relation is None else relation,
                reason=None,
                definition=self._definitions[source],
                partitions=state.partitions if oid is None else partitions,
                published=self._published.get(source, state.published),
            ),
        )

    def note_published(self, published: Mapping[TableName, str]) -> None:
        """Enter by what the changes of tables come from now on, in one transaction; see `TableState.published`."""
        self._published = published
        with self._lock:
            changed = [
                replace(state, published=published[source])
                for source, state in self._states.items()
                # Of one that is to be copied it is entered when that begins.
                if state.status != "pending" and state.published != published.get(source, state.published)
            ]
            if not changed:
                return
            with self._change_book() as (book, _):
                written = [state for state in changed if self._put_table(book, state)]
            self._states.update({state.source: state for state in written})

    def redefine_table(self, source: TableName) -> None:
        """Enter that a table goes on as the record has it now, without a copy."""
        target, definition = self._followed[source].target, self._definitions[source]

        def redefined(state: TableState) -> TableState:
            # Another target may have to be made yet.
            load_id = state.load_id if state.target == target else None
            return replace(state, target=target, definition=definition, load_id=load_id)

        self._put(source, redefined)

    def note_partitions(self, source: TableName, partitions: str, reason: str | None) -> None:
        """Enter a table's partitions as they are, and why its rows may differ from the source's for their sake."""
        self._put(source, lambda state: replace(state, partitions=partitions, reason=reason))

    def stop_table(self, source: TableName, reason: str) -> None:
        """Enter that a table takes no changes until it is copied again."""
        self._put(source, lambda state: replace(state, status="stopped", reason=reason))

    def reset_table(self, source: TableName) -> None:
        """Enter that a table is to be copied again."""
        target = self._followed[source].target
        self._put(source, lambda state: TableState(source, target))

    def forget_unfollowed(self) -> None:
        """Forget tables that are followed no more: one that comes back begins anew, and others may write its target."""
        with self._lock, self._change_book() as (book, _):
            for source in book.find_tables().keys() - self._followed.keys():
                book.forget_table(source)

    def _put(self, source: TableName, change: Callable[[TableState], TableState]) -> None:
        with self._lock:
            state = change(self._states[source])
            with self._change_book() as (book, _):
                if not self._put_table(book, state):
                    return
            self._states[source] = state
            self._table_changed(source)

    def _put_table(self, book: PositionBook, state: TableState) -> bool:
        """Write a table's state; False where somebody has asked meanwhile for a copy of it, which stays to be done.

        What this attempt knows of the table is left as it is: that it differs is how the request is noticed.
        """
        if self._states[state.source].status != "pending" and book.is_pending(state.source):
            logger.info("%s: %s is to be copied again", self._replication.name, state.source)
            return False
        book.put_table(state)
        return True

    @contextmanager
    def _change_book(self) -> Iterator[tuple[PositionBook, ReplicationState]]:
        """The target's state in a transaction of its own, once it is certain that no newer attempt has begun."""
        with self._target.write() as session:
            book = self._open_book(session)
            session.begin()
            try:
                yield book, book.check_fence(self._state.epoch)
                session.commit()
            except BaseException:
                session.rollback()
                raise

    def _table_changed(self, source: TableName) -> None:
        """Called, under the lock, when a table's state has changed."""

    def _open_book(self, session: WriteSession) -> PositionBook:
        return PositionBook(self._target, session, self._replication.name, self._schema)
