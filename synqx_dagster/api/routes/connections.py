"""Connections: records, tests of saved and unsaved ones, and what is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from synqx_dagster.api.access import Requires
from synqx_dagster.api.bodies import JsonObject
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.paging import PagingOf
from synqx_dagster.api.problems import ApiError, problems_of
from synqx_dagster.api.record_bodies import read_body
from synqx_dagster.api.record_routes import Editor, RecordRoutes, Ref, add_record_routes
from synqx_dagster.api.record_schemas import body_of
from synqx_dagster.api.record_views import ConnectionView
from synqx_dagster.api.secret_fields import refuse_own_secrets
from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.connecting import describe_table, make_connector_of, try_connection
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.protocol import ConnectionReport
from synqx_dagster.errors import InvalidInputError
from synqx_dagster.model import Connection
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(tags=["connections"])

Tester = Annotated[Identity, Depends(Requires(Permission.CONNECTIONS_TEST))]


class ConnectionOutcome(BaseModel):
    """What a test of a connection found, within five seconds."""

    ok: bool
    status: str = Field(description="`ok` or `failed`.")
    message: str
    reason: str | None = None
    hint: str | None = None
    version: str | None = Field(default=None, description="The server's.")
    latency_seconds: float | None = None
    can_read: bool | None = None
    can_write: bool | None = None
    tls: str | None = None

    @classmethod
    def of(cls, report: ConnectionReport) -> ConnectionOutcome:
        """The report as the API shows it."""
        return cls(
            ok=report.ok,
            status="ok" if report.ok else "failed",
            message=report.message,
            reason=report.reason,
            hint=report.hint,
            version=report.server_version,
            latency_seconds=report.latency_seconds,
            can_read=report.can_read,
            can_write=report.can_write,
            tls=report.tls,
        )


class FoundColumn(BaseModel):
    """A column of a table."""

    name: str
    data_type: str
    native_type: str | None
    nullable: bool
    key_position: int | None = Field(description="Position in the primary key, from 1.")
    generated: bool


class FoundTable(BaseModel):
    """A table or view at a connection."""

    table: str
    schema_: str | None = Field(alias="schema")
    name: str
    is_view: bool
    estimated_rows: int | None
    columns: list[FoundColumn]


class Discovery(BaseModel):
    """A part of what is at a connection."""

    connection: str
    tables: list[FoundTable]
    total: int = Field(description="How many tables and views there are, of those that the filters let through.")
    skip: int
    limit: int


def last_tests(context: ApiContext, stored: Sequence[StoredRecord]) -> Sequence[dict[str, Any]]:
    """How the last tests of connections went."""
    found = context.catalog.find_tests([item.record.name for item in stored])
    return [
        {
            "last_tested_at": test.last_tested_at,
            "last_test_status": test.last_test_status,
            "server_version": test.report.get("server_version"),
        }
        if (test := found.get(item.record.name)) is not None
        else {}
        for item in stored
    ]


ROUTES = RecordRoutes(
    "connection", "connections", ConnectionView, filters=("db_type", "role", "host", "database"), more=last_tests
)


@router.post(
    "/connections/test",
    response_model=ConnectionOutcome,
    openapi_extra=body_of("connection"),
    operation_id="test_unsaved_connection",
    summary="Test a connection that is not saved",
)
def test_unsaved(context: Context, identity: Editor, values: JsonObject) -> ConnectionOutcome:
    """Takes what creating the connection would; the name may be left out. Saves nothing."""
    body = read_body(context.catalog, "connection", {"name": "test", **values})
    connection = body.build("connection", body.values)
    assert isinstance(connection, Connection)
    refuse_own_secrets(context.settings, None, connection)
    # Beside nothing else: what others make of the connection is of no concern until it is saved.
    problems = check_definitions(Definitions((connection,), (body.document,)), known=CatalogSnapshot(0))
    if problems:
        raise InvalidInputError(problems)
    return ConnectionOutcome.of(try_connection(context.catalog, connection))


add_record_routes(router, ROUTES)


@router.post(
    "/connections/{ref}/test",
    response_model=ConnectionOutcome,
    responses=problems_of(404),
    operation_id="test_connection",
    summary="Test a connection",
)
def test_saved(context: Context, identity: Tester, ref: Ref) -> ConnectionOutcome:
    """The outcome is kept as the connection's last test."""
    connection = context.records.get("connection", ref).record
    assert isinstance(connection, Connection)
    report = try_connection(context.catalog, connection)
    context.catalog.save_test(connection.name, dataclasses.asdict(report))
    return ConnectionOutcome.of(report)


@router.get(
    "/connections/{ref}/discover",
    response_model=Discovery,
    responses=problems_of(404, 409),
    operation_id="discover_connection",
    summary="Tables and views with their columns",
)
def discover(
    context: Context,
    identity: Tester,
    ref: Ref,
    paging: PagingOf,
    schema: Annotated[str | None, Query(max_length=256, description="Only of this schema.")] = None,
    name: Annotated[str | None, Query(max_length=256, description="What the table's name contains.")] = None,
    order: Literal["asc", "desc"] = "asc",
) -> Any:
    """By schema and name. Each page asks the database for all of them anew."""
    connection = context.records.get("connection", ref).record
    assert isinstance(connection, Connection)
    connector = make_connector_of(context.catalog, connection)
    try:
        # A server that does not answer keeps nobody waiting longer than a test does.
        report = connector.test()
        if not report.ok:
            raise ApiError(502, f"{connection.name}: {report.message}", hint=report.hint)
        found = connector.discover(schema)
    finally:
        connector.close()
    part = (name or "").casefold()
    found = sorted(
        (item for item in found if part in item.table.name.casefold()),
        key=lambda item: (item.table.schema or "", item.table.name),
        reverse=order == "desc",
    )
    shown = found[paging.skip : paging.skip + paging.limit]
    return Discovery(
        connection=connection.name,
        tables=[FoundTable.model_validate(describe_table(item)) for item in shown],
        total=len(found),
        skip=paging.skip,
        limit=paging.limit,
    )
