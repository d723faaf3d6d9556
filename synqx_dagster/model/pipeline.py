"""Pipelines: a directed acyclic graph of nodes that runs as one job."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from synqx_dagster.model.base import Name, Record, RecordKind, Value


class MappingNodeConfig(Value):
    """Which mapping the node runs."""

    mapping: Name


class PipelineNode(Value):
    """One step of a pipeline: the load that a mapping declares."""

    node_id: Name
    name: Name | None = None
    operator_type: Literal["load"] = "load"
    operator_class: Literal["mapping"] = "mapping"
    config: MappingNodeConfig


class PipelineEdge(Value):
    """The second node runs after the first has succeeded."""

    from_node_id: Name
    to_node_id: Name


class Pipeline(Record):
    """Mappings that run together, in the order that edges give."""

    kind: ClassVar[RecordKind] = "pipeline"

    nodes: tuple[PipelineNode, ...] = Field(min_length=1, max_length=1000)
    edges: tuple[PipelineEdge, ...] = ()

    @model_validator(mode="after")
    def _check_graph(self) -> Pipeline:
        node_ids = [node.node_id for node in self.nodes]
        for node_id in node_ids:
            if node_ids.count(node_id) > 1:
                raise ValueError(f"node {node_id!r} is listed twice")
        mappings = [node.config.mapping for node in self.nodes]
        for mapping in mappings:
            if mappings.count(mapping) > 1:
                raise ValueError(f"two nodes run the mapping {mapping!r}")
        for edge in self.edges:
            for end in (edge.from_node_id, edge.to_node_id):
                if end not in node_ids:
                    raise ValueError(f"an edge names the node {end!r}, which is not listed")
        cycle = find_cycle({node_id: [] for node_id in node_ids} | _successors(self.edges))
        if cycle:
            raise ValueError(f"the edges form a cycle: {' -> '.join(cycle)}")
        return self

    @property
    def mapping_names(self) -> tuple[str, ...]:
        """The mappings that the pipeline runs, in the order of its nodes."""
        return tuple(node.config.mapping for node in self.nodes)

    @property
    def mapping_edges(self) -> tuple[tuple[str, str], ...]:
        """Pairs of mapping names: the second runs after the first."""
        by_node = {node.node_id: node.config.mapping for node in self.nodes}
        return tuple((by_node[edge.from_node_id], by_node[edge.to_node_id]) for edge in self.edges)


def _successors(edges: tuple[PipelineEdge, ...]) -> dict[str, list[str]]:
    successors: dict[str, list[str]] = {}
    for edge in edges:
        successors.setdefault(edge.from_node_id, []).append(edge.to_node_id)
    return successors


def find_cycle(successors: dict[str, list[str]]) -> tuple[str, ...]:
    """One cycle of a graph as a closed path (``a, b, a``); empty when there is none. Does not recurse."""
    done: set[str] = set()
    for start in successors:
        path: list[str] = []
        on_path: set[str] = set()
        stack = [(start, iter(successors.get(start, ())))]
        if start in done:
            continue
        path.append(start)
        on_path.add(start)
        while stack:
            node, following = stack[-1]
            for successor in following:
                if successor in on_path:
                    return (*path[path.index(successor) :], successor)
                if successor not in done:
                    stack.append((successor, iter(successors.get(successor, ()))))
                    path.append(successor)
                    on_path.add(successor)
                    break
            else:
                stack.pop()
                path.pop()
                on_path.discard(node)
                done.add(node)
    return ()
