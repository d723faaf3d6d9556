"""Agents as answers show them: with their ids, how often they were looked at, and their KPIs measured."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from synqx_dagster.api.references import ReferenceIds
from synqx_dagster.catalog.agent_rows import AgentRow
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.agent_figures import measure_agent
from synqx_dagster.defs.instance import AnyInstance
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Agent
from synqx_dagster.model.agent import AgentMetric, AgentTool, KpiValue

_log = logging.getLogger(__name__)

#: How old a figure may be: a page of agents is looked at by many, and changes with each run.
FIGURE_SECONDS = 30.0


class KpiView(BaseModel):
    """What an agent is measured by, and where it is."""

    name: str
    target: KpiValue | None
    current: KpiValue | None = Field(
        description="As somebody has entered it or, with a metric, as it is measured; null where nothing has run yet."
    )
    metric: AgentMetric | None
    window_days: int


class AgentView(BaseModel):
    """An agent of the hub."""

    id: UUID = Field(description="Stable, also when the agent is removed and made again.")
    name: str
    description: str | None
    short_description: str | None
    business_domain: str | None
    status: str
    view_count: int = Field(description="How often `POST /agents/{id}/view` was called.")
    problem_statement: str | None
    goals: list[str]
    in_scope: list[str]
    out_of_scope: list[str]
    operational_details: str | None
    inputs: list[str]
    outputs: list[str]
    tools: list[AgentTool]
    security_controls: list[str]
    kpis: list[KpiView]
    personas: list[str]
    owner: str | None
    owners: list[str]
    version: str
    assets: list[str]
    asset_ids: list[int]
    pipelines: list[str]
    pipeline_ids: list[int]
    mappings: list[str]
    mapping_ids: list[int]
    etag: str = Field(description="The version of the record; send it in quotes as If-Match.")
    revision: int = Field(description="The catalog's revision that made the agent what it is.")
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


class AgentFigures:
    """Figures of agents, measured when they are asked for and kept for a moment. Thread-safe."""

    def __init__(self, keep_seconds: float = FIGURE_SECONDS) -> None:
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, int, Mapping[str, float | None]]] = {}

    def measure(
        self, catalog: Catalog, open_instance: Callable[[], AnyInstance], stored: StoredRecord
    ) -> Mapping[str, float | None]:
        """The figures of an agent's KPIs by their names; empty where they cannot be measured."""
        agent = stored.record
        assert isinstance(agent, Agent)
        if all(kpi.metric is None for kpi in agent.kpis):
            return {}
        snapshot = catalog.latest_snapshot()
        now = time.monotonic()
        with self._lock:
            known = self._known.get(agent.name)
        if known is not None and known[1] == snapshot.revision and now - known[0] < self._keep_seconds:
            return known[2]
        try:
            figures = measure_agent(open_instance(), snapshot, agent)
        except SynqxError as error:
            _log.warning("The figures of the agent %s cannot be measured: %s", agent.name, error.message)
            figures = {}
        with self._lock:
            # Of agents that are gone nobody asks; what is old goes when something is added.
            self._known = {name: item for name, item in self._known.items() if now - item[0] < self._keep_seconds}
            self._known[agent.name] = (now, snapshot.revision, figures)
        return figures


def show_agents(
    catalog: Catalog,
    open_instance: Callable[[], AnyInstance],
    figures: AgentFigures,
    stored: Sequence[StoredRecord],
    rows: Mapping[str, AgentRow],
) -> list[AgentView]:
    """Agents with what is known of them.

    Args:
        open_instance: Called for agents with a KPI that is measured, and for no others.
        rows: Their ids and views, by name.
    """
    ids = ReferenceIds(catalog, [item.record for item in stored])
    shown = []
    for item in stored:
        agent = item.record
        assert isinstance(agent, Agent)
        measured = figures.measure(catalog, open_instance, item)
        row = rows[agent.name]
        values = {name: getattr(agent, name) for name in type(agent).model_fields if name != "kpis"}
        shown.append(
            AgentView(
                **values,
                **ids.fields_of(agent),
                id=row.agent_id,
                view_count=row.view_count,
                kpis=[
                    KpiView(
                        name=kpi.name,
                        target=kpi.target,
                        current=kpi.current if kpi.metric is None else measured.get(kpi.name),
                        metric=kpi.metric,
                        window_days=kpi.window_days,
                    )
                    for kpi in agent.kpis
                ],
                etag=item.etag,
                revision=item.revision,
                created_at=item.created_at,
                created_by=item.created_by,
                updated_at=item.updated_at,
                updated_by=item.updated_by,
            )
        )
    return shown
