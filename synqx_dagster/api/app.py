"""The FastAPI application: routers, problem answers, and nothing of its own."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.problems import install_handlers
from synqx_dagster.api.routes import api_keys, audit, auth, oidc, users

PREFIX = "/api/v1"

#: One router for each group of routes, in the order of the documentation.
ROUTERS: tuple[APIRouter, ...] = (
    auth.router,
    oidc.router,
    api_keys.router,
    users.router,
    audit.router,
)


def create_app(context: ApiContext) -> FastAPI:
    """The application; `synqx_dagster.gateway` puts it behind logins and beside Dagster's web UI."""
    app = FastAPI(title="SynqX", docs_url="/docs", redoc_url=None, openapi_url="/openapi.json")
    app.state.context = context
    install_handlers(app)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    return app
