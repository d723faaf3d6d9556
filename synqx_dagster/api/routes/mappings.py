"""Mappings: records, and what a mapping would load, how, and whether the target holds it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from synqx_dagster.api.access import Requires
from synqx_dagster.api.bodies import JsonObject
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.problems import ApiError, problems_of
from synqx_dagster.api.record_bodies import read_body
from synqx_dagster.api.record_routes import Editor, RecordRoutes, Ref, add_record_routes
from synqx_dagster.api.record_schemas import body_of
from synqx_dagster.api.record_views import MappingView
from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.connecting import connected
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.errors import InvalidInputError
from synqx_dagster.model import Mapping, Schema
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(tags=["mappings"])

Tester = Annotated[Identity, Depends(Requires(Permission.CONNECTIONS_TEST))]
DataReader = Annotated[Identity, Depends(Requires(Permission.DATA_READ))]
Rows = Annotated[int, Query(ge=1, le=1000, description="How many rows at most.")]


class PreviewColumn(BaseModel):
    """A column of the target."""

    name: str
    type: str


class PreviewError(BaseModel):
    """Why a row would not be loaded."""

    column: str
    reason: str


class PreviewRow(BaseModel):
    """A row as it would arrive. Values are text, null is NULL."""

    values: list[str | None]
    errors: list[PreviewError]


class MappingPreview(BaseModel):
    """The first rows of a mapping."""

    columns: list[PreviewColumn]
    rows: list[PreviewRow]


class PlanColumn(BaseModel):
    """A column of the target."""

    name: str
    type: str
    nullable: bool


class MappingPlan(BaseModel):
    """How a mapping would be loaded."""

    model_config = ConfigDict(extra="allow")

    mapping: str
    mode: str
    lane: str
    lane_reason: str
    source: str
    target: str
    target_action: str
    strategy: str
    guarantee: str
    columns: list[PlanColumn]
    primary_key: list[str]
    read_sql: str
    transform_sql: str | None
    schema_changes: list[str]
    differences: list[str]


class ComparedSide(BaseModel):
    """One end of a comparison."""

    connection: str
    relation: str
    rows: int
    computed_in: str
    reason: str | None


class ContentDifference(BaseModel):
    """A row that is missing, extra or different."""

    kind: str
    key: dict[str, Any] | None
    rows: int
    columns: list[str]
    values: dict[str, Any] | None = None


class ContentComparison(BaseModel):
    """Whether a target holds what its mapping says."""

    model_config = ConfigDict(extra="allow")

    mapping: str
    passed: bool
    complete: bool
    source: ComparedSide
    target: ComparedSide
    key: list[str]
    missing: int
    extra: int
    different: int
    differences: list[ContentDifference]
    seconds: float


@router.post(
    "/mappings/preview",
    response_model=MappingPreview,
    responses=problems_of(404, 409),
    openapi_extra=body_of("mapping"),
    operation_id="preview_unsaved_mapping",
    summary="First rows of a mapping that is not saved",
)
def preview_unsaved(context: Context, identity: Editor, values: JsonObject, limit: Rows = 20) -> MappingPreview:
    """Takes what creating the mapping would; the name may be left out. Saves nothing.

    It runs a query that the request brings, and shows what it finds: it needs the permission to read data, too.
    """
    if not identity.may(Permission.DATA_READ):
        raise ApiError(403, f"This needs the permission {Permission.DATA_READ.value}, too")
    body = read_body(context.catalog, "mapping", {"name": "preview", **values})
    mapping = body.build("mapping", body.values)
    assert isinstance(mapping, Mapping)
    snapshot = context.catalog.latest_snapshot()
    # Beside what it refers to, and not beside other mappings, with one of which it may share a table until it is saved.
    ends = CatalogSnapshot(snapshot.revision, connections=snapshot.connections, schemas=snapshot.schemas)
    problems = check_definitions(Definitions((mapping,), (body.document,)), known=ends)
    if problems:
        raise InvalidInputError(problems)
    return _preview(context, snapshot, mapping, limit)


add_record_routes(
    router,
    RecordRoutes(
        "mapping",
        "mappings",
        MappingView,
        filters=("source_connection", "target_connection", "target_schema", "target_table", "mode", "group"),
    ),
)


@router.post(
    "/mappings/{ref}/preview",
    response_model=MappingPreview,
    responses=problems_of(404, 409),
    operation_id="preview_mapping",
    summary="First rows of a mapping",
)
def preview(context: Context, identity: DataReader, ref: Ref, limit: Rows = 20) -> MappingPreview:
    """The source is read in a transaction that only reads, with limits of time and bytes."""
    snapshot, mapping = _read(context, ref)
    return _preview(context, snapshot, mapping, limit)


@router.get(
    "/mappings/{ref}/plan",
    response_model=MappingPlan,
    responses=problems_of(404, 409),
    operation_id="plan_mapping",
    summary="How a mapping would be loaded",
)
def plan(context: Context, identity: Tester, ref: Ref) -> MappingPlan:
    """Asks both databases for their columns, and changes nothing."""
    from synqx_dagster.transfer.prepare import plan_load

    snapshot, mapping = _read(context, ref)
    names = [mapping.source_connection, mapping.target_connection]
    with connected(context.catalog, snapshot, names) as (source, target):
        found = plan_load(mapping, _schema_of(snapshot, mapping), source, target)
    return MappingPlan.model_validate(found.to_dict())


@router.post(
    "/mappings/{ref}/verify",
    response_model=ContentComparison,
    responses=problems_of(404, 409),
    operation_id="verify_mapping",
    summary="Compare a target with what its mapping says",
)
def verify(
    context: Context,
    identity: DataReader,
    ref: Ref,
    limit: Annotated[int, Query(ge=0, le=10_000, description="How many keys to list at most.")] = 100,
    show_values: Annotated[bool, Query(description="Show the values that differ, too.")] = False,
) -> ContentComparison:
    """Changes nothing; the outcome is kept as a check of the asset in Dagster."""
    from synqx_dagster.defs.content import verify_mapping

    name = context.records.get("mapping", ref).record.name
    report = verify_mapping(context.catalog, name, limit=limit, show_values=show_values)
    return ContentComparison.model_validate(report.to_dict())


def _read(context: ApiContext, ref: str) -> tuple[CatalogSnapshot, Mapping]:
    name = context.records.get("mapping", ref).record.name
    snapshot = context.catalog.snapshot_for(mappings=[name])
    return snapshot, snapshot.get_mapping(name)


def _schema_of(snapshot: CatalogSnapshot, mapping: Mapping) -> Schema | None:
    return snapshot.get_schema(mapping.target_schema) if mapping.target_schema is not None else None


def _preview(context: ApiContext, snapshot: CatalogSnapshot, mapping: Mapping, limit: int) -> MappingPreview:
    from synqx_dagster.transfer.preview import preview_mapping

    with connected(context.catalog, snapshot, [mapping.source_connection]) as (source,):
        found = preview_mapping(mapping, _schema_of(snapshot, mapping), source, limit_rows=limit)
    return MappingPreview.model_validate(found.to_dict())
