"""One look at a PostgreSQL server's write-ahead log: how large, kept by which slots, read and archived by whom.

Guarantee: a figure that the user may not see is missing, by name and with the statement that grants it, and all others
are there. Sizes and lags are bytes, of the moment of the look; nothing is estimated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from synqx_dagster.connectors.protocol import MonitorConnector, MonitorSession
from synqx_dagster.errors import DatabaseError, NotPermittedError, RetryableError
from synqx_dagster.monitor.queries import find_query

WalStatus = Literal["reserved", "extended", "unreserved", "lost"]


@dataclass(frozen=True)
class WalSlot:
    """One replication slot.

    Attributes:
        restart_lag_bytes: Log that the server keeps for it, on its disk; None where it keeps none yet, or none more.
        confirmed_lag_bytes: Log that its reader has not confirmed; logical slots only.
        wal_status: What became of the log that it needs (13+): reserved, extended, unreserved or lost.
        safe_wal_bytes: Log that may be written before it can be lost (13+); None: it is lost, or nothing bounds it.
        spilled_transactions, spills, spilled_bytes: Decoding for it that did not fit into memory (14+), counted.
        inactive_since: Since when nobody reads it (17+).
        invalidation_reason: Why it is lost for good (17+; 16: a standby's conflict).
    """

    name: str
    slot_type: str
    plugin: str | None
    database: str | None
    temporary: bool
    active: bool
    restart_lag_bytes: int | None
    confirmed_lag_bytes: int | None
    wal_status: str | None
    safe_wal_bytes: int | None
    inactive_since: datetime | None
    invalidation_reason: str | None
    spilled_transactions: int | None = None
    spills: int | None = None
    spilled_bytes: int | None = None
    streamed_transactions: int | None = None
    streamed_bytes: int | None = None
    total_transactions: int | None = None
    total_bytes: int | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it can never be read on."""
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @property
    def lag_bytes(self) -> int | None:
        """Log on the server's disk that is there for it."""
        return self.restart_lag_bytes if self.restart_lag_bytes is not None else self.confirmed_lag_bytes


@dataclass(frozen=True)
class WalClient:
    """Who reads the log: a standby, or a reader of a slot. Lags are counted from the end of the log."""

    pid: int
    user_name: str | None
    application_name: str | None
    address: str | None
    state: str | None
    sync_state: str | None
    sent_lag_bytes: int | None
    write_lag_bytes: int | None
    flush_lag_bytes: int | None
    replay_lag_bytes: int | None
    replay_lag_seconds: float | None
    connected_at: datetime | None


@dataclass(frozen=True)
class WalSettings:
    """What bounds the log. None for a size: nothing bounds it."""

    wal_level: str
    archive_mode: str
    max_wal_bytes: int
    wal_keep_bytes: int
    max_slot_wal_keep_bytes: int | None
    max_slots: int
    max_clients: int


@dataclass(frozen=True)
class WalStatistics:
    """What was written (14+), counted since ``reset_at``."""

    records: int
    full_page_images: int
    bytes: int
    buffers_full: int
    reset_at: datetime | None


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints, counted since ``reset_at``; many requested ones mean that max_wal_size is small."""

    timed: int
    requested: int
    write_seconds: float
    sync_seconds: float
    buffers: int
    reset_at: datetime | None


@dataclass(frozen=True)
class Archiver:
    """What was archived and what could not be, counted since ``reset_at``."""

    archived: int
    failed: int
    last_archived_file: str | None
    last_archived_at: datetime | None
    last_failed_file: str | None
    last_failed_at: datetime | None
    reset_at: datetime | None

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed."""
        if self.last_failed_at is None:
            return False
        return self.last_archived_at is None or self.last_failed_at > self.last_archived_at


@dataclass(frozen=True)
class MissingFigure:
    """A figure that could not be had, why, and the statement that grants it if that is what it takes."""

    figure: str
    reason: str
    grant: str | None = None


@dataclass(frozen=True)
class WalLook:
    """What one look found. None: see ``missing``, or the server is older than the figure.

    Attributes:
        looked_at: By this machine's clock.
        server_seconds: The same moment by the server's clock, as a Unix time.
        wal_lsn: The end of the log in bytes from its beginning; of a standby, how far it was replayed.
        timeline: Eight hexadecimal digits; None on a standby.
        received_lsn, replay_age_seconds: A standby's: what it has received, and how old what it last replayed is.
        directory_bytes, directory_files: What the log takes on the disk.
        seconds: What the look took.
    """

    looked_at: datetime
    server_seconds: float
    server_version: str
    user_name: str
    system_identifier: str | None
    started_at: datetime
    is_standby: bool
    timeline: str | None
    wal_lsn: int | None
    received_lsn: int | None
    replay_age_seconds: float | None
    directory_bytes: int | None
    directory_files: int | None
    settings: WalSettings | None
    statistics: WalStatistics | None
    checkpoints: Checkpoints | None
    archiver: Archiver | None
    slots: tuple[WalSlot, ...] | None
    clients: tuple[WalClient, ...] | None
    missing: tuple[MissingFigure, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with moments as they are."""
        return asdict(self)


#: What lets a user see a figure, and no more. The role pg_monitor has all that is not granted to everybody.
_GRANTS: Mapping[str, str] = {
    "identity": "GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO {user}",
    "directory": "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO {user}",
    "clients": "GRANT pg_read_all_stats TO {user}",
    "settings": "GRANT pg_read_all_settings TO {user}",
    "slots": "GRANT SELECT ON pg_catalog.pg_replication_slots TO {user}",
    "spills": "GRANT SELECT ON pg_catalog.pg_stat_replication_slots TO {user}",
    "statistics": "GRANT SELECT ON pg_catalog.pg_stat_wal TO {user}",
    "checkpoints": "GRANT SELECT ON pg_catalog.pg_stat_checkpointer TO {user}",
    "archiver": "GRANT SELECT ON pg_catalog.pg_stat_archiver TO {user}",
}


def watch_wal(connector: MonitorConnector, *, timeout_seconds: float) -> WalLook:
    """Connect, look and disconnect within the limit.

    Raises:
        ConnectionFailedError, HostRefusedError, ConfigurationError: The server cannot be reached.
        RetryableError: It did not answer in time, or the connection was lost.
        DatabaseError, NotPermittedError: Not even the log's position can be had.
    """
    with connector.monitor(timeout_seconds=timeout_seconds) as session:
        return look_at_wal(session)


def look_at_wal(session: MonitorSession) -> WalLook:
    """One look through an open session; about ten short queries. Raises as `watch_wal`."""
    started = time.monotonic()
    looked_at = datetime.now(UTC)
    [position] = session.fetch_rows(_query("position", session))
    figures = _Figures(session, str(position["user_name"]))
    identity = figures.row("identity")
    settings = figures.row("settings", WalSettings, _without_bound)
    statistics = figures.row("statistics", WalStatistics)
    checkpoints = figures.row("checkpoints", Checkpoints)
    archiver = figures.row("archiver", Archiver)
    spills = figures.rows("spills") or ()
    slots = figures.rows("slots")
    clients = figures.rows("clients") if position["reads_all_stats"] else None
    if not position["reads_all_stats"]:
        figures.refuse("clients", "pg_read_all_stats")
    # The last one: where the directory has very many files, or its disk is slow, the others have been read.
    directory = figures.row("directory", may_time_out=True)
    return WalLook(
        looked_at=looked_at,
        server_seconds=float(position["server_seconds"]),
        server_version=str(position["server_version"]),
        user_name=str(position["user_name"]),
        system_identifier=identity["system_identifier"] if identity else None,
        started_at=position["started_at"],
        is_standby=bool(position["is_standby"]),
        timeline=position["timeline"],
        wal_lsn=position["wal_lsn"],
        received_lsn=position["received_lsn"],
        replay_age_seconds=position["replay_age_seconds"],
        directory_bytes=directory["bytes"] if directory else None,
        directory_files=directory["files"] if directory else None,
        settings=settings,
        statistics=statistics,
        checkpoints=checkpoints,
        archiver=archiver,
        slots=None if slots is None else _slots_of(slots, spills),
        clients=None if clients is None else tuple(WalClient(**_with_lags(row)) for row in clients),
        missing=tuple(figures.missing),
        seconds=time.monotonic() - started,
    )


def _query(figure: str, session: MonitorSession) -> str:
    text = find_query(f"wal_{figure}", session.server_version // 10_000)
    if text is None:
        raise DatabaseError(
            f"PostgreSQL {session.server_version // 10_000} is too old to be watched", hint="versions 12 and on are"
        )
    return text


class _Figures:
    """Asks for one figure after the other, and keeps what could not be had."""

    def __init__(self, session: MonitorSession, user: str) -> None:
        self._session = session
        quoted = user.replace('"', '""')
        self._user = f'"{quoted}"'
        self.missing: list[MissingFigure] = []

    def rows(self, figure: str, *, may_time_out: bool = False) -> list[Mapping[str, Any]] | None:
        """The rows of a figure; None where it cannot be had, or this version does not have it."""
        sql = find_query(f"wal_{figure}", self._session.server_version // 10_000)
        if sql is None:
            return None
        try:
            return list(self._session.fetch_rows(sql))
        except NotPermittedError as exc:
            self.missing.append(MissingFigure(figure, exc.message, self._grant(figure)))
        except RetryableError as exc:
            if not may_time_out:
                raise
            self.missing.append(MissingFigure(figure, exc.message))
        except DatabaseError as exc:
            # Services leave functions out of PostgreSQL that show their machines.
            self.missing.append(MissingFigure(figure, exc.message))
        return None

    def row(
        self,
        figure: str,
        make: Callable[..., Any] = dict,
        prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        *,
        may_time_out: bool = False,
    ) -> Any:
        """The only row of a figure, made into a value."""
        found = self.rows(figure, may_time_out=may_time_out)
        return make(**prepare(found[0])) if found else None

    def refuse(self, figure: str, role: str) -> None:
        """Keep that a figure is not shown to who is no member of a role."""
        self.missing.append(MissingFigure(figure, f"shown to members of {role} only", self._grant(figure)))

    def _grant(self, figure: str) -> str:
        text = _GRANTS[figure]
        if figure == "checkpoints" and self._session.server_version < 170_000:
            text = "GRANT SELECT ON pg_catalog.pg_stat_bgwriter TO {user}"
        return text.replace("{user}", self._user)


def _without_bound(row: Mapping[str, Any]) -> Mapping[str, Any]:
    keep = row["max_slot_wal_keep_bytes"]
    return {**row, "max_slot_wal_keep_bytes": None if keep is None or keep < 0 else keep}


def _slots_of(rows: list[Mapping[str, Any]], spills: Any) -> tuple[WalSlot, ...]:
    by_name = {row["name"]: {key: value for key, value in row.items() if key != "name"} for row in spills}
    slots = []
    for row in rows:
        values = {**_with_lags(row), **by_name.get(row["name"], {})}
        values["database"] = values.pop("database_name")
        del values["active_pid"]
        slots.append(WalSlot(**values))
    return tuple(slots)


def _with_lags(row: Mapping[str, Any]) -> dict[str, Any]:
    """A reader may be told of log that came after the moment at which we read where it ends: it lags by nothing."""
    return {
        name: max(0, value) if name.endswith("_lag_bytes") and value is not None else value
        for name, value in row.items()
    }
