"""The graph of a pipeline: its nodes with their operators, what is wrong with it, and the steps in which it runs.

Everything here is pure: it looks at records and at nothing else.

Nodes are fused into steps: a node with exactly one consumer runs in its consumer's step and streams into it, so that
a step is a tree of nodes with one end, which is a load, or a node whose rows several nodes read. Only those rows are
stored. Fusing leaves no cycle between steps, because every node of a step leads to the step's end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import pydantic

from synqx_dagster.errors import ConfigurationError, DriverMissingError
from synqx_dagster.model.base import Value
from synqx_dagster.model.dataset import Dataset
from synqx_dagster.model.pipeline import Pipeline, PipelineNode
from synqx_dagster.model.table import TableName
from synqx_dagster.pipelines.operators.ends import ExtractConfig, IncrementalConfig, LoadConfig
from synqx_dagster.pipelines.operators.protocol import Input, NodeColumns, Operator, Origins
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
    if problems:
        return None, tuple(problems)
    return Graph(pipeline, nodes, plan_steps(pipeline, nodes)), ()


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
                continue
            made = self._node(index, record, tuple(inputs[node_id]), tuple(consumers[node_id]))
            if made is not None:
                nodes[node_id] = made
        return nodes

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
        elif node.connection is None or (node.table is None and node.query is None):
            places = "table or query" if record.operator_type == "extract" else "table"
            message = f"the node does not say what it {'reads' if record.operator_type == 'extract' else 'loads'}"
            hint = f"give {field_name}, or connection and {places} in config"
            self._report(("nodes", index, "config"), message, hint)

    def _report(self, path: tuple[str | int, ...], message: str, hint: str | None = None) -> None:
        self.problems.append(GraphProblem(path, message, hint))


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


# --- what is wrong ------------------------------------------------------------------------------------------------


def _check_shape(pipeline: Pipeline, nodes: Mapping[str, Node]) -> Iterator[GraphProblem]:
    index_of = {node.node_id: index for index, node in enumerate(pipeline.nodes)}
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


def _check_arity(node: Node, place: tuple[str | int, ...]) -> Iterator[GraphProblem]:
    count, least, most = len(node.inputs), node.operator.least_inputs, node.operator.most_inputs
    if count < least or (most is not None and count > most):
        wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        name = f"{node.record.operator_type} {node.record.operator_class!r}"
        plural = "" if wanted == "1" else "s"
        got = f"edges lead here from {', '.join(map(repr, node.inputs))}" if count else "no edge leads here"
        yield GraphProblem(place, f"{node.node_id!r}: {name} takes {wanted} input{plural}, not {count}", got)


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


def _check_quarantine(node: Node, nodes: Mapping[str, Node], place: tuple[str | int, ...]) -> Iterator[GraphProblem]:
    config = node.config
    assert isinstance(config, ValidateConfig)
    loads = loads_after(node.node_id, nodes)
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


def known_columns(
    nodes: Mapping[str, Node], given: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, NodeColumns]:
    """The names of the columns of every node, as far as the pipeline itself tells them.

    Args:
        given: What somebody has found out about some nodes.
    """
    columns: dict[str, NodeColumns] = {}
    for node_id, node in nodes.items():
        inputs = [Input(name, columns[name]) for name in node.inputs]
        found = (given or {}).get(node_id)
        columns[node_id] = found if found is not None else node.operator.columns(node.config, inputs)
    return columns


def _check_columns(pipeline: Pipeline, nodes: Mapping[str, Node]) -> Iterator[GraphProblem]:
    index_of = {node.node_id: index for index, node in enumerate(pipeline.nodes)}
    columns: dict[str, NodeColumns] = {}
    for node_id, node in nodes.items():
        inputs = [Input(name, columns[name]) for name in node.inputs]
        found = False
        for problem in node.operator.check(node.config, inputs):
            found = True
            yield GraphProblem(("nodes", index_of[node_id], "config", *problem.path), problem.message, problem.hint)
        # What follows from a node that is wrong would be wrong, too.
        columns[node_id] = None if found else node.operator.columns(node.config, inputs)


def trace_origins(
    node_id: str, nodes: Mapping[str, Node], columns: Mapping[str, NodeColumns], *, sources: Collection[str] = ()
) -> Origins:
    """The columns of extracts, and of `sources`, that each column of a node is made of, through all nodes between.

    None where nobody can tell.
    """
    traced: dict[str, Origins] = {}
    for name, node in nodes.items():
        inputs = [Input(one, columns.get(one)) for one in node.inputs]
        if not node.inputs or name in sources:
            known = columns.get(name)
            traced[name] = None if known is None else {column: ((name, column),) for column in known}
            continue
        direct = node.operator.origins(node.config, inputs)
        traced[name] = (
            None
            if direct is None
            else {
                column: tuple(dict.fromkeys(origin for pair in pairs for origin in _through(traced, *pair)))
                for column, pairs in direct.items()
            }
        )
        if name == node_id:
            break
    return traced.get(node_id)


def _through(traced: Mapping[str, Origins], node_id: str, column: str) -> tuple[tuple[str, str], ...]:
    known = traced.get(node_id)
    return () if known is None else known.get(column, ())


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


def extracts_of(step: Step, nodes: Mapping[str, Node]) -> tuple[Node, ...]:
    """The extracts of a step."""
    return tuple(nodes[name] for name in step.nodes if isinstance(nodes[name].config, ExtractConfig))
