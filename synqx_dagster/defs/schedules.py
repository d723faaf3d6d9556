"""Schedules of the catalog as Dagster schedules.

A tick is skipped, and says why, under a sealed vault, while the schedule is paused, and when it comes too late for a
schedule that makes up for nothing. Dagster itself makes up for the last tick that it missed, and for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import CatalogAccess, find_seal_reason, needs_vault
from synqx_dagster.defs.jobs import JobPlan, connections_of, partitions_of
from synqx_dagster.defs.names import revision_metadata
from synqx_dagster.defs.partitions import describe_keys, due_tags
from synqx_dagster.defs.ticks import PAUSED, TICK_TAG, find_missed, tick_tags
from synqx_dagster.model import Schedule, dagster_name


def build_schedule(
    schedule: Schedule, plan: JobPlan, snapshot: CatalogSnapshot, get_catalog: Callable[[], CatalogAccess]
) -> dg.ScheduleDefinition:
    """The Dagster schedule of a schedule; its job is the one of `plan`.

    Raises:
        NotFoundError: A record that it needs is missing.
    """
    partitions = partitions_of(plan, snapshot)
    connections = connections_of(snapshot, plan.mappings, plan.pipelines)
    secrets_needed = any(needs_vault(snapshot.get_connection(name)) for name in connections)

    def find_skip_reason(due: datetime) -> str | None:
        if schedule.is_paused(due):
            return f"{PAUSED} until {schedule.paused_until}"
        late_seconds = (datetime.now(UTC) - due).total_seconds()
        if schedule.catch_up == "none" and late_seconds > schedule.grace_seconds:
            return f"missed by {late_seconds:.0f} s, and catch_up is none"
        reason = find_seal_reason(get_catalog(), secrets_needed=secrets_needed)
        return f"the vault is sealed: {reason}" if reason is not None else None

    def evaluate(context: dg.ScheduleEvaluationContext) -> Iterator[dg.SkipReason | dg.RunRequest]:
        due = context.scheduled_execution_time
        reason = find_skip_reason(due)
        if reason is not None:
            yield dg.SkipReason(reason)
            return
        missed = find_missed(context, schedule, due) if schedule.catch_up == "all" else []
        parts = {moment: due_tags(partitions, moment) for moment in [*missed, due] if not schedule.is_paused(moment)}
        # Dagster takes requests or the reason why there are none, not both.
        yield from (_request(schedule, moment, tags) for moment, tags in parts.items() if tags is not None)
        if partitions is not None and all(tags is None for tags in parts.values()):
            yield dg.SkipReason(f"no partition has ended yet: {describe_keys(partitions)}")

    return dg.ScheduleDefinition(
        name=dagster_name(schedule.name),
        job_name=plan.name,
        cron_schedule=schedule.cron_expression,
        execution_timezone=schedule.timezone,
        execution_fn=evaluate,
        description=schedule.description,
        default_status=(dg.DefaultScheduleStatus.RUNNING if schedule.enabled else dg.DefaultScheduleStatus.STOPPED),
        metadata=revision_metadata(snapshot.revision),
    )


def _request(schedule: Schedule, moment: datetime, partition: Mapping[str, str]) -> dg.RunRequest:
    """The run of one tick. The key is the tick's own, so that a tick that is evaluated again does not run it twice."""
    tags = tick_tags(schedule, moment)
    return dg.RunRequest(run_key=tags[TICK_TAG] if schedule.catch_up == "all" else None, tags={**tags, **partition})
