"""Records over HTTP, for the tests: a body of each kind, made in the order in which they refer to each other."""

from __future__ import annotations

from typing import Any

import httpx

from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

CANARY = "canary-7f3a-of-the-api"


def connection_body(database: PostgresqlDatabase, name: str = "warehouse", **more: Any) -> dict[str, Any]:
    """A connection to a database of the test's server."""
    return {
        "name": name,
        "db_type": "postgresql",
        "host": database.host,
        "port": database.port,
        "database": database.name,
        "username": database.username,
        "password": CANARY,
        **more,
    }


def make(client: httpx.Client, plural: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create a record; gives the answer."""
    answer = client.post(f"/{plural}", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["ETag"] == f'"{made["etag"]}"'
    assert answer.headers["Location"] == f"/api/v1/{plural}/{made['id']}"
    return made


def bodies_of(database: PostgresqlDatabase) -> dict[str, dict[str, Any]]:
    """A body of each kind by the plural that is in paths, in an order in which they can be made."""
    return {
        "connections": connection_body(database),
        "schemas": {
            "name": "customer",
            "columns": [
                {"name": "id", "data_type": "integer", "nullable": False},
                {"name": "name", "data_type": "string"},
            ],
            "primary_key": ["id"],
        },
        "assets": {"name": "customer", "connection": "warehouse", "table": "public.customer", "target_schema_id": 1},
        "mappings": {
            "name": "customers",
            "source_connection_id": 1,
            "source_table": "public.customer",
            "target_connection": "warehouse",
            "target_table": "public.customer_copy",
            "target_schema": 1,
        },
        "pipelines": {
            "name": "nightly",
            "nodes": [
                {"node_id": "read", "operator_type": "extract", "operator_class": "table", "source_asset_id": 1},
                {
                    "node_id": "write",
                    "operator_type": "load",
                    "operator_class": "table",
                    "config": {"connection": "warehouse", "table": "public.customer_backup"},
                },
            ],
            "edges": [{"from_node_id": "read", "to_node_id": "write"}],
        },
        "replications": {
            "name": "mirror",
            "source_connection_id": 1,
            "target_connection": "warehouse",
            "tables": ["public.*", {"name": "sales.orders", "columns": ["id", "total"]}],
            "target_naming": {"target_schema": "mirrored_{schema}"},
        },
        "schedules": {"name": "early", "mapping": "customers", "cron_expression": "0 2 * * *"},
        "sensors": {
            "name": "watch",
            "type": "source_changed",
            "mapping_id": 1,
            "connection_id": 1,
            "table": "customer",
        },
        "alerts": {
            "name": "on call",
            "events": ["run_failure"],
            "pipeline_ids": [1],
            "webhook": {"url": f"https://hooks.example.com/{CANARY}"},
        },
    }
