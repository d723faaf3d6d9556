"""Planning a pipeline with its databases at hand: columns of every node, and how each load would run; reads no rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column
from synqx_dagster.pipelines.graph import Graph, Step, extracts_of
from synqx_dagster.pipelines.loading import load_mapping
from synqx_dagster.pipelines.source import StreamConnector
from synqx_dagster.pipelines.stream import StepContext, StepStream, StoredRows
from synqx_dagster.transfer.plan import LoadPlan
from synqx_dagster.transfer.prepare import plan_load, refuse_locked


@dataclass(frozen=True)
class StepPlan:
    """How a step would run. ``columns`` are those of each of its nodes; ``load`` is None where rows are stored."""

    step: Step
    columns: Mapping[str, tuple[Column, ...]]
    load: LoadPlan | None


@dataclass(frozen=True)
class PipelinePlan:
    """How a pipeline would run, step by step."""

    graph: Graph
    steps: tuple[StepPlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "pipeline": self.graph.pipeline.name,
            "memory_limit": self.graph.pipeline.memory_limit,
            "steps": [
                {
                    "step": plan.step.name,
                    "inputs": list(plan.step.inputs),
                    "after": list(plan.step.after),
                    "nodes": [self._node(plan, name) for name in plan.step.nodes],
                    "load": None if plan.load is None else self._load(plan, plan.load),
                }
                for plan in self.steps
            ],
        }

    def _load(self, plan: StepPlan, load: LoadPlan) -> dict[str, Any]:
        mapping = load_mapping(self.graph, self.graph.nodes[plan.step.name])
        return {**load.to_dict(), "freshness": mapping.model_dump()["freshness"]}

    def _node(self, plan: StepPlan, name: str) -> dict[str, Any]:
        node = self.graph.nodes[name]
        return {
            "node_id": name,
            "operator": f"{node.record.operator_type}.{node.operator.operator_class}",
            "inputs": list(node.inputs),
            "columns": [
                {"name": column.name, "type": column.native_type or str(column.data_type)}
                for column in plan.columns.get(name, ())
            ],
        }


def plan_pipeline(
    graph: Graph, connectors: Mapping[str, Connector], schemas: Mapping[str, Schema], spill: Path
) -> PipelinePlan:
    """Plan every step; asks each source for its columns and each target for its own, and changes nothing.

    Raises:
        SynqxError: A step cannot run as the databases are; names the node.
    """
    # What a step would store, before anybody has: its columns, and no rows.
    stored: dict[str, StoredRows] = {}
    plans = []
    for step in graph.steps:
        context = StepContext(
            connectors, {name: stored[name] for name in step.inputs}, {}, graph.pipeline.memory_bytes, spill
        )
        if step.is_load:
            plans.append(_plan_load(graph, step, context, schemas))
            continue
        with StepStream(graph, step, context) as stream:
            stored[step.name] = StoredRows(stream.columns, 0, lambda: iter(()))
            plans.append(StepPlan(step, dict(stream.node_columns), None))
    return PipelinePlan(graph, tuple(plans))


def _plan_load(graph: Graph, step: Step, context: StepContext, schemas: Mapping[str, Schema]) -> StepPlan:
    node = graph.nodes[step.name]
    mapping = load_mapping(graph, node)
    stream = StepStream(graph, step, context)
    source = StreamConnector(mapping.name, lambda: stream)
    for extract in extracts_of(step, graph.nodes):
        refuse_locked(
            mapping, context.connectors[str(extract.connection)], context.connectors[mapping.target_connection]
        )
    schema = None if node.target_schema is None else schemas[node.target_schema]
    load = plan_load(mapping, schema, source, context.connectors[mapping.target_connection])
    return StepPlan(step, {**stream.node_columns, step.name: load.columns}, load)
