"""What records refer to: the one place that knows which fields hold the name of another record."""

from __future__ import annotations

from collections.abc import Iterator

from synqx_dagster.catalog.yaml_tree import FieldPath
from synqx_dagster.model import (
    Agent,
    Alert,
    Dataset,
    Mapping,
    Pipeline,
    Record,
    RecordKind,
    Replication,
    Schedule,
    Sensor,
)


def references_of(record: Record) -> Iterator[tuple[RecordKind, str, FieldPath]]:
    """Kind, name and place of what a record refers to."""
    match record:
        case Mapping():
            yield "connection", record.source_connection, ("source_connection",)
            yield "connection", record.target_connection, ("target_connection",)
            if record.target_schema is not None:
                yield "schema", record.target_schema, ("target_schema",)
        case Replication():
            yield "connection", record.source_connection, ("source_connection",)
            yield "connection", record.target_connection, ("target_connection",)
        case Pipeline():
            yield from _iter_nodes_references(record)
        case Dataset():
            yield "connection", record.connection, ("connection",)
            if record.target_schema is not None:
                yield "schema", record.target_schema, ("target_schema",)
        case Schedule():
            for name in record.mapping_names:
                yield "mapping", name, ("mapping",)
            for name in record.pipeline_names:
                yield "pipeline", name, ("pipeline",)
        case Sensor():
            for name in record.mapping_names:
                yield "mapping", name, ("mapping",)
            if record.pipeline is not None:
                yield "pipeline", record.pipeline, ("pipeline",)
            if record.after_pipeline is not None:
                yield "pipeline", record.after_pipeline, ("after_pipeline",)
            if record.connection is not None:
                yield "connection", record.connection, ("connection",)
        case Alert():
            for index, name in enumerate(record.pipelines):
                yield "pipeline", name, ("pipelines", index)
            for index, name in enumerate(record.mappings):
                yield "mapping", name, ("mappings", index)
            for index, name in enumerate(record.schedules):
                yield "schedule", name, ("schedules", index)
            for index, name in enumerate(record.connections):
                yield "connection", name, ("connections", index)
            for index, name in enumerate(record.replications):
                yield "replication", name, ("replications", index)
        case Agent():
            for index, name in enumerate(record.assets):
                yield "asset", name, ("assets", index)
            for index, name in enumerate(record.pipelines):
                yield "pipeline", name, ("pipelines", index)
            for index, name in enumerate(record.mappings):
                yield "mapping", name, ("mappings", index)


def _iter_nodes_references(pipeline: Pipeline) -> Iterator[tuple[RecordKind, str, FieldPath]]:
    for index, node in enumerate(pipeline.nodes):
        place: FieldPath = ("nodes", index)
        if node.mapping_name is not None:
            yield "mapping", node.mapping_name, (*place, "config", "mapping")
        for field in ("source_asset", "destination_asset"):
            name = getattr(node, field)
            if name is not None:
                yield "asset", name, (*place, field)
        if node.connection_name is not None:
            yield "connection", node.connection_name, (*place, "config", "connection")
        if node.schema_name is not None:
            yield "schema", node.schema_name, (*place, "config", "target_schema")
