"""`synqx agents`: the catalogue of documented work, and how it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import format_count
from synqx_dagster.cli.options import SynqxSubgroup, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synqx_dagster.catalog.agent_rows import AgentRow
    from synqx_dagster.model import Agent

_TEXTS = ("short_description", "problem_statement", "operational_details", "description")
_LISTS = ("goals", "in_scope", "out_of_scope", "inputs", "outputs", "security_controls", "personas")
_LINKS = ("assets", "pipelines", "mappings")


@click.group(cls=SynqxSubgroup)
def agents() -> None:
    """List agents, and show what one is for, runs and reaches."""


@agents.command("list")
@click.option("--domain", metavar="TEXT", help="Only of this business domain.")
@click.option("--status", metavar="TEXT", help="Only with this status.")
@json_option
@pass_output
def list_agents(output: Output, domain: str | None, status: str | None) -> None:
    """List agents with their owners and how often they were looked at."""
    from synqx_dagster.catalog.agent_rows import read_rows

    catalog = open_catalog()
    rows = read_rows(catalog)
    found = [
        _summary(agent, rows[agent.name])
        for agent in catalog.snapshot().agents.values()
        if domain in (None, agent.business_domain) and status in (None, agent.status) and agent.name in rows
    ]

    def draw() -> None:
        if not found:
            output.print("No agents: declare one with `kind: agent`.")
            return
        output.table(
            ["agent", "domain", "status", "owner", "views", "what for"],
            [
                [
                    printable(item["name"]),
                    printable(item["business_domain"] or "-"),
                    printable(item["status"]),
                    printable(item["owner"] or "-"),
                    format_count(item["view_count"]),
                    printable(item["short_description"] or ""),
                ]
                for item in found
            ],
            right=["views"],
            fold=["what for"],
        )

    output.result(found, draw)


@agents.command()
@click.argument("agent")
@json_option
@pass_output
def show(output: Output, agent: str) -> None:
    """Show one agent, its KPIs measured.

    AGENT is a name or an id.
    """
    from synqx_dagster.catalog.agent_rows import find_row
    from synqx_dagster.catalog.snapshot import not_found
    from synqx_dagster.defs.agent_figures import measure_agent
    from synqx_dagster.defs.instance import open_instance

    catalog = open_catalog()
    snapshot = catalog.snapshot()
    row = find_row(catalog, agent)
    if row is None or row.name not in snapshot.agents:
        raise not_found("agent", agent, snapshot.agents)
    record = snapshot.get_agent(row.name)
    measured: Mapping[str, float | None] = {}
    if any(kpi.metric is not None for kpi in record.kpis):
        with open_instance(catalog.settings) as instance:
            measured = measure_agent(instance, snapshot, record)
    document = {
        "id": str(row.agent_id),
        **record.model_dump(mode="json"),
        "view_count": row.view_count,
        "kpis": [
            {**kpi.model_dump(mode="json"), "current": kpi.current if kpi.metric is None else measured.get(kpi.name)}
            for kpi in record.kpis
        ],
    }
    output.result(document, lambda: _draw(output, document))


def _summary(agent: Agent, row: AgentRow) -> dict[str, Any]:
    names = ("name", "business_domain", "status", "owner", "version", "short_description")
    return {
        "id": str(row.agent_id),
        **{name: getattr(agent, name) for name in names},
        "view_count": row.view_count,
    }


def _draw(output: Output, document: dict[str, Any]) -> None:
    facts: list[tuple[str, Any]] = [
        ("agent", printable(document["name"])),
        ("id", document["id"]),
        ("domain", printable(document["business_domain"] or "-")),
        ("status", printable(document["status"])),
        ("owner", printable(document["owner"] or "-")),
        ("version", printable(document["version"])),
        ("views", format_count(document["view_count"])),
    ]
    facts += [(_words(name), printable(document[name])) for name in _TEXTS if document[name]]
    facts += [(_words(name), printable("; ".join(document[name]))) for name in _LISTS if document[name]]
    facts += [(_words(name), printable(", ".join(document[name]))) for name in _LINKS if document[name]]
    facts += [
        ("tool", printable(f"{tool['name']}: {tool['description']}" if tool["description"] else tool["name"]))
        for tool in document["tools"]
    ]
    output.facts(facts)
    if document["kpis"]:
        output.print()
        output.table(
            ["kpi", "target", "current", "measured"],
            [
                [
                    printable(kpi["name"]),
                    _value(kpi["target"]),
                    _value(kpi["current"]),
                    f"{kpi['metric']}, {kpi['window_days']} d" if kpi["metric"] else "",
                ]
                for kpi in document["kpis"]
            ],
        )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: float | str | None) -> str:
    if value is None:
        return "-"
    return printable(value) if isinstance(value, str) else f"{value:,.6g}"
