"""Replication slots: looked at, made, dropped, and moved on in a database where nothing happens.

Guarantee: a slot that was made and not kept is dropped again; dropping what is gone is no error. That one consumer
reads a slot is the server's own rule; who comes second gets `SlotInUseError`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

from synqx_dagster.connectors.protocol import (
    Connector,
    CreatedSlot,
    ReplicationConnector,
    ReplicationSession,
    WriteSession,
)
from synqx_dagster.errors import ConfigurationError, SlotInUseError, SynqxError
from synqx_dagster.replication.changes import parse_lsn

#: The plugin whose messages we read; it comes with PostgreSQL.
PLUGIN = "pgoutput"

#: Marks our heartbeats in the log.
HEARTBEAT_PREFIX = "synqx"

#: How long a slot's consumer may take to leave it, once it was told to or its connection was closed.
_LEAVE_SECONDS = 30.0
_LOOK_SECONDS = 0.05

# What versions know of a slot differs, so it is read as one JSON value.
_SLOT_SQL = """
select pg_catalog.to_jsonb(s),
    case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
        else pg_catalog.pg_current_wal_lsn() end::text,
    pg_catalog.current_database()::text
from pg_catalog.pg_replication_slots s where s.slot_name = ?
"""


class SourceConnector(ReplicationConnector, Connector, Protocol):
    """A connector to a source that can be followed."""


@dataclass(frozen=True)
class SlotState:
    """A slot as its server shows it. What a version does not know is None.

    Attributes:
        database: None for a physical slot.
        is_here: It belongs to the session's database, and its plugin is ours.
        active_pid: The server's process for its consumer; None when nobody reads it.
        restart_lsn: From where on the log is kept for it; None when it has lost it.
        confirmed_lsn: All before was confirmed.
        wal_end: Where the log ends.
        wal_status: ``reserved``, ``extended``, ``unreserved`` or ``lost`` (version 13).
        safe_wal_bytes: How much may be written before it is in danger (version 13); None: no limit.
        invalidation_reason: Why the server has given it up (version 17, or a word of our own for older ones).
        inactive_since: Since when nobody reads it (version 17).
    """

    name: str
    plugin: str | None
    database: str | None
    is_temporary: bool
    is_here: bool
    active_pid: int | None
    restart_lsn: int | None
    confirmed_lsn: int | None
    wal_end: int
    wal_status: str | None
    safe_wal_bytes: int | None
    invalidation_reason: str | None
    inactive_since: datetime | None

    @property
    def is_lost(self) -> bool:
        """Whether the server has given it up: what it needs of the log is gone."""
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @property
    def restart_lag_bytes(self) -> int:
        """How much of the log the server keeps for it."""
        return 0 if self.restart_lsn is None else max(0, self.wal_end - self.restart_lsn)

    @property
    def confirmed_lag_bytes(self) -> int:
        """How much of the log lies behind what was confirmed, other databases' part included."""
        return 0 if self.confirmed_lsn is None else max(0, self.wal_end - self.confirmed_lsn)


def find_slot(session: WriteSession, name: str) -> SlotState | None:
    """A slot as it is; None if there is none."""
    rows = session.fetch_all(_SLOT_SQL, [name])
    if not rows:
        return None
    facts, wal_end, database = cast("tuple[dict[str, Any], str, str]", rows[0])
    inactive_since = facts.get("inactive_since")
    reason = facts.get("invalidation_reason")
    if reason is None and facts.get("conflicting"):
        reason = "conflict"  # Version 16 knows only that.
    restart_lsn, confirmed_lsn = facts["restart_lsn"], facts["confirmed_flush_lsn"]
    return SlotState(
        name=name,
        plugin=facts["plugin"],
        database=facts["database"],
        is_temporary=facts["temporary"],
        is_here=facts["database"] == database and facts["plugin"] == PLUGIN,
        active_pid=facts["active_pid"],
        restart_lsn=None if restart_lsn is None else parse_lsn(restart_lsn),
        confirmed_lsn=None if confirmed_lsn is None else parse_lsn(confirmed_lsn),
        wal_end=parse_lsn(wal_end),
        wal_status=facts.get("wal_status"),
        safe_wal_bytes=facts.get("safe_wal_size"),
        invalidation_reason=reason,
        inactive_since=None if inactive_since is None else datetime.fromisoformat(inactive_since),
    )


