"""What the ends of a pipeline amount to as mappings, which is what the compiler and the transfer engine know."""

from __future__ import annotations

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.mapping import RESERVED_PREFIX, Cursor, LoadMode, Mapping
from synqx_dagster.pipelines.graph import Graph, Node
from synqx_dagster.pipelines.operators.ends import ExtractConfig, LoadConfig

#: What a load calls the rows of its step; no node has such a name.
ROWS = f"{RESERVED_PREFIX}rows"

#: The query by which a load asks for the rows of its step.
ROWS_QUERY = f'SELECT * FROM "{ROWS}"'

_MAX_NAME = 128


def step_name(pipeline_name: str, node_id: str) -> str:
    """What reports and ledgers call the step that ends in a node."""
    return f"{pipeline_name} {node_id}"[:_MAX_NAME]


def load_mapping(graph: Graph, node: Node) -> Mapping:
    """A load node as the transfer engine knows it. The ledger knows it by pipeline and node."""
    config = node.config
    assert isinstance(config, LoadConfig)
    if node.connection is None or node.table is None:
        raise ConfigurationError(f"node {node.node_id!r} does not say what it loads")
    shared = config.model_dump(exclude={"connection", "table", "target_schema"}, exclude_none=True)
    return Mapping.model_validate(
        {
            **shared,
            "name": step_name(graph.pipeline.name, node.node_id),
            "source_connection": node.connection,
            "source_query": ROWS_QUERY,
            "target_connection": node.connection,
            "target_table": str(node.table),
            "target_schema": node.target_schema,
            "partitions": None if config.partition_column is None else graph.pipeline.partitions,
            "freshness": config.freshness or graph.pipeline.freshness,
            "max_retries": max(graph.nodes[name].record.retries for name in graph.step_of(node.node_id).nodes),
        }
    )


def source_mapping(node: Node, config: ExtractConfig, cursor: Cursor | None, mode: LoadMode) -> Mapping:
    """The extract as the compiler of mappings knows it; its target is nobody's."""
    connection = node.connection
    if connection is None:
        raise ConfigurationError(f"node {node.node_id!r} names no connection")
    direct = [{"type": "direct", "source_columns": [name], "target_fields": [name]} for name in config.columns or ()]
    return Mapping.model_validate(
        {
            "name": node.node_id,
            "source_connection": connection,
            **({"source_query": node.query} if node.query is not None else {"source_table": str(node.table)}),
            "target_connection": connection,
            "target_table": "rows",
            "mode": "append" if cursor is None else mode,
            "cursor": None if cursor is None else cursor.model_dump(),
            "column_mappings": direct or None,
        }
    )
