"""What a monitoring system watches, read from Dagster's storage and the catalog.

The cost grows with the number of jobs, assets and schedules, not with that of the runs: no run's events are read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus
from dagster._utils.schedules import cron_string_iterator

from synqx_dagster.defs.access import find_seal_reason
from synqx_dagster.defs.exposition import Metric, Sample
from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.defs.run_table import count_runs, find_last_runs, find_last_successes
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.defs.switches import find_states
from synqx_dagster.model import Schedule, dagster_name

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: Assets whose last materializations are read at once.
_ASSET_PAGE = 500

_ASSET_FIGURES = {
    "rows_in": "Rows that the last load of an asset read.",
    "rows_out": "Rows that the last load of an asset wrote.",
    "rows_quarantined": "Rows that the last load of an asset set aside.",
    "bytes": "Bytes that the last load of an asset moved.",
    "seconds": "Seconds that the last load of an asset took.",
}

_QUEUED = dg.DagsterRunStatus.QUEUED.value


def collect_metrics(instance: dg.DagsterInstance, catalog: Catalog, *, now: float | None = None) -> list[Metric]:
    """Every metric, in a fixed order; those of which nothing is known have no samples.

    Args:
        now: Seconds since 1970, from which on ticks are next ones; left out, the clock's.

    Raises:
        ConfigurationError: The catalog cannot be read, or the runs are stored in no SQL database.
    """
    now = time.time() if now is None else now
    return [
        *_job_metrics(instance),
        *_asset_metrics(instance),
        *_schedule_metrics(instance, catalog.snapshot().schedules, now),
        *_process_metrics(instance, catalog),
    ]


def _job_metrics(instance: dg.DagsterInstance) -> Iterator[Metric]:
    counts = count_runs(instance)
    yield Metric(
        "synqx_runs",
        "Runs in Dagster's storage.",
        tuple(Sample(count, {"job": job, "status": status}) for (job, status), count in sorted(counts.items())),
    )
    queued = sum(count for (_, status), count in counts.items() if status == _QUEUED)
    yield Metric("synqx_queued_runs", "Runs that wait for their start.", (Sample(queued, {}),))
    last = find_last_runs(instance)
    yield Metric(
        "synqx_job_last_run_status",
        "1 for the status of a job's last run.",
        tuple(Sample(1, {"job": run.job_name, "status": run.status}) for run in last),
    )
    yield _by(
        "job",
        "synqx_job_last_run_start_timestamp_seconds",
        "When a job's last run started, in seconds since 1970.",
        {run.job_name: run.start_time for run in last},
    )
    yield _by(
        "job",
        "synqx_job_last_run_end_timestamp_seconds",
        "When a job's last run ended, in seconds since 1970; missing while it runs.",
        {run.job_name: run.end_time for run in last},
    )
    yield _by(
        "job",
        "synqx_job_last_run_duration_seconds",
        "How long a job's last run took; missing while it runs.",
        {
            run.job_name: run.end_time - run.start_time
            for run in last
            if run.end_time is not None and run.start_time is not None
        },
    )
    yield _by(
        "job",
        "synqx_job_last_success_timestamp_seconds",
        "When a job last ended well, in seconds since 1970.",
        find_last_successes(instance),
    )


@dataclass(frozen=True)
class _LastLoad:
    labels: Mapping[str, str]
    timestamp: float
    figures: Mapping[str, float]
    target_rows: float | None


def _asset_metrics(instance: dg.DagsterInstance) -> Iterator[Metric]:
    loads = list(_last_loads(instance))
    yield Metric(
        "synqx_asset_last_load_timestamp_seconds",
        "When an asset was last loaded, in seconds since 1970.",
        tuple(Sample(load.timestamp, load.labels) for load in loads),
    )
    for figure, text in _ASSET_FIGURES.items():
        yield Metric(
            f"synqx_asset_last_load_{figure}",
            text,
            tuple(Sample(load.figures[figure], load.labels) for load in loads if figure in load.figures),
        )
    yield Metric(
        "synqx_asset_rows",
        "Rows in an asset's table after its last load.",
        tuple(Sample(load.target_rows, load.labels) for load in loads if load.target_rows is not None),
    )


def _last_loads(instance: dg.DagsterInstance) -> Iterator[_LastLoad]:
    cursor: str | None = None
    while True:
        keys = instance.get_asset_keys(limit=_ASSET_PAGE, cursor=cursor)
        if not keys:
            return
        for record in instance.get_asset_records(keys):
            event = record.asset_entry.last_materialization_record
            if event is None or event.asset_materialization is None:
                continue
            metadata = event.asset_materialization.metadata
            figures = {name: _number(metadata.get(f"{METADATA_PREFIX}{name}")) for name in _ASSET_FIGURES}
            mapping = metadata.get(f"{METADATA_PREFIX}mapping")
            if mapping is None and all(value is None for value in figures.values()):
                continue  # an asset of somebody else
            yield _LastLoad(
                labels={
                    "asset": record.asset_entry.asset_key.to_user_string(),
                    "mapping": "" if mapping is None else str(mapping.value),
                },
                timestamp=event.timestamp,
                figures={name: value for name, value in figures.items() if value is not None},
                target_rows=_number(metadata.get("dagster/row_count")),
            )
        cursor = keys[-1].to_string()


def _number(value: dg.MetadataValue[Any] | None) -> float | None:
    found = None if value is None else value.value
    return found if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def _schedule_metrics(instance: dg.DagsterInstance, schedules: Mapping[str, Schedule], now: float) -> Iterator[Metric]:
    states = {
        name: state
        for (kind, name), state in find_states(instance, marker=SENSOR_NAME).items()
        if kind == InstigatorType.SCHEDULE
    }
    running = {
        name: _is_running(schedule, states.get(dagster_name(name))) for name, schedule in sorted(schedules.items())
    }
    ticks = {
        name: latest[0]
        for name in running
        if (state := states.get(dagster_name(name))) is not None
        and (latest := instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1))
    }
    yield _by(
        "schedule", "synqx_schedule_running", "1 for a schedule that is started, 0 for one that is stopped.", running
    )
    yield _by(
        "schedule",
        "synqx_schedule_last_tick_timestamp_seconds",
        "For when a schedule's last tick was, in seconds since 1970.",
        {name: tick.timestamp for name, tick in ticks.items()},
    )
    yield Metric(
        "synqx_schedule_last_tick_status",
        "1 for the status of a schedule's last tick.",
        tuple(Sample(1, {"schedule": name, "status": tick.status.value}) for name, tick in ticks.items()),
    )
    yield _by(
        "schedule",
        "synqx_schedule_next_tick_timestamp_seconds",
        "For when a started schedule's next tick is, in seconds since 1970.",
        {name: _next_tick(schedules[name], now) for name, runs in running.items() if runs},
    )


def _is_running(schedule: Schedule, state: InstigatorState | None) -> bool:
    """What somebody chose in the web UI counts, until the catalog's state is set anew."""
    if state is None or state.status == InstigatorStatus.DECLARED_IN_CODE:
        return schedule.enabled
    return state.status == InstigatorStatus.RUNNING