class NewSlot:
    """A slot that was just made. `snapshot` can be used within the block of `create_slot`, and no longer."""

    def __init__(self, created: CreatedSlot) -> None:
        self.name = created.name
        self.consistent_lsn = created.consistent_lsn
        self.snapshot = created.snapshot
        self.is_kept = False

    def keep(self) -> None:
        """Somebody has written down for good that the slot is there: it is theirs from now on."""
        self.is_kept = True


@contextmanager
def create_slot(
    connector: SourceConnector, name: str, *, temporary: bool = False, replaces: bool = False
) -> Iterator[NewSlot]:
    """Make a slot; at the end of the block it is dropped, unless `NewSlot.keep` was called.

    A kill between the two leaves the slot. Who is about to make one therefore writes down its name first, and when
    he finds that note and no more, calls this with `replaces`.

    Args:
        connector: The source's.
        name: The slot's.
        temporary: It goes with the block in any case.
        replaces: Drop one of this name first, of this database and of our plugin, that nobody reads.

    Raises:
        ConfigurationError: There is a slot of this name, or the server's ``wal_level`` is not ``logical``.
        RetryableError: The server has no slot free, or transactions were open for too long.
        NotPermittedError: The user may not replicate.
    """
    if replaces:
        with connector.write() as session:
            drop_slot(session, name)
    with contextlib.ExitStack() as stack:
        replication: ReplicationSession = stack.enter_context(connector.replicate())
        slot = NewSlot(replication.create_slot(name, temporary=temporary))
        try:
            yield slot
        except BaseException as error:
            if not (temporary or slot.is_kept):
                stack.close()
                _drop_after(error, connector, name)
            raise
        if not (temporary or slot.is_kept):
            stack.close()
            with connector.write() as session:
                drop_slot(session, name)


def _drop_after(error: BaseException, connector: SourceConnector, name: str) -> None:
    """Drop a slot because of an error, which goes on; that it could not be dropped is noted on it."""
    try:
        with connector.write() as session:
            drop_slot(session, name)
    except SynqxError as second:
        error.add_note(f"the slot {name!r} could not be dropped, and keeps the source's log: {second}")


def drop_slot(session: WriteSession, name: str, *, ends_consumer: bool = False) -> bool:
    """Drop a slot; False if there was none.

    Args:
        session: Of the slot's database.
        name: The slot's.
        ends_consumer: End the connection of whoever reads it. Left out, he is given a moment to leave by himself.

    Raises:
        SlotInUseError: Somebody reads it, and goes on.
        ConfigurationError: It is not ours: of another database, or another plugin.
    """
    deadline = time.monotonic() + _LEAVE_SECONDS
    patience = deadline if ends_consumer else time.monotonic() + 5 * _LOOK_SECONDS
    while True:
        slot = find_slot(session, name)
        if slot is None:
            return False
        if not slot.is_here:
            raise ConfigurationError(
                f"the slot {name!r} belongs to database {slot.database!r} and plugin {slot.plugin!r}, and not to us",
                hint="give the replication a slot of another name",
            )
        if slot.active_pid is not None:
            if time.monotonic() > patience:
                raise SlotInUseError(
                    f"the slot {name!r} is being read (by the server's process {slot.active_pid})",
                    hint="pause the replication, or end the other consumer",
                )
            if ends_consumer:
                session.fetch_all("select pg_catalog.pg_terminate_backend(?)", [slot.active_pid])
            time.sleep(_LOOK_SECONDS)
            continue
        try:
            session.fetch_all("select pg_catalog.pg_drop_replication_slot(?)", [name])
        except SynqxError as error:
            if error.context.get("sqlstate") == "42704":
                return False  # Somebody was quicker.
            if error.context.get("sqlstate") != "55006" or time.monotonic() > deadline:
                raise
            continue
        return True


def heartbeat(session: WriteSession) -> None:
    """Leave a mark of our own in the log, so that the slot of a database where nothing happens has something to pass.

    The mark commits like a change, and no table holds it.
    """
    session.fetch_all("select pg_catalog.pg_logical_emit_message(true, ?, '')::text", [HEARTBEAT_PREFIX])
