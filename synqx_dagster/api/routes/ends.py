"""Sources and destinations: connections, seen by what they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter

from synqx_dagster.api.record_routes import RecordRoutes, add_record_routes
from synqx_dagster.api.record_views import ConnectionView
from synqx_dagster.api.routes.connections import last_tests
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import Connection, Record
from synqx_dagster.model.connection import ConnectionRole

router = APIRouter()


def _prepare(role: ConnectionRole) -> Callable[[dict[str, Any], Record | None], Mapping[str, str]]:
    """New ones have the role; one that is for both stays so unless the request says otherwise."""

    def prepare(values: dict[str, Any], before: Record | None) -> Mapping[str, str]:
        stands_for = before.role if isinstance(before, Connection) else role
        given = values.setdefault("role", stands_for)
        if given not in (role, None):
            raise InvalidInputError(
                [Problem(f"is {role} here", SourceLocation(field="role"), "/api/v1/connections has all connections")]
            )
        return {}

    return prepare


def _is_visible(role: ConnectionRole) -> Callable[[Record], bool]:
    return lambda record: isinstance(record, Connection) and record.role in (role, None)


for _role in ("source", "destination"):
    _router = APIRouter(tags=[f"{_role}s"])
    add_record_routes(
        _router,
        RecordRoutes(
            "connection",
            f"{_role}s",
            ConnectionView,
            filters=("db_type", "host", "database"),
            more=last_tests,
            prepare=_prepare(_role),
            visible=_is_visible(_role),
            fixed={"role": (_role, None)},
        ),
    )
    router.include_router(_router)
