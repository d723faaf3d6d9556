"""What requests look like in the OpenAPI document: the records' own JSON schemas, with ids and secrets in them."""

from __future__ import annotations

from typing import Any

from synqx_dagster.api.references import NODE_REFERENCES, REFERENCES, Reference
from synqx_dagster.model import RECORD_TYPES, RecordKind
from synqx_dagster.model.base import with_article

_TEMPLATE = "#/components/schemas/{model}Input"
_ID = {"type": "integer", "description": "The id of the record, in place of its name."}


def input_schemas() -> dict[str, Any]:
    """The schemas of all requests with a record, by their name among the components."""
    schemas: dict[str, Any] = {}
    for kind, record_type in RECORD_TYPES.items():
        schema = record_type.model_json_schema(mode="validation", ref_template=_TEMPLATE)
        definitions = schema.pop("$defs", {})
        schemas |= {f"{name}Input": definition for name, definition in definitions.items()}
        _take_ids(schema, REFERENCES[kind])
        schemas[input_name(kind)] = schema
    _take_ids(schemas["PipelineNodeInput"], NODE_REFERENCES)
    _take_first_version(schemas["PipelineInput"])
    # A literal is written as text; only the catalog gives versions.
    schemas["LiteralSecretInput"] = {"type": "string", "minLength": 1, "format": "password", "writeOnly": True}
    schemas["SealedSecretInput"] = {
        "type": "object",
        "description": "Keep the secret that the vault has.",
        "properties": {"sealed": {"const": True}},
        "required": ["sealed"],
        "additionalProperties": False,
    }
    return schemas


def input_name(kind: RecordKind) -> str:
    """What the schema of a record's requests is called."""
    return f"{RECORD_TYPES[kind].__name__}Input"


def body_of(schema: dict[str, Any] | RecordKind) -> dict[str, Any]:
    """The `openapi_extra` of a route with a JSON body: a schema, or a kind of record."""
    if isinstance(schema, str):
        schema = {"$ref": f"#/components/schemas/{input_name(schema)}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _take_first_version(schema: dict[str, Any]) -> None:
    """Nodes and edges may stand in `initial_version`; the schedule of a pipeline is made with it."""
    properties = schema["properties"]
    settings = ("executor", "max_concurrent_runs", "memory_limit", "partitions", "freshness")
    properties["initial_version"] = {
        "type": "object",
        "description": "Nodes and edges, where they do not stand in the pipeline itself.",
        "properties": {
            "nodes": properties["nodes"],
            "edges": properties["edges"],
            "config_snapshot": {
                "type": "object",
                "description": "Settings of the pipeline.",
                "properties": {name: properties[name] for name in settings},
                "additionalProperties": False,
            },
        },
        "required": ["nodes"],
        "additionalProperties": False,
    }
    schema["required"].remove("nodes")
    for name, what in (
        ("schedule_cron", "When the pipeline runs: its schedule is made, changed or, for null, removed with it."),
        ("schedule_timezone", "Of the schedule; left out: UTC."),
    ):
        properties[name] = {"anyOf": [{"type": "string"}, {"type": "null"}], "description": what}
    properties["schedule_enabled"] = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}


def _take_ids(schema: dict[str, Any], references: tuple[Reference, ...]) -> None:
    properties, required = schema["properties"], schema.get("required", [])
    for reference in references:
        named = properties[reference.field]
        ids: list[dict[str, Any]] = [{"type": "integer"}]
        if reference.many:
            ids.append({"type": "array", "items": {"type": "integer"}})
        properties[reference.field] = {
            "anyOf": [named, *ids],
            "description": f"Name or id of {with_article(reference.kind)}; or give {reference.id_fields[0]}.",
        }
        properties[reference.id_fields[0]] = {"anyOf": [*ids, {"type": "null"}], "description": _ID["description"]}
        if reference.field in required:
            required.remove(reference.field)
