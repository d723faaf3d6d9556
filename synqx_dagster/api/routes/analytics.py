"""Figures of the agent hub: how many agents there are of which sort, and which are looked at."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from synqx_dagster.api.context import Context
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.record_routes import Reader
from synqx_dagster.catalog.agent_rows import count_views, read_rows

router = APIRouter(prefix="/analytics", tags=["agents"])

Days = Annotated[int, Query(ge=1, le=366, description="How far back views are counted.")]


class StatsView(BaseModel):
    """The hub in a few figures."""

    agents: int
    by_status: dict[str, int]
    domains: int = Field(description="Business domains that have an agent.")
    total_views: int = Field(description="All views ever of the agents that there are.")
    recent_views: int
    recent_viewers: int = Field(description="Views by one user of several agents count once for each agent.")
    days: int = Field(description="What recent means.")
    measured_kpis: int = Field(description="KPIs that are measured, of all.")
    kpis: int


class TrendingView(BaseModel):
    """An agent that is looked at."""

    id: UUID
    name: str
    short_description: str | None
    business_domain: str | None
    status: str
    views: int = Field(description="Within the days that were asked for.")
    viewers: int
    view_count: int = Field(description="Ever.")


class DomainView(BaseModel):
    """The agents of a business domain."""

    domain: str | None = Field(description="null: of no domain.")
    agents: int
    by_status: dict[str, int]
    view_count: int


@router.get("/stats", operation_id="agent_stats", summary="Figures of the hub")
def stats(context: Context, identity: Reader, days: Days = 7) -> StatsView:
    """How many agents, KPIs and views there are."""
    agents = context.catalog.latest_snapshot().agents
    rows = read_rows(context.catalog)
    views = count_views(context.catalog, timedelta(days=days))
    kpis = [kpi for agent in agents.values() for kpi in agent.kpis]
    return StatsView(
        agents=len(agents),
        by_status=dict(sorted(Counter(agent.status for agent in agents.values()).items())),
        domains=len({agent.business_domain for agent in agents.values()} - {None}),
        total_views=sum(row.view_count for row in rows.values()),
        recent_views=sum(count for count, _ in views.values()),
        recent_viewers=sum(viewers for _, viewers in views.values()),
        days=days,
        measured_kpis=sum(kpi.metric is not None for kpi in kpis),
        kpis=len(kpis),
    )


@router.get("/trending", operation_id="trending_agents", summary="The agents that are looked at most")
def trending(
    context: Context,
    identity: Reader,
    days: Days = 7,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 10,
) -> list[TrendingView]:
    """By their views of the last days; of as many, those first that more people looked at. None without a view."""
    agents = context.catalog.latest_snapshot().agents
    rows = read_rows(context.catalog)
    views = count_views(context.catalog, timedelta(days=days))
    ranked = sorted(views, key=lambda name: (-views[name][0], -views[name][1], name))
    return [
        TrendingView(
            id=rows[name].agent_id,
            name=name,
            short_description=agents[name].short_description,
            business_domain=agents[name].business_domain,
            status=agents[name].status,
            views=views[name][0],
            viewers=views[name][1],
            view_count=rows[name].view_count,
        )
        for name in ranked
        if name in agents and name in rows
    ][:limit]


@router.get("/by-domain", operation_id="agents_by_domain", summary="The agents of each business domain")
def by_domain(context: Context, identity: Reader, paging: PagingOf) -> Page[DomainView]:
    """The largest domain first, of as many agents by their name; agents of no domain last."""
    rows = read_rows(context.catalog)
    names: dict[str | None, list[str]] = {}
    agents = context.catalog.latest_snapshot().agents
    for agent in agents.values():
        names.setdefault(agent.business_domain, []).append(agent.name)
    ranked = sorted(names, key=lambda domain: (domain is None, -len(names[domain]), domain or ""))
    items = [
        DomainView(
            domain=domain,
            agents=len(names[domain]),
            by_status=dict(sorted(Counter(agents[name].status for name in names[domain]).items())),
            view_count=sum(rows[name].view_count for name in names[domain] if name in rows),
        )
        for domain in ranked[paging.skip : paging.skip + paging.limit]
    ]
    return Page(items=items, total=len(ranked), skip=paging.skip, limit=paging.limit)
