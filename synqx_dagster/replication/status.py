"""How a replication is, asked of its source and its target; takes nothing over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from synqx_dagster.connectors.protocol import Connector, WriteSession
from synqx_dagster.errors import ConfigurationError, RetryableError, StatementTimeoutError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.changes import format_lsn
from synqx_dagster.replication.guard import SlotWal, Verdict, format_bytes, judge, wal_of
from synqx_dagster.replication.partitions import PartitionSet, compare, read_partitions
from synqx_dagster.replication.position import PositionBook, ReplicationState, TableState
from synqx_dagster.replication.preparation import require_source
from synqx_dagster.replication.publication import was_made_by_us
from synqx_dagster.replication.run_plan import find_loss, find_publication_loss, waits_for_copy
from synqx_dagster.replication.slot import SlotState, drop_slot, find_slot
from synqx_dagster.replication.source import SourceTable, inspect_source
from synqx_dagster.replication.tables import state_schema

#: What is said of tables that take changes and may differ from the source all the same.
DOUBT = "rows may differ from the source's"

#: Who takes a replication over, where it is no run.
BY_HAND = "by hand"

#: An idle slot that is so far behind is worth a run that moves it on, though nothing in the log concerns us.
IDLE_LAG_BYTES = 16 * 1024 * 1024
#: How long the source may look for a change in its log; if it finds none in this time a run looks on.
_PEEK_SECONDS = 5.0

_PEEK_SQL = """
select count(*) from (
    select 1 from pg_catalog.pg_logical_slot_peek_binary_changes(
        ?::name, null, 1, 'proto_version', '1', 'publication_names', ?)
) as found
"""

#: ``new``: never started. ``copying``, ``following``. ``lost``: stopped until it is copied anew. ``degraded``: some of
#: its tables have stopped, or may differ from the source.
StateWord = Literal["new", "copying", "following", "degraded", "lost"]


@dataclass(frozen=True)
class TableStatus:
    """One table. ``copied_at`` is an LSN as PostgreSQL prints it."""

    source: TableName
    target: TableName
    status: str
    copied_at: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class SlotStatus:
    """The slot at the source. What the server's version does not tell is None."""

    is_active: bool
    held_bytes: int
    lag_bytes: int
    wal_status: str | None
    safe_bytes: int | None
    inactive_since: datetime | None


@dataclass(frozen=True)
class ReplicationStatus:
    """How a replication is.

    Attributes:
        reason: What is the matter, where something is.
        slot: None where there is none.
        lag_bytes: Log that the target does not have yet, other databases' part included; None without slot.
        lag_seconds: Since the target was last up to date, as far as anybody can tell; 0 where nothing lies behind.
        guard: What the WAL guard says.
        cost: What it costs that nobody reads the slot; None where somebody does.
    """

    name: str
    enabled: bool
    state: StateWord
    slot_name: str
    publication_name: str
    slot: SlotStatus | None
    position: str | None
    tables: tuple[TableStatus, ...]
    guard: Verdict
    reason: str | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    cost: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        slot = self.slot
        return {
            "name": self.name,
            "enabled": self.enabled,
            "state": self.state,
            "reason": self.reason,
            "slot_name": self.slot_name,
            "publication_name": self.publication_name,
            "slot": None
            if slot is None
            else {
                "active": slot.is_active,
                "held_bytes": slot.held_bytes,
                "lag_bytes": slot.lag_bytes,
                "wal_status": slot.wal_status,
                "safe_wal_bytes": slot.safe_bytes,
                "inactive_since": None if slot.inactive_since is None else slot.inactive_since.isoformat(),
            },
            "position": self.position,
            "lag_bytes": self.lag_bytes,
            "lag_seconds": self.lag_seconds,
            "guard": {"level": self.guard.level, "action": self.guard.action, "text": self.guard.text},
            "cost": self.cost,
            "tables": [
                {
                    "source": str(table.source),
                    "target": str(table.target),
                    "status": table.status,
                    "copied_at": table.copied_at,
                    "reason": table.reason,
                }
                for table in self.tables
            ],
        }


