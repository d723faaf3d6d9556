"""Alerts: who is told what went wrong, and how."""

from __future__ import annotations

from fastapi import APIRouter

from synqx_dagster.api.record_routes import RecordRoutes, add_record_routes
from synqx_dagster.api.record_views import AlertView

router = APIRouter(tags=["alerts"])

add_record_routes(router, RecordRoutes("alert", "alerts", AlertView, filters=("enabled",)))
