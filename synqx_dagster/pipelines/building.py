"""From a pipeline's record to its graph, or to all that is wrong with it, each with its place.

Everything here is pure: it looks at records and at nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pydantic

from synqx_dagster import model
from synqx_dagster.errors import ConfigurationError, DriverMissingError
from synqx_dagster.model.dataset import Dataset
from synqx_dagster.model.pipeline import Pipeline, PipelineNode, find_cycle
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.graph import Graph, Node, Step, loads_after, order_nodes, plan_steps
from synqx_dagster.pipelines.operators.ends import ExtractConfig, IncrementalConfig, LoadConfig
from synqx_dagster.pipelines.operators.protocol import Input, NodeColumns
from synqx_dagster.pipelines.operators.registry import find_operator
from synqx_dagster.pipelines.operators.validate import ValidateConfig


@dataclass(frozen=True)
class GraphProblem:
    """Something wrong with a pipeline.

    Attributes:
        path: The field of the record.
        error: What Pydantic says of a node's config, for whoever has better words for it.
    """

    path: tuple[str | int, ...]
    message: str
    hint: str | None = None
    error: pydantic.ValidationError | None = field(default=None, compare=False)


#: What bounds the time of a load.
_USE_CONNECTION = "set the time-outs of its connection"

GetDataset = Callable[[str], Dataset | None]


def check_graph(
    pipeline: Pipeline, find_dataset: GetDataset, db_types: frozenset[str]
) -> tuple[Graph | None, tuple[GraphProblem, ...]]:
    """A pipeline's graph, and all that is wrong with it; no graph where anything is.

    Args:
        find_dataset: The dataset of a name; None where there is none, which is somebody else's to report.
        db_types: Kinds of connections, as `find_operator` takes them.
    """
    reader = _Reader(pipeline, find_dataset, db_types)
    nodes = reader.read()
    problems = list(reader.problems)
    if not problems:
        problems.extend(_check_shape(pipeline, nodes))
    if not problems:
        problems.extend(_check_columns(pipeline, nodes))
    if not problems:
        steps = plan_steps(pipeline, nodes)
        problems.extend(_check_waiting(pipeline, nodes, steps))
    if problems:
        return None, tuple(problems)
    return Graph(pipeline, nodes, steps), ()


def build_graph(pipeline: Pipeline, find_dataset: GetDataset, db_types: frozenset[str]) -> Graph:
    """The graph of a pipeline of the catalog, which was checked when it was applied.

    Raises:
        ConfigurationError: It does not hold (any more): an operator's package is gone, or a dataset changed.
    """
    graph, problems = check_graph(pipeline, find_dataset, db_types)
    if graph is None:
        first = problems[0]
        place = ".".join(map(str, first.path))
        raise ConfigurationError(f"pipeline {pipeline.name!r}: {place}: {first.message}", hint=first.hint)
    return graph


# --- nodes --------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, pipeline: Pipeline, find_dataset: GetDataset, db_types: frozenset[str]) -> None:
        self._pipeline = pipeline
        self._find_dataset = find_dataset
        self._db_types = db_types
        self.problems: list[GraphProblem] = []

    def read(self) -> dict[str, Node]:
        """Nodes by id, each after those that it reads or waits for; those that cannot be read are left out."""
        by_id = {node.node_id: (index, node) for index, node in enumerate(self._pipeline.nodes)}
        inputs: dict[str, list[str]] = {node_id: [] for node_id in by_id}
        consumers: dict[str, list[str]] = {node_id: [] for node_id in by_id}
        for edge in self._pipeline.edges:
            giver, taker = by_id[edge.from_node_id][1], by_id[edge.to_node_id][1]
            if giver.gives_rows and taker.takes_rows:
                inputs[taker.node_id].append(giver.node_id)
                consumers[giver.node_id].append(taker.node_id)
        nodes = {}
        for node_id in order_nodes(self._pipeline):
            index, record = by_id[node_id]
            if record.runs_mapping:
                self._check_mapping_node(index, record)
                continue
            made = self._node(index, record, tuple(inputs[node_id]), tuple(consumers[node_id]))
            if made is not None:
                nodes[node_id] = made
        return nodes

    def _check_mapping_node(self, index: int, record: PipelineNode) -> None:
        for name, hint in (("retries", "set max_retries at the mapping"), ("timeout_seconds", _USE_CONNECTION)):
            if getattr(record, name):
                self._report(("nodes", index, name), f"a node that runs a mapping has no {name}", hint)
        for name in sorted(record.config.keys() - {"mapping"}):
            is_of_mapping = name in model.Mapping.model_fields
            hint = f"set {name} at the mapping" if is_of_mapping else "its config holds the name of the mapping alone"
            self._report(("nodes", index, "config", name), f"a node that runs a mapping has no {name}", hint)

    def _node(
        self, index: int, record: PipelineNode, inputs: tuple[str, ...], consumers: tuple[str, ...]
    ) -> Node | None:
        try:
            operator = find_operator(record, self._db_types)
        except (ConfigurationError, DriverMissingError) as exc:
            self._report(("nodes", index, "operator_class"), exc.message, exc.hint)
            return None
        try:
            # Through JSON: Pydantic's strict mode takes a list for a tuple only there.
            config = operator.config_type.model_validate_json(json.dumps(record.config), strict=True)
        except pydantic.ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            path = ("nodes", index, "config", *first["loc"])
            self.problems.append(GraphProblem(path, first["msg"], None, exc))
            return None
        if record.timeout_seconds is not None and record.operator_type == "load":
            # What a load waits for is its server, and its connection has time-outs of its own.
            self._report(("nodes", index, "timeout_seconds"), "a load has no time-out of a node", _USE_CONNECTION)
        dataset = self._dataset(record)
        node = Node(record, operator, config, inputs, consumers, dataset)
        self._check_ends(index, node)
        return node

    def _dataset(self, record: PipelineNode) -> Dataset | None:
        name = record.source_asset or record.destination_asset
        return None if name is None else self._find_dataset(name)

    def _check_ends(self, index: int, node: Node) -> None:
        record = node.record
        if record.operator_type not in ("extract", "load"):
            return
        field_name = "source_asset" if record.operator_type == "extract" else "destination_asset"
        named = getattr(record, field_name)
        given = [name for name in ("connection", "table", "query") if getattr(node.config, name, None) is not None]
        if named is not None:
            if given:
                message = f"{field_name} says what config.{given[0]} says, too"
                self._report(("nodes", index, "config", given[0]), message, "leave one of them out")
            elif node.dataset is not None and record.operator_type == "load" and node.dataset.query is not None:
                self._report(("nodes", index, field_name), f"the asset {named!r} is a query, which cannot be loaded")
        elif record.operator_class in _READS and not given_as(node, _READS[record.operator_class]):
            reads = _READS[record.operator_class]
            self._report(("nodes", index, "config"), f"an extract of class {record.operator_class} needs {reads}")
        elif node.connection is None or (node.table is None and node.query is None):
            places = "table or query" if record.operator_type == "extract" else "table"
            message = f"the node does not say what it {'reads' if record.operator_type == 'extract' else 'loads'}"
            hint = f"give {field_name}, or connection and {places} in config"
            self._report(("nodes", index, "config"), message, hint)

    def _report(self, path: tuple[str | int, ...], message: str, hint: str | None = None) -> None:
        self.problems.append(GraphProblem(path, message, hint))


#: What extracts of some classes read.
_READS = {"query": "query", "file": "table"}


def given_as(node: Node, field_name: str) -> bool:
    """Whether a node names what it reads by this field of its config."""
    return getattr(node.config, field_name, None) is not None


# --- what is wrong ------------------------------------------------------------------------------------------------


def _check_shape(pipeline: Pipeline, nodes: Mapping[str, Node]) -> Iterator[GraphProblem]:
    index_of = {node.node_id: index for index, node in enumerate(pipeline.nodes)}
    yield from _check_partitions(pipeline, nodes, index_of)
    if pipeline.freshness is not None and not any(isinstance(node.config, LoadConfig) for node in nodes.values()):
        message = "no node of this pipeline fills a table itself, so nothing of it has an age"
        yield GraphProblem(("freshness",), message, "set freshness at the mappings that its nodes run")
    loaded: dict[tuple[str | None, str], str] = {}
    for node in nodes.values():
        place = ("nodes", index_of[node.node_id])
        yield from _check_arity(node, place)
        if not node.consumers and node.record.gives_rows:
            yield GraphProblem(
                place, f"nothing reads the rows of {node.node_id!r}", "lead an edge from it to a load, or remove it"
            )
        if isinstance(node.config, LoadConfig):
            # The schema that a name without one means is the connection's to know; check of the catalog asks it.
            key = (node.connection, str(node.table))
            other = loaded.setdefault(key, node.node_id)
            if other != node.node_id:
                yield GraphProblem(place, f"{other!r} and {node.node_id!r} load one table: {node.table}")
        if isinstance(node.config, ValidateConfig) and node.config.on_bad_row == "quarantine":
            yield from _check_quarantine(node, nodes, place)
        if isinstance(node.config, IncrementalConfig):
            yield from _check_incremental(node, nodes, place)


def _check_partitions(
    pipeline: Pipeline, nodes: Mapping[str, Node], index_of: Mapping[str, int]
) -> Iterator[GraphProblem]:
    reads = False
    for node in nodes.values():
        config, path = node.config, ("nodes", index_of[node.node_id], "config")
        if not isinstance(config, ExtractConfig | LoadConfig):
            continue
        named = config.partition_column is not None
        reads = reads or (named and isinstance(config, ExtractConfig))
        if pipeline.partitions is None:
            if named:
                message = f"{node.node_id!r} has a partition_column, and the pipeline has no partitions"
                yield GraphProblem((*path, "partition_column"), message, "give the pipeline partitions")
        elif isinstance(config, IncrementalConfig):
            yield GraphProblem(
                path,
                f"the incremental extract {node.node_id!r} reads what is new, and a run of partitions reads these",
                "use an extract of class table or query with a partition_column",
            )
        elif isinstance(config, LoadConfig):
            yield from _check_partitioned_load(node.node_id, config, path)
    if pipeline.partitions is not None and nodes and not reads:
        yield GraphProblem(
            ("partitions",), "no extract has a partition_column, so every partition would have the same rows"
        )


def _check_partitioned_load(node_id: str, config: LoadConfig, path: tuple[str | int, ...]) -> Iterator[GraphProblem]:
    if config.mode == "replace" and config.partition_column is None:
        yield GraphProblem(
            (*path, "partition_column"),
            f"the load {node_id!r} would replace its whole table by the rows of some partitions",
            "say which field tells the partition of a row, or use mode: merge",
        )
    elif config.mode != "replace" and config.partition_column is not None:
        message = f"the load {node_id!r} has a partition_column, whose partitions are replaced, and mode {config.mode}"
        yield GraphProblem((*path, "mode"), message, "use mode: replace, or leave partition_column out")
    elif config.mode == "append":
        yield GraphProblem(
            (*path, "mode"),
            f"the load {node_id!r} appends: the rows of a partition that is loaded again would be there twice",
            "use mode: replace with a partition_column, or mode: merge",
        )
    if config.delete_missing:
        yield GraphProblem(
            (*path, "delete_missing"), f"the load {node_id!r} would delete the rows of all other partitions"
        )


def _check_arity(node: Node, place: tuple[str | int, ...]) -> Iterator[GraphProblem]:
    count, least, most = len(node.inputs), node.operator.least_inputs, node.operator.most_inputs
    if count < least or (most is not None and count > most):
        wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        name = f"{node.record.operator_type} {node.record.operator_class!r}"
        plural = "" if wanted == "1" else "s"
        got = f"edges lead here from {', '.join(map(repr, node.inputs))}" if count else "no edge leads here"
        yield GraphProblem(place, f"{node.node_id!r}: {name} takes {wanted} input{plural}, not {count}", got)


def _check_quarantine(node: Node, nodes: Mapping[str, Node], place: tuple[str | int, ...]) -> Iterator[GraphProblem]:
    config = node.config
    assert isinstance(config, ValidateConfig)
    loads = loads_after(node.node_id, nodes)
    if not loads:
        return  # That nothing reads these rows, or those of a node after it, is said there.
    path = (*place, "config", "quarantine")
    if config.quarantine is None and len(loads) > 1:
        yield GraphProblem(
            path,
            f"the rows of {node.node_id!r} reach several loads",
            f"say which keeps the bad rows: {', '.join(loads)}",
        )
        return
    if config.quarantine is not None and config.quarantine not in loads:
        yield GraphProblem(
            path, f"{config.quarantine!r} is no load that these rows reach", f"loads: {', '.join(loads)}"
        )
        return
    keeper = nodes[config.quarantine or loads[0]]
    assert isinstance(keeper.config, LoadConfig)
    if keeper.config.on_bad_row != "quarantine":
        yield GraphProblem(
            path,
            f"{node.node_id!r} sends bad rows to the load {keeper.node_id!r}, which keeps none",
            f"set on_bad_row: quarantine at {keeper.node_id!r}",
        )


def _check_incremental(node: Node, nodes: Mapping[str, Node], place: tuple[str | int, ...]) -> Iterator[GraphProblem]:
    loads = loads_after(node.node_id, nodes)
    if len(loads) != 1:
        yield GraphProblem(
            place,
            f"the rows of the incremental extract {node.node_id!r} reach {len(loads)} loads",
            "its watermark is committed with the rows of one load; give each load an extract of its own",
        )
        return
    load = nodes[loads[0]]
    assert isinstance(load.config, LoadConfig)
    if load.config.mode == "replace":
        yield GraphProblem(
            place,
            f"{node.node_id!r} reads only what is new, and the load {load.node_id!r} replaces the rest",
            "use merge or append",
        )
    if load.config.delete_missing:
        yield GraphProblem(
            place,
            f"{node.node_id!r} reads only what is new, and the load {load.node_id!r} deletes what it does not get",
            "leave delete_missing out",
        )
    others = [
        other.node_id
        for other in nodes.values()
        if other is not node
        and isinstance(other.config, IncrementalConfig)
        and loads[0] in loads_after(other.node_id, nodes)
    ]
    if others:
        yield GraphProblem(
            place,
            f"the incremental extracts {node.node_id!r} and {others[0]!r} reach one load",
            "a target's ledger holds one watermark",
        )


def _check_waiting(pipeline: Pipeline, nodes: Mapping[str, Node], steps: Sequence[Step]) -> Iterator[GraphProblem]:
    """Edges without rows that make steps wait for each other, or for themselves, once nodes are fused into steps."""
    end_of = {name: step.name for step in steps for name in step.nodes}
    waiting: dict[str, list[str]] = {node.node_id: [] for node in pipeline.nodes if node.runs_mapping}
    waiting.update({step.name: [] for step in steps})
    for index, edge in enumerate(pipeline.edges):
        first, second = edge.from_node_id, edge.to_node_id
        before, after = end_of.get(first, first), end_of.get(second, second)
        if before != after:
            waiting[before].append(after)
        elif first not in nodes[second].inputs:
            yield GraphProblem(
                ("edges", index),
                f"{second!r} is to wait for {first!r}, and both run in one step",
                f"set stored: true at {first!r}, or at a node between",
            )
    for step in steps:
        for name in step.carried:
            waiting[name].append(step.name)
    cycle = find_cycle(waiting)
    if cycle:
        yield GraphProblem(
            ("edges",),
            f"steps wait for each other: {' -> '.join(map(repr, cycle))}",
            "nodes that one node reads run in its step; set stored: true where a step should end before",
        )


def _check_columns(pipeline: Pipeline, nodes: Mapping[str, Node]) -> Iterator[GraphProblem]:
    index_of = {node.node_id: index for index, node in enumerate(pipeline.nodes)}
    columns: dict[str, NodeColumns] = {}
    types: dict[str, Mapping[str, DataType]] = {}
    for node_id, node in nodes.items():
        inputs = [Input(name, columns[name], types[name]) for name in node.inputs]
        found = False
        for problem in node.operator.check(node.config, inputs):
            found = True
            yield GraphProblem(("nodes", index_of[node_id], "config", *problem.path), problem.message, problem.hint)
        # What follows from a node that is wrong would be wrong, too.
        columns[node_id] = None if found else node.operator.columns(node.config, inputs)
        types[node_id] = {} if found else node.operator.types(node.config, inputs)