def read_status(replication: Replication, source: Connector, target: Connector) -> ReplicationStatus:
    """Ask the source for the slot and the target for its state.

    Raises:
        RetryableError: One of them does not answer.
    """
    seen = look(replication, source, target)
    slot, state, tables, loss = seen.slot, seen.state, seen.tables, seen.loss
    found = [
        TableStatus(
            one.source,
            one.target,
            one.status,
            None if one.copied_at is None else format_lsn(one.copied_at),
            one.reason,
        )
        for one in sorted(tables.values(), key=lambda one: str(one.source))
    ]
    word = _state_word(state, tables, loss)
    stopped = [str(table.source) for table in found if table.status == "stopped"]
    doubtful = [str(table.source) for table in found if table.status == "following" and table.reason]
    parts = [f"{what}: {', '.join(names)}" for what, names in (("stopped", stopped), (DOUBT, doubtful)) if names]
    reason = loss or "; ".join(parts) or None
    lag = None if slot is None else slot.confirmed_lag_bytes
    verdict = Verdict("ok", replication.wal_guard.action)
    if slot is not None:
        verdict = judge(replication.wal_guard, wal_of(slot))
    return ReplicationStatus(
        name=replication.name,
        enabled=replication.enabled,
        state=word,
        slot_name=replication.slot_name,
        publication_name=replication.publication_name,
        slot=None
        if slot is None
        else SlotStatus(
            slot.active_pid is not None,
            slot.restart_lag_bytes,
            slot.confirmed_lag_bytes,
            slot.wal_status,
            slot.safe_wal_bytes,
            slot.inactive_since,
        ),
        position=None if state.position is None else format_lsn(state.position),
        tables=tuple(found),
        guard=verdict,
        reason=reason,
        lag_bytes=lag,
        lag_seconds=_read_lag_seconds(replication, source, slot),
        cost=_describe_cost(replication, slot),
    )


def _state_word(state: ReplicationState, tables: Mapping[TableName, TableState], loss: str | None) -> StateWord:
    if loss is not None or state.status == "lost":
        return "lost"
    if state.position is None:
        return "new"
    if any(waits_for_copy(one) for one in tables.values()) or state.status == "copying":
        return "copying"
    return "degraded" if any(one.status == "stopped" or one.reason for one in tables.values()) else "following"


def _describe_cost(replication: Replication, slot: SlotState | None) -> str | None:
    if slot is None or slot.active_pid is not None:
        return None
    text = f"nobody reads the slot: the source keeps {format_bytes(slot.restart_lag_bytes)} of log for it"
    if not replication.enabled:
        text += ", and all that it writes until the replication is started or dropped"
    if slot.safe_wal_bytes is not None:
        text += f"; after {format_bytes(max(slot.safe_wal_bytes, 0))} more the server may give the slot up"
    return text


_LAG_SQL = """
select coalesce(extract(epoch from replay_lag), 0)::float8
from pg_catalog.pg_stat_replication where pid = ?
"""


def _read_lag_seconds(replication: Replication, source: Connector, slot: SlotState | None) -> float | None:
    """How old what the target has is: by the server's own measure while somebody reads, else by its last look."""
    if slot is None:
        return None
    if slot.confirmed_lag_bytes == 0:
        return 0.0
    if slot.active_pid is not None:
        with source.write() as session:
            rows = session.fetch_all(_LAG_SQL, (slot.active_pid,))
        return float(str(rows[0][0])) if rows else None
    if slot.inactive_since is not None:
        return max(0.0, time.time() - slot.inactive_since.timestamp())
    return None


def read_slot(replication: Replication, source: Connector) -> SlotState | None:
    """The slot as its server shows it; None where there is none."""
    with require_source(source).write() as session:
        return find_slot(session, replication.slot_name)


def read_slot_wal(replication: Replication, source: Connector) -> SlotWal | None:
    """What the guard looks at; None where there is no slot."""
    slot = read_slot(replication, source)
    return None if slot is None else wal_of(slot)


def read_book(replication: Replication, target: Connector) -> tuple[ReplicationState, dict[TableName, TableState]]:
    """What the target knows of a replication, and of its tables."""
    with target.write() as session:
        book = PositionBook(target, session, replication.name, state_schema(replication))
        return book.find_state(), book.find_tables()


@dataclass(frozen=True)
class Seen:
    """A replication at its two ends, while a run may go on.

    Attributes:
        loss: Why the slot does not go on where the target is; None where it does.
    """

    slot: SlotState | None
    state: ReplicationState
    tables: dict[TableName, TableState]
    loss: str | None


def look(replication: Replication, source: Connector, target: Connector) -> Seen:
    """Look at both ends, and judge the slot only by what holds whatever a run does between the looks.

    What was confirmed before the target was asked, the target had. That the slot and the log are there has to be seen
    after it was asked.
    """
    name = replication.slot_name
    slot = read_slot(replication, source)
    state, tables = read_book(replication, target)
    loss = find_loss(state, slot, name)
    if loss is not None:
        before, slot = slot, read_slot(replication, source)
        judged = None if slot is None else replace(slot, confirmed_lsn=None if before is None else before.confirmed_lsn)
        loss = find_loss(state, judged, name)
    return Seen(slot, state, tables, loss)


