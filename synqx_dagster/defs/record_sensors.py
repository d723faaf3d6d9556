"""Sensors of the catalog as Dagster sensors.

Guarantee: a look that fails, or that a sealed vault prevents, moves no cursor, so what happened meanwhile is seen by
the next one. Nothing that was read at a source is in a cursor, a tick or an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.defs.access import CatalogAccess, find_seal_reason, needs_vault
from synqx_dagster.defs.ended_runs import RunCursor, take_ended_runs
from synqx_dagster.defs.failures import describe_error
from synqx_dagster.defs.jobs import JobPlan, partitions_of, plan_pipeline
from synqx_dagster.defs.names import METADATA_PREFIX, revision_metadata
from synqx_dagster.defs.partitions import describe_keys, due_tags
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.sensors import location_of
from synqx_dagster.defs.watching import (
    DEFAULT_STABLE_SECONDS,
    MAX_RUNS,
    FilesCursor,
    TableCursor,
    probe_files,
    probe_table,
)
from synqx_dagster.errors import RetryableError, SealedError, SynqxError
from synqx_dagster.model import Sensor, dagster_name
from synqx_dagster.model.partitions import Partitions

SENSOR_TAG = f"{METADATA_PREFIX}sensor"
FILE_TAG = f"{METADATA_PREFIX}file"

_T = TypeVar("_T")
_Outcome = dg.SkipReason | dg.SensorResult


class ProbeError(Exception):
    """A sensor could not look; has the message of what went wrong, and not its cause, which may hold data."""


def plan_sensor(sensor: Sensor) -> JobPlan | None:
    """The job that a sensor makes; None for one that starts a pipeline's."""
    if sensor.pipeline is not None:
        return None
    return JobPlan(dagster_name(sensor.name), sensor.mapping_names, description=sensor.description)


def build_sensor(
    sensor: Sensor, job_name: str, snapshot: CatalogSnapshot, get_catalog: Callable[[], CatalogAccess]
) -> dg.SensorDefinition:
    """The Dagster sensor of a sensor.

    Raises:
        NotFoundError: A record that it needs is missing.
    """
    looks: dict[str, Callable[[dg.SensorEvaluationContext], _Outcome]] = {
        "source_changed": lambda context: _look_at_table(context, sensor, snapshot, get_catalog()),
        "new_file": lambda context: _look_at_files(context, sensor, snapshot, get_catalog()),
        "pipeline_succeeded": lambda context: _look_at_runs(context, sensor, snapshot),
    }
    look = looks[sensor.type]
    plan = plan_sensor(sensor) or plan_pipeline(snapshot.get_pipeline(sensor.pipeline or ""))
    partitions = partitions_of(plan, snapshot)
    if sensor.connection is not None:
        snapshot.get_connection(sensor.connection)

    def evaluate(context: dg.SensorEvaluationContext) -> _Outcome:
        failure = ""
        try:
            return _of_partitions(look(context), partitions)
        except SealedError as exc:
            return dg.SkipReason(f"the vault is sealed: {exc.message}")
        except RetryableError as exc:
            return dg.SkipReason(f"could not look, and will look again: {describe_error(exc)}")
        except SynqxError as exc:
            failure = describe_error(exc)
        # Outside of the handler: Dagster would store the cause, and a driver's message may hold anything.
        raise ProbeError(failure)

    return dg.SensorDefinition(
        name=dagster_name(sensor.name),
        evaluation_fn=evaluate,
        job_name=job_name,
        minimum_interval_seconds=sensor.interval_seconds,
        description=sensor.description,
        default_status=(dg.DefaultSensorStatus.RUNNING if sensor.enabled else dg.DefaultSensorStatus.STOPPED),
        metadata=revision_metadata(snapshot.revision),
    )


def _of_partitions(outcome: _Outcome, partitions: Partitions | None) -> _Outcome:
    """The same runs, of the partitions that are due; a skipped look until the first one has ended."""
    if partitions is None or isinstance(outcome, dg.SkipReason) or not outcome.run_requests:
        return outcome
    tags = due_tags(partitions, datetime.now(UTC))
    if tags is None:
        return dg.SkipReason(describe_keys(partitions))
    requests = [request._replace(tags={**request.tags, **tags}) for request in outcome.run_requests]
    return outcome._replace(run_requests=requests)


