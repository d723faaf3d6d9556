"""The agent hub: a catalogue of documented work, what it runs, and who looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from synqx_dagster.api.access import Caller
from synqx_dagster.api.agent_views import AgentView, show_agents
from synqx_dagster.api.bodies import JsonObject
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.paging import Page, Paging, PagingOf
from synqx_dagster.api.problems import problems_of
from synqx_dagster.api.record_routes import Editor, IfMatch, Reader
from synqx_dagster.api.record_schemas import body_of
from synqx_dagster.api.records import Draft, Precondition, Writer
from synqx_dagster.catalog.agent_rows import add_view, agent_not_found, find_row, read_rows
from synqx_dagster.catalog.listing import ListQuery, SortField, StoredRecord
from synqx_dagster.catalog.search import MAX_QUERY_CHARACTERS, search_catalog
from synqx_dagster.errors import ConflictError

router = APIRouter(tags=["agents"])

AgentRef = Annotated[str, Path(max_length=128, description="The agent's id (a UUID), or its name.")]

_ETAG = {"headers": {"ETag": {"description": "The version of the record, for If-Match.", "schema": {"type": "string"}}}}
#: What answers have, and requests that are answers sent back, beside what an agent declares.
_ANSWERS_OWN = ("view_count",)
#: More hits than there are pages of.
_MAX_FOUND = 10_000


class ViewRequest(BaseModel):
    """Who looks, beside the user who is logged in."""

    model_config = ConfigDict(extra="forbid", strict=True)

    session_id: str | None = Field(
        default=None,
        max_length=128,
        pattern=r"^[A-Za-z0-9._:-]+$",
        description="Whatever tells one visit from another; left out: the session or key that is logged in.",
    )


class ViewAnswer(BaseModel):
    """How often an agent was looked at."""

    id: str
    view_count: int


@router.get("/agents", operation_id="list_agents", summary="List agents")
def list_agents(
    context: Context,
    identity: Reader,
    paging: PagingOf,
    domain: Annotated[str | None, Query(max_length=256, description="Only of this business domain.")] = None,
    status: Annotated[str | None, Query(max_length=256, description="Only with this status.")] = None,
    search: Annotated[
        str | None,
        Query(
            max_length=MAX_QUERY_CHARACTERS,
            description="Words that must be in the agent; the best hits first, whatever `sort` says.",
        ),
    ] = None,
    sort: SortField = "name",
    order: Literal["asc", "desc"] = "asc",
) -> Page[AgentView]:
    """The catalogue of agents, by pages."""
    filters = {name: (value,) for name, value in (("business_domain", domain), ("status", status)) if value is not None}
    query = ListQuery("agent", sort=sort, descending=order == "desc", fields=filters)
    if search is not None and search.strip():
        return _search(context, search, query, paging)
    found = context.records.page(
        ListQuery("agent", skip=paging.skip, limit=paging.limit, sort=sort, descending=order == "desc", fields=filters)
    )
    return Page(items=_show(context, found.items), total=found.total, skip=paging.skip, limit=paging.limit)


def _search(context: ApiContext, text: str, query: ListQuery, paging: Paging) -> Page[AgentView]:
    hits = search_catalog(context.catalog, text, kinds=["agent"], limit=_MAX_FOUND).hits
    agents = context.catalog.latest_snapshot().agents
    names = [
        hit.record_name
        for hit in hits
        if (agent := agents.get(hit.record_name)) is not None
        and all(getattr(agent, name) in values for name, values in query.fields.items())
    ]
    page = tuple(names[paging.skip : paging.skip + paging.limit])
    found = {
        item.record.name: item for item in context.records.page(ListQuery("agent", limit=len(page), names=page)).items
    }
    items = [found[name] for name in page if name in found]
    return Page(items=_show(context, items), total=len(names), skip=paging.skip, limit=paging.limit)


@router.post(
    "/agents",
    status_code=201,
    responses={201: {**_ETAG}, **problems_of(404, 409)},
    openapi_extra=body_of("agent"),
    operation_id="create_agent",
    summary="Create an agent",
)
def create_agent(
    context: Context, identity: Editor, client: Caller, values: JsonObject, response: Response
) -> AgentView:
    """Declare an agent. Its `current` of a KPI with a `metric` is measured, and left out of what is kept."""
    stored = context.records.create(Draft("agent", _prepare(values)), Writer(identity, client))
    shown = _answer(context, stored, response)
    response.headers["Location"] = f"/api/v1/agents/{shown.id}"
    return shown


@router.get(
    "/agents/{ref}",
    responses={200: {**_ETAG}, **problems_of(404)},
    operation_id="get_agent",
    summary="Read an agent",
)
def get_agent(context: Context, identity: Reader, ref: AgentRef, response: Response) -> AgentView:
    """One agent, its KPIs measured. To read it is no view: `POST /agents/{ref}/view` counts one."""
    return _answer(context, _get(context, ref), response)


@router.put(
    "/agents/{ref}",
    responses={200: {**_ETAG}, **problems_of(404, 409, 412)},
    openapi_extra=body_of("agent"),
    operation_id="replace_agent",
    summary="Declare an agent anew",
)
def replace_agent(
    context: Context,
    identity: Editor,
    client: Caller,
    ref: AgentRef,
    values: JsonObject,
    response: Response,
    if_match: IfMatch = None,
) -> AgentView:
    """Declare an agent whole; what is left out gets its default."""
    stored = context.records.replace(
        _get(context, ref), Draft("agent", _prepare(values)), Precondition.parse(if_match), Writer(identity, client)
    )
    return _answer(context, stored, response)


@router.delete(
    "/agents/{ref}",
    status_code=204,
    responses=problems_of(404, 409, 412),
    operation_id="remove_agent",
    summary="Remove an agent",
)
def remove_agent(context: Context, identity: Editor, client: Caller, ref: AgentRef, if_match: IfMatch = None) -> None:
    """Remove an agent. Its id and its views come back if an agent of this name is made again."""
    context.records.remove(_get(context, ref), Precondition.parse(if_match), Writer(identity, client))


@router.post(
    "/agents/{ref}/view",
    responses=problems_of(404),
    operation_id="view_agent",
    summary="Count a view of an agent",
)
def view_agent(context: Context, identity: Reader, ref: AgentRef, request: ViewRequest | None = None) -> ViewAnswer:
    """Say that the caller looks at an agent. Every call counts, and is kept with the user, the session and the time."""
    session = (None if request is None else request.session_id) or identity.credential_id
    row = add_view(
        context.catalog, ref, user_id=identity.user_id, session_id=None if session is None else session[:128]
    )
    return ViewAnswer(id=str(row.agent_id), view_count=row.view_count)


def _prepare(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request without what is measured or counted, so that an answer may be sent back."""
    kept = {name: value for name, value in values.items() if name not in _ANSWERS_OWN}
    kpis = kept.get("kpis")
    if isinstance(kpis, list):
        kept["kpis"] = [
            {name: value for name, value in kpi.items() if name != "current"}
            if isinstance(kpi, dict) and kpi.get("metric") is not None
            else kpi
            for kpi in kpis
        ]
    return kept


def _get(context: ApiContext, ref: str) -> StoredRecord:
    row = find_row(context.catalog, ref)
    found = () if row is None else context.records.page(ListQuery("agent", limit=1, names=(row.name,))).items
    if not found:
        raise agent_not_found(ref)
    return found[0]


def _answer(context: ApiContext, stored: StoredRecord, response: Response) -> AgentView:
    response.headers["ETag"] = f'"{stored.etag}"'
    return _show(context, [stored])[0]


def _show(context: ApiContext, stored: Sequence[StoredRecord]) -> list[AgentView]:
    rows = read_rows(context.catalog)
    missing = next((item.record.name for item in stored if item.record.name not in rows), None)
    if missing is not None:
        raise ConflictError(f"The agent {missing!r} was removed by somebody else meanwhile", hint="ask again")
    return show_agents(context.catalog, lambda: context.instance, context.figures, stored, rows)
