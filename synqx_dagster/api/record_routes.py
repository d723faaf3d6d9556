"""The five routes that every kind of record has: create, list, read, replace, remove."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Response

from synqx_dagster.api.access import Caller, Requires
from synqx_dagster.api.bodies import JsonObject
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.problems import problems_of
from synqx_dagster.api.record_schemas import body_of
from synqx_dagster.api.record_views import Facts, show_records
from synqx_dagster.api.records import Draft, Edit, Precondition, Writer
from synqx_dagster.catalog.listing import FilterValue, ListQuery, SortField, StoredRecord
from synqx_dagster.catalog.revisions import RecordKey
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.model import RECORD_TYPES, Record, RecordKind
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

Reader = Annotated[Identity, Depends(Requires(Permission.CATALOG_READ))]
Editor = Annotated[Identity, Depends(Requires(Permission.CATALOG_WRITE))]

#: What a record is called in a path: its id, or its name.
Ref = Annotated[str, Path(max_length=128, description="Id or name of the record.")]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", max_length=1024, description="The ETag that the record must still have."),
]

_ETAG = {
    "headers": {
        "ETag": {"description": "The version of the record, for If-Match.", "schema": {"type": "string"}},
    }
}

#: Made once: FastAPI validates what it holds by the kind's own model.
_Page = Page[Any]

Fields = dict[str, tuple[FilterValue, ...]]


def nothing_more(context: ApiContext, stored: Sequence[StoredRecord]) -> Sequence[dict[str, Any]]:
    """What is known of records beside the catalog: nothing."""
    return ()


def no_draft(values: dict[str, Any]) -> Callable[[CatalogSnapshot, Record], Edit] | None:
    """What else a request changes: nothing."""
    return None


@dataclass(frozen=True)
class RecordRoutes:
    """How the routes of a kind differ from those of others.

    Attributes:
        plural: As it stands in the path.
        view: The model of answers.
        filters: Fields of the record by which lists are filtered.
        more: What answers have beside the record.
        prepare: Called with the fields of a request, which it may change, and the record as it is; gives where fields
            of the record stood, if somewhere else.
        also: Takes its own fields out of a request; gives what the same revision changes beside the record.
        with_it: What is removed with a record.
        check: Raises where a record must not be changed so.
        visible: Which records of the kind the routes show.
        fixed: Filters that always hold.
    """

    kind: RecordKind
    plural: str
    view: type[Facts]
    filters: tuple[str, ...] = ()
    more: Callable[[ApiContext, Sequence[StoredRecord]], Sequence[dict[str, Any]]] = nothing_more
    prepare: Callable[[dict[str, Any], Record | None], Mapping[str, str]] = lambda values, before: {}
    also: Callable[[dict[str, Any]], Callable[[CatalogSnapshot, Record], Edit] | None] = no_draft
    with_it: Callable[[CatalogSnapshot, str], tuple[RecordKey, ...]] = lambda snapshot, name: ()
    check: Callable[[Record, Record], None] | None = None
    visible: Callable[[Record], bool] = lambda record: True
    fixed: Mapping[str, tuple[FilterValue, ...]] = field(default_factory=dict)
    body: dict[str, Any] | None = None

    def show(self, context: ApiContext, stored: Sequence[StoredRecord]) -> list[Any]:
        """Records as answers have them."""
        return list(show_records(context.catalog, stored, self.view, self.more(context, stored)))

    def answer(self, context: ApiContext, stored: StoredRecord, response: Response) -> Any:
        """One record as an answer, with its ETag."""
        response.headers["ETag"] = f'"{stored.etag}"'
        return self.show(context, [stored])[0]


def add_record_routes(router: APIRouter, routes: RecordRoutes) -> None:
    """Add the five routes of a kind to a router."""
    name, path = routes.plural.removesuffix("s"), f"/{routes.plural}"
    filters_of = _filters_of(routes)
    body = body_of(routes.body if routes.body is not None else routes.kind)

    @router.post(
        path,
        status_code=201,
        response_model=routes.view,
        responses={201: {**_ETAG}, **problems_of(404, 409)},
        openapi_extra=body,
        operation_id=f"create_{name}",
        summary=f"Create a {name}",
    )
    def create(context: Context, identity: Editor, client: Caller, values: JsonObject, response: Response) -> Any:
        moved = routes.prepare(values, None)
        draft = Draft(routes.kind, values, also=routes.also(values), moved=moved)
        stored = context.records.create(draft, Writer(identity, client))
        response.headers["Location"] = f"/api/v1{path}/{stored.number}"
        return routes.answer(context, stored, response)

    @router.get(
        path,
        response_model=Page[routes.view],  # type: ignore[name-defined]  # a value, and known at run time only
        operation_id=f"list_{routes.plural}",
        summary=f"List {routes.plural}",
    )
    def list_them(
        context: Context,
        identity: Reader,
        paging: PagingOf,
        # As a default: it is made here, where no annotation finds it.
        fields: Fields = Depends(filters_of),  # noqa: B008
        name: Annotated[str | None, Query(max_length=128, description="What the name contains.")] = None,
        sort: SortField = "name",
        order: Literal["asc", "desc"] = "asc",
    ) -> Any:
        query = ListQuery(
            routes.kind,
            skip=paging.skip,
            limit=paging.limit,
            sort=sort,
            descending=order == "desc",
            name_contains=name,
            fields={**fields, **routes.fixed},
        )
        page = context.records.page(query)
        items = routes.show(context, page.items)
        return _Page(items=items, total=page.total, skip=paging.skip, limit=paging.limit)

    @router.get(
        f"{path}/{{ref}}",
        response_model=routes.view,
        responses={200: {**_ETAG}, **problems_of(404)},
        operation_id=f"get_{name}",
        summary=f"Read a {name}",
    )
    def read(context: Context, identity: Reader, ref: Ref, response: Response) -> Any:
        return routes.answer(context, context.records.get(routes.kind, ref, routes.visible), response)

    @router.put(
        f"{path}/{{ref}}",
        response_model=routes.view,
        responses={200: {**_ETAG}, **problems_of(404, 409, 412)},
        openapi_extra=body,
        operation_id=f"replace_{name}",
        summary=f"Declare a {name} anew",
    )
    def replace(
        context: Context,
        identity: Editor,
        client: Caller,
        ref: Ref,
        values: JsonObject,
        response: Response,
        if_match: IfMatch = None,
    ) -> Any:
        before = context.records.get(routes.kind, ref, routes.visible)
        moved = routes.prepare(values, before.record)
        draft = Draft(routes.kind, values, also=routes.also(values), check=routes.check, moved=moved)
        stored = context.records.replace(before, draft, Precondition.parse(if_match), Writer(identity, client))
        return routes.answer(context, stored, response)

    @router.delete(
        f"{path}/{{ref}}",
        status_code=204,
        responses=problems_of(404, 409, 412),
        operation_id=f"remove_{name}",
        summary=f"Remove a {name}",
    )
    def remove(context: Context, identity: Editor, client: Caller, ref: Ref, if_match: IfMatch = None) -> None:
        stored = context.records.get(routes.kind, ref, routes.visible)
        context.records.remove(
            stored,
            Precondition.parse(if_match),
            Writer(identity, client),
            with_it=lambda snapshot: routes.with_it(snapshot, stored.record.name),
        )


def _filters_of(routes: RecordRoutes) -> Callable[..., Fields]:
    """A dependency whose parameters are the filters of a kind."""

    def filters(**given: Any) -> Fields:
        return {name: (value,) for name, value in given.items() if value is not None}

    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation_of(routes.kind, name)
        )
        for name in routes.filters
    ]
    filters.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # FastAPI reads it
    return filters


def _annotation_of(kind: RecordKind, name: str) -> Any:
    description = f"Only where {name} is this."
    if RECORD_TYPES[kind].model_fields[name].annotation is bool:
        return Annotated[bool | None, Query(description=description)]
    return Annotated[str | None, Query(max_length=512, description=description)]
