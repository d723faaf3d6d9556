"""A load from beginning to end: plan, fence, stage, publish, ledger, commit.

Guarantee: the target's rows, the quarantine's rows and the ledger change in one destination transaction, or not at all.
Killed at any point, a load leaves the target as it was or as it should be; a retry with the same ``load_id``
finds out which.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from synqx_dagster.connectors.protocol import ReadSession, RowChanges, WriteSession
from synqx_dagster.errors import BadRowsError, CommitUnknownError, DatabaseError, FatalError, RetryableError
from synqx_dagster.mapping.lineage import Lineage, trace_lineage
from synqx_dagster.model.table import TableName
from synqx_dagster.transfer.bad_rows import set_bad_rows_aside
from synqx_dagster.transfer.estimate import estimate_size
from synqx_dagster.transfer.failpoints import reach
from synqx_dagster.transfer.ledger import MAX_RACES, Ledger, LedgerEntry, refuse_overtaken
from synqx_dagster.transfer.move import Moved, move_rows
from synqx_dagster.transfer.partition import check_slice
from synqx_dagster.transfer.plan import LoadPlan
from synqx_dagster.transfer.prepare import Preparation, refuse_locked
from synqx_dagster.transfer.publish import (
    become_target,
    begin_publication,
    create_in_place,
    create_staging,
    create_target,
    fills_in_place,
    publish,
    refuse_misplaced,
)
from synqx_dagster.transfer.quarantine import BadRowSpool, Quarantine
from synqx_dagster.transfer.range_book import RangeBook
from synqx_dagster.transfer.range_plan import CutPlan, plan_ranges
from synqx_dagster.transfer.ranged import Filled, RangedFill
from synqx_dagster.transfer.result import (
    CheckOutcome,
    LoadRequest,
    LoadResult,
    ProgressMeter,
    Stopwatch,
    peak_memory_bytes,
)
from synqx_dagster.transfer.verify import check_contract, check_keys, check_row_count, count_rows
from synqx_dagster.transfer.watermark import Watermark
from synqx_dagster.transfer.window import Window

logger = logging.getLogger(__name__)


def run_load(request: LoadRequest) -> LoadResult:
    """Load one table, effectively once.

    Idempotent for a ``load_id``: once one attempt has committed, later ones change nothing and report its figures.

    Raises:
        PlanError, DataError: The plan or the rows do not fit; the target is as it was.
        RetryableError: A passing fault; the target is as it was, and the same call may be made again.
        FencedError: A newer attempt has taken over; nothing was committed by this one.
        FatalError: Anything else that ended this attempt; nothing was committed.
    """
    return _Load(request).run()


class _Load:
    """One attempt at one load; holds what its phases share."""

    def __init__(self, request: LoadRequest) -> None:
        if request.window.quarantined and request.mapping.delete_missing:
            # The rows that are not in quarantine are not missing.
            request = replace(request, mapping=request.mapping.model_copy(update={"delete_missing": False}))
        self._request = request
        self._mapping = request.mapping
        self._stopwatch = Stopwatch()
        self._meter = ProgressMeter(request.progress, self._stopwatch)
        self._epoch: int | None = None
        self._is_ranged = False
        self._window: Window | None = None
        self._parallelism = 1
        self._known_bad_rows = 0
        self._schema_changes: tuple[str, ...] = ()

    def run(self) -> LoadResult:
        try:
            return self._run()
        except (RetryableError, DatabaseError, BadRowsError) as error:
            if self._epoch is not None and self._may_be_disturbed(error):
                refuse_overtaken(self._request.target, self._mapping.target, self._epoch, error)
            raise

    def _run(self) -> LoadResult:
        request = self._request
        self._meter.enter("plan")
        check_slice(self._mapping, request.window)
        target = self._mapping.target
        refuse_locked(self._mapping, request.source, request.target)
        for _ in range(MAX_RACES):
            with request.target.write() as write:
                ledger = Ledger(request.target, write, target)
                # Before the snapshot: a later epoch must never publish older rows.
                before = ledger.find_epoch()
                if request.upstream is not None:
                    request.upstream.prepare(ledger.find_start)
                with request.source.read() as read:
                    with self._stopwatch.phase("plan"):
                        preparation = Preparation(
                            self._mapping, request.schema, request.source, request.target, read, write
                        )
                        plan = preparation.plan()
                        epoch = ledger.begin_attempt(after=before, run_id=request.run_id)
                    if epoch is None:
                        continue
                    self._epoch = epoch
                    earlier = ledger.find_entry(request.load_id)
                    if earlier is not None:
                        return self._report_earlier(plan, epoch, earlier, write)
                    if request.upstream is not None:
                        request.upstream.begin(None if plan.target_action == "create" else ledger.find_watermark())
                    with self._stopwatch.phase("plan"):
                        plan = preparation.alter_target(plan, ledger, epoch)
                        self._schema_changes = tuple(map(str, plan.schema_changes))
                        # Not before the epoch is ours: an earlier attempt might still commit a newer watermark.
                        of_nodes = request.upstream is not None
                        self._window = preparation.find_window(plan, request.window, made_by_nodes=of_nodes)
                        plan = preparation.narrow(plan, self._window)
                    logger.info("%s: lane %s: %s", self._mapping.name, plan.lane, plan.lane_reason)
                    self._estimate(plan, read)
                    ends = request.source, request.target
                    rows = self._meter.total_rows
                    ranged = plan_ranges(self._mapping, ends, read, write, plan.source_columns, rows=rows).make()
                    filled = None
                    if ranged is None:
                        RangeBook(request.target, write, target).discard(ledger, epoch)
                    else:
                        self._is_ranged, self._parallelism = True, ranged.parallelism
                        filled = self._fill_ranges(preparation, plan, ranged, epoch, read, write)
                    return self._attempt(plan, epoch, ledger, read, write, filled)
        raise RetryableError(
            f"other loads of {target} keep starting at the same time",
            hint="one table wants one writer at a time; look for a second schedule or run",
            table=str(target),
        )

    def _may_be_disturbed(self, error: Exception) -> bool:
        """Whether a newer attempt can be the reason of an error; asking for it may wait long for a connection."""
        if self._is_ranged or isinstance(error, BadRowsError):
            # Keys may clash with rows that the newer attempt has just committed.
            return True
        drops_staging = not self._request.target.capabilities.transactional_ddl
        return drops_staging and isinstance(error, DatabaseError)

    def _estimate(self, plan: LoadPlan, read: ReadSession) -> None:
        """Find out about how much there is to read, unless it is a part of the source that nobody has counted."""
        if plan.window is None:
            size = estimate_size(self._mapping.source, self._request.source, read)
            self._meter.total_rows, self._meter.total_bytes = size.rows, size.bytes

    def _fill_ranges(
        self,
        preparation: Preparation,
        plan: LoadPlan,
        ranged: CutPlan,
        epoch: int,
        read: ReadSession,
        write: WriteSession,
    ) -> Filled:
        logger.info("%s: %s", self._mapping.name, ranged.description)
        self._meter.enter("copy")
        with self._stopwatch.phase("copy"):
            fill = RangedFill(self._request, preparation, plan, ranged, epoch, self._meter)
            return fill.run(read, write, self._window)

    def _attempt(
        self,
        plan: LoadPlan,
        epoch: int,
        ledger: Ledger,
        read: ReadSession,
        write: WriteSession,
        filled: Filled | None,
    ) -> LoadResult:
        target = self._request.target
        commits_ddl = not target.capabilities.transactional_ddl
        quarantine = Quarantine(target, write, plan.target)
        if self._mapping.on_bad_row == "quarantine":
            quarantine.ensure_table()
        elif plan.mode == "replace" or self._mapping.delete_missing:
            quarantine.repair_table()
        with BadRowSpool() as spool:
            staging = None if filled is None else filled.staging
            write.begin()
            try:
                staging = self._stage(plan, epoch, write, staging)
                if commits_ddl and filled is not None:
                    # Rows that share a key leave the ranges in one transaction with the publication, or stay.
                    write.begin()
                moved = self._move(plan, staging, read, write, spool) if filled is None else filled.moved
                moved = self._take_bad_rows(moved, spool)
                if filled is not None and filled.bad_rows is not None:
                    collected = Quarantine(target, write, plan.target, filled.bad_rows)
                    spool.collected_rows, counts = collected.count_breaches()
                    spool.counts.update(counts)
                with self._stopwatch.phase("check"):
                    set_bad_rows_aside(self._request, plan, staging, moved, write, spool)
                self._meter.rows = moved.rows_in - spool.total_rows
                if commits_ddl and (filled is None or self._mapping.on_bad_row == "fail"):
                    # The rows are staged; what readers see changes in one transaction of its own.
                    write.commit()
                    write.begin()
                with self._stopwatch.phase("check"):
                    refuse_misplaced(plan, staging, write, target)
                    in_place = staging == plan.target
                    rows_before = 0 if in_place else begin_publication(plan, self._mapping, write, target)
                changes = self._publish(plan, staging, rows_before, write, quarantine, spool)
                if filled is not None and filled.bad_rows is not None:
                    quarantine.take_over(filled.bad_rows)
                self._replace_earlier(quarantine, spool)
                if filled is not None:
                    RangeBook(target, write, plan.target).forget()
                entry = self._entry(plan, epoch, moved, spool, changes)
                if filled is not None:
                    entry = replace(entry, watermark=filled.watermark)
                checks, target_rows = self._check(plan, entry, moved, changes, spool, rows_before, read, write, filled)
                self._commit(ledger, entry, write)
            except BaseException as error:
                write.rollback()
                if filled is None:
                    self._clear_away([staging], write)
                elif isinstance(error, BadRowsError):
                    # Another attempt would find the same rows in the ranges, even if they were corrected.
                    RangeBook(target, write, plan.target).discard(ledger, epoch)
                raise
            self._clear_away([staging, None if filled is None else filled.bad_rows], write)
        return self._result(plan, entry, checks, target_rows)

    def _clear_away(self, tables: Sequence[TableName | None], write: WriteSession) -> None:
        """Drop staging tables where the transaction has not; what became of the load is decided already."""
        target = self._request.target
        if target.capabilities.transactional_ddl:
            return
        for table in tables:
            if table is None:
                continue
            try:
                try:
                    write.drop_staging(table)
                except RetryableError:
                    # The connection may be the one whose reply to COMMIT was lost.
                    with target.write() as fresh:
                        fresh.drop_staging(table)
            except (RetryableError, DatabaseError) as error:
                logger.warning("%s: %s is left for the next load to drop: %s", self._mapping.name, table, error)

    # --- phases ---------------------------------------------------------------------------------------------

    def _stage(self, plan: LoadPlan, epoch: int, write: WriteSession, staging: TableName | None) -> TableName:
        """Create what is missing: the target, and a staging table unless one is filled, or a new target takes rows."""
        with self._stopwatch.phase("stage"):
            if fills_in_place(plan, self._mapping, write, self._request.target):
                if staging is None:
                    return create_in_place(plan, write)
                if become_target(plan, staging, write):
                    return plan.target
            create_target(plan, self._mapping, write)
            return staging or create_staging(plan, write, epoch)

    def _move(
        self, plan: LoadPlan, staging: TableName, read: ReadSession, write: WriteSession, spool: BadRowSpool
    ) -> Moved:
        self._meter.enter("copy")
        with self._stopwatch.phase("copy"):
            moved = move_rows(plan, staging, read, write, spool, self._meter)
        if moved.phase_seconds:
            self._stopwatch.split("copy", moved.phase_seconds)
        reach("after_copy")
        return moved

    def _take_bad_rows(self, moved: Moved, spool: BadRowSpool) -> Moved:
        """Keep what was set aside before the rows came here."""
        if self._request.upstream is None:
            return moved
        before = spool.rows
        self._request.upstream.give_bad_rows(spool)
        return replace(moved, rows_in=moved.rows_in + spool.rows - before)

    def _publish(
        self,
        plan: LoadPlan,
        staging: TableName,
        rows_before: int,
        write: WriteSession,
        quarantine: Quarantine,
        spool: BadRowSpool,
    ) -> RowChanges:
        self._meter.enter("publish")
        with self._stopwatch.phase("publish"):
            changes = publish(plan, self._mapping, staging, rows_before, write, self._request.target)
            if plan.replaces_all or self._mapping.delete_missing:
                # All rows of the source were read: what is bad today is all that is bad.
                quarantine.clear()
            elif plan.partition is not None:
                quarantine.clear_rows(plan.partition.holds)
            if spool.rows:
                quarantine.write(
                    spool,
                    mapping=self._mapping.name,
                    run_id=self._request.run_id,
                    load_id=self._request.load_id,
                )
        reach("after_publish")
        return changes

    def _replace_earlier(self, quarantine: Quarantine, spool: BadRowSpool) -> None:
        """Have each bad row in the quarantine once, with today's reasons."""
        load_id = self._request.load_id
        if spool.total_rows:
            self._known_bad_rows = quarantine.replace_earlier(
                mapping=self._mapping.name,
                load_id=load_id,
                by="source_key" if self._request.upstream is None else "source_row",
            )
        if self._request.window.quarantined:
            # All were read again; those that came good leave it, too.
            quarantine.clear_keyed(load_id)

    def _check(
        self,
        plan: LoadPlan,
        entry: LedgerEntry,
        moved: Moved,
        changes: RowChanges,
        spool: BadRowSpool,
        rows_before: int,
        read: ReadSession,
        write: WriteSession,
        filled: Filled | None,
    ) -> tuple[tuple[CheckOutcome, ...], int]:
        """Look at the rows as readers will see them, before they do.

        Raises:
            FatalError: Rows were lost or doubled on the way.
        """
        target = self._request.target
        with self._stopwatch.phase("check"):
            source_rows = moved.source_rows
            # Ranges of an earlier attempt were read in a snapshot of their own.
            if source_rows is None and plan.count_sql is not None and not (filled and filled.is_resumed):
                source_rows = int(str(read.fetch_value(plan.count_sql)))
            target_rows = count_rows(write, target, plan.target) if changes.total is None else changes.total
            row_count = check_row_count(
                source_rows=source_rows,
                rows_in=entry.rows_in,
                rows_out=entry.rows_out,
                rows_quarantined=entry.rows_quarantined,
                rows_before=rows_before,
                rows_after=target_rows,
                mode=plan.mode,
                changes=changes,
            )
            if not row_count.passed:
                raise FatalError(
                    f"{plan.target}: {row_count.description}; nothing was committed", table=str(plan.target)
                )
            checks = [check_contract(entry.rows_in, spool.total_rows, spool.describe()), row_count]
            checks.extend(self._check_keys(plan, write))
        return tuple(checks), target_rows

    def _check_keys(self, plan: LoadPlan, write: WriteSession) -> tuple[CheckOutcome, ...]:
        if not plan.primary_key:
            return ()
        return check_keys(
            write,
            self._request.target,
            plan.target,
            plan.primary_key,
            enforced=plan.enforced_key,
            is_current=self._mapping.history.is_current if plan.mode == "scd2" else None,
        )

    def _commit(self, ledger: Ledger, entry: LedgerEntry, write: WriteSession) -> None:
        self._meter.enter("commit")
        with self._stopwatch.phase("commit"):
            reach("before_commit")
            ledger.check_fence(entry.epoch)
            ledger.record(entry)
            try:
                write.commit()
            except CommitUnknownError as exc:
                if not self._has_committed(entry):
                    raise RetryableError(
                        f"{self._mapping.target}: the connection broke during COMMIT, and the ledger says that"
                        " nothing was committed"
                    ) from exc
                logger.warning("%s: the reply to COMMIT was lost; the ledger says committed", self._mapping.name)
            reach("after_commit")

    def _has_committed(self, entry: LedgerEntry) -> bool:
        target = self._request.target
        with target.write() as fresh:
            return Ledger(target, fresh, self._mapping.target).settle_commit(entry)

    # --- reports ----------------------------------------------------------------------------------------------

    def _entry(self, plan: LoadPlan, epoch: int, moved: Moved, spool: BadRowSpool, changes: RowChanges) -> LedgerEntry:
        return LedgerEntry(
            load_id=self._request.load_id,
            batch=0,
            mapping=self._mapping.name,
            run_id=self._request.run_id,
            epoch=epoch,
            mode=plan.mode,
            lane=plan.lane,
            rows_in=moved.rows_in,
            rows_out=moved.rows_in - spool.total_rows,
            rows_quarantined=spool.total_rows,
            bytes=moved.bytes,
            rows_inserted=changes.inserted,
            rows_updated=changes.updated,
            rows_deleted=changes.deleted,
            checksum=moved.checksum,
            watermark=self._watermark(),
        )

    def _watermark(self) -> str | None:
        if self._request.upstream is not None:
            return self._request.upstream.watermark
        return None if self._window is None or self._window.after is None else self._window.after.to_json()

    def _report_earlier(self, plan: LoadPlan, epoch: int, entry: LedgerEntry, write: WriteSession) -> LoadResult:
        logger.info("%s: already committed by run %s", self._mapping.name, entry.run_id)
        target = self._request.target
        if not target.capabilities.transactional_ddl and RangeBook(target, write, plan.target).is_empty():
            # The attempt that committed may have died before it dropped its staging table; making one for the
            # newer epoch drops those of all older ones. Another load's ranges may lie in one of them.
            write.drop_staging(write.create_staging(plan.target, plan.columns, epoch=epoch))
        target_rows = count_rows(write, self._request.target, plan.target)
        checks = [
            check_contract(entry.rows_in, entry.rows_quarantined, "by the run that committed"),
            # The table may have changed since that commit, so its rows are reported, not judged.
            CheckOutcome(
                "row_count",
                entry.rows_in == entry.rows_out + entry.rows_quarantined,
                f"committed by run {entry.run_id}; the target now counts {target_rows:,} rows",
                {"rows_in": entry.rows_in, "rows_out": entry.rows_out, "target_rows": target_rows},
            ),
        ]
        checks.extend(self._check_keys(plan, write))
        return self._result(plan, entry, tuple(checks), target_rows, already_committed=True)

    def _result(
        self,
        plan: LoadPlan,
        entry: LedgerEntry,
        checks: tuple[CheckOutcome, ...],
        target_rows: int,
        *,
        already_committed: bool = False,
    ) -> LoadResult:
        return LoadResult(
            lane=plan.lane,
            lane_reason=plan.lane_reason,
            rows_in=entry.rows_in,
            rows_out=entry.rows_out,
            rows_quarantined=entry.rows_quarantined,
            rows_quarantined_before=self._known_bad_rows,
            bytes=entry.bytes,
            seconds=self._stopwatch.seconds,
            phase_seconds=dict(self._stopwatch.phase_seconds),
            epoch=entry.epoch,
            already_committed=already_committed,
            columns=plan.columns,
            lineage=self._lineage(plan),
            checks=checks,
            target_row_count=target_rows,
            peak_memory_bytes=peak_memory_bytes(),
            checksum=entry.checksum,
            rows_inserted=entry.rows_inserted,
            rows_updated=entry.rows_updated,
            rows_deleted=entry.rows_deleted,
            parallelism=self._parallelism,
            schema_changes=self._schema_changes,
            window=plan.window,
            watermark_before=None if self._window is None else _value_of(self._window.before),
            watermark_after=None if entry.watermark is None else _value_of(Watermark.from_json(entry.watermark)),
        )

    def _lineage(self, plan: LoadPlan) -> Lineage:
        return trace_lineage(
            self._mapping, self._request.schema, plan.source_columns, dialect=self._request.source.dialect
        )


def _value_of(watermark: Watermark | None) -> str | None:
    return None if watermark is None or watermark.value is None else str(watermark.value)
