"""Versions of a pipeline: every change makes one, two can be compared, and each can be gone back to."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from synqx_dagster.api.access import Caller
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.problems import problems_of
from synqx_dagster.api.record_routes import Editor, Reader, Ref
from synqx_dagster.api.record_views import PipelineView, show_records
from synqx_dagster.api.records import Writer
from synqx_dagster.api.routes.pipelines import own_schedules
from synqx_dagster.catalog.revisions import RecordVersion
from synqx_dagster.errors import CatalogVersionError, IntegrityError, NotFoundError
from synqx_dagster.model import Pipeline

router = APIRouter(prefix="/pipelines/{ref}", tags=["pipelines"])

_MOST = 2**31 - 1
Number = Annotated[int, Path(ge=1, le=_MOST, description="Number of the version, from 1.")]


class VersionInfo(BaseModel):
    """A version of a pipeline."""

    version: int
    revision: int = Field(description="The catalog's revision that made it.")
    is_current: bool
    is_readable: bool = Field(description="False where a newer SynqX wrote it, or it was damaged.")
    created_at: datetime | None
    created_by: str | None
    reason: str | None


class VersionView(VersionInfo):
    """A version of a pipeline, and what the pipeline was in it."""

    pipeline: Pipeline


class FieldDifference(BaseModel):
    """A field that differs; null stands for one that is not there."""

    path: str
    before: Any
    after: Any


class VersionDiff(BaseModel):
    """What makes one version of another."""

    before: int
    after: int
    fields: list[FieldDifference]


@router.get(
    "/versions",
    response_model=Page[VersionInfo],
    responses=problems_of(404),
    operation_id="list_pipeline_versions",
    summary="List the versions of a pipeline, the newest first",
)
def list_versions(context: Context, identity: Reader, ref: Ref, paging: PagingOf) -> Page[VersionInfo]:
    found = list(reversed(_versions(context, ref)))
    shown = found[paging.skip : paging.skip + paging.limit]
    return Page(items=_infos(context, shown), total=len(found), skip=paging.skip, limit=paging.limit)


@router.get(
    "/versions/{number}",
    response_model=VersionView,
    responses=problems_of(404, 409),
    operation_id="get_pipeline_version",
    summary="Read a version of a pipeline",
)
def read_version(context: Context, identity: Reader, ref: Ref, number: Number) -> VersionView:
    version = _get(_versions(context, ref), number)
    pipeline = version.decode()
    assert isinstance(pipeline, Pipeline)
    return VersionView(**_infos(context, [version])[0].model_dump(), pipeline=pipeline)


@router.get(
    "/diff",
    response_model=VersionDiff,
    responses=problems_of(404, 409),
    operation_id="diff_pipeline_versions",
    summary="Compare two versions of a pipeline",
)
def diff(
    context: Context,
    identity: Reader,
    ref: Ref,
    before: Annotated[int | None, Query(ge=1, le=_MOST, description="Left out: the one before `after`.")] = None,
    after: Annotated[int | None, Query(ge=1, le=_MOST, description="Left out: the last one.")] = None,
) -> VersionDiff:
    from synqx_dagster.catalog.changes import compare_records

    found = _versions(context, ref)
    after = found[-1].number if after is None else after
    before = max(after - 1, 1) if before is None else before
    change = compare_records(_get(found, before).decode(), _get(found, after).decode(), frozenset())
    fields = [] if change is None else [FieldDifference(**dataclasses.asdict(item)) for item in change.fields]
    return VersionDiff(before=before, after=after, fields=fields)


@router.post(
    "/versions/{number}/restore",
    response_model=PipelineView,
    responses=problems_of(404, 409),
    operation_id="restore_pipeline_version",
    summary="Let a pipeline be again what it was in a version",
)
def restore(
    context: Context, identity: Editor, client: Caller, ref: Ref, number: Number, response: Response
) -> PipelineView:
    """As a new version. What the old one refers to must still be there."""
    stored = context.records.get("pipeline", ref)
    old = _get(context.catalog.versions("pipeline", stored.record.name), number).decode()
    restored = context.records.change(
        stored,
        lambda _: old,
        Writer(identity, client),
        reason=f"pipeline {old.name}: back to version {number}",
    )
    response.headers["ETag"] = f'"{restored.etag}"'
    return show_records(context.catalog, [restored], PipelineView, own_schedules(context, [restored]))[0]


def _versions(context: ApiContext, ref: str) -> list[RecordVersion]:
    return context.catalog.versions("pipeline", context.records.get("pipeline", ref).record.name)


def _get(found: list[RecordVersion], number: int) -> RecordVersion:
    for version in found:
        if version.number == number:
            return version
    raise NotFoundError(f"the pipeline has no version {number}", hint=f"it has 1 to {found[-1].number}")


def _infos(context: ApiContext, found: list[RecordVersion]) -> list[VersionInfo]:
    revisions = context.catalog.revisions_of(version.valid_from for version in found)
    return [
        VersionInfo(
            version=version.number,
            revision=version.valid_from,
            is_current=version.valid_to is None,
            is_readable=_is_readable(version),
            created_at=info.created_at if (info := revisions.get(version.valid_from)) is not None else None,
            created_by=info.author if info is not None else None,
            reason=info.reason if info is not None else None,
        )
        for version in found
    ]


def _is_readable(version: RecordVersion) -> bool:
    try:
        version.decode()
    except (IntegrityError, CatalogVersionError):
        return False
    return True
