"""Assets (datasets): names for tables, queries and files at connections."""

from __future__ import annotations

from fastapi import APIRouter

from synqx_dagster.api.record_routes import RecordRoutes, add_record_routes
from synqx_dagster.api.record_views import AssetView

router = APIRouter(tags=["assets"])

add_record_routes(router, RecordRoutes("asset", "assets", AssetView, filters=("connection", "table", "target_schema")))
