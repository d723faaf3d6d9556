"""One run in detail: who asked for it, its steps with their figures, and the nodes of a pipeline within a step.

Everything is read from Dagster's storage: a run that is under way is shown as far as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from synqx_dagster.defs.instance import PROCESS_TAG
from synqx_dagster.defs.names import METADATA_PREFIX, NODES_METADATA
from synqx_dagster.defs.run_failures import failure_report
from synqx_dagster.defs.run_logs import step_keys
from synqx_dagster.defs.runs import RunInfo, get_run
from synqx_dagster.pipelines.report import NodeReport

_SCHEDULED_TIME_TAG = ".dagster/scheduled_execution_time"

#: Run tags that say who asked, the most telling first. Source: dagster/_core/storage/tags.py.
_TRIGGERS = (
    ("backfill", "dagster/backfill"),
    ("retry", "dagster/parent_run_id"),
    ("schedule", "dagster/schedule_name"),
    ("sensor", "dagster/sensor_name"),
    ("automation", "dagster/from_automation_condition"),
    ("user", "user"),
    ("user", "dagster/reporting_user"),
)

_TYPES = {
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_RESTARTED,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SKIPPED,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
}

_STATUSES = {
    dg.DagsterEventType.STEP_START: "RUNNING",
    dg.DagsterEventType.STEP_RESTARTED: "RUNNING",
    dg.DagsterEventType.STEP_UP_FOR_RETRY: "RETRYING",
    dg.DagsterEventType.STEP_SUCCESS: "SUCCESS",
    dg.DagsterEventType.STEP_FAILURE: "FAILURE",
    dg.DagsterEventType.STEP_SKIPPED: "SKIPPED",
}
_STARTS = frozenset({dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED})
_UNDER_WAY = frozenset({"RUNNING", "RETRYING"})
_RUN_ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


@dataclass(frozen=True)
class Trigger:
    """Who asked for a run.

    Attributes:
        kind: ``schedule``, ``sensor``, ``backfill``, ``retry``, ``automation``, ``command`` (`synqx run`) or ``user``.
        name: The schedule, the sensor, the backfill, the run that is tried again, or the user, where known.
        scheduled_for: The tick that a schedule asked for.
    """

    kind: str
    name: str | None = None
    scheduled_for: str | None = None

    def __str__(self) -> str:
        words = {"command": "the command line", "retry": "retry of run"}.get(self.kind, self.kind)
        name = self.name[:8] if self.kind == "retry" and self.name else self.name
        return f"{words} {name}" if name else words


@dataclass(frozen=True)
class LoadedAsset:
    """What a step says of one asset that it loaded; ``checks`` by name, true for those that passed."""

    asset_key: str
    name: str | None = None
    rows_in: int | None = None
    rows_out: int | None = None
    rows_quarantined: int | None = None
    checks: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class StepReport:
    """One step of a run.

    Attributes:
        status: ``PENDING``, ``RUNNING``, ``RETRYING``, ``SUCCESS``, ``FAILURE`` or ``SKIPPED``; in a run that has ended
            also ``INTERRUPTED`` (it began and never ended) and ``NOT_STARTED``.
        attempts: How often it was begun.
        seconds: From the first attempt's start to the end, waits between attempts included; to now while it runs.
        rows_in, rows_out, rows_quarantined: Of all its assets; None where none of them says so.
    """

    step_key: str
    status: str
    attempts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    seconds: float | None = None
    rows_in: int | None = None
    rows_out: int | None = None
    rows_quarantined: int | None = None
    assets: tuple[LoadedAsset, ...] = ()
    nodes: tuple[NodeReport, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        times = {
            name: time.isoformat() if (time := getattr(self, name)) is not None else None
            for name in ("started_at", "ended_at")
        }
        return {**asdict(self), **times}


@dataclass(frozen=True)
class RunDetail:
    """A run, who asked for it, and its steps in the order of its plan. ``error`` is of the run as a whole."""

    info: RunInfo
    trigger: Trigger
    steps: tuple[StepReport, ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **self.info.to_dict(),
            "trigger": asdict(self.trigger),
            "error": self.error,
            "steps": [step.to_dict() for step in self.steps],
        }


def read_detail(instance: dg.DagsterInstance, run_id: str) -> RunDetail:
    """What a run did so far, step by step.

    Raises:
        NotFoundError: As `get_run`.
    """
    info = get_run(instance, run_id)
    run = instance.get_run_by_id(info.run_id)
    assert run is not None
    builders = {key: _StepBuilder(key) for key in step_keys(instance, run)}
    error: str | None = None
    for entry in instance.all_logs(info.run_id, of_type=_TYPES):
        event = entry.dagster_event
        if event is None:
            continue
        if event.step_key is not None:
            builder = builders.setdefault(event.step_key, _StepBuilder(event.step_key))
            builder.take(event, datetime.fromtimestamp(entry.timestamp, UTC))
        elif event.event_type in (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED):
            error = event.message or None
    has_ended = info.status in _RUN_ENDED
    now = info.ended_at or datetime.now(UTC)
    steps = tuple(builder.build(now, run_has_ended=has_ended) for builder in builders.values())
    if any(step.error for step in steps):
        error = None  # Dagster's own sentence names the steps, which say more themselves
    return RunDetail(info, find_trigger(run.tags), steps, error)


def find_trigger(tags: Mapping[str, str]) -> Trigger:
    """Who asked for a run, by its tags."""
    for kind, tag in _TRIGGERS:
        if tags.get(tag):
            name = None if kind == "automation" else tags[tag]
            return Trigger(kind, name, tags.get(_SCHEDULED_TIME_TAG) if kind == "schedule" else None)
    return Trigger("command" if PROCESS_TAG in tags else "user")


class _StepBuilder:
    """Gathers what the events of one step say."""

    def __init__(self, step_key: str) -> None:
        self._report = StepReport(step_key, "PENDING")
        self._assets: dict[str, LoadedAsset] = {}
        self._checks: dict[str, dict[str, bool]] = {}
        self._nodes: dict[str, NodeReport] = {}

    def take(self, event: dg.DagsterEvent, time: datetime) -> None:
        report = self._report
        kind = event.event_type
        if kind == dg.DagsterEventType.ASSET_MATERIALIZATION:
            self._take_materialization(event)
            return
        if kind == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            key = evaluation.asset_key.to_user_string()
            self._checks.setdefault(key, {})[evaluation.check_name] = evaluation.passed
            return
        report = replace(report, status=_STATUSES[kind])
        if kind in _STARTS:
            report = replace(report, attempts=report.attempts + 1, started_at=report.started_at or time, ended_at=None)
        elif kind != dg.DagsterEventType.STEP_UP_FOR_RETRY:
            report = replace(report, ended_at=time)
        if kind == dg.DagsterEventType.STEP_FAILURE:
            report = replace(report, error=failure_report(event).message)
            failure = event.step_failure_data.user_failure_data
            self._take_nodes(failure.metadata if failure is not None else {})
        self._report = report

    def _take_materialization(self, event: dg.DagsterEvent) -> None:
        if event.asset_key is None:
            return
        metadata = event.materialization.metadata
        name = metadata.get(f"{METADATA_PREFIX}mapping")
        key = event.asset_key.to_user_string()
        self._assets[key] = LoadedAsset(
            asset_key=key,
            name=None if name is None else str(name.value),
            rows_in=_count(metadata, "rows_in"),
            rows_out=_count(metadata, "rows_out"),
            rows_quarantined=_count(metadata, "rows_quarantined"),
        )
        self._take_nodes(metadata)

    def _take_nodes(self, metadata: Mapping[str, dg.MetadataValue[Any]]) -> None:
        # The assets of one step may each carry the whole list; a node is shown once.
        for node in parse_nodes(metadata.get(NODES_METADATA)):
            self._nodes[node.node_id] = node

    def build(self, now: datetime, *, run_has_ended: bool) -> StepReport:
        report = self._report
        if run_has_ended and report.status in _UNDER_WAY:
            report = replace(report, status="INTERRUPTED")
        elif run_has_ended and report.status == "PENDING":
            report = replace(report, status="NOT_STARTED")
        assets = tuple(replace(asset, checks=self._checks.get(key, {})) for key, asset in self._assets.items())
        seconds = None
        if report.started_at is not None:
            seconds = round(((report.ended_at or now) - report.started_at).total_seconds(), 3)
        return replace(
            report,
            seconds=seconds,
            rows_in=_total(asset.rows_in for asset in assets),
            rows_out=_total(asset.rows_out for asset in assets),
            rows_quarantined=_total(asset.rows_quarantined for asset in assets),
            assets=assets,
            nodes=tuple(self._nodes.values()),
        )


def parse_nodes(value: dg.MetadataValue[Any] | None) -> list[NodeReport]:
    """The nodes that a step's metadata lists: JSON with an object for each, as `NodeReport.to_dict` makes it.

    What is no list of nodes is passed over, and what has the wrong type counts as not said: others may write there.
    """
    found: Any = None if value is None else value.value
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return []
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    return [
        NodeReport(
            node_id=str(item["node_id"]),
            operator=_text(item.get("operator")) or "",
            rows_in=_integer(item.get("rows_in")),
            rows_out=_integer(item.get("rows_out")),
            rows_quarantined=_integer(item.get("rows_quarantined")) or 0,
            seconds=_number(item.get("seconds")) or 0.0,
            fused_with=tuple(map(str, others)) if isinstance(others := item.get("fused_with"), list) else (),
            error=_text(item.get("error")),
        )
        for item in found
        if isinstance(item, Mapping) and item.get("node_id") is not None
    ]


def _count(metadata: Mapping[str, dg.MetadataValue[Any]], name: str) -> int | None:
    value = metadata.get(f"{METADATA_PREFIX}{name}")
    return None if value is None else _integer(value.value)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
