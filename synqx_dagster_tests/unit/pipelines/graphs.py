"""Pipelines for tests, in few words."""

from __future__ import annotations

import itertools
from typing import Any

from synqx_dagster.model import Dataset, Pipeline
from synqx_dagster.pipelines.building import GraphProblem, check_graph
from synqx_dagster.pipelines.graph import Graph

DB_TYPES = frozenset({"sqlite", "duckdb", "postgresql"})


def node(node_id: str, kind: str, *, columns: list[str] | None = None, **config: Any) -> dict[str, Any]:
    """A node; ``kind`` is ``type.class``. Extracts and loads get a connection and a table of their own name."""
    operator_type, _, operator_class = kind.partition(".")
    own = {name: config.pop(name) for name in ("retries", "timeout_seconds", "stored") if name in config}
    if operator_type in ("extract", "load"):
        config = {"connection": "source" if operator_type == "extract" else "target", "table": node_id, **config}
        if "query" in config:
            del config["table"]
    if columns is not None:
        config["columns"] = columns
    return {
        "node_id": node_id,
        "operator_type": operator_type,
        "operator_class": operator_class or "table",
        "config": config,
        **own,
    }


def pipeline(nodes: list[dict[str, Any]], *edges: str, **values: Any) -> Pipeline:
    """A pipeline; an edge is ``a>b``, a chain ``a>b>c``."""
    pairs = []
    for text in edges:
        names = text.split(">")
        pairs += list(itertools.pairwise(names))
    return Pipeline.model_validate(
        {
            "name": "p",
            "nodes": nodes,
            "edges": [{"from_node_id": first, "to_node_id": second} for first, second in pairs],
            **values,
        }
    )


def check(made: Pipeline, **datasets: Dataset) -> tuple[Graph | None, tuple[GraphProblem, ...]]:
    """The graph, and what is wrong with it."""
    return check_graph(made, datasets.get, DB_TYPES)


def graph(nodes: list[dict[str, Any]], *edges: str, **values: Any) -> Graph:
    """The graph of a pipeline that is right."""
    made, problems = check(pipeline(nodes, *edges, **values))
    assert made is not None, problems
    return made
