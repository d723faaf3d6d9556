"""Agents (``kind: agent``): documented work with data, what it is for, who owns it, and what of the catalog it runs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from synqx_dagster.model.base import Label, Name, Record, RecordKind, Value

#: A figure of Dagster's storage; see `synqx_dagster.defs.agent_figures` for what each one is made of.
AgentMetric = Literal["success_rate", "rows_loaded", "p95_seconds", "freshness_seconds"]


def _as_lines(value: Any) -> Any:
    """One text is a list of one; pydantic's strict mode takes a tuple here, and nothing else."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_Text = Annotated[str, Field(min_length=1, max_length=20_000)]
_Line = Annotated[str, Field(min_length=1, max_length=2000)]

#: Up to 50 texts; a single one may stand without a list.
Lines = Annotated[
    tuple[_Line, ...],
    Field(max_length=50),
    BeforeValidator(_as_lines, json_schema_input_type=str | list[str]),
]

#: What a KPI is at: a number, or a word such as ``green``.
KpiValue = Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(min_length=1, max_length=256)]


class AgentTool(Value):
    """Something that an agent works with."""

    name: Label
    description: str | None = Field(default=None, max_length=4000)


class Kpi(Value):
    """What an agent is measured by.

    Attributes:
        current: Where it is now, as somebody has entered it; a KPI with a `metric` is measured instead.
        metric: The figure of Dagster's storage that it is, over the runs and loads of what the agent links to.
        window_days: How far back the figure looks. ``freshness_seconds`` looks at the last load, whenever it was.
    """

    name: Label
    target: KpiValue | None = None
    current: KpiValue | None = None
    metric: AgentMetric | None = None
    window_days: int = Field(default=30, ge=1, le=366)

    @model_validator(mode="after")
    def _check_current(self) -> Kpi:
        if self.metric is not None and self.current is not None:
            raise ValueError("leave current out: a KPI with a metric is measured")
        return self


class Agent(Record):
    """An agent of the hub, and the datasets, pipelines and mappings that it runs.

    Attributes:
        status: A word of the team's own, such as ``draft``, ``active`` or ``retired``.
        owner: Who answers for it: ``team:NAME`` or an e-mail address, who then may write it as `owners` do, or a name.
        version: Of the agent, as its owner counts; the catalog counts its own versions of each record.
        assets: Datasets (records of ``kind: asset``) that it loads or reads.
    """

    kind: ClassVar[RecordKind] = "agent"

    short_description: str | None = Field(default=None, max_length=500)
    business_domain: Label | None = None
    status: Label = "draft"
    owner: Label | None = None
    version: Label = "1.0"
    problem_statement: _Text | None = None
    goals: Lines = ()
    in_scope: Lines = ()
    out_of_scope: Lines = ()
    operational_details: _Text | None = None
    inputs: Lines = ()
    outputs: Lines = ()
    tools: tuple[AgentTool, ...] = Field(default=(), max_length=50)
    security_controls: Lines = ()
    kpis: tuple[Kpi, ...] = Field(default=(), max_length=50)
    personas: Lines = ()
    assets: tuple[Name, ...] = Field(default=(), max_length=500)
    pipelines: tuple[Name, ...] = Field(default=(), max_length=500)
    mappings: tuple[Name, ...] = Field(default=(), max_length=500)

    @property
    def writers(self) -> tuple[str, ...]:
        """The owners, and `owner` where it is a team or an address; a name is no more than a name."""
        owner = self.owner
        return (
            self.owners if owner is None or not ("@" in owner or owner.startswith("team:")) else (*self.owners, owner)
        )

    @model_validator(mode="after")
    def _check_names(self) -> Agent:
        for what, names in (
            ("tools", [tool.name for tool in self.tools]),
            ("kpis", [kpi.name for kpi in self.kpis]),
            ("assets", self.assets),
            ("pipelines", self.pipelines),
            ("mappings", self.mappings),
        ):
            if len(set(names)) != len(names):
                twice = next(name for name in names if list(names).count(name) > 1)
                raise ValueError(f"{what}: {twice!r} is listed twice")
        return self
