"""Every route times every role: what a route declares is what it does, for the routers of every module.

The routes' own code is not run: each is replaced by an answer, behind everything that stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from synqx_dagster.api.access import Public, Requires
from synqx_dagster.api.app import create_app
from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.people.roles import ROLE_PERMISSIONS, Permission, Role
from synqx_dagster_tests.fix_people import Api, serve_api


@pytest.fixture
def api(catalog: Catalog, cheap_passwords: None) -> Iterator[Api]:
    """On one backend: what a route declares does not depend on it. The tests put other answers behind routes."""
    with serve_api(catalog, create_app) as api:
        yield api


#: What FastAPI adds by itself.
_NOT_OURS = {"/docs", "/docs/assets", "/openapi.json"}

#: What anybody may call: a route that joins them is one more thing that strangers reach.
PUBLIC = {
    "GET /health",
    "GET /api/v1",
    "GET /api/v1/",
    "GET /api/v1/system/status",
    # Each of these needs a secret of its own: the token that the server prints, or the master password.
    "POST /api/v1/system/init",
    "POST /api/v1/system/unlock",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "GET /api/v1/auth/oidc/login",
    "GET /api/v1/auth/oidc/callback",
}
_REACHED = 299


def iter_routes(app: FastAPI) -> Iterator[Any]:
    """Every route that somebody declared, with what its router gives it."""
    for route in iter_route_contexts(app.routes):
        if route.path not in _NOT_OURS:
            yield route


def access_of(dependant: Dependant) -> list[Public | Requires]:
    """What a route says of who may call it."""
    found: list[Public | Requires] = []
    for dependency in dependant.dependencies:
        if isinstance(dependency.call, Public | Requires):
            found.append(dependency.call)
        found += access_of(dependency)
    return found


def names_of(route: Any) -> list[str]:
    return [f"{method} {route.path}" for method in sorted(route.methods - {"HEAD", "OPTIONS"})]


def test_every_route_says_once_who_may_call_it(api: Api) -> None:
    routes = list(iter_routes(api.app))
    assert len(routes) > 15
    wrong = [name for route in routes for name in names_of(route) if len(access_of(route.dependant)) != 1]
    assert wrong == []


def test_what_anybody_may_call_is_listed_here(api: Api) -> None:
    found = {
        name
        for route in iter_routes(api.app)
        for name in names_of(route)
        if isinstance(access_of(route.dependant)[0], Public)
    }
    assert found == PUBLIC


def test_each_role_reaches_what_the_table_gives_it_and_nothing_else(api: Api) -> None:
    clients: dict[Role | None, httpx.Client] = {None: api.client(), **{role: api.client(role) for role in Role}}
    routes = list(iter_routes(api.app))
    for route in routes:
        route.dependant.call = _answer
    wrong = []
    for route in routes:
        access = access_of(route.dependant)[0]
        needed = access.permission if isinstance(access, Requires) else None
        for name in names_of(route):
            method, _, template = name.partition(" ")
            path = re.sub(r"\{[^}]*\}", "1", template).removeprefix("/api/v1")
            for role, client in clients.items():
                if needed is None:
                    expected = "reached"
                elif role is None:
                    expected = "401"
                else:
                    expected = "reached" if needed in ROLE_PERMISSIONS[role] else "403"
                status = client.request(method, path, json=None if method in ("GET", "DELETE") else {}).status_code
                # Anything else comes from behind the declaration: the route, or what it makes of its input.
                seen = str(status) if status in (401, 403) else "reached"
                if seen != expected:
                    wrong.append(f"{name} as {role or 'nobody'}: {status}, expected {expected}")
    assert wrong == []


def _answer(**_: object) -> Response:
    return Response(status_code=_REACHED)


def test_a_key_reaches_its_scopes_alone(api: Api) -> None:
    admin = api.client(Role.ADMIN)
    made = admin.post("/api-keys", json={"name": "audit", "scopes": ["audit:read"]}).json()
    client = api.client(**{"X-API-Key": made["key"]})
    for route in iter_routes(api.app):
        route.dependant.call = _answer
        access = access_of(route.dependant)[0]
        if isinstance(access, Public) or "GET" not in route.methods:
            continue
        path = re.sub(r"\{[^}]*\}", "1", route.path).removeprefix("/api/v1")
        status = client.get(path).status_code
        assert (status == 403) == (access.permission is not Permission.AUDIT_READ), (route.path, status)


def test_a_change_that_is_denied_is_in_the_trail(api: Api) -> None:
    viewer = api.client(Role.VIEWER)
    answer = viewer.post("/users", json={})
    assert answer.status_code == 403
    [entry], _ = AuditTrail(api.context.catalog).page(limit=1)
    assert (entry.event.action, entry.event.outcome, entry.event.actor) == ("access.denied", "denied", "viewer")
    assert entry.event.target == "POST /api/v1/users"
    assert entry.event.request_id == answer.headers["X-Request-ID"]
