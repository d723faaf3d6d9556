"""Runs and their figures, read from Dagster's storage as plain values; nothing is kept beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from synqx_dagster.defs.names import METADATA_PREFIX, REVISION_TAG
from synqx_dagster.defs.run_failures import INTERRUPTED, FailureReport, failure_report, run_failure_report
from synqx_dagster.defs.run_table import RunQuery, find_run_ids
from synqx_dagster.errors import NotFoundError

_FIGURES = ("lane", "rows_in", "rows_out", "rows_quarantined", "bytes", "seconds", "already_committed", "epoch")

#: Figures that runs of earlier versions lack, or loads of which there is nothing to say.
_OPTIONAL_FIGURES = (
    "lane_reason",
    "mode",
    "parallelism",
    "rows_inserted",
    "rows_updated",
    "rows_deleted",
    "phase_seconds",
    "peak_memory_bytes",
    "watermark_before",
    "watermark_after",
    "window",
    "schema_changes",
)


@dataclass(frozen=True)
class AssetReport:
    """What one load did; ``seconds`` is the engine's own time, and the rest is as in `LoadResult`."""

    name: str
    asset_key: str
    lane: str
    rows_in: int
    rows_out: int
    rows_quarantined: int
    bytes: int
    seconds: float
    already_committed: bool = False
    epoch: int | None = None
    checks: Mapping[str, bool] = field(default_factory=dict)
    lane_reason: str | None = None
    mode: str | None = None
    parallelism: int | None = None
    rows_inserted: int | None = None
    rows_updated: int | None = None
    rows_deleted: int | None = None
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    watermark_before: str | None = None
    watermark_after: str | None = None
    window: str | None = None
    schema_changes: Sequence[str] = ()


@dataclass(frozen=True)
class Interruption:
    """Which loads of an interrupted run had committed, and are whole, and which had not; by the names of mappings."""

    committed: tuple[str, ...]
    not_committed: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """What a run did. ``status`` is Dagster's: SUCCESS, FAILURE or CANCELED."""

    run_id: str
    status: str
    revision: int
    assets: tuple[AssetReport, ...]
    failures: tuple[FailureReport, ...] = ()
    interruption: Interruption | None = None

    @property
    def succeeded(self) -> bool:
        """Whether every load was made."""
        return self.status == dg.DagsterRunStatus.SUCCESS.value

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal ended the run, such as the user's Ctrl-C."""
        return any(failure.error == INTERRUPTED for failure in self.failures)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        document = {
            **asdict(self),
            "assets": [asdict(asset) for asset in self.assets],
            "failures": [asdict(failure) for failure in self.failures],
        }
        if self.interruption is None:
            del document["interruption"]
        return document


