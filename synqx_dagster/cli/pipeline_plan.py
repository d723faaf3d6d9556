"""`synqx plan` of a pipeline: its steps, its nodes with their columns, and how each load would run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synqx_dagster.cli.figures import describe_freshness, plural
from synqx_dagster.cli.output import Output, printable

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.pipelines.planning import PipelinePlan

#: Columns that are listed for a node; ``--json`` has them all.
_COLUMNS = 8


def find_plan(catalog: Catalog, name: str) -> PipelinePlan:
    """Plan a pipeline of the latest revision.

    Raises:
        NotFoundError: There is none of this name.
        SynqxError: A step cannot run as the databases are.
    """
    from synqx_dagster.catalog.connecting import connected
    from synqx_dagster.connectors.registry import connector_types
    from synqx_dagster.pipelines.building import build_graph
    from synqx_dagster.pipelines.planning import plan_pipeline

    snapshot = catalog.snapshot_for(pipelines=[name])
    pipeline = snapshot.get_pipeline(name)
    graph = build_graph(pipeline, snapshot.assets.get, frozenset(connector_types()))
    names = sorted({node.connection for node in graph.nodes.values() if node.connection is not None})
    with connected(catalog, snapshot, names) as connectors:
        by_name = dict(zip(names, connectors, strict=True))
        return plan_pipeline(graph, by_name, snapshot.schemas, catalog.settings.home / "spill")


def draw_plan(output: Output, plan: PipelinePlan) -> None:
    """Draw a pipeline's plan as one table of nodes for each step."""
    document = plan.to_dict()
    pipeline = plan.graph.pipeline
    nodes = plural(len(pipeline.nodes), "node")
    steps = plural(len(plan.steps) + len(pipeline.mapping_names), "step")
    output.print(f"{printable(pipeline.name)}: {nodes} in {steps}, {pipeline.memory_limit} of memory")
    for step in document["steps"]:
        output.print()
        output.print(f"step {printable(step['step'])}{_waits_for(step)}", style="bold")
        output.table(
            ["node", "operator", "reads", "columns"],
            [
                [
                    printable(node["node_id"]),
                    node["operator"],
                    printable(", ".join(node["inputs"])),
                    printable(_columns(node["columns"])),
                ]
                for node in step["nodes"]
            ],
            fold=["columns"],
        )
        load = step["load"]
        if load is None:
            output.print("  its rows are stored for the steps that read them", style="dim")
        else:
            action = "is created" if load["target_action"] == "create" else "exists"
            output.print(f"  {load['mode']} {printable(load['target'])} ({action}): {printable(load['strategy'])}")
            if load["freshness"] is not None:
                output.print(f"  freshness: {describe_freshness(load['freshness'])}")
    for name in pipeline.mapping_names:
        output.print()
        output.print(f"step: the mapping {printable(name)}; `synqx plan mapping:{printable(name)}` explains it")


def _waits_for(step: dict[str, Any]) -> str:
    names = [*step["inputs"], *step["after"]]
    return f", after {printable(', '.join(names))}" if names else ""


def _columns(columns: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"{column['name']} {column['type']}" for column in columns[:_COLUMNS])
    return shown + (f", and {len(columns) - _COLUMNS} more" if len(columns) > _COLUMNS else "")
