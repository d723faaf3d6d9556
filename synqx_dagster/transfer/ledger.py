"""The ledger and the fence: what makes a load effectively once.

Both are tables in the target's own schema, and change only together with the rows they speak of:

* ``_synqx_ledger`` holds one row for each committed batch of a load: batch 0 is the load's publication, and the
  others are the ranges of a load that is cut into some. An attempt that finds its load there does
  nothing; after a lost reply to COMMIT it tells whether the commit happened.
* ``_synqx_fence`` holds one epoch for each target table. An attempt raises it when it starts and finds it unchanged,
  under a row lock, in the transaction that commits; a newer attempt has raised it, and the older one is refused.

Guarantee: of any number of attempts at one load, in any number of processes, dead, paused or alive, at most one
commits, and none commits rows that were read before those of an attempt that committed earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import Connector, WriteSession
from synqx_dagster.errors import DatabaseError, FencedError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

logger = logging.getLogger(__name__)

LEDGER_TABLE = "_synqx_ledger"
FENCE_TABLE = "_synqx_fence"

#: How often an attempt may lose the race for an epoch before it gives up.
MAX_RACES = 5


@dataclass(frozen=True)
class LedgerEntry:
    """One committed batch. ``watermark`` and ``checksum`` are None where the load has none."""

    load_id: str
    batch: int
    mapping: str
    run_id: str
    epoch: int
    mode: str
    lane: str
    rows_in: int
    rows_out: int
    rows_quarantined: int
    bytes: int
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    checksum: str | None = None
    watermark: str | None = None


#: Columns that ledgers made by earlier versions lack.
_CHANGES = ("rows_inserted", "rows_updated", "rows_deleted")

_ENTRY_FIELDS = (
    "load_id",
    "batch",
    "mapping",
    "run_id",
    "epoch",
    "mode",
    "lane",
    "rows_in",
    "rows_out",
    "rows_quarantined",
    "bytes",
    *_CHANGES,
    "checksum",
    "watermark",
)


def _text(name: str, dialect: str, *, nullable: bool = False, key_position: int | None = None) -> Column:
    # varchar(255) is spelt the same everywhere and, unlike text, may be a key in MySQL.
    return Column(name, DataType("string"), nullable, "varchar(255)", dialect, key_position)


def _count(name: str, *, nullable: bool = False) -> Column:
    return Column(name, DataType("bigint"), nullable)


def ledger_columns(dialect: str) -> tuple[Column, ...]:
    """The ledger's columns as a database of this dialect spells them."""
    return (
        _text("target_table", dialect, key_position=1),
        _text("load_id", dialect, key_position=2),
        Column("batch", DataType("bigint"), False, key_position=3),
        _text("mapping", dialect),
        _text("run_id", dialect),
        _count("epoch"),
        _text("mode", dialect),
        _text("lane", dialect),
        _count("rows_in"),
        _count("rows_out"),
        _count("rows_quarantined"),
        _count("bytes"),
        *(_count(name, nullable=True) for name in _CHANGES),
        _text("checksum", dialect, nullable=True),
        # A text cursor may be long.
        Column("watermark", DataType("string")),
        Column("committed_at", DataType("timestamp"), False),
    )


def fence_columns(dialect: str) -> tuple[Column, ...]:
    """The fence's columns as a database of this dialect spells them."""
    return (_text("target_table", dialect, key_position=1), _count("epoch"), _text("run_id", dialect))