def _request(sensor: Sensor, key: str, **tags: str) -> dg.RunRequest:
    return dg.RunRequest(run_key=f"{sensor.name}:{key}", tags={SENSOR_TAG: sensor.name, **tags})


def _probe(
    probe: Callable[[Connector, Sensor], _T], sensor: Sensor, snapshot: CatalogSnapshot, catalog: CatalogAccess
) -> _T:
    """What a sensor's source shows.

    Raises:
        SealedError: The vault is sealed.
    """
    connection = snapshot.get_connection(sensor.connection or "")
    if (reason := find_seal_reason(catalog, secrets_needed=needs_vault(connection))) is not None:
        raise SealedError(reason)
    resource = ConnectionResource(connection, lambda: catalog)
    try:
        return probe(resource.connector, sensor)
    finally:
        resource.close()


# --- the three looks ------------------------------------------------------------------------------------------------


def _look_at_table(
    context: dg.SensorEvaluationContext, sensor: Sensor, snapshot: CatalogSnapshot, catalog: CatalogAccess
) -> _Outcome:
    seen = _probe(probe_table, sensor, snapshot, catalog)
    before = TableCursor.from_json(context.cursor)
    if before is None:
        return dg.SensorResult(
            skip_reason=f"{sensor.table} was looked at for the first time: its next change starts a run",
            cursor=TableCursor(seen).to_json(),
        )
    if before.seen == seen:
        return dg.SkipReason(f"{sensor.table} has not changed")
    # The count, because a table can come back to what it was, and that is a change all the same.
    after = TableCursor(seen, before.changes + 1)
    return dg.SensorResult([_request(sensor, f"{after.changes}:{seen}")], cursor=after.to_json())


def _look_at_files(
    context: dg.SensorEvaluationContext, sensor: Sensor, snapshot: CatalogSnapshot, catalog: CatalogAccess
) -> _Outcome:
    files = _probe(probe_files, sensor, snapshot, catalog)
    cursor = FilesCursor.from_json(context.cursor)
    stable_seconds = DEFAULT_STABLE_SECONDS if sensor.stable_seconds is None else sensor.stable_seconds
    taken = cursor.take(files, now=datetime.now(UTC).timestamp(), stable_seconds=stable_seconds)
    text = cursor.to_json()
    if not taken:
        reason = f"no new file; {len(cursor.waiting)} may still be written" if cursor.waiting else "no new file"
        return dg.SkipReason(reason) if text == context.cursor else dg.SensorResult(skip_reason=reason, cursor=text)
    return dg.SensorResult(
        [_request(sensor, key, **{FILE_TAG: file.path}) for file, key in taken],
        cursor=text,
    )


def _look_at_runs(context: dg.SensorEvaluationContext, sensor: Sensor, snapshot: CatalogSnapshot) -> _Outcome:
    now = datetime.now(UTC)
    cursor = RunCursor.begin(now)
    if context.cursor is not None:
        try:
            cursor = RunCursor.from_dict(json.loads(context.cursor))
        except (ValueError, TypeError, KeyError):
            context.log.warning("the cursor cannot be read: successes from now on count")
    jobs = _jobs_of(sensor.after_pipeline or "", snapshot)
    ended = take_ended_runs(
        context.instance, cursor, [dg.DagsterRunStatus.SUCCESS], jobs, location=location_of(context), limit=MAX_RUNS
    )
    # A run of some assets of the pipeline is not the pipeline.
    whole = [record for record in ended if not record.dagster_run.asset_selection]
    text = json.dumps(cursor.to_dict())
    if not whole:
        return dg.SensorResult(skip_reason=f"no further success of {sensor.after_pipeline}", cursor=text)
    return dg.SensorResult(
        [
            _request(sensor, record.dagster_run.run_id, **{f"{METADATA_PREFIX}after_run": record.dagster_run.run_id})
            for record in whole
        ],
        cursor=text,
    )


def _jobs_of(pipeline: str, snapshot: CatalogSnapshot) -> set[str]:
    """Jobs that run the whole of a pipeline: its own, and those of schedules over it."""
    schedules = (item for item in snapshot.schedules.values() if pipeline in item.pipeline_names)
    return {dagster_name(pipeline), *(dagster_name(schedule.name) for schedule in schedules)}
