"""Schedules: when pipelines and mappings run, with the last run and the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.record_routes import RecordRoutes, add_record_routes
from synqx_dagster.api.record_views import ScheduleView
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.model import Schedule

router = APIRouter(tags=["schedules"])


def how_they_do(context: ApiContext, stored: Sequence[StoredRecord]) -> Sequence[dict[str, Any]]:
    """The last and the next runs of schedules, from Dagster's storage."""
    from synqx_dagster.defs.ticks import report_schedules

    if not stored:
        return ()
    found = [item.record for item in stored if isinstance(item.record, Schedule)]
    reports = report_schedules(context.instance, found)
    names = ("last_run_at", "last_run_id", "last_run_status", "next_run_at")
    return [{name: getattr(report, name) for name in names} for report in reports]


add_record_routes(router, RecordRoutes("schedule", "schedules", ScheduleView, filters=("enabled",), more=how_they_do))
