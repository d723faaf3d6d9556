"""Checks of a pipeline: its nodes' configs, its graph, and what its loads say of their tables."""

from __future__ import annotations

from collections.abc import Iterator

from synqx_dagster.catalog.check_records import role_problem
from synqx_dagster.catalog.union import RecordUnion
from synqx_dagster.catalog.validation import explain
from synqx_dagster.connectors.registry import connector_types, dialect_of
from synqx_dagster.errors import ConfigurationError, DriverMissingError, Problem
from synqx_dagster.model import Pipeline
from synqx_dagster.pipelines.building import GraphProblem, check_graph
from synqx_dagster.pipelines.graph import Graph, loads_of, sessions_of
from synqx_dagster.pipelines.loading import load_mapping
from synqx_dagster.pipelines.operators.ends import ExtractConfig
from synqx_dagster.pipelines.operators.registry import find_operator


def check_pipeline(union: RecordUnion, pipeline: Pipeline) -> tuple[Graph | None, list[Problem]]:
    """A pipeline's graph, and all that is wrong with it; its references must lead somewhere."""
    db_types = frozenset(connector_types())
    graph, found = check_graph(pipeline, union.records.assets.get, db_types)
    problems = [problem for item in found for problem in _explained(union, pipeline, item, db_types)]
    if graph is not None:
        for node in loads_of(graph):
            problems.extend(_check_load(union, graph, node.node_id))
        problems.extend(_check_extracts(union, graph, db_types))
        problems.extend(_check_pools(union, graph))
    return (graph if not problems else None), problems


def _explained(union: RecordUnion, pipeline: Pipeline, found: GraphProblem, db_types: frozenset[str]) -> list[Problem]:
    if found.error is None:
        return [union.problem(pipeline, found.path, found.message, found.hint)]
    index = found.path[1]
    assert isinstance(index, int)
    node = pipeline.nodes[index]
    config_type = find_operator(node, db_types).config_type
    return [
        union.problem(pipeline, ("nodes", index, "config", *item.path), item.message, item.hint)
        for item in explain(config_type, node.config, found.error)
    ]


def _check_load(union: RecordUnion, graph: Graph, node_id: str) -> list[Problem]:
    """What the mapping that a load node amounts to has against itself, its schema and its connection."""
    import pydantic

    from synqx_dagster.connectors.registry import capabilities_of
    from synqx_dagster.mapping.check import check_mapping

    node = graph.nodes[node_id]
    index = next(index for index, record in enumerate(graph.pipeline.nodes) if record.node_id == node_id)
    place = ("nodes", index, "config")
    try:
        mapping = load_mapping(graph, node)
    except pydantic.ValidationError as exc:
        return [
            union.problem(graph.pipeline, place, str(error.get("ctx", {}).get("error", error["msg"])))
            for error in exc.errors(include_url=False, include_input=False)
        ]
    schema = union.records.schemas[mapping.target_schema] if mapping.target_schema is not None else None
    connection = union.records.connections[mapping.target_connection]
    problems = []
    if connection.role == "source":
        problems.append(union.problem(graph.pipeline, place, role_problem(connection)))
    try:
        if not capabilities_of(connection.db_type, connection.options).writes:
            problems.append(union.problem(graph.pipeline, place, f"{connection.db_type} cannot be written to"))
    except (ConfigurationError, DriverMissingError):
        return []  # The problem stands at the connection.
    for problem in check_mapping(mapping, schema, source_dialect="duckdb"):
        problems.append(union.problem(graph.pipeline, place, problem.message, problem.hint))
    return problems


def _check_pools(union: RecordUnion, graph: Graph) -> Iterator[Problem]:
    """Whether the connections' pools allow as many sessions as each step holds at the same time.

    Nothing to say of a pipeline that has been checked with its datasets and the connection as they are.
    """
    from synqx_dagster.connectors.registry import capabilities_of

    pipeline = graph.pipeline
    datasets = [node.dataset for node in graph.nodes.values() if node.dataset is not None]
    is_unchanged = all(union.is_unchanged(record) for record in (pipeline, *datasets))
    for step in graph.steps:
        for name, needed in sessions_of(step, graph.nodes).items():
            connection = union.records.connections[name]
            if needed <= connection.pool.most_sessions or (is_unchanged and union.is_unchanged(connection)):
                continue
            try:
                if not capabilities_of(connection.db_type, connection.options).pools_sessions:
                    continue
            except (ConfigurationError, DriverMissingError):
                continue  # The problem stands at the connection.
            message = (
                f"the step {step.name!r} takes {needed} sessions of {name!r} at the same time,"
                f" and its pool allows {connection.pool.most_sessions}"
            )
            hint = (
                "raise pool.size or pool.max_overflow of the connection, or set stored: true at some of the step's"
                " extracts, which then are steps of their own"
            )
            if (pipeline.kind, pipeline.name) in union.positions:
                index = next(i for i, record in enumerate(pipeline.nodes) if record.node_id == step.name)
                yield union.problem(pipeline, ("nodes", index), message, hint)
            else:
                # The pipeline is in the catalog only; what the user has just written is the connection.
                yield union.problem(connection, ("pool",), f"pipeline {pipeline.name!r}: {message}", hint)


def _check_extracts(union: RecordUnion, graph: Graph, db_types: frozenset[str]) -> list[Problem]:
    """Queries and conditions that the guard of source queries refuses."""
    from synqx_dagster.connectors.registry import capabilities_of
    from synqx_dagster.mapping.expressions import parse_expression
    from synqx_dagster.mapping.query import parse_query

    problems = []
    for index, record in enumerate(graph.pipeline.nodes):
        node = graph.nodes.get(record.node_id)
        if node is None or not isinstance(node.config, ExtractConfig):
            continue
        connection = union.records.connections[str(node.connection)]
        if connection.role == "destination":
            problems.append(union.problem(graph.pipeline, ("nodes", index), role_problem(connection)))
        try:
            dialect = dialect_of(connection.db_type, connection.options)
        except (ConfigurationError, DriverMissingError):
            continue  # The problem stands at the connection.
        operator_class = record.operator_class
        if operator_class in db_types and operator_class != connection.db_type:
            problems.append(
                union.problem(
                    graph.pipeline,
                    ("nodes", index, "operator_class"),
                    f"the connection {connection.name!r} is of type {connection.db_type}, not {operator_class}",
                    "write table",
                )
            )
        if not capabilities_of(connection.db_type, connection.options).reads:
            message = f"{connection.db_type} cannot be read from"
            problems.append(union.problem(graph.pipeline, ("nodes", index), message))
        field = "query"
        try:
            if node.query is not None:
                parse_query(node.query, dialect)
            field = "where"
            if node.config.where is not None:
                parse_expression(node.config.where, dialect)
        except ConfigurationError as exc:
            problems.append(union.problem(graph.pipeline, ("nodes", index, "config", field), exc.message, exc.hint))
    return problems
