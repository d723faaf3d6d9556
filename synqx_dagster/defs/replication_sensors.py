"""The sensor of a replication: it starts a run when the slot has work and none goes on, and guards the source's disk.

Guarantee: of one replication one run at a time is asked for. A look that fails, or that a sealed vault prevents, does
nothing; the next one sees the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import CatalogAccess, find_seal_reason, needs_vault
from synqx_dagster.defs.failures import describe_error
from synqx_dagster.defs.names import revision_metadata, revision_tags
from synqx_dagster.defs.record_sensors import ProbeError
from synqx_dagster.defs.replication_assets import REPLICATION_TAG
from synqx_dagster.defs.replication_guard import pause_others, resume_others
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.errors import RetryableError, SealedError, SynqxError
from synqx_dagster.model import Replication, dagster_name
from synqx_dagster.replication.guard import Verdict, judge
from synqx_dagster.replication.status import ReplicationStatus, drop_endangered, read_status

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


@dataclass
class GuardCursor:
    """What the guard has done, over restarts: schedules and sensors that it disabled, as ``kind:name``."""

    paused: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """As Dagster keeps it."""
        return json.dumps({"paused": self.paused})

    @classmethod
    def from_json(cls, text: str | None) -> GuardCursor:
        """Read what `to_json` wrote; what another version wrote is forgotten."""
        try:
            return cls([str(name) for name in json.loads(text or "{}").get("paused", [])])
        except (ValueError, TypeError, AttributeError):
            return cls()


def build_replication_sensor(
    replication: Replication, snapshot: CatalogSnapshot, get_catalog: Callable[[], CatalogAccess]
) -> dg.SensorDefinition:
    """The Dagster sensor of a replication; it starts the job of the same name.

    Raises:
        NotFoundError: A connection is missing.
    """
    ends = [snapshot.get_connection(name) for name in (replication.source_connection, replication.target_connection)]
    secrets_needed = any(map(needs_vault, ends))

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        failure = ""
        try:
            catalog = get_catalog()
            if (reason := find_seal_reason(catalog, secrets_needed=secrets_needed)) is not None:
                raise SealedError(reason)
            resources = [ConnectionResource(connection, lambda: catalog) for connection in ends]
            try:
                look = _Look(context, replication, snapshot, catalog)
                return look.run(resources[0], resources[1])
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


@dataclass
class _Look:
    """One evaluation."""

    context: dg.SensorEvaluationContext
    replication: Replication
    snapshot: CatalogSnapshot
    catalog: CatalogAccess

    def run(self, source: ConnectionResource, target: ConnectionResource) -> dg.SensorResult | dg.SkipReason:
        """Guard the disk, then start a run if there is work and none goes on."""
        run_id = find_run(self.context.instance, self.replication)
        status = read_status(
            self.replication,
            source.connector,
            # While a run writes, a target of one writer (DuckDB) is not to be opened beside it.
            None if run_id is not None else target.connector,
            looks_for_changes=run_id is None,
        )
        cursor = GuardCursor.from_json(self.context.cursor)
        lines = self._guard(status, cursor, source, target, is_running=run_id is not None)
        request = None
        if run_id is not None:
            lines.append(f"run {run_id[:8]} follows")
        elif status.lost is not None:
            lines.append(f"{status.lost}\n`synqx replications resync {self.replication.name}` copies the tables anew")
        elif status.work is None:
            lines.append("nothing to do")
        elif (wait := seconds_to_wait(self.context.instance, self.replication, datetime.now(UTC))) > 0:
            lines.append(f"the last run failed: another one follows in {wait:,.0f} s; {status.work}")
        else:
            tags = {REPLICATION_TAG: self.replication.name, **revision_tags(self.snapshot.revision)}
            request = dg.RunRequest(run_key=None, tags=tags)
        text = cursor.to_json()
        if request is not None:
            for line in lines:
                self.context.log.warning(line)
            return dg.SensorResult([request], cursor=text)
        return dg.SensorResult(skip_reason="\n".join(lines), cursor=text)

    def _guard(
        self,
        status: ReplicationStatus,
        cursor: GuardCursor,
        source: ConnectionResource,
        target: ConnectionResource,
        *,
        is_running: bool,
    ) -> list[str]:
        """Do what the policy says; gives what is to be said of it."""
        if status.wal is None:
            return self._resume(cursor)
        verdict = judge(self.replication.wal_guard, status.wal)
        if verdict.level == "ok":
            return self._resume(cursor)
        lines = [f"WAL guard: the slot {self.replication.slot_name}: {verdict.text}"]
        if verdict.level == "act" and verdict.action == "pause":
            lines += self._pause(cursor, verdict)
        elif verdict.level == "act" and verdict.action == "drop_slot" and not is_running:
            # A run that reads the slot looks after it itself.
            drop_endangered(self.replication, source.connector, target.connector, verdict.text)
            status.lost = f"the WAL guard dropped the slot: {verdict.text}"
        return lines

    def _pause(self, cursor: GuardCursor, verdict: Verdict) -> list[str]:
        from synqx_dagster.catalog.store import Catalog

        if isinstance(self.catalog, Catalog):
            done = pause_others(self.catalog, self.replication, verdict.text)
            cursor.paused = list(dict.fromkeys([*cursor.paused, *done]))
        return [f"paused until it is over: {', '.join(cursor.paused)}"] if cursor.paused else []

    def _resume(self, cursor: GuardCursor) -> list[str]:
        from synqx_dagster.catalog.store import Catalog

        if not cursor.paused or not isinstance(self.catalog, Catalog):
            return []
        paused = cursor.paused
        cursor.paused = resume_others(self.catalog, self.replication, paused)
        return [] if cursor.paused else [f"WAL guard: it is over; started again: {', '.join(paused)}"]


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
    delay = min(replication.interval_seconds * 2 ** len(failures), _LONGEST_WAIT_SECONDS)
    return max(0.0, ended + delay - now.timestamp())


def _leading_failures(records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    failures = []
    for record in records:
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        failures.append(record)
    return failures
