"""Runs, their figures and their logs, read from Dagster's storage as plain values; nothing is kept beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from synqx_dagster.defs.names import METADATA_PREFIX, REVISION_TAG
from synqx_dagster.errors import NotFoundError

#: Class of the error of a step, or of a run between two of them, that a signal ended.
INTERRUPTED = "DagsterExecutionInterruptedError"
_INTERRUPTS = (INTERRUPTED, "KeyboardInterrupt")

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
class FailureReport:
    """Why one load failed. ``error`` is the class of the error, or `INTERRUPTED`; None for one that is foreign."""

    name: str
    message: str
    error: str | None = None


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
    assets = []
    failures = []
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key is not None:
            if f"{METADATA_PREFIX}lane" not in event.materialization.metadata:
                continue  # Rows that a step of a pipeline stored for other steps.
            assets.append(_asset_report(event, event.asset_key, checks.get(event.asset_key, {})))
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            failures.append(_failure_report(event))
    if not failures:
        # A run that fails outside its steps has nobody else to say so.
        failures = [
            _run_failure_report(run.job_name, event)
            for event in events
            if event.event_type == dg.DagsterEventType.RUN_FAILURE
        ]
    return RunReport(
        run_id=run_id,
        status=run.status.value,
        revision=int(run.tags.get(REVISION_TAG, 0)),
        assets=tuple(assets),
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


def _run_failure_report(job_name: str, event: dg.DagsterEvent) -> FailureReport:
    error = event.job_failure_data.error
    while error is not None and error.cls_name not in _INTERRUPTS:
        error = error.cause
    if error is not None:
        return FailureReport(job_name, "interrupted between its loads", INTERRUPTED)
    return FailureReport(job_name, event.message or "the run failed")


def _failure_report(event: dg.DagsterEvent) -> FailureReport:
    step = event.step_key or ""
    failure = event.step_failure_data.user_failure_data
    if failure is None:
        error = event.step_failure_data.error
        if error is not None and error.cls_name in _INTERRUPTS:
            return FailureReport(step, "interrupted before it was done", INTERRUPTED)
        # Dagster wraps what an op raised; the innermost cause is what happened.
        while error is not None and error.cause is not None:
            error = error.cause
        return FailureReport(step, error.message.strip() if error is not None else "the step failed")
    name = failure.metadata.get(f"{METADATA_PREFIX}mapping")
    error_class = failure.metadata.get(f"{METADATA_PREFIX}error")
    return FailureReport(
        name=step if name is None else str(name.value),
        message=failure.description or failure.label,
        error=None if error_class is None else str(error_class.value),
    )


# --- lists and logs -----------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class LogLine:
    """One line of a run's log; ``step`` is the mapping's step, None for the run as a whole."""

    time: datetime
    level: str
    step: str | None
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "time": self.time.isoformat()}


def list_runs(instance: dg.DagsterInstance, limit: int = 20) -> list[RunInfo]:
    """The latest runs, newest first."""
    return [_run_info(record) for record in instance.get_run_records(limit=limit)]


def get_run(instance: dg.DagsterInstance, run_id: str) -> RunInfo:
    """One run, by its id or by the first eight characters or more of it.

    Raises:
        NotFoundError: No run has this id, or several begin with it.
    """
    records = list(instance.get_run_records(filters=dg.RunsFilter(run_ids=[run_id])))
    if not records and len(run_id) >= _SHORTEST_PREFIX:
        records = [
            record
            for record in instance.get_run_records(limit=_SEARCHED_RUNS)
            if record.dagster_run.run_id.startswith(run_id)
        ]
    if len(records) != 1:
        what = f"several runs begin with {run_id!r}" if records else f"there is no run {run_id!r}"
        raise NotFoundError(what, hint="`synqx runs` lists them")
    return _run_info(records[0])


def iter_logs(instance: dg.DagsterInstance, run_id: str) -> Iterator[LogLine]:
    """The log of a run, oldest first; events that say nothing are left out."""
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, limit=_PAGE_RECORDS)
        for record in page.records:
            entry = record.event_log_entry
            message = entry.message or (entry.dagster_event.message if entry.dagster_event else "") or ""
            if entry.dagster_event is not None and entry.dagster_event.is_failure and entry.dagster_event.is_step_event:
                message = f"{message}\n{_failure_report(entry.dagster_event).message}"
            if message:
                yield LogLine(
                    time=datetime.fromtimestamp(entry.timestamp, UTC),
                    level=_LEVELS.get(int(entry.level), str(entry.level)),
                    step=entry.step_key,
                    message=message,
                )
        if not page.has_more:
            return
        cursor = page.cursor


_SHORTEST_PREFIX = 8
_SEARCHED_RUNS = 1000
_PAGE_RECORDS = 500
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


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
