"""A load in ranges: several sessions fill one staging table, and each range that is in it survives a crash.

Guarantee: a range's rows, its bad rows and its ledger entry are committed together, under the fence; readers of the
target see nothing of it. Another attempt at the same load reads the ranges that are missing, in a snapshot of its own,
where the ranges are bounded by key; where they are bounded by position it begins anew.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from synqx_dagster.connectors.protocol import (
    ReadSession,
    SharedWriteSession,
    SnapshotConnector,
    SnapshotReadSession,
    WriteSession,
)
from synqx_dagster.errors import (
    BadRowsError,
    CommitUnknownError,
    DatabaseError,
    FatalError,
    RetryableError,
)
from synqx_dagster.model.mapping import KEYED_MODES
from synqx_dagster.model.table import TableName
from synqx_dagster.transfer.failpoints import reach
from synqx_dagster.transfer.ledger import Ledger, LedgerEntry
from synqx_dagster.transfer.move import Moved, move_rows
from synqx_dagster.transfer.passthrough import PATIENCE_SECONDS
from synqx_dagster.transfer.plan import LoadPlan
from synqx_dagster.transfer.prepare import Preparation
from synqx_dagster.transfer.quarantine import BadRowSpool, Quarantine
from synqx_dagster.transfer.range_book import RangeBook, StoredRanges
from synqx_dagster.transfer.range_plan import CutPlan
from synqx_dagster.transfer.result import LoadRequest, ProgressMeter
from synqx_dagster.transfer.window import Window

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filled:
    """A staging table that all ranges are in.

    Attributes:
        moved: What all attempts moved together.
        bad_rows: The table with the bad rows; None with ``on_bad_row: fail``.
        bad_row_count: How many there are.
        is_resumed: Ranges of another attempt are in it, which read them in a snapshot of its own.
        watermark: The watermark to commit, which the first attempt planned.
    """

    staging: TableName
    moved: Moved
    bad_rows: TableName | None
    bad_row_count: int
    is_resumed: bool
    watermark: str | None


@dataclass
class _Totals:
    rows_in: int = 0
    bytes: int = 0
    bad_rows: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, entry: LedgerEntry) -> None:
        with self.lock:
            self.rows_in += entry.rows_in
            self.bytes += entry.bytes
            self.bad_rows += entry.rows_quarantined


class RangedFill:
    """Fills the staging table of one load, in as many threads as the plan says."""

    def __init__(
        self,
        request: LoadRequest,
        preparation: Preparation,
        plan: LoadPlan,
        ranged: CutPlan,
        epoch: int,
        meter: ProgressMeter,
    ) -> None:
        self._request = request
        self._preparation = preparation
        self._plan = plan
        self._ranged = ranged
        self._epoch = epoch
        self._meter = meter
        self._totals = _Totals()

    def run(self, read: ReadSession, write: WriteSession, window: Window | None) -> Filled:
        """Bring every range into the staging table; must be called outside a transaction.

        Raises:
            BadRowsError: A row is bad, and the mapping says to fail; the load's ranges are gone.
        """
        request, target = self._request, self._request.target
        book = RangeBook(target, write, self._plan.target)
        book.ensure_table()
        ledger = Ledger(target, write, self._plan.target)
        stored, done = self._find_unfinished(book, ledger, write)
        is_resumed = stored is not None and bool(done)
        if stored is None:
            ledger.forget_ranges(request.load_id)
            stored = self._begin(book, ledger, write, window)
        predicates = stored.predicates
        for entry in done.values():
            self._totals.add(entry)
            self._meter.add(rows=entry.rows_out, size_bytes=entry.bytes)
        missing = [batch for batch in range(1, len(predicates) + 1) if batch not in done]
        if is_resumed:
            logger.info(
                "%s: %d of %d ranges were committed by an earlier attempt",
                request.mapping.name,
                len(done),
                len(predicates),
            )
        plans = {batch: self._preparation.with_predicates((predicates[batch - 1],), window) for batch in missing}
        try:
            self._fill(stored, plans, read)
        except BadRowsError:
            book.discard(ledger, self._epoch)
            raise
        _sharing(write).adopt_staging(stored.staging)
        return Filled(
            staging=stored.staging,
            moved=Moved(self._totals.rows_in, self._totals.bytes, None),
            bad_rows=stored.bad_rows,
            bad_row_count=self._totals.bad_rows,
            is_resumed=is_resumed,
            watermark=stored.watermark,
        )

    # --- what an earlier attempt left -----------------------------------------------------------------------

    def _find_unfinished(
        self, book: RangeBook, ledger: Ledger, write: WriteSession
    ) -> tuple[StoredRanges | None, dict[int, LedgerEntry]]:
        """The ranges of an earlier attempt at this load, if another one can go on with them."""
        stored = book.find(self._request.load_id)
        if stored is not None and self._ranged.ranges.by == "key":
            book.evict(stored.staging, ledger, self._epoch)
            done = ledger.find_ranges(self._request.load_id)
            if self._is_intact(stored, done, write):
                return stored, done
            logger.warning("%s: the staged ranges are not usable; beginning anew", self._request.mapping.name)
        book.discard(ledger, self._epoch)
        return None, {}

    def _is_intact(self, stored: StoredRanges, done: dict[int, LedgerEntry], write: WriteSession) -> bool:
        """Whether the staging table has all rows of its ranges; a crash of the server empties an unlogged one."""
        columns = write.find_columns(stored.staging)
        if columns is None:
            return False
        names = {column.name for column in columns}
        wanted = {column.name for column in self._plan.staged_columns}
        of_target = {column.name for column in write.find_columns(self._plan.target) or ()}
        if wanted - names or names - wanted - of_target:
            # The source has gained or lost a column since.
            return False
        rows = write.fetch_all(f"SELECT count(*) FROM {self._request.target.qualify(stored.staging)}")[0][0]
        return int(str(rows)) == sum(entry.rows_out for entry in done.values())

    def _begin(self, book: RangeBook, ledger: Ledger, write: WriteSession, window: Window | None) -> StoredRanges:
        """Make the staging tables and write the ranges down, in one transaction."""
        plan, mapping = self._plan, self._request.mapping
        commits_ddl = not self._request.target.capabilities.transactional_ddl
        made: list[TableName] = []
        shared = _sharing(write)
        write.begin()
        try:
            if plan.target_action == "create":
                write.ensure_schema(plan.target)
            staging = shared.create_shared_staging(
                plan.target,
                plan.staged_columns,
                epoch=self._epoch,
                replaces=plan.replaces_all,
                key=plan.primary_key if plan.mode in KEYED_MODES else (),
            )
            made.append(staging)
            bad_rows = None
            if mapping.on_bad_row == "quarantine":
                bad_rows = TableName(f"{staging.name}_bad", plan.target.schema)
                made.append(bad_rows)
                Quarantine(self._request.target, write, plan.target, bad_rows).create_table()
            stored = StoredRanges(
                self._ranged.ranges.predicates,
                TableName(staging.name, plan.target.schema),
                bad_rows,
                None if window is None or window.after is None else window.after.to_json(),
            )
            if commits_ddl:
                # Making a table has ended the transaction.
                write.begin()
            ledger.check_fence(self._epoch)
            book.write(self._request.load_id, stored)
            write.commit()
        except BaseException:
            write.rollback()
            if commits_ddl:
                self._drop(made, write)
            raise
        return stored

    def _drop(self, tables: list[TableName], write: WriteSession) -> None:
        """Drop tables of an attempt that has failed already; the next load of the target drops what is left."""
        try:
            for table in tables:
                write.drop_staging(table)
        except (RetryableError, DatabaseError) as error:
            logger.warning("%s: staging tables are left: %s", self._request.mapping.name, error)

    # --- ranges ---------------------------------------------------------------------------------------------

    def _fill(self, stored: StoredRanges, plans: dict[int, LoadPlan], read: ReadSession) -> None:
        if min(self._ranged.parallelism, len(plans)) <= 1:
            with self._request.target.write() as write:
                for batch, plan in plans.items():
                    self._load_range(batch, plan, stored, read, write)
            return
        if not (isinstance(read, SnapshotReadSession) and isinstance(self._request.source, SnapshotConnector)):
            raise FatalError("the source's sessions cannot share a snapshot")
        snapshot, source = read.export_snapshot(), self._request.source
        waiting: queue.SimpleQueue[tuple[int, LoadPlan]] = queue.SimpleQueue()
        for item in plans.items():
            waiting.put(item)
        _Workers(
            min(self._ranged.parallelism, len(plans)),
            waiting,
            lambda: source.read_at(snapshot),
            self._request.target.write,
            lambda item, read, write: self._load_range(item[0], item[1], stored, read, write),
        ).run()

    def _load_range(
        self, batch: int, plan: LoadPlan, stored: StoredRanges, read: ReadSession, write: WriteSession
    ) -> None:
        """Load one range and commit it."""
        request = self._request
        _sharing(write).join_writers(stored.staging)
        with BadRowSpool() as spool:
            write.begin()
            try:
                moved = move_rows(plan, stored.staging, read, write, spool, self._meter)
                self._set_bad_rows_aside(moved, spool, stored, write)
                entry = self._entry(batch, plan, moved, spool)
                reach("before_range")
                ledger = Ledger(request.target, write, plan.target)
                ledger.check_fence(self._epoch)
                ledger.record(entry)
                self._commit(write)
            except BaseException:
                write.rollback()
                raise
        self._totals.add(entry)
        reach("after_range")

    def _set_bad_rows_aside(self, moved: Moved, spool: BadRowSpool, stored: StoredRanges, write: WriteSession) -> None:
        if not spool.rows:
            return
        plan, request = self._plan, self._request
        if stored.bad_rows is None:
            raise BadRowsError(
                f"{spool.rows:,} of {moved.rows_in:,} rows of one range break the contract of {plan.target}:"
                f" {spool.describe()}",
                hint="nothing was loaded; correct them at the source, or set on_bad_row: quarantine",
                rows=spool.rows,
                table=str(plan.target),
            )
        Quarantine(request.target, write, plan.target, stored.bad_rows).write(
            spool, mapping=request.mapping.name, run_id=request.run_id, load_id=request.load_id
        )

    def _commit(self, write: WriteSession) -> None:
        try:
            write.commit()
        except CommitUnknownError as exc:
            # Whether the range is there the next attempt finds out from the ledger.
            raise RetryableError(f"{self._plan.target}: the connection broke while a range was committed") from exc

    def _entry(self, batch: int, plan: LoadPlan, moved: Moved, spool: BadRowSpool) -> LedgerEntry:
        return LedgerEntry(
            load_id=self._request.load_id,
            batch=batch,
            mapping=self._request.mapping.name,
            run_id=self._request.run_id,
            epoch=self._epoch,
            mode=plan.mode,
            lane=plan.lane,
            rows_in=moved.rows_in,
            rows_out=moved.rows_in - spool.rows,
            rows_quarantined=spool.rows,
            bytes=moved.bytes,
            checksum=moved.checksum,
        )


def _sharing(write: WriteSession) -> SharedWriteSession:
    if not isinstance(write, SharedWriteSession):
        raise FatalError("the target's session cannot share a staging table")
    return write


class _Workers:
    """Threads that each hold a session of the source and one of the target, and take ranges until none is left.

    The first error ends all of them, and is the one that is raised; none outlives `run`.
    """

    def __init__(
        self,
        count: int,
        waiting: queue.SimpleQueue[tuple[int, LoadPlan]],
        open_read: Callable[[], AbstractContextManager[ReadSession]],
        open_write: Callable[[], AbstractContextManager[WriteSession]],
        load: Callable[[tuple[int, LoadPlan], ReadSession, WriteSession], None],
    ) -> None:
        self._waiting = waiting
        self._open_read = open_read
        self._open_write = open_write
        self._load = load
        self._threads = [
            threading.Thread(target=self._work, name=f"synqx-range-{number}", daemon=True) for number in range(count)
        ]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._reads: list[ReadSession] = []
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Load all ranges that wait."""
        for thread in self._threads:
            thread.start()
        try:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(PATIENCE_SECONDS)
                    if self._stop.is_set():
                        self._cancel()
        except BaseException:
            # Ctrl-C is heard by this thread alone.
            self._stop.set()
            while any(thread.is_alive() for thread in self._threads):
                self._cancel()
                self._threads[0].join(PATIENCE_SECONDS)
            raise
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        try:
            with self._open_read() as read, self._open_write() as write, self._cancellable(read):
                while not self._stop.is_set():
                    try:
                        item = self._waiting.get_nowait()
                    except queue.Empty:
                        return
                    self._load(item, read, write)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            with self._lock:
                self._errors.append(error)
            self._stop.set()

    @contextmanager
    def _cancellable(self, read: ReadSession) -> Iterator[None]:
        """Within it the session may be cancelled; afterwards its connection may be somebody else's."""
        with self._lock:
            self._reads.append(read)
        try:
            yield
        finally:
            with self._lock:
                self._reads.remove(read)

    def _cancel(self) -> None:
        with self._lock:
            for read in self._reads:
                read.cancel()
