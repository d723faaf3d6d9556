"""The graph of a pipeline: its nodes with their operators, and the steps in which it runs.

Everything here is pure: it looks at records and at nothing else.

Nodes are fused into steps: a node with exactly one consumer runs in its consumer's step and streams into it, so that
a step is a tree of nodes with one end, which is a load, or a node whose rows several nodes read. Only those rows are
stored. Along edges that carry rows fusing leaves no cycle between steps, because every node of a step leads to the
step's end; edges that carry none are checked when the graph is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from synqx_dagster.model.base import Value
from synqx_dagster.model.dataset import Dataset
from synqx_dagster.model.pipeline import Pipeline, PipelineNode
from synqx_dagster.model.table import TableName
from synqx_dagster.pipelines.operators.ends import ExtractConfig, IncrementalConfig, LoadConfig
from synqx_dagster.pipelines.operators.protocol import Operator
from synqx_dagster.pipelines.operators.validate import ValidateConfig


@dataclass(frozen=True)
class Node:
    """A node with its operator. ``inputs`` are the nodes whose rows it reads, in the order of the edges."""

    record: PipelineNode
    operator: Operator
    config: Value
    inputs: tuple[str, ...]
    consumers: tuple[str, ...]
    dataset: Dataset | None = None

    @property
    def node_id(self) -> str:
        """The node's id."""
        return self.record.node_id

    @property
    def connection(self) -> str | None:
        """The connection that an extract or a load works on."""
        return self.dataset.connection if self.dataset is not None else getattr(self.config, "connection", None)

    @property
    def table(self) -> TableName | None:
        """The table that an extract reads or a load fills; None for a query."""
        if self.dataset is not None:
            return self.dataset.table_name
        text = getattr(self.config, "table", None)
        return None if text is None else TableName.parse(text)

    @property
    def query(self) -> str | None:
        """The query that an extract reads."""
        return self.dataset.query if self.dataset is not None else getattr(self.config, "query", None)

    @property
    def target_schema(self) -> str | None:
        """The schema record that a load keeps to."""
        own = getattr(self.config, "target_schema", None)
        return own if own is not None or self.dataset is None else self.dataset.target_schema


@dataclass(frozen=True)
class Step:
    """Nodes that run together.

    Attributes:
        name: The node at the end, after which the step is called.
        nodes: All of them, each after those that it reads.
        inputs: Nodes of other steps whose stored rows it reads.
        after: Nodes of other steps that must have run, though no rows come from them.
        carried: Ends of other steps whose bad rows or watermark this step's load commits; rows need not come from them.
        is_load: The node at the end is a load; else its rows are stored.
    """

    name: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    after: tuple[str, ...]
    carried: tuple[str, ...]
    is_load: bool


@dataclass(frozen=True)
class Graph:
    """A pipeline that has nothing wrong with it; mapping nodes are no part of `steps`."""

    pipeline: Pipeline
    nodes: Mapping[str, Node]
    steps: tuple[Step, ...]

    def step_of(self, node_id: str) -> Step:
        """The step that a node runs in."""
        return next(step for step in self.steps if node_id in step.nodes)


def order_nodes(pipeline: Pipeline) -> tuple[str, ...]:
    """All nodes, each after those from which edges lead to it; otherwise as they are listed. Does not recurse."""
    waiting = {node.node_id: 0 for node in pipeline.nodes}
    following: dict[str, list[str]] = {node_id: [] for node_id in waiting}
    for edge in pipeline.edges:
        waiting[edge.to_node_id] += 1
        following[edge.from_node_id].append(edge.to_node_id)
    ready = [node_id for node_id, count in waiting.items() if count == 0]
    ordered: list[str] = []
    while ready:
        ordered.extend(ready)
        freed = []
        for node_id in ready:
            for other in following[node_id]:
                waiting[other] -= 1
                if waiting[other] == 0:
                    freed.append(other)
        ready = freed
    return tuple(ordered)