def read_report(instance: dg.DagsterInstance, run_id: str) -> RunReport:
    """What a run did so far; complete once it has ended.

    Raises:
        NotFoundError: There is no such run.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    wanted = {
        dg.DagsterEventType.RUN_FAILURE,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        dg.DagsterEventType.STEP_FAILURE,
    }
    events = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=wanted) if entry.dagster_event]
    checks: dict[dg.AssetKey, dict[str, bool]] = {}
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            checks.setdefault(evaluation.asset_key, {})[evaluation.check_name] = evaluation.passed
    # By key: a load of several partitions is reported once for each of them.
    assets: dict[dg.AssetKey, AssetReport] = {}
    failures = []
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key is not None:
            if f"{METADATA_PREFIX}lane" not in event.materialization.metadata:
                continue  # Rows that a step of a pipeline stored for other steps.
            assets[event.asset_key] = _asset_report(event, event.asset_key, checks.get(event.asset_key, {}))
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            failures.append(failure_report(event))
    if not failures:
        # A run that fails outside its steps has nobody else to say so.
        failures = [
            run_failure_report(run.job_name, event)
            for event in events
            if event.event_type == dg.DagsterEventType.RUN_FAILURE
        ]
    return RunReport(
        run_id=run_id,
        status=run.status.value,
        revision=int(run.tags.get(REVISION_TAG, 0)),
        assets=tuple(assets.values()),
        failures=tuple(failures),
    )


def _asset_report(event: dg.DagsterEvent, key: dg.AssetKey, checks: Mapping[str, bool]) -> AssetReport:
    metadata = event.materialization.metadata
    values: dict[str, Any] = {name: metadata[f"{METADATA_PREFIX}{name}"].value for name in _FIGURES}
    values |= {
        name: found.value
        for name in _OPTIONAL_FIGURES
        if (found := metadata.get(f"{METADATA_PREFIX}{name}")) is not None
    }
    return AssetReport(
        name=str(metadata[f"{METADATA_PREFIX}mapping"].value),
        asset_key=key.to_user_string(),
        checks=dict(checks),
        **values,
    )


# --- lists -----------------------------------------------------------------------------------------

#: Runs of one asset that are looked at; of those before nobody asks by the asset.
_MAX_ASSET_RUNS = 10_000
_PAGE_EVENTS = 1000


@dataclass(frozen=True)
class RunInfo:
    """One run in a list. Times are UTC; ``seconds`` is wall time, to now for a run that has not ended.

    ``assets`` are the keys that were asked for by name; empty for all that the job has.
    """

    run_id: str
    job_name: str
    status: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    revision: int | None
    tags: Mapping[str, str]
    assets: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        times = {
            name: time.isoformat() if (time := getattr(self, name)) is not None else None
            for name in ("created_at", "started_at", "ended_at")
        }
        return {**asdict(self), "tags": dict(self.tags), "assets": list(self.assets), **times}


def list_runs(instance: dg.DagsterInstance, limit: int = 20) -> list[RunInfo]:
    """The latest runs, newest first."""
    return [_run_info(record) for record in instance.get_run_records(limit=limit)]


def find_runs(instance: dg.DagsterInstance, query: RunQuery) -> tuple[list[RunInfo], int]:
    """A page of runs, and how many there are in all.

    Raises:
        ConfigurationError: The runs are stored in no SQL database.
    """
    run_ids, total = find_run_ids(instance, query)
    if not run_ids:
        return [], total
    records = {
        record.dagster_run.run_id: record
        for record in instance.get_run_records(dg.RunsFilter(run_ids=run_ids), limit=len(run_ids))
    }
    # One that was deleted in between is left out.
    return [_run_info(records[run_id]) for run_id in run_ids if run_id in records], total


def find_runs_of_asset(
    instance: dg.DagsterInstance, key: Sequence[str], *, since: datetime | None = None, limit: int = _MAX_ASSET_RUNS
) -> list[str]:
    """Ids of the latest runs that were to load an asset, whatever became of them; the newest first."""
    found: dict[str, None] = {}
    before: int | None = None
    while len(found) < limit:
        wanted = dg.EventRecordsFilter(
            dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
            asset_key=dg.AssetKey(list(key)),
            after_timestamp=None if since is None else since.timestamp(),
            before_cursor=before,
        )
        # The instance's own method for these events is deprecated without another in its place.
        page = instance.event_log_storage.get_event_records(wanted, limit=_PAGE_EVENTS, ascending=False)
        # A load of several partitions is planned once for each.
        found.update(dict.fromkeys(record.run_id for record in page))
        if len(page) < _PAGE_EVENTS:
            break
        before = page[-1].storage_id
    return list(found)[:limit]


def get_exact_run(instance: dg.DagsterInstance, run_id: str) -> RunInfo:
    """One run by its whole id.

    Raises:
        NotFoundError: There is none.
    """
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        raise NotFoundError(f"there is no run {run_id!r}")
    return _run_info(record)


def get_run(instance: dg.DagsterInstance, run_id: str) -> RunInfo:
    """One run, by its id or by a beginning of it, of four characters or more, that no other run has.

    Raises:
        NotFoundError: No run has this id, or several begin with it.
    """
    record = instance.get_run_record_by_id(run_id)
    if record is None and len(run_id) >= _SHORTEST_PREFIX:
        found = _find_run_ids(instance, run_id)
        if len(found) > 1:
            listed = " and ".join(text[:13] for text in found)
            raise NotFoundError(f"several runs begin with {run_id!r}", hint=f"write more of the id: {listed}")
        record = instance.get_run_record_by_id(found[0]) if found else None
    if record is None:
        raise NotFoundError(f"there is no run {run_id!r}", hint="`synqx runs` lists them")
    return _run_info(record)


def get_latest_run(instance: dg.DagsterInstance) -> RunInfo:
    """The run that was asked for last.

    Raises:
        NotFoundError: There are no runs.
    """
    latest = list_runs(instance, 1)
    if not latest:
        raise NotFoundError("There are no runs yet", hint="`synqx run NAME` starts one")
    return latest[0]


def _find_run_ids(instance: dg.DagsterInstance, prefix: str) -> list[str]:
    """Up to two ids that begin so; ids alone are read, because there may be very many runs."""
    found: list[str] = []
    cursor: str | None = None
    while len(found) < 2:
        page = instance.get_run_ids(cursor=cursor, limit=_PAGE_IDS)
        found += [run_id for run_id in page if run_id.startswith(prefix)]
        if len(page) < _PAGE_IDS:
            break
        cursor = page[-1]
    return found[:2]


#: A shorter beginning is a typing mistake more often than a run.
_SHORTEST_PREFIX = 4
_PAGE_IDS = 10_000


def _run_info(record: dg.RunRecord) -> RunInfo:
    run = record.dagster_run
    started = None if record.start_time is None else datetime.fromtimestamp(record.start_time, UTC)
    ended = None if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)
    revision = run.tags.get(REVISION_TAG, "")
    return RunInfo(
        run_id=run.run_id,
        job_name=run.job_name,
        status=run.status.value,
        created_at=record.create_timestamp.astimezone(UTC),
        started_at=started,
        ended_at=ended,
        seconds=None if started is None else ((ended or datetime.now(UTC)) - started).total_seconds(),
        revision=int(revision) if revision.isdigit() else None,
        tags={name: value for name, value in run.tags.items() if not name.startswith(".dagster/")},
        assets=tuple(sorted(key.to_user_string() for key in run.asset_selection or ())),
    )
