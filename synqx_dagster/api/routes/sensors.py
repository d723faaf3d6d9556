"""Sensors: what starts pipelines and mappings when something has happened, with its last tick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.record_routes import RecordRoutes, add_record_routes
from synqx_dagster.api.record_views import SensorView
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.model import Sensor

router = APIRouter(tags=["sensors"])


def how_they_do(context: ApiContext, stored: Sequence[StoredRecord]) -> Sequence[dict[str, Any]]:
    """The last runs and ticks of sensors, from Dagster's storage."""
    from synqx_dagster.defs.ticks import report_sensors

    if not stored:
        return ()
    return report_sensors(context.instance, [item.record for item in stored if isinstance(item.record, Sensor)])


add_record_routes(
    router, RecordRoutes("sensor", "sensors", SensorView, filters=("type", "enabled", "connection"), more=how_they_do)
)
