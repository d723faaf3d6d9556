"""`synqx wal` and `synqx health` as a user has them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.monitoring import Monitor
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

DEFINITIONS = """
kind: connection
name: shop
db_type: postgresql
host: 127.0.0.1
port: {port}
database: {database}
username: {username}
password: canary-password
monitor:
  wal: true
  thresholds: {{max_lag_bytes: 1}}
---
kind: connection
name: gone
db_type: postgresql
host: 127.0.0.1
port: 1
database: nothing
monitor: {{timeout_seconds: 1}}
---
kind: connection
name: local
db_type: sqlite
database: /tmp/local.db
monitor: {{health: false}}
"""


@pytest.fixture
def declared(project: Project, postgresql: PostgresqlDatabase) -> Iterator[Project]:
    """A project with a server whose slot nobody reads, one that is not there, and a file."""
    text = DEFINITIONS.format(port=postgresql.port, database=postgresql.name, username=postgresql.username)
    project.write("synqx.yaml", text)
    outcome = project("apply", "synqx.yaml", "--yes")
    assert outcome.exit_code == 0, outcome.output
    postgresql.execute("select pg_create_logical_replication_slot('forgotten', 'pgoutput')")
    yield project
    postgresql.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")


def test_a_log_is_shown(declared: Project) -> None:
    outcome = declared("wal", "shop")
    assert outcome.exit_code == 0, outcome.output
    assert "primary" in outcome.stdout
    assert "forgotten" in outcome.stdout
    assert "! slot forgotten keeps" in outcome.stdout
    assert "canary" not in outcome.output
    document = declared("wal", "shop", "--json").document
    assert document["connection"] == "shop"
    assert [slot["name"] for slot in document["slots"]] == ["forgotten"]
    assert [breach["key"] for breach in document["breaches"]] == ["slot:forgotten:lag"]
    assert document["wal_bytes_per_second"] >= 0
    assert document["missing"] == []


def test_what_cannot_be_watched_is_said(declared: Project) -> None:
    outcome = declared("wal", "local")
    assert outcome.exit_code == 2
    assert "no write-ahead log" in outcome.output
    assert declared("wal", "nobody").exit_code == 2
    outcome = declared("wal", "gone")
    assert outcome.exit_code == 1
    assert "Connection refused" in outcome.output


def test_a_log_is_watched_until_somebody_stops_it(declared: Project) -> None:
    command = [sys.executable, "-m", "synqx_dagster.cli.main", "wal", "shop", "--watch", "--interval", "0.2", "--json"]
    with subprocess.Popen(
        command, cwd=declared.directory, env=declared.process_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        documents = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130
    assert documents[0]["wal_bytes_per_second"] is None
    assert documents[2]["wal_bytes_per_second"] is not None


def test_health_is_what_the_sensor_found(declared: Project) -> None:
    outcome = declared("health")
    assert outcome.exit_code == 0, outcome.output
    assert "Nothing was tested yet" in outcome.stdout
    settings = load_settings({"SYNQX_HOME": str(declared.home)}, declared.directory)
    with Catalog.open(settings) as catalog:
        Monitor(catalog).check_connections(catalog.snapshot())
    outcome = declared("health")
    assert outcome.exit_code == 1, outcome.output
    assert "Connection refused" in outcome.stdout
    found = declared("health", "--json").document
    states = {item["connection"]: item["status"] for item in found["connections"]}
    assert states == {"gone": "down", "local": None, "shop": "up"}
    shop = next(item for item in found["connections"] if item["connection"] == "shop")
    assert shop["availability"] == 1
    assert shop["latency_seconds"] > 0
    assert found["system"][0]["subject"] == "host"


def test_only_a_server_with_such_a_log_is_watched(project: Project) -> None:
    project.write(
        "synqx.yaml",
        "kind: connection\nname: local\ndb_type: sqlite\ndatabase: /tmp/x.db\nmonitor: {wal: true}\n",
    )
    outcome = project("check", "synqx.yaml")
    assert outcome.exit_code == 2
    assert "no write-ahead log that can be watched" in outcome.output


def test_the_name_of_the_assets_is_taken(project: Project) -> None:
    text = (
        "kind: connection\nname: {name}\ndb_type: postgresql\nhost: localhost\ndatabase: x\nmonitor: {{wal: {wal}}}\n"
    )
    watched, taken = text.format(name="shop", wal="true"), text.format(name="monitoring", wal="false")
    project.write("synqx.yaml", f"{watched}---\n{taken}")
    outcome = project("check", "synqx.yaml")
    assert outcome.exit_code == 2
    assert "'monitoring' is no name for a connection beside watched ones" in outcome.output
