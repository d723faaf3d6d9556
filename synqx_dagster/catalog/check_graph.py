"""Checks of how mappings hang together: one mapping for each table, and no mapping that waits for itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from synqx_dagster.catalog.union import RecordUnion
from synqx_dagster.errors import ConfigurationError, DriverMissingError, Problem
from synqx_dagster.model import Connection, Mapping, Pipeline, Schedule, TableName
from synqx_dagster.model.pipeline import find_cycle

#: A table as the graph knows it: connection, schema (the connector's own where none is written), name.
_TableKey = tuple[str, str | None, str]
_Graph = dict[str, list[str]]

_MAX_CYCLES = 10
_WORD = re.compile(r"\w+")


def check_graph(union: RecordUnion) -> Iterator[Problem]:
    """Tables with two mappings, and cycles through tables and the edges of pipelines.

    Connections may be missing; what pipelines and schedules refer to must be there.
    """
    tables = _Tables(union)
    producers: dict[_TableKey, Mapping] = {}
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
    graph: _Graph = {name: [] for name in union.records.mappings}
    names = _names_by_connection(producers)
    for mapping in union.records.mappings.values():
        if not _may_read(mapping, names.get(mapping.source_connection, set())):
            continue
        for table in tables.sources_of(mapping):
            producer = producers.get(table)
            if producer is not None and producer.name != mapping.name:
                graph[producer.name].append(mapping.name)
    cycles = list(_iter_cycles(graph))
    for cycle in cycles:
        yield union.problem(
            *_declared_first(union, *(union.records.mappings[name] for name in cycle[:-1]), path=()),
            f"the mappings wait for each other: {' -> '.join(cycle)}",
            "each one reads a table that the one before it loads",
        )
    if not cycles:
        yield from _check_jobs(union, graph)


def _names_by_connection(producers: dict[_TableKey, Mapping]) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for connection, _, table in producers:
        names.setdefault(connection, set()).add(table.casefold())
    return names


def _may_read(mapping: Mapping, tables: set[str]) -> bool:
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
    union: RecordUnion, *mappings: Mapping, path: tuple[str, ...] = ("target_table",)
) -> tuple[Mapping, tuple[str, ...]]:
    """The first of these mappings that the user has just written, and where to point."""
    declared = (mapping for mapping in mappings if (mapping.kind, mapping.name) in union.positions)
    return next(declared, mappings[0]), path


class _Tables:
    """The tables that mappings read and load."""

    def __init__(self, union: RecordUnion) -> None:
        self._union = union
        #: `Capabilities` of each connection by name; None where its kind is unknown.
        self._capabilities: dict[str, Any] = {}

    def target_of(self, mapping: Mapping) -> _TableKey:
        return self._key(mapping.target_connection, mapping.target)

    def sources_of(self, mapping: Mapping) -> list[_TableKey]:
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

    def _key(self, connection_name: str, table: TableName) -> _TableKey:
        connection = self._union.records.connections.get(connection_name)
        capabilities = None if connection is None else self._capabilities_of(connection)
        if connection is None or capabilities is None:
            return connection_name, table.schema, table.name
        schema = table.schema or capabilities.default_schema
        if capabilities.schema_is_database:
            schema = schema or connection.database
        if capabilities.folds_case:
            return connection.name, schema.casefold() if schema else None, table.name.casefold()
        return connection.name, schema, table.name

    def _capabilities_of(self, connection: Connection) -> Any:
        from synqx_dagster.connectors.registry import capabilities_of

        if connection.name not in self._capabilities:
            try:
                found = capabilities_of(connection.db_type, connection.options)
            except (ConfigurationError, DriverMissingError):
                found = None  # The problem stands at the connection.
            self._capabilities[connection.name] = found
        return self._capabilities[connection.name]
