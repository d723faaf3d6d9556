"""Pipelines: a directed acyclic graph of extract, transform, validate and load nodes that runs as one job."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from synqx_dagster.model.base import Label, Name, Record, RecordKind, Value, dagster_name
from synqx_dagster.model.mapping import RESERVED_PREFIX, Freshness
from synqx_dagster.model.partitions import Partitions

OperatorType = Literal["extract", "transform", "validate", "load"]

#: The load node that runs a mapping of the catalog, whole.
MAPPING_OPERATOR = "mapping"

#: The first part of the keys of assets that are the rows which steps store for each other.
PIPELINES = "pipelines"

#: Below it DuckDB cannot even spill.
MIN_MEMORY_BYTES = 64_000_000

#: More nodes are more than anybody draws; each step costs its share of a run's start.
MAX_NODES = 1000

_MEMORY = re.compile(r"(\d{1,6}(?:\.\d+)?)\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_UNITS = {
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


class PipelineNode(Value):
    """One piece of work of a pipeline.

    Attributes:
        operator_class: Which operator of its type: ``table`` or ``query`` for an extract, ``sql`` or ``pandas`` for a
            transform, and so on; those of packages too. The kind of the asset's connection (``postgresql``) stands for
            ``table``.
        source_asset: What an extract reads: a record of ``kind: asset``.
        destination_asset: What a load fills.
        config: The operator's own fields; docs/pipelines.md lists them.
        order_index: Where the node stands in a drawing; says nothing of the order in which nodes run.
        retries: How often the step of this node runs again after a retryable failure.
        timeout_seconds: A node that has not ended by then fails, and its step with it.
        stored: End the step after this node, and keep its rows until the run has succeeded: a run that failed later
            goes on from here.
    """

    node_id: Name
    name: Label | None = None
    operator_type: OperatorType = "load"
    operator_class: Label = MAPPING_OPERATOR
    source_asset: Name | None = None
    destination_asset: Name | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)
    order_index: int = 0
    retries: int = Field(default=0, ge=0, le=20)
    timeout_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    stored: bool = False

    @model_validator(mode="after")
    def _check_assets(self) -> PipelineNode:
        if self.source_asset is not None and self.operator_type != "extract":
            raise ValueError(f"source_asset is for extract nodes; this one is of type {self.operator_type}")
        if self.destination_asset is not None and self.operator_type != "load":
            raise ValueError(f"destination_asset is for load nodes; this one is of type {self.operator_type}")
        if self.runs_mapping and not isinstance(self.config.get("mapping"), str):
            raise ValueError("config.mapping: name the mapping that the node runs")
        return self

    @property
    def runs_mapping(self) -> bool:
        """Whether the node is the load that a mapping of the catalog declares."""
        return (
            self.operator_type == "load" and self.operator_class == MAPPING_OPERATOR and self.destination_asset is None
        )

    @property
    def mapping_name(self) -> str | None:
        """The mapping that the node runs; None for any other node."""
        return str(self.config["mapping"]) if self.runs_mapping else None

    @property
    def connection_name(self) -> str | None:
        """The connection that an extract or a load names itself, without an asset."""
        return self._config_text("connection")

    @property
    def schema_name(self) -> str | None:
        """The schema record that a load names itself."""
        return self._config_text("target_schema")

    def _config_text(self, name: str) -> str | None:
        value = self.config.get(name) if self.operator_type in ("extract", "load") else None
        return value if isinstance(value, str) else None

    @property
    def gives_rows(self) -> bool:
        """Whether other nodes can read what this one makes."""
        return self.operator_type != "load"

    @property
    def takes_rows(self) -> bool:
        """Whether the node reads what other nodes make."""
        return self.operator_type != "extract" and not self.runs_mapping


class PipelineEdge(Value):
    """Rows flow from the first node to the second; where one has none to give or to take, the second just waits."""

    from_node_id: Name
    to_node_id: Name


class Pipeline(Record):
    """Nodes that run together as one job, in the order that edges give.

    Attributes:
        executor: How the job's steps run: ``in_process``, ``multiprocess``, ``celery``, ``k8s``, or the
            ``module:attribute`` of an executor; left out: the setting ``SYNQX_EXECUTOR``.
        max_concurrent_runs: How many runs of this pipeline may go on at the same time; None for no limit.
        partitions: The parts by which the pipeline runs: extracts with a `partition_column` read, and loads with one
            replace, the rows of the partitions that a run is of.
        memory_limit: What the nodes of one step may hold in memory; joins and sorts spill to disk beyond it.
        freshness: How old the last load may be of each table that a node of the pipeline fills, where the node does not
            say it itself. A mapping that a node runs has its own.
    """

    kind: ClassVar[RecordKind] = "pipeline"

    nodes: tuple[PipelineNode, ...] = Field(min_length=1, max_length=MAX_NODES)
    edges: tuple[PipelineEdge, ...] = Field(default=(), max_length=10 * MAX_NODES)
    executor: Label | None = None
    max_concurrent_runs: int | None = Field(default=1, ge=1, le=10)
    memory_limit: str = "512MB"
    partitions: Partitions | None = None
    freshness: Freshness | None = None
    tags: dict[Label, str] = Field(default_factory=dict)

    @field_validator("memory_limit")
    @classmethod
    def _check_memory(cls, text: str) -> str:
        if not _MEMORY.fullmatch(text):
            raise ValueError("write a size such as 512MB or 4GB")
        if _parse_bytes(text) < MIN_MEMORY_BYTES:
            raise ValueError(f"DuckDB needs at least {MIN_MEMORY_BYTES // 1_000_000} MB")
        return text

    @model_validator(mode="after")
    def _check_graph(self) -> Pipeline:
        seen: dict[str, str] = {}
        for node in self.nodes:
            if node.node_id.casefold().startswith(RESERVED_PREFIX):
                raise ValueError(f"names that begin with {RESERVED_PREFIX} are SynqX's own")
            # Steps are named after their nodes, and SQL does not tell upper case from lower.
            other = seen.setdefault(dagster_name(node.node_id).casefold(), node.node_id)
            if other != node.node_id:
                raise ValueError(f"the nodes {other!r} and {node.node_id!r} are one name in SQL and in Dagster")
        node_ids = {node.node_id for node in self.nodes}
        if len(node_ids) != len(self.nodes):
            listed = [node.node_id for node in self.nodes]
            raise ValueError(f"node {next(name for name in listed if listed.count(name) > 1)!r} is listed twice")
        mappings = self.mapping_names
        if len(set(mappings)) != len(mappings):
            raise ValueError(f"two nodes run the mapping {next(n for n in mappings if mappings.count(n) > 1)!r}")
        pairs: set[tuple[str, str]] = set()
        for edge in self.edges:
            for end in (edge.from_node_id, edge.to_node_id):
                if end not in node_ids:
                    raise ValueError(f"an edge names the node {end!r}, which is not listed")
            pair = (edge.from_node_id, edge.to_node_id)
            if pair in pairs:
                raise ValueError(f"the edge from {pair[0]!r} to {pair[1]!r} is listed twice")
            pairs.add(pair)
        cycle = find_cycle({node.node_id: [] for node in self.nodes} | _successors(self.edges))
        if cycle:
            raise ValueError(f"the edges form a cycle: {' -> '.join(cycle)}")
        return self

    @property
    def memory_bytes(self) -> int:
        """`memory_limit` in bytes."""
        return _parse_bytes(self.memory_limit)

    @property
    def mapping_names(self) -> tuple[str, ...]:
        """The mappings that nodes run, in the order of the nodes."""
        return tuple(node.mapping_name for node in self.nodes if node.mapping_name is not None)

    @property
    def asset_names(self) -> tuple[str, ...]:
        """The datasets that nodes read and load, each once."""
        names = (name for node in self.nodes for name in (node.source_asset, node.destination_asset))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def runs_mappings_only(self) -> bool:
        """Whether every node is the load of a mapping."""
        return all(node.runs_mapping for node in self.nodes)

    @property
    def mapping_edges(self) -> tuple[tuple[str, str], ...]:
        """Pairs of mapping names: the second runs after the first, as edges between their nodes say."""
        by_node = {node.node_id: node.mapping_name for node in self.nodes}
        pairs = ((by_node[edge.from_node_id], by_node[edge.to_node_id]) for edge in self.edges)
        return tuple((first, second) for first, second in pairs if first is not None and second is not None)


def _parse_bytes(text: str) -> int:
    match = _MEMORY.fullmatch(text)
    assert match is not None
    return int(float(match[1]) * _UNITS[match[2]])


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