def _next_tick(schedule: Schedule, now: float) -> float | None:
    """The tick as Dagster counts it, over the changes of a time zone's clock; None for a rule that never fires."""
    upcoming = cron_string_iterator(now, schedule.cron_expression, schedule.timezone)
    try:
        return next((moment.timestamp() for moment in upcoming if moment.timestamp() > now), None)
    except ValueError:  # croniter's word for "not within fifty years"
        return None


def _process_metrics(instance: dg.DagsterInstance, catalog: Catalog) -> Iterator[Metric]:
    yield _by(
        "daemon",
        "synqx_daemon_heartbeat_timestamp_seconds",
        "When one of Dagster's daemons last said that it lives, in seconds since 1970.",
        {name: beat.timestamp for name, beat in sorted(instance.get_daemon_heartbeats().items())},
    )
    yield Metric("synqx_catalog_revision", "The catalog's latest revision.", (Sample(catalog.latest_revision(), {}),))
    sealed = find_seal_reason(catalog, secrets_needed=True) is not None
    yield Metric(
        "synqx_vault_sealed", "1 while the vault gives this process no secret, else 0.", (Sample(float(sealed), {}),)
    )


def _by(label: str, name: str, text: str, values: Mapping[str, float | None]) -> Metric:
    """A metric with one label; what is None is not known and has no sample."""
    samples: Iterable[Sample] = (Sample(value, {label: key}) for key, value in values.items() if value is not None)
    return Metric(name, text, tuple(samples))
