"""The FastAPI application: routers, problem answers, its document, and nothing of its own."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.docs_page import add_docs_page
from synqx_dagster.api.problems import MEDIA_TYPE, install_handlers, problems_of
from synqx_dagster.api.record_schemas import input_schemas
from synqx_dagster.api.routes import (
    agents,
    alerts,
    analytics,
    api_keys,
    assets,
    audit,
    auth,
    connections,
    ends,
    lineage,
    mapping_columns,
    mappings,
    metrics,
    oidc,
    pipeline_runs,
    pipeline_versions,
    pipelines,
    replications,
    runs,
    schedules,
    schemas,
    search,
    sensors,
    status,
    system,
    users,
)
from synqx_dagster.api.strict_body import StrictBodyMiddleware

PREFIX = "/api/v1"

#: One router for each group of routes, in the order of the documentation.
ROUTERS: tuple[APIRouter, ...] = (
    status.router,
    system.router,
    connections.router,
    ends.router,
    schemas.router,
    assets.router,
    mappings.router,
    mapping_columns.router,
    pipelines.router,
    pipeline_versions.router,
    pipeline_runs.router,
    replications.router,
    schedules.router,
    sensors.router,
    alerts.router,
    runs.router,
    lineage.router,
    agents.router,
    analytics.router,
    search.router,
    metrics.router,
    auth.router,
    oidc.router,
    api_keys.router,
    users.router,
    audit.router,
)

#: What every route may answer: the request is refused before it gets there, or the catalog cannot be used.
_EVERYWHERE = problems_of(400, 401, 403, 413, 415, 422, 429, 501, 502, 503)

_DESCRIPTION = """\
Connections, schemas, mappings, pipelines, replications and schedules as records of one catalog, their runs, people and
agents.

The records have the fields and checks of the YAML files that `synqx apply` takes. Every write is a revision of the
catalog. Where a field refers to another record it takes the record's name or its id. Errors are problem answers
(RFC 9457) whose `errors` have the paths of fields.
"""


def create_app(context: ApiContext) -> FastAPI:
    """The application; `synqx_dagster.gateway` puts it behind logins and beside Dagster's web UI."""
    app = FastAPI(
        title="SynqX",
        version=product_version(),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        # A redirect is one more answer to a request that was understood; `WithoutTrailingSlash` saves it.
        redirect_slashes=False,
    )
    app.state.context = context
    install_handlers(app)
    app.include_router(status.health_router)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX, responses=_EVERYWHERE)
    app.openapi = lambda: _document_of(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    add_docs_page(app, "/openapi.json")
    app.add_middleware(StrictBodyMiddleware)
    app.add_middleware(WithoutTrailingSlash)
    origins = context.settings.server.cors_origins
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-Match", "X-API-Key", "X-CSRF-Token"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Request-ID"],
        )
    return app


def product_version() -> str:
    """The installed version; ``0`` for a checkout that is not installed."""
    try:
        return version("synqx-dagster")
    except PackageNotFoundError:
        return "0"


class WithoutTrailingSlash:
    """Reads ``/api/v1/connections/`` as ``/api/v1/connections``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, without a slash at the end of its path."""
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


def _document_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of requests that FastAPI does not know."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
        )
        document["components"]["schemas"] |= input_schemas()
        for operations in document["paths"].values():
            for operation in operations.values():
                for answer in operation["responses"].values():
                    # FastAPI lists its own media type beside the one that is sent.
                    if MEDIA_TYPE in answer.get("content", {}):
                        answer["content"].pop("application/json", None)
        app.openapi_schema = document
    return app.openapi_schema
