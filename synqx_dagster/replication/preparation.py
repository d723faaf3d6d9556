"""What a run does before it reads: look at the source, make the publication fit, and see that the slot goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from synqx_dagster.connectors.protocol import Connector, ReplicationConnector, SnapshotConnector
from synqx_dagster.errors import PlanError, SlotInUseError, SlotLostError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.own_slot import refuse_foreign_slot
from synqx_dagster.replication.position import PositionBook, ReplicationState, TableState
from synqx_dagster.replication.progress import FollowRequest
from synqx_dagster.replication.publication import PublicationState, ensure_publication, find_publication
from synqx_dagster.replication.run_plan import Selection, find_loss, find_publication_loss, followed_of, select_tables
from synqx_dagster.replication.slot import SourceConnector, find_slot
from synqx_dagster.replication.snapshot_copy import CopyTask, DescribedTable, describe_table
from synqx_dagster.replication.source import SourceReport, SourceTable, inspect_source
from synqx_dagster.replication.source_columns import KnownRelation
from synqx_dagster.replication.tables import FollowedTable, state_schema

#: How long a run waits for the consumer before it to leave the slot: a connection that broke is noticed late.
_LEAVE_SECONDS = 10.0
_LOOK_SECONDS = 0.2

_OIDS_SQL = """
select n.nspname::text, c.relname::text, c.oid::bigint
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p')
"""


@dataclass
class Prepared:
    """A source that is ready to be followed.

    Attributes:
        tables: Followed, with their places in the target; those that are refused, too.
        refused: By source table, why its changes are left out.
        marks: By source table, what it is published by, once that was settled.
        publication: As it was found.
        oids: By source table, what tells a table that was made anew from the one before.
    """

    replication: Replication
    source: SourceConnector
    spill_directory: Path
    selection: Selection
    tables: list[FollowedTable]
    server_version: int
    publication: PublicationState
    oids: Mapping[TableName, int]
    refused: Mapping[TableName, str] = field(default_factory=dict)
    marks: Mapping[TableName, str] = field(default_factory=dict)

    def settle(self, applier: Applier, warn: Callable[[str, str], None]) -> None:
        """Decide, once no earlier run can commit any more, whether the slot goes on, and which tables begin anew.

        Args:
            warn: Told of what begins anew although nobody asked for that, with a key for each.

        Raises:
            SlotLostError: It does not, and tables are to be copied anew by whoever asks for it.
        """
        state = applier.state
        with self.source.write() as session:
            # Only now: a run before this one has stored and confirmed until it was overtaken.
            slot = find_slot(session, self.replication.slot_name)
        loss = find_loss(state, slot, self.replication.slot_name)
        if loss is None and self.selection.followed:
            name = self.replication.publication_name
            loss = find_publication_loss(state, applier.table_states.values(), self.publication, name)
        if loss is not None:
            if self.replication.snapshot != "again":
                applier.set_position(state.position, slot=state.slot, status="lost")
                raise SlotLostError(
                    f"replication {self.replication.name!r} has stopped: {loss}",
                    hint=f"`synqx replications resync {self.replication.name}` copies its tables anew",
                )
            applier.set_position(None, slot=state.slot, status="new")
        applier.forget_unfollowed()
        if applier.state.position is None:
            # Whatever a table was, a new slot knows nothing of what came before it.
            for source, table_state in applier.table_states.items():
                if table_state != TableState(source, table_state.target) or not applier.fits_target(source):
                    applier.reset_table(source)
            self._publish(applier)
            return
        for source, table_state in applier.table_states.items():
            if table_state.relation is not None and self._was_made_anew(source, table_state):
                applier.reset_table(source)
            else:
                self._settle_definition(applier, source, table_state, warn)
        self._settle_publication(applier, warn)
        self._publish(applier)

    def _settle_definition(
        self, applier: Applier, source: TableName, state: TableState, warn: Callable[[str, str], None]
    ) -> None:
        """Have a table copied again of which the record says something else than when it was copied."""
        if state.status == "pending":
            if not applier.fits_target(source):
                applier.reset_table(source)
            return
        fits = applier.fits_definition(source)
        if fits is None:
            applier.redefine_table(source)
        elif not fits and self.replication.snapshot == "never" and state.status == "following":
            applier.redefine_table(source)
            warn(f"changed {source}", f"{source}: the record was changed; it applies to changes from here on")
        elif not fits:
            applier.reset_table(source)
            warn(f"changed {source}", f"{source} is copied again: what the record says of it was changed")

    def _settle_publication(self, applier: Applier, warn: Callable[[str, str], None]) -> None:
        """Have tables copied again of which the publication may have left out changes.

        Written down before the publication is put right, which is all that tells of it.
        """
        found = self.publication.found
        for source, state in applier.table_states.items():
            is_other = found is not None and state.published not in (None, found.mark_of(source))
            if not (is_other or source in self.publication.lacking_tables):
                continue
            if state.status not in ("copying", "following"):
                continue
            why = f"the publication {self.replication.publication_name!r} did not bring all its changes"
            if self.replication.snapshot == "never":
                warn(f"published {source}", f"{source}: {why}")
            else:
                applier.reset_table(source)
                warn(f"published {source}", f"{source} is copied again: {why}")

    def _publish(self, applier: Applier) -> None:
        """Make the publication fit, and keep which one it is."""
        wanted = tuple(table.published for table in self.selection.followed)
        if not wanted:
            return
        name, found = self.replication.publication_name, self.publication.found
        with self.source.write() as session:
            if ensure_publication(session, name, wanted, self.server_version):
                found = find_publication(session, name, self.server_version)
        # One that goes again at this moment is missed by the next look.
        self.marks = {} if found is None else {one.table: found.mark_of(one.table) for one in wanted}
        applier.note_published(self.marks)

    def _was_made_anew(self, source: TableName, state: TableState) -> bool:
        oid = self.oids.get(source)
        return oid is not None and KnownRelation.from_json(str(state.relation)).oid != oid

    def copy_task(self, source: TableName, load_id: str) -> CopyTask:
        """The copy of a table."""
        table = self._find(source)
        followed = next(one for one in self.tables if one.source == source)
        names = tuple(column.name for column in table.columns)
        return CopyTask(followed, load_id, names, table.key)

    def describe(self, source: TableName) -> DescribedTable:
        """A table as the source has it now."""
        names = [column.name for column in self._find(source).columns]
        with self.source.read() as read:
            return describe_table(self.source, read, source, names)

    def _find(self, source: TableName) -> SourceTable:
        return next(table for table in self.selection.tables if table.table == source)

    def has_news(self, applier: Applier, target: Connector) -> bool:
        """Whether a new round has something to do: tables have come, were made anew, or are to be copied again."""
        with self.source.write() as session:
            report = inspect_source(session, self.replication)
            oids = _read_oids(session.fetch_all(_OIDS_SQL))
        known = {table.table: table.columns for table in self.selection.tables}
        if {table.table for table in report.tables} - known.keys() or not report.publication.is_sufficient:
            return True
        found = report.publication.found
        if found is None or any(found.mark_of(source) != mark for source, mark in self.marks.items()):
            return True
        if any(oids.get(source) != oid for source, oid in self.oids.items() if source in known and source in oids):
            return True
        with target.write() as session:
            book = PositionBook(target, session, self.replication.name, state_schema(self.replication))
            stored = book.find_tables()
        states = applier.table_states
        return any(
            stored[source].status == "pending" and states[source].status != "pending"
            for source in states
            if source in stored
        )


def prepare(request: FollowRequest, warn: Callable[[str, str], None]) -> Prepared:
    """Look at the source; `Prepared.settle` makes its publication cover what is followed.

    Args:
        warn: Told of what is left out, with a key for each.

    Raises:
        PlanError: Something is in the way; says what to grant or change.
        SlotInUseError: Somebody else reads the slot, and goes on.
    """
    replication = request.replication
    source = require_source(request.source)
    state = read_state(replication, request.target)
    report = _inspect(source, replication)
    if report.slot is not None and state.slot != replication.slot_name:
        # Before anything is made; asked again, as another run may have made it by now.
        refuse_foreign_slot(replication, report.slot, read_state(replication, request.target))
    selection = select_tables(replication, report, request.find_load, is_new=state.position is None)
    with source.write() as session:
        oids = _read_oids(session.fetch_all(_OIDS_SQL))
    for table, reason in selection.refused.items():
        warn(f"refused {table}", reason)
    for name in selection.gone:
        warn(f"gone {name}", f"{name}: the source has no such table")
    request.spill_directory.mkdir(parents=True, exist_ok=True)
    wanted = {table.table for table in selection.tables}
    return Prepared(
        replication=replication,
        source=source,
        spill_directory=request.spill_directory,
        selection=selection,
        tables=followed_of(replication, selection.tables),
        server_version=report.server.version,
        publication=report.publication,
        oids={table: oid for table, oid in oids.items() if table in wanted},
        refused=selection.refused,
    )


def require_source(connector: Connector) -> SourceConnector:
    """The connector as one whose changes can be followed.

    Raises:
        PlanError: It is none.
    """
    if not (isinstance(connector, ReplicationConnector) and isinstance(connector, SnapshotConnector)):
        raise PlanError(
            f"changes of {connector.db_type} cannot be followed",
            hint="the source of a replication is a PostgreSQL connection",
        )
    return cast("SourceConnector", connector)


def read_state(replication: Replication, target: Connector) -> ReplicationState:
    """What the target knows of a replication; takes nothing over."""
    with target.write() as session:
        return PositionBook(target, session, replication.name, state_schema(replication)).find_state()


def _inspect(source: SourceConnector, replication: Replication) -> SourceReport:
    """The source's report, once nobody reads the slot: two runs would take the replication from each other."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    while True:
        with source.write() as session:
            slot = find_slot(session, replication.slot_name)
            if slot is None or slot.active_pid is None:
                return inspect_source(session, replication)
        if time.monotonic() >= deadline:
            raise SlotInUseError(
                f"the slot {replication.slot_name!r} is being read by another run, or by another program"
                f" (process {slot.active_pid} of the source)",
                hint="wait for it, or pause the replication there",
            )
        time.sleep(_LOOK_SECONDS)


def _read_oids(rows: list[tuple[object, ...]]) -> dict[TableName, int]:
    return {TableName(str(name), str(schema)): int(str(oid)) for schema, name, oid in rows}
