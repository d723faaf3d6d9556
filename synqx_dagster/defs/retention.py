"""Deleting old runs with their events, captured output and stored rows, and none that anybody still needs.

Kept whatever its age: a run that has not ended, one that will be retried, one of a backfill that has not ended, the
last runs of each job, a run whose events say what an asset or one of its partitions holds now, and every run that a
kept one is a retry of: a retry finds in those before it which load it attempts, and without them would load again.
Watermarks are no reason to keep a run, they lie in the target's ledger.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus

from synqx_dagster.errors import SynqxError

logger = logging.getLogger(__name__)

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

_ROOT_TAG = "dagster/root_run_id"
_BACKFILL_TAG = "dagster/backfill"
_WILL_RETRY_TAG = "dagster/will_retry"
_RETRY_TAG = "dagster/auto_retry_run_id"
_PARTITION_TAG = "dagster/partition"

_PAGE_RUNS = 500
_PAGE_ASSETS = 500


@dataclass(frozen=True)
class Retention:
    """Which runs may go: those that ended so long ago, but for the last `keep_last` of each job."""

    older_than: timedelta
    keep_last: int


@dataclass
class PurgeReport:
    """What a purge did, or would do.

    Attributes:
        deleted: Ids of the runs, in the order in which they went.
        kept: How many runs that are old enough were kept, by the reason.
        unfinished: More may go; the time that was given had passed.
    """

    deleted: list[str] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)
    unfinished: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "kept": dict(self.kept)}


def purge_runs(
    instance: dg.DagsterInstance,
    retention: Retention,
    *,
    exchange: str | None = None,
    dry_run: bool = False,
    limit_seconds: float | None = None,
    now: datetime | None = None,
) -> PurgeReport:
    """Delete what `retention` lets go. May be interrupted, and repeated.

    A run and its retries go together or stay together.

    Args:
        exchange: Where steps of pipelines leave rows for each other; left out, what a run has stored there stays.
        dry_run: Only say what would be deleted.
        limit_seconds: Judge and delete no further run after this time. Left out, the oldest runs go first; with a limit
            the order is by chance, so that runs that are judged at length and kept do not use up each purge's time.
    """
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    cutoff = (now or datetime.now(UTC)) - retention.older_than
    report = PurgeReport()
    stored_rows = _StoredRows(None if dry_run else exchange)
    reasons = _Reasons(instance, retention.keep_last, cutoff)
    for family in _old_families(instance, reasons, report, is_limited=deadline is not None):
        if deadline is not None and time.monotonic() >= deadline:
            report.unfinished = True
            break
        found = [(run, reasons.find(run)) for run in family]
        if any(reason is not None for _, reason in found):
            old = [(run, reason) for run, reason in found if reasons.is_old(run)]
            report.kept.update(reason or "a run that is kept is its retry" for _, reason in old)
            continue
        for run in family:
            run_id = run.dagster_run.run_id
            if not dry_run:
                # The run itself goes last: a purge that is killed in between is finished by the next one.
                stored_rows.remove(run_id)
                delete_run(instance, run_id)
            report.deleted.append(run_id)
    return report


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run, its events and its captured output."""
    # Events first: a purge that is killed in between is finished by the next one, which still sees the run.
    instance.event_log_storage.delete_events(run_id)
    # Not every keeper of captured output can delete it: some leave that to the bucket it is in.
    with contextlib.suppress(NotImplementedError):
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
    _remove_file(instance, run_id)


class _StoredRows:
    """What runs have stored in an exchange. Runs go also where it is not to be reached, as it may be from here."""

    def __init__(self, exchange: str | None) -> None:
        self._folders: dict[str, tuple[str, ...]] = {}
        if exchange is None:
            return
        from synqx_dagster.pipelines.exchange import Exchange

        try:
            self._exchange = Exchange(exchange)
            self._folders = self._exchange.folders_by_run()
        except SynqxError as exc:
            logger.warning("what the deleted runs have stored is left where it is: %s", exc)

    def remove(self, run_id: str) -> None:
        for folder in self._folders.get(run_id, ()):
            try:
                self._exchange.remove_folder(folder)
            except SynqxError as exc:
                logger.warning("rows of run %s are left where they are: %s", run_id, exc)


def _remove_file(instance: dg.DagsterInstance, run_id: str) -> None:
    """SQLite storage has a file for each run, which Dagster empties and leaves."""
    find_path = getattr(instance.event_log_storage, "path_for_shard", None)
    if find_path is None:
        return
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(find_path(run_id) + suffix)
    # It takes a file that it has opened once for one with tables.
    getattr(instance.event_log_storage, "_initialized_dbs", set()).discard(run_id)


