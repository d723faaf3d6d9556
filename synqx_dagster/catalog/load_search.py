"""Which records load a table, found among many without reading each of them as a record."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from sqlalchemy.engine import Connection

from synqx_dagster.catalog.revisions import iter_bodies
from synqx_dagster.model import TableName

#: A connection and the name of a table there, without its schema.
LoadedTable = tuple[str, str]


def find_mappings(connection: Connection, revision: int, tables: Collection[LoadedTable]) -> list[str]:
    """Mappings that load one of the tables, or one of its name in another schema."""
    return [
        name
        for name, body in iter_bodies(connection, revision, "mapping")
        if _is_one(body["target_connection"], body["target_table"], tables)
    ]


def find_pipelines(connection: Connection, revision: int, tables: Collection[LoadedTable]) -> list[str]:
    """Pipelines of which a node loads one of the tables itself, or one of its name in another schema."""
    datasets = {
        name
        for name, body in iter_bodies(connection, revision, "asset")
        if _is_one(body["connection"], body["table"] or body["file"], tables)
    }
    return [
        name
        for name, body in iter_bodies(connection, revision, "pipeline")
        if any(_loads_one(node, tables, datasets) for node in body["nodes"])
    ]


def _loads_one(node: dict[str, Any], tables: Collection[LoadedTable], datasets: Collection[str]) -> bool:
    if node["operator_type"] != "load":
        return False
    config = node["config"]
    return node["destination_asset"] in datasets or _is_one(config.get("connection"), config.get("table"), tables)


def _is_one(connection_name: object, text: object, tables: Collection[LoadedTable]) -> bool:
    if not (isinstance(connection_name, str) and isinstance(text, str)):
        return False
    with suppress(ValueError):
        return (connection_name, TableName.parse(text).name) in tables
    return False