# --- whether there is something to do ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a run would have to do.

    Attributes:
        reason: Why a run is to start; None where there is nothing to do.
        lost: Why none may; None where it may.
        is_by_hand: Somebody has put something right since the last run: there is no need to wait because it failed.
    """

    reason: str | None = None
    lost: str | None = None
    is_by_hand: bool = False


def find_work(replication: Replication, source: Connector, target: Connector) -> Work:
    """Whether a run has something to do, without reading the slot.

    Raises:
        RetryableError: The source or the target does not answer.
    """
    seen = look(replication, source, target)
    slot, state, tables, loss = seen.slot, seen.state, seen.tables, seen.loss
    if loss is not None:
        return Work("it begins anew with a new slot") if replication.snapshot == "again" else Work(lost=loss)
    if state.position is None or slot is None:
        return Work("it has not begun yet", is_by_hand=state.run_id == BY_HAND)
    if replication.continuous:
        return Work("it follows continuously")
    waiting = [str(one.source) for one in tables.values() if waits_for_copy(one)]
    if waiting:
        return Work(f"tables wait for their copy: {', '.join(waiting[:5])}")
    if not slot.confirmed_lag_bytes:
        return Work()
    if slot.confirmed_lag_bytes > IDLE_LAG_BYTES:
        return Work(f"the slot is behind by {format_bytes(slot.confirmed_lag_bytes)}")
    return _find_changes(replication, source, state, tables)


def _find_changes(
    replication: Replication, source: Connector, state: ReplicationState, tables: Mapping[TableName, TableState]
) -> Work:
    with require_source(source).write() as session:
        report = inspect_source(session, replication)
        new = [str(table.table) for table in report.tables if table.table not in tables]
        if new:
            return Work(f"tables have come: {', '.join(new[:5])}")
        loss = find_publication_loss(state, tables.values(), report.publication, replication.publication_name)
        if loss is not None:
            return Work(loss)
        if not report.publication.is_sufficient:
            return Work("the publication does not cover the tables any more")
        changed = [str(table.table) for table in report.tables if _has_changed_partitions(session, table, tables)]
        if changed:
            return Work(f"partitions have changed: {', '.join(changed[:5])}")
        session.begin()
        try:
            session.execute(f"set local statement_timeout = {int(_PEEK_SECONDS * 1000)}")
            rows = session.fetch_all(_PEEK_SQL, (replication.slot_name, f'"{replication.publication_name}"'))
        except StatementTimeoutError:
            return Work("the slot has much to look through")
        finally:
            session.rollback()
    return Work("the slot has changes") if int(str(rows[0][0])) else Work()


def _has_changed_partitions(session: WriteSession, table: SourceTable, states: Mapping[TableName, TableState]) -> bool:
    """Whether something happened to partitions of which the log tells nothing, so that no change would start a run."""
    state = states.get(table.table)
    if not table.is_partitioned or state is None or state.status != "following" or state.partitions is None:
        return False
    now = read_partitions(session, table.table)
    return now is not None and compare(PartitionSet.from_json(state.partitions), now).is_suspicious


# --- giving a slot up -------------------------------------------------------------------------------------------------


def drop_endangered(replication: Replication, source: Connector, target: Connector, why: str) -> None:
    """Drop a slot that nobody reads before the source's disk is full, and have the tables copied anew.

    The slot goes also where the target does not answer, if a publication of ours is at the source: that it is gone says
    the same.

    Raises:
        ConfigurationError: It was not made for this replication, as far as is known.
        SlotInUseError: Somebody reads it by now.
    """
    name = replication.slot_name
    try:
        is_ours: bool | None = read_book(replication, target)[0].slot == name
    except RetryableError:
        is_ours = None
    with require_source(source).write() as session:
        if is_ours is None:
            is_ours = was_made_by_us(session, replication.publication_name)
        if not is_ours:
            raise ConfigurationError(
                f"the slot {name!r} was left: nothing says that it was made for replication {replication.name!r}",
                hint="give `slot:` another name, or look who reads it",
            )
        drop_slot(session, name)
    try:
        with target.write() as session:
            book = PositionBook(target, session, replication.name, state_schema(replication))
            state = book.find_state()
            if state.epoch:
                session.begin()
                book.advance(replace(book.check_fence(state.epoch), slot=None, status="lost"))
                session.commit()
    except RetryableError:
        # The next one who looks finds no slot.
        return
