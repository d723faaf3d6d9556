"""Schedules of the catalog as Dagster schedules; a tick under a sealed vault is skipped and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import find_seal_reason, needs_vault
from synqx_dagster.defs.jobs import JobPlan, connections_of
from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.model import Schedule, dagster_name

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog


def build_schedule(
    schedule: Schedule, plan: JobPlan, snapshot: CatalogSnapshot, get_catalog: Callable[[], Catalog]
) -> dg.ScheduleDefinition:
    """The Dagster schedule of a schedule; its job is the one of `plan`.

    Raises:
        NotFoundError: A record that it needs is missing.
    """
    connections = connections_of(snapshot, plan.mappings, plan.pipelines)
    secrets_needed = any(needs_vault(snapshot.get_connection(name)) for name in connections)

    def evaluate(_context: dg.ScheduleEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        reason = find_seal_reason(get_catalog(), secrets_needed=secrets_needed)
        if reason is not None:
            return dg.SkipReason(f"the vault is sealed: {reason}")
        return dg.RunRequest(tags={f"{METADATA_PREFIX}schedule": schedule.name})

    return dg.ScheduleDefinition(
        name=dagster_name(schedule.name),
        job_name=plan.name,
        cron_schedule=schedule.cron_expression,
        execution_timezone=schedule.timezone,
        execution_fn=evaluate,
        description=schedule.description,
        default_status=(dg.DefaultScheduleStatus.RUNNING if schedule.enabled else dg.DefaultScheduleStatus.STOPPED),
        metadata={f"{METADATA_PREFIX}revision": snapshot.revision},
    )
