"""What a load in ranges writes down before its first range, so that another attempt can go on with it.

``_synqx_ranges`` lies beside the ledger and holds one row for each range of each unfinished load: the condition that
was decided on, and the staging tables that the ranges go to. Which ranges are committed the ledger says. The rows
are gone when the load is published, or when another load of the same table begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import Connector, SharedWriteSession, WriteSession
from synqx_dagster.errors import DatabaseError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.ledger import Ledger

RANGES_TABLE = "_synqx_ranges"


@dataclass(frozen=True)
class StoredRanges:
    """An unfinished load in ranges.

    Attributes:
        predicates: The condition of each range; batch ``n`` of the ledger is the ``n``-th, from 1 on.
        staging: The table that the good rows go to.
        bad_rows: The table that the bad rows go to; None with ``on_bad_row: fail``.
        watermark: The watermark to commit at the end, as the ledger keeps it.
    """

    predicates: tuple[str, ...]
    staging: TableName
    bad_rows: TableName | None
    watermark: str | None


def range_columns(dialect: str) -> tuple[Column, ...]:
    """The table's columns as a database of this dialect spells them."""

    def text(name: str, position: int | None = None, *, nullable: bool = False) -> Column:
        return Column(name, DataType("string"), nullable, "varchar(255)", dialect, position)

    return (
        text("target_table", 1),
        text("load_id", 2),
        Column("batch", DataType("bigint"), False, key_position=3),
        Column("predicate", DataType("string"), False),
        text("staging"),
        text("bad_rows", nullable=True),
        Column("watermark", DataType("string")),
    )


class RangeBook:
    """The unfinished ranges of one target table, over one write session."""

    def __init__(self, connector: Connector, session: WriteSession, target: TableName) -> None:
        self._session = session
        self._target = target
        self._dialect = connector.dialect
        self._drops_roll_back = connector.capabilities.transactional_ddl
        self._name = TableName(RANGES_TABLE, target.schema)
        self._table = connector.qualify(self._name)

    def ensure_table(self) -> None:
        """Create the table if it is missing, in a transaction of its own."""
        if self._exists():
            return
        try:
            self._session.begin()
            self._session.ensure_schema(self._name)
            self._session.create_table(self._name, range_columns(self._dialect), ("target_table", "load_id", "batch"))
            self._session.commit()
        except (DatabaseError, RetryableError):
            # Another load in this schema may have made it just now.
            self._session.rollback()
            if not self._exists():
                raise

    def find(self, load_id: str) -> StoredRanges | None:
        """The ranges of a load; None if it has none."""
        if not self._exists():
            return None
        rows = self._session.fetch_all(
            f"SELECT predicate, staging, bad_rows, watermark FROM {self._table}"
            " WHERE target_table = ? AND load_id = ? ORDER BY batch",
            (self._target.name, load_id),
        )
        if not rows:
            return None
        _, staging, bad_rows, watermark = rows[0]
        return StoredRanges(
            predicates=tuple(str(row[0]) for row in rows),
            staging=self._beside(str(staging)),
            bad_rows=None if bad_rows is None else self._beside(str(bad_rows)),
            watermark=None if watermark is None else str(watermark),
        )

    def write(self, load_id: str, ranges: StoredRanges) -> None:
        """Write down the ranges of a load, within the open transaction."""
        for batch, predicate in enumerate(ranges.predicates, start=1):
            self._session.execute(
                f"INSERT INTO {self._table} (target_table, load_id, batch, predicate, staging, bad_rows, watermark)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self._target.name,
                    load_id,
                    batch,
                    predicate,
                    ranges.staging.name,
                    None if ranges.bad_rows is None else ranges.bad_rows.name,
                    ranges.watermark,
                ),
            )

    def evict(self, staging: TableName, ledger: Ledger, epoch: int) -> None:
        """End the sessions of earlier attempts that hold a staging table; must be called outside a transaction.

        An attempt that hangs would keep the table from being published, and can commit nothing any more.

        Raises:
            FencedError: A newer attempt has taken over, and the sessions are its own.
        """
        with self._fenced(ledger, epoch):
            self._evict(staging)

    def discard(self, ledger: Ledger, epoch: int) -> None:
        """Drop what unfinished loads of the target left: their staging tables, their ranges and their ledger entries.

        Must be called outside a transaction.

        Raises:
            FencedError: A newer attempt has taken over, and what is there may be its own.
        """
        rows = self._find_all()
        if not rows:
            return
        names = {str(name) for row in rows for name in row[:2] if name is not None}
        with self._fenced(ledger, epoch):
            for name in names:
                self._evict(self._beside(name))
                if self._drops_roll_back:
                    self._session.drop_staging(self._beside(name))
            for load_id in {str(row[2]) for row in rows}:
                ledger.forget_ranges(load_id)
            self.forget()
        if not self._drops_roll_back:
            # A DROP would have ended the transaction, and with it the lock on the fence. Nobody goes on with these any
            # more; what this attempt does not come to drop goes when the next staging table of the target is made.
            for name in names:
                self._session.drop_staging(self._beside(name))

    def is_empty(self) -> bool:
        """Whether no unfinished load of the target has staging tables."""
        return not self._find_all()

    def _find_all(self) -> list[tuple[object, ...]]:
        """Staging tables and load of each unfinished load of the target."""
        if not self._exists():
            return []
        return self._session.fetch_all(
            f"SELECT DISTINCT staging, bad_rows, load_id FROM {self._table} WHERE target_table = ?",
            (self._target.name,),
        )

    @contextmanager
    def _fenced(self, ledger: Ledger, epoch: int) -> Iterator[None]:
        """A transaction in which no newer attempt can begin."""
        self._session.begin()
        try:
            ledger.check_fence(epoch)
            yield
            self._session.commit()
        except BaseException:
            self._session.rollback()
            raise

    def _evict(self, staging: TableName) -> None:
        if isinstance(self._session, SharedWriteSession):
            self._session.evict_writers(staging)

    def forget(self) -> None:
        """Remove the ranges of the target, within the open transaction if there is one."""
        self._session.execute(f"DELETE FROM {self._table} WHERE target_table = ?", (self._target.name,))

    def _exists(self) -> bool:
        return self._session.find_columns(self._name) is not None

    def _beside(self, name: str) -> TableName:
        return TableName(name, self._target.schema)
