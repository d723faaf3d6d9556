"""Checks of how mappings hang together: one mapping for each table, and no mapping that waits for itself."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from synqx_dagster.catalog.table_keys import TableKey, TableKeys
from synqx_dagster.catalog.union import RecordUnion
from synqx_dagster.errors import ConfigurationError, DriverMissingError, Problem
from synqx_dagster.model import Mapping as MappingRecord
from synqx_dagster.model import Pipeline, Schedule, Sensor
from synqx_dagster.model.partitions import find_difference
from synqx_dagster.model.pipeline import find_cycle
from synqx_dagster.pipelines.graph import Graph as PipelineGraph
from synqx_dagster.pipelines.graph import Node, extracts_before, loads_of

_Graph = dict[str, list[str]]

_MAX_CYCLES = 10
_WORD = re.compile(r"\w+")


def check_graph(union: RecordUnion, graphs: Mapping[str, PipelineGraph]) -> Iterator[Problem]:
    """Tables that two records load, and cycles through tables and the edges of pipelines.

    Connections may be missing; what pipelines and schedules refer to must be there.

    Args:
        graphs: The graphs of pipelines by name, as far as they have one.
    """
    tables = _Tables(union)
    producers: dict[TableKey, MappingRecord] = {}
    for mapping in union.records.mappings.values():
        target = tables.target_of(mapping)
        other = producers.setdefault(target, mapping)
        if other is not mapping:
            yield union.problem(
                *_declared_first(union, mapping, other),
                f"the mappings {other.name!r} and {mapping.name!r} load one table: "
                f"{mapping.target_table} at {mapping.target_connection}",
                "give one of them another target_table",
            )
    yield from _check_partitions(union)
    loads = list(_pipeline_loads(graphs))
    yield from _check_loads(union, tables, loads, producers)
    graph: _Graph = {name: [] for name in union.records.mappings}
    names = _names_by_connection(producers)
    for mapping in union.records.mappings.values():
        if not _may_read(mapping, names.get(mapping.source_connection, set())):
            continue
        for table in tables.sources_of(mapping):
            producer = producers.get(table)
            if producer is not None and producer.name != mapping.name:
                graph[producer.name].append(mapping.name)
    yield from _check_cycles_with_loads(union, tables, loads, producers, graph)
    cycles = list(_iter_cycles(graph))
    for cycle in cycles:
        yield union.problem(
            *_declared_first(union, *(union.records.mappings[name] for name in cycle[:-1]), path=()),
            f"the mappings wait for each other: {' -> '.join(cycle)}",
            "each one reads a table that the one before it loads",
        )
    if not cycles:
        yield from _check_jobs(union, graph)


def loads_by_table(union: RecordUnion, graphs: Mapping[str, PipelineGraph]) -> dict[TableKey, str]:
    """What loads a table, in words, by the table's key: mappings, and load nodes of pipelines that have a graph."""
    tables = _Tables(union)
    found = {tables.target_of(mapping): f"the mapping {name!r}" for name, mapping in union.records.mappings.items()}
    for graph, node in _pipeline_loads(graphs):
        found.setdefault(tables.target_of_node(node), f"the pipeline {graph.pipeline.name!r}")
    return found


def _check_partitions(union: RecordUnion) -> Iterator[Problem]:
    """Runs of mappings with different partitions, which could not say which of them they replace."""
    records = union.records
    runs: list[tuple[Pipeline | Schedule | Sensor, tuple[str, ...]]] = [
        *((record, record.mapping_names) for record in records.pipelines.values()),
        *((record, record.mapping_names) for record in records.sensors.values()),
    ]
    for schedule in records.schedules.values():
        of_pipelines = (records.pipelines[name].mapping_names for name in schedule.pipeline_names)
        runs.append((schedule, (*schedule.mapping_names, *itertools.chain(*of_pipelines))))
    for record, names in runs:
        found = {f"mapping {name!r}": records.mappings[name].partitions for name in names}
        pipelines = (
            [record] if isinstance(record, Pipeline) else [records.pipelines[name] for name in _pipelines(record)]
        )
        found |= {f"pipeline {pipeline.name!r}": pipeline.partitions for pipeline in pipelines}
        different = find_difference(found)
        if different is not None:
            yield union.problem(
                record,
                ("nodes",) if isinstance(record, Pipeline) else ("mapping",),
                f"{different[0]} and {different[1]} have different partitions, and one run replaces the same of all",
                "give them the same partitions, or run them apart",
            )