def loads_after(node_id: str, nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """The load nodes that the rows of a node can reach, in the order of the nodes."""
    reached, ahead = {node_id}, [node_id]
    while ahead:
        for consumer in nodes[ahead.pop()].consumers:
            if consumer not in reached:
                reached.add(consumer)
                ahead.append(consumer)
    return tuple(name for name, node in nodes.items() if name in reached and isinstance(node.config, LoadConfig))


def quarantine_of(node: Node, nodes: Mapping[str, Node]) -> str | None:
    """The load that keeps the bad rows of a validate node; None where it lets none pass."""
    config = node.config
    if not isinstance(config, ValidateConfig) or config.on_bad_row != "quarantine":
        return None
    return config.quarantine or next(iter(loads_after(node.node_id, nodes)), None)


# --- steps --------------------------------------------------------------------------------------------------------


def plan_steps(pipeline: Pipeline, nodes: Mapping[str, Node]) -> tuple[Step, ...]:
    """The steps, each after those that it reads or waits for."""
    end_of: dict[str, str] = {}
    # From the ends on: a node is fused with the one that reads it.
    for node_id in reversed(tuple(nodes)):
        node = nodes[node_id]
        fused = len(node.consumers) == 1 and not node.record.stored
        end_of[node_id] = end_of[node.consumers[0]] if fused else node_id
    members: dict[str, list[str]] = {}
    for node_id in nodes:
        members.setdefault(end_of[node_id], []).append(node_id)
    after: dict[str, list[str]] = {end: [] for end in members}
    for edge in pipeline.edges:
        first, second = edge.from_node_id, edge.to_node_id
        if second not in nodes or (first in nodes and first in nodes[second].inputs):
            continue
        waits_for = end_of.get(first, first)
        if waits_for != end_of[second]:
            after[end_of[second]].append(waits_for)
    return tuple(
        Step(
            name=end,
            nodes=tuple(members[end]),
            inputs=tuple(
                dict.fromkeys(name for member in members[end] for name in nodes[member].inputs if end_of[name] != end)
            ),
            after=tuple(dict.fromkeys(after[end])),
            carried=_carried(end, nodes, end_of),
            is_load=isinstance(nodes[end].config, LoadConfig),
        )
        # A step comes after all that its end comes after.
        for end in nodes
        if end in members
    )


def _carried(load: str, nodes: Mapping[str, Node], end_of: Mapping[str, str]) -> tuple[str, ...]:
    found = (
        end_of[node.node_id]
        for node in nodes.values()
        if quarantine_of(node, nodes) == load
        or (isinstance(node.config, IncrementalConfig) and load in loads_after(node.node_id, nodes))
    )
    return tuple(dict.fromkeys(end for end in found if end != load))


def loads_of(graph: Graph) -> tuple[Node, ...]:
    """The load nodes of a pipeline that are no mappings."""
    return tuple(node for node in graph.nodes.values() if isinstance(node.config, LoadConfig))


def extracts_before(node_id: str, nodes: Mapping[str, Node]) -> tuple[Node, ...]:
    """The extracts whose rows a node reads, directly or through others."""
    reached, ahead = {node_id}, [node_id]
    while ahead:
        for one in nodes[ahead.pop()].inputs:
            if one not in reached:
                reached.add(one)
                ahead.append(one)
    return tuple(node for name, node in nodes.items() if name in reached and isinstance(node.config, ExtractConfig))


def sessions_of(step: Step, nodes: Mapping[str, Node]) -> Counter[str]:
    """How many sessions a step holds at the same time, by connection: one for each extract, and one for its load."""
    ends = (*extracts_of(step, nodes), *([nodes[step.name]] if step.is_load else []))
    return Counter(str(node.connection) for node in ends)


def extracts_of(step: Step, nodes: Mapping[str, Node]) -> tuple[Node, ...]:
    """The extracts of a step."""
    return tuple(nodes[name] for name in step.nodes if isinstance(nodes[name].config, ExtractConfig))
