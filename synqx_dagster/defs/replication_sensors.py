"""The sensor of a replication: it starts a run when the slot has work and none goes on.

Guarantee: of one replication one run at a time is asked for. A look that fails, or that a sealed vault prevents, does
nothing; the next one sees the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import CatalogAccess, find_seal_reason, needs_vault
from synqx_dagster.defs.failures import describe_error
from synqx_dagster.defs.names import revision_metadata, revision_tags
from synqx_dagster.defs.record_sensors import ProbeError
from synqx_dagster.defs.replication_assets import REPLICATION_TAG
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.errors import RetryableError, SealedError, SynqxError
from synqx_dagster.model import Replication, dagster_name
from synqx_dagster.replication.status import find_work

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
#: A continuous replication whose run has ended is looked at again so soon.
_CONTINUOUS_SECONDS = 5
#: After failures in a row the next run waits, each time twice as long; no longer than this.
_LONGEST_WAIT_SECONDS = 3600
_COUNTED_FAILURES = 8
#: A run that was created and never launched: a daemon that dies in between leaves one. It is none after this time.
_LAUNCH_SECONDS = 300


def build_replication_sensor(
    replication: Replication, snapshot: CatalogSnapshot, get_catalog: Callable[[], CatalogAccess]
) -> dg.SensorDefinition:
    """The Dagster sensor of a replication; it starts the job of the same name.

    Raises:
        NotFoundError: A connection is missing.
    """
    ends = [snapshot.get_connection(name) for name in (replication.source_connection, replication.target_connection)]
    secrets_needed = any(map(needs_vault, ends))

    def evaluate(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        failure = ""
        try:
            catalog = get_catalog()
            if (reason := find_seal_reason(catalog, secrets_needed=secrets_needed)) is not None:
                raise SealedError(reason)
            resources = [ConnectionResource(connection, lambda: catalog) for connection in ends]
            try:
                return _Look(context, replication, snapshot).run(resources[0], resources[1])
            finally:
                for resource in resources:
                    resource.close()
        except SealedError as exc:
            return dg.SkipReason(f"the vault is sealed: {exc.message}")
        except RetryableError as exc:
            return dg.SkipReason(f"could not look, and will look again: {describe_error(exc)}")
        except SynqxError as exc:
            failure = describe_error(exc)
        # Outside of the handler: Dagster would store the cause, and a driver's message may hold anything.
        raise ProbeError(failure)

    interval = replication.interval_seconds
    return dg.SensorDefinition(
        name=dagster_name(replication.name),
        evaluation_fn=evaluate,
        job_name=dagster_name(replication.name),
        minimum_interval_seconds=min(interval, _CONTINUOUS_SECONDS) if replication.continuous else interval,
        description=replication.description or f"Follows {replication.source_connection} when there is something to do",
        default_status=(dg.DefaultSensorStatus.RUNNING if replication.enabled else dg.DefaultSensorStatus.STOPPED),
        metadata=revision_metadata(snapshot.revision),
    )


@dataclass(frozen=True)
class _Look:
    """One evaluation."""

    context: dg.SensorEvaluationContext
    replication: Replication
    snapshot: CatalogSnapshot

    def run(self, source: ConnectionResource, target: ConnectionResource) -> dg.RunRequest | dg.SkipReason:
        """Ask for a run if there is work and none goes on."""
        replication, instance = self.replication, self.context.instance
        run_id = find_run(instance, replication)
        if run_id is not None:
            return dg.SkipReason(f"run {run_id[:8]} follows")
        work = find_work(replication, source.connector, target.connector)
        if work.lost is not None:
            return dg.SkipReason(f"{work.lost}\n`synqx replications resync {replication.name}` copies the tables anew")
        if work.reason is None:
            return dg.SkipReason("nothing to do")
        wait = 0.0 if work.is_by_hand else seconds_to_wait(instance, replication, datetime.now(UTC))
        if wait > 0:
            return dg.SkipReason(f"the last run failed; another one follows in {wait:,.0f} s: {work.reason}")
        tags = {REPLICATION_TAG: replication.name, **revision_tags(self.snapshot.revision)}
        self.context.log.info(f"{replication.name}: {work.reason}")
        return dg.RunRequest(run_key=None, tags=tags)


# --- runs -------------------------------------------------------------------------------------------------------------


def find_run(instance: dg.DagsterInstance, replication: Replication) -> str | None:
    """The run of a replication that goes on, or waits to; None where there is none."""
    filters = dg.RunsFilter(
        job_name=dagster_name(replication.name), tags={REPLICATION_TAG: replication.name}, statuses=_UNFINISHED
    )
    now = datetime.now(UTC)
    for record in instance.get_run_records(filters, limit=10):
        age = (now - record.create_timestamp.astimezone(UTC)).total_seconds()
        if record.dagster_run.status != dg.DagsterRunStatus.NOT_STARTED or age < _LAUNCH_SECONDS:
            return record.dagster_run.run_id
    return None


def seconds_to_wait(instance: dg.DagsterInstance, replication: Replication, now: datetime) -> float:
    """How long the next run waits because the last ones have failed; 0 after one that has not."""
    filters = dg.RunsFilter(job_name=dagster_name(replication.name), tags={REPLICATION_TAG: replication.name})
    records = instance.get_run_records(filters, limit=_COUNTED_FAILURES)
    failures = _leading_failures(records)
    if not failures:
        return 0.0
    ended = failures[0].end_time or failures[0].update_timestamp.timestamp()
    delay: int = min(replication.interval_seconds * 2 ** len(failures), _LONGEST_WAIT_SECONDS)
    return max(0.0, ended + delay - now.timestamp())


def _leading_failures(records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    failures = []
    for record in records:
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        failures.append(record)
    return failures