def _pipelines(record: Schedule | Sensor) -> tuple[str, ...]:
    if isinstance(record, Schedule):
        return record.pipeline_names
    return () if record.pipeline is None else (record.pipeline,)


def _pipeline_loads(graphs: Mapping[str, PipelineGraph]) -> Iterator[tuple[PipelineGraph, Node]]:
    for graph in graphs.values():
        for node in loads_of(graph):
            yield graph, node


def _check_loads(
    union: RecordUnion,
    tables: _Tables,
    loads: list[tuple[PipelineGraph, Node]],
    producers: Mapping[TableKey, MappingRecord],
) -> Iterator[Problem]:
    """Tables that a load node fills and somebody else does, too."""
    seen: dict[TableKey, str] = {}
    for graph, node in loads:
        key = tables.target_of_node(node)
        here = f"the load {node.node_id!r} of the pipeline {graph.pipeline.name!r}"
        mapping = producers.get(key)
        other = seen.setdefault(key, here) if mapping is None else f"the mapping {mapping.name!r}"
        if other != here:
            yield union.problem(
                graph.pipeline,
                ("nodes", _index_of(graph, node)),
                f"{other} and {here} load one table: {node.table} at {node.connection}",
                "give one of them another table",
            )


def _index_of(graph: PipelineGraph, node: Node) -> int:
    return next(index for index, record in enumerate(graph.pipeline.nodes) if record.node_id == node.node_id)


def _check_cycles_with_loads(
    union: RecordUnion,
    tables: _Tables,
    loads: list[tuple[PipelineGraph, Node]],
    producers: Mapping[TableKey, MappingRecord],
    mappings: _Graph,
) -> Iterator[Problem]:
    """Load nodes that read, through other loads or mappings, what they load."""
    if not loads:
        return
    labels = {tables.target_of_node(node): f"{graph.pipeline.name}.{node.node_id}" for graph, node in loads}
    graph_of = {f"{graph.pipeline.name}.{node.node_id}": graph for graph, node in loads}
    whole: _Graph = {name: list(successors) for name, successors in mappings.items()}
    whole.update({label: [] for label in labels.values()})
    for graph, node in loads:
        label = f"{graph.pipeline.name}.{node.node_id}"
        for extract in extracts_before(node.node_id, graph.nodes):
            for table in tables.sources_of_node(extract):
                producer = producers[table].name if table in producers else labels.get(table)
                # What reads its own target reads what it was; so may a mapping.
                if producer is not None and producer != label:
                    whole[producer].append(label)
    for mapping in union.records.mappings.values():
        if _may_read(
            mapping, {name.casefold() for connection, _, name in labels if connection == mapping.source_connection}
        ):
            for table in tables.sources_of(mapping):
                if table in labels:
                    whole[labels[table]].append(mapping.name)
    for cycle in _iter_cycles(whole):
        found = next((graph_of[label] for label in cycle if label in graph_of), None)
        if found is not None:
            yield union.problem(
                found.pipeline,
                (),
                f"loads wait for each other: {' -> '.join(cycle)}",
                "each one reads a table that the one before it loads",
            )


def _names_by_connection(producers: dict[TableKey, MappingRecord]) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for connection, _, table in producers:
        names.setdefault(connection, set()).add(table.casefold())
    return names


def _may_read(mapping: MappingRecord, tables: set[str]) -> bool:
    """Whether a mapping may read one of these tables; a query that names none of them is not worth parsing."""
    if mapping.source_query is None:
        return bool(tables)
    text = mapping.source_query.casefold()
    words = set(_WORD.findall(text))
    return not words.isdisjoint(tables) or any(not _WORD.fullmatch(table) for table in tables)