def _old_families(
    instance: dg.DagsterInstance, reasons: _Reasons, report: PurgeReport, *, is_limited: bool
) -> Iterator[list[dg.RunRecord]]:
    """Runs that were asked for before the cutoff, each with all of its retries.

    All are found before the first is given, so that what is deleted meanwhile moves no page. A run without retries that
    is known to be kept is not given: it goes into the report, and is not read again.
    """
    roots = dict(instance.run_storage.get_run_tags([_ROOT_TAG])).get(_ROOT_TAG, set())
    before = dg.RunsFilter(created_before=reasons.cutoff, statuses=list(_ENDED))
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = instance.get_run_records(before, limit=_PAGE_RUNS, cursor=cursor)
        for record in page:
            root = record.dagster_run.tags.get(_ROOT_TAG, record.dagster_run.run_id)
            if root == record.dagster_run.run_id and root not in roots:
                reason = reasons.find_known(record)
                if reason is not None:
                    if reasons.is_old(record):
                        report.kept[reason] += 1
                    continue
            found.append(root)
        if len(page) < _PAGE_RUNS:
            break
        cursor = page[-1].dagster_run.run_id
    families = list(dict.fromkeys(reversed(found)))
    if is_limited:
        random.shuffle(families)
    for root in families:
        family = list(instance.get_run_records(dg.RunsFilter(run_ids=[root])))
        if root in roots:
            family += instance.get_run_records(dg.RunsFilter(tags={_ROOT_TAG: root}), ascending=True)
        yield family


class _Reasons:
    """Why runs are kept. What is asked of all of them at once is asked when it is first needed."""

    def __init__(self, instance: dg.DagsterInstance, keep_last: int, cutoff: datetime) -> None:
        self._instance = instance
        self._keep_last = keep_last
        self.cutoff = cutoff
        self._last_of_job: dict[str, frozenset[str]] = {}
        self._telling = frozenset(_runs_that_tell_of_assets(instance))
        unfinished = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
        backfills = instance.get_backfills(filters=BulkActionsFilter(statuses=unfinished))
        self._backfills = frozenset(backfill.backfill_id for backfill in backfills)

    def is_old(self, record: dg.RunRecord) -> bool:
        """Whether a run's age alone would let it go."""
        ended = record.end_time
        moment = record.create_timestamp if ended is None else datetime.fromtimestamp(ended, UTC)
        return moment.astimezone(UTC) < self.cutoff

    def find(self, record: dg.RunRecord) -> str | None:
        """Why a run is kept; None for one that may go."""
        known = self.find_known(record)
        if known is None and self._tells_of_a_partition(record.dagster_run):
            return "it made the last load of an asset"
        return known

    def find_known(self, record: dg.RunRecord) -> str | None:
        """As `find`, as far as that is known without the run's events."""
        run = record.dagster_run
        if run.status not in _ENDED:
            return "it has not ended"
        if not self.is_old(record):
            return "it ended later"
        if run.tags.get(_WILL_RETRY_TAG) == "true" and not run.tags.get(_RETRY_TAG):
            return "it will be retried"
        if run.tags.get(_BACKFILL_TAG) in self._backfills:
            return "its backfill has not ended"
        if run.run_id in self._last_runs(run.job_name):
            return "it is one of its job's last runs"
        if run.run_id in self._telling:
            return "it made the last load of an asset"
        return None

    def _last_runs(self, job_name: str) -> frozenset[str]:
        if job_name not in self._last_of_job:
            filters = dg.RunsFilter(job_name=job_name)
            latest = self._instance.get_run_ids(filters, limit=self._keep_last) if self._keep_last else []
            self._last_of_job[job_name] = frozenset(latest)
        return self._last_of_job[job_name]

    def _tells_of_a_partition(self, run: dg.DagsterRun) -> bool:
        if not any(tag.startswith((_PARTITION_TAG, "dagster/asset_partition_range")) for tag in run.tags):
            return False
        loads = self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        return any(self._is_last_of_partition(entry) for entry in loads)

    def _is_last_of_partition(self, entry: dg.EventLogEntry) -> bool:
        event = entry.dagster_event
        if event is None or event.asset_key is None or event.partition is None:
            return False
        filters = dg.AssetRecordsFilter(asset_key=event.asset_key, asset_partitions=[event.partition])
        latest = self._instance.fetch_materializations(filters, limit=1).records
        return bool(latest) and latest[0].run_id == entry.run_id


def _runs_that_tell_of_assets(instance: dg.DagsterInstance) -> Iterator[str]:
    """The run of each asset's last materialization."""
    cursor: str | None = None
    while keys := instance.get_asset_keys(limit=_PAGE_ASSETS, cursor=cursor):
        yield from _last_loads(instance, keys)
        cursor = keys[-1].to_string()


def _last_loads(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> Iterator[str]:
    for record in instance.get_asset_records(list(keys)):
        last = record.asset_entry.last_materialization_record
        if last is not None:
            yield last.run_id