class Ledger:
    """The ledger and fence of one target table, over one write session."""

    def __init__(self, connector: Connector, session: WriteSession, target: TableName) -> None:
        self._connector = connector
        self._session = session
        self._target = target
        self._ledger_name = TableName(LEDGER_TABLE, target.schema)
        self._fence_name = TableName(FENCE_TABLE, target.schema)
        self._ledger = connector.qualify(self._ledger_name)
        self._fence = connector.qualify(self._fence_name)
        # Some are reserved words somewhere: mode is one in Oracle.
        self._entry_names = ", ".join(map(connector.quote, _ENTRY_FIELDS))

    def find_epoch(self) -> int:
        """The epoch of the latest attempt, 0 before the first. Read it before the source's rows are read."""
        if self._session.find_columns(self._fence_name) is None:
            return 0
        return self._read_epoch()

    def begin_attempt(self, *, after: int, run_id: str) -> int | None:
        """Raise the epoch from `after` and commit that; returns the new epoch.

        None means that another attempt began since `after` was read: read it again, and the source's rows too.
        Creates the tables if they are missing. Must be called outside a transaction.
        """
        if after == 0:
            self._ensure_tables()
        else:
            self._add_columns()
        self._session.begin()
        try:
            if after == 0 and not self._fence_rows():
                self._session.execute(
                    f"INSERT INTO {self._fence} (target_table, epoch, run_id) VALUES (?, ?, ?)",
                    (self._target.name, 1, run_id),
                )
            else:
                # The row lock makes two attempts take turns; the second then sees the epoch of the first.
                rows = self._lock_fence()
                if [_as_int(row[0]) for row in rows] != [after]:
                    self._session.rollback()
                    return None
                self._session.execute(
                    f"UPDATE {self._fence} SET epoch = ?, run_id = ? WHERE target_table = ?",
                    (after + 1, run_id, self._target.name),
                )
            self._session.commit()
        except DatabaseError:
            # Two first attempts meet at the primary key: the loser looks again.
            self._session.rollback()
            if after == 0 and self._read_epoch() > 0:
                return None
            raise
        return after + 1

    def check_fence(self, epoch: int) -> None:
        """Refuse to go on if a newer attempt has begun; holds a row lock until the transaction ends.

        Raises:
            FencedError: The epoch has moved.
        """
        rows = self._lock_fence()
        # Where keys are not enforced, two first attempts may have left two rows: both are refused.
        current = max((_as_int(row[0]) for row in rows), default=0) if len(rows) < 2 else -1
        if current != epoch:
            raise _fenced(self._target, epoch, current, newer_run_id=rows[0][1] if rows else None)

    def record(self, entry: LedgerEntry) -> None:
        """Write one batch into the ledger, in the transaction that commits its rows."""
        names = f"target_table, {self._entry_names}, committed_at"
        marks = ", ".join("?" for _ in range(len(_ENTRY_FIELDS) + 1))
        values = (self._target.name, *(getattr(entry, name) for name in _ENTRY_FIELDS))
        self._session.execute(f"INSERT INTO {self._ledger} ({names}) VALUES ({marks}, CURRENT_TIMESTAMP)", values)

    def find_entry(self, load_id: str, batch: int = 0) -> LedgerEntry | None:
        """The committed batch of a load; None if it did not commit."""
        rows = self._session.fetch_all(
            f"SELECT {self._entry_names} FROM {self._ledger} WHERE target_table = ? AND load_id = ? AND batch = ?",
            (self._target.name, load_id, batch),
        )
        return _entry_of(rows[0]) if rows else None

    def find_ranges(self, load_id: str) -> dict[int, LedgerEntry]:
        """The committed ranges of a load that is not published yet, by batch."""
        rows = self._session.fetch_all(
            f"SELECT {self._entry_names} FROM {self._ledger} WHERE target_table = ? AND load_id = ? AND batch > 0",
            (self._target.name, load_id),
        )
        return {entry.batch: entry for entry in map(_entry_of, rows)}

    def forget_ranges(self, load_id: str) -> None:
        """Remove the ranges of a load that begins anew; they were never published."""
        self._session.execute(
            f"DELETE FROM {self._ledger} WHERE target_table = ? AND load_id = ? AND batch > 0",
            (self._target.name, load_id),
        )

    def find_watermark(self) -> str | None:
        """The watermark of the last load of the table that committed; None when that load had none, or none has.

        A load reads it after `begin_attempt`: from then on no earlier attempt can commit.
        """
        if self._session.find_columns(self._ledger_name) is None:
            return None
        rows = self._session.fetch_all(
            f"SELECT watermark FROM {self._ledger} WHERE target_table = ? AND batch = 0 AND epoch ="
            f" (SELECT max(epoch) FROM {self._ledger} WHERE target_table = ? AND batch = 0)",
            (self._target.name, self._target.name),
        )
        return None if not rows or rows[0][0] is None else str(rows[0][0])

    def find_start(self) -> str | None:
        """The watermark from which rows are chosen for a load that is to come; None as well where the table is gone."""
        return None if self._session.find_columns(self._target) is None else self.find_watermark()

    def settle_commit(self, entry: LedgerEntry) -> bool:
        """Whether a commit whose reply was lost has happened, asked over a fresh session.

        Waits, by the fence's row lock, until the server is done with the lost transaction.
        """
        self._session.begin()
        try:
            self._lock_fence()
            found = self.find_entry(entry.load_id, entry.batch)
        finally:
            self._session.rollback()
        return found is not None and found.epoch == entry.epoch

    def _lock_fence(self) -> list[tuple[object, ...]]:
        """Epoch and run of the target's fence, locked until the transaction ends."""
        suffix = self._session.lock_row_suffix()
        if not suffix:
            # Engines without row locks for readers: touching the row waits for, or conflicts with, whoever changes it.
            self._session.execute(
                f"UPDATE {self._fence} SET run_id = run_id WHERE target_table = ?", (self._target.name,)
            )
        return self._session.fetch_all(
            f"SELECT epoch, run_id FROM {self._fence} WHERE target_table = ? {suffix}", (self._target.name,)
        )

    def _read_epoch(self) -> int:
        rows = self._fence_rows()
        return _as_int(rows[0][0]) if rows else 0

    def _fence_rows(self) -> list[tuple[object, ...]]:
        return self._session.fetch_all(f"SELECT epoch FROM {self._fence} WHERE target_table = ?", (self._target.name,))

    def _add_columns(self) -> None:
        """Give a ledger of an earlier version the columns that it lacks."""
        there = {column.name for column in self._session.find_columns(self._ledger_name) or ()}
        for column in ledger_columns(self._connector.dialect):
            if there and column.name not in there:
                definition = f"{self._connector.quote(column.name)} {self._connector.native_type(column)}"
                try:
                    self._session.execute(f"ALTER TABLE {self._ledger} ADD COLUMN {definition}")
                except DatabaseError:
                    # Another load may have done it just now.
                    found = self._session.find_columns(self._ledger_name) or ()
                    if column.name not in {other.name for other in found}:
                        raise

    def _ensure_tables(self) -> None:
        """Create what is missing. Two first attempts may do so at once: the loser finds the winner's tables."""
        dialect = self._connector.dialect
        for name, columns, key in (
            (self._fence_name, fence_columns(dialect), ("target_table",)),
            (self._ledger_name, ledger_columns(dialect), ("target_table", "load_id", "batch")),
        ):
            for _ in range(MAX_RACES):
                if self._session.find_columns(name) is not None:
                    break
                try:
                    self._session.begin()
                    self._session.ensure_schema(name)
                    self._session.create_table(name, columns, key)
                    self._session.commit()
                except (DatabaseError, RetryableError):
                    self._session.rollback()
                    if self._session.find_columns(name) is None:
                        raise