def _check_jobs(union: RecordUnion, graph: _Graph) -> Iterator[Problem]:
    """Jobs whose edges go against the tables, or against each other."""
    jobs: list[tuple[Pipeline | Schedule, list[Pipeline]]] = [
        *((pipeline, [pipeline]) for pipeline in union.records.pipelines.values()),
        *(
            (schedule, [union.records.pipelines[name] for name in schedule.pipeline_names])
            for schedule in union.records.schedules.values()
            if len(schedule.pipeline_names) > 1 or (schedule.pipeline_names and schedule.mapping_names)
        ),
    ]
    for record, pipelines in jobs:
        names = {name for pipeline in pipelines for name in pipeline.mapping_names}
        if isinstance(record, Schedule):
            names |= set(record.mapping_names)
        job: _Graph = {name: [other for other in graph[name] if other in names] for name in sorted(names)}
        for pipeline in pipelines:
            for first, second in pipeline.mapping_edges:
                job[first].append(second)
        for cycle in _iter_cycles(job):
            path = ("edges",) if isinstance(record, Pipeline) else ("pipeline",)
            yield union.problem(
                record,
                path,
                f"edges and tables together form a cycle: {' -> '.join(cycle)}",
                "an edge makes a mapping wait for one that reads its table",
            )


def _iter_cycles(graph: _Graph) -> Iterator[tuple[str, ...]]:
    """Cycles as closed paths, until none is left when each is cut once; at most `_MAX_CYCLES`."""
    graph = {name: list(successors) for name, successors in graph.items()}
    for _ in range(_MAX_CYCLES):
        cycle = find_cycle(graph)
        if not cycle:
            return
        yield cycle
        graph[cycle[0]] = [name for name in graph[cycle[0]] if name != cycle[1]]


def _declared_first(
    union: RecordUnion, *mappings: MappingRecord, path: tuple[str, ...] = ("target_table",)
) -> tuple[MappingRecord, tuple[str, ...]]:
    """The first of these mappings that the user has just written, and where to point."""
    declared = (mapping for mapping in mappings if (mapping.kind, mapping.name) in union.positions)
    return next(declared, mappings[0]), path


class _Tables:
    """The tables that mappings read and load."""

    def __init__(self, union: RecordUnion) -> None:
        self._union = union
        self._key = TableKeys(union.records).key_of

    def target_of(self, mapping: MappingRecord) -> TableKey:
        return self._key(mapping.target_connection, mapping.target)

    def target_of_node(self, node: Node) -> TableKey:
        """The table of a load node."""
        assert node.table is not None
        return self._key(str(node.connection), node.table)

    def sources_of_node(self, node: Node) -> list[TableKey]:
        """The tables of an extract node."""
        from synqx_dagster.connectors.registry import dialect_of
        from synqx_dagster.mapping.lineage import tables_of

        if node.table is not None:
            return [self._key(str(node.connection), node.table)]
        connection = self._union.records.connections[str(node.connection)]
        try:
            dialect = dialect_of(connection.db_type, connection.options)
        except (ConfigurationError, DriverMissingError):
            return []  # The problem stands at the connection.
        return [self._key(connection.name, table) for table in tables_of(node.query or "", dialect)]

    def sources_of(self, mapping: MappingRecord) -> list[TableKey]:
        from synqx_dagster.connectors.registry import dialect_of
        from synqx_dagster.mapping.lineage import trace_lineage

        if mapping.source is not None:
            return [self._key(mapping.source_connection, mapping.source)]
        connection = self._union.records.connections.get(mapping.source_connection)
        if connection is None:
            return []
        try:
            dialect = dialect_of(connection.db_type, connection.options)
        except (ConfigurationError, DriverMissingError):
            return []  # The problem stands at the connection.
        schema = self._union.records.schemas.get(mapping.target_schema or "")
        lineage = trace_lineage(mapping, schema, None, dialect=dialect)
        return [self._key(connection.name, table) for table in lineage.tables]