def has_committed(connector: Connector, target: TableName, load_id: str) -> bool:
    """Whether a load of a table has been published, asked over a session of its own."""
    with connector.write() as session:
        if session.find_columns(TableName(LEDGER_TABLE, target.schema)) is None:
            return False
        return Ledger(connector, session, target).find_entry(load_id) is not None


def refuse_overtaken(connector: Connector, target: TableName, epoch: int, error: Exception) -> None:
    """Tell an attempt that failed that a newer one is the reason; returns if there is none, or nobody can tell.

    A newer attempt ends the sessions of older ones in ranges, and drops staging tables where a rollback does not,
    whatever those are doing. What they notice looks like a fault that will pass, and it is not: another try would only
    take the load back. Asks over a fresh session, because the failed one may be dead; the caller should hold none of
    the target's any more.

    Raises:
        FencedError: The epoch has moved.
    """
    try:
        with connector.write() as session:
            current = Ledger(connector, session, target).find_epoch()
    except (RetryableError, DatabaseError) as why:
        # A server that does not answer is the better explanation of the error.
        logger.warning("%s: the fence cannot be asked whether a newer attempt has taken over: %s", target, why)
        return
    if current > epoch:
        raise _fenced(target, epoch, current) from error


def _fenced(target: TableName, epoch: int, current: int, newer_run_id: object = None) -> FencedError:
    return FencedError(
        f"a newer attempt has taken over {target}: this one has epoch {epoch}, the newest {current}",
        hint="nothing was committed by this attempt; the newer one has the load",
        table=str(target),
        newer_run_id=newer_run_id,
    )


def _entry_of(row: Sequence[object]) -> LedgerEntry:
    values = dict(zip(_ENTRY_FIELDS, row, strict=True))
    texts = {name: str(values[name]) for name in ("load_id", "mapping", "run_id", "mode", "lane")}
    counts = {
        name: _as_int(values[name]) for name in ("batch", "epoch", "rows_in", "rows_out", "rows_quarantined", "bytes")
    }
    counts |= {name: 0 if values[name] is None else _as_int(values[name]) for name in _CHANGES}
    optional = {name: None if values[name] is None else str(values[name]) for name in ("checksum", "watermark")}
    return LedgerEntry(**texts, **counts, **optional)  # type: ignore[arg-type]  # one dict per value type


def _as_int(value: object) -> int:
    if isinstance(value, int):
        return value
    return int(str(value))
