"""A project of records that are applied, over a SQLite file and a PostgreSQL database: what commands are tried on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

PASSWORD = "canary-password"
MASTER_PASSWORD = "canary-master-password"

DEFINITIONS = """\
kind: connection
name: shop
db_type: sqlite
database: {directory}/shop.db
---
kind: connection
name: warehouse
db_type: postgresql
host: {host}
port: {port}
database: {database}
username: {username}
password: {password}
---
kind: schema
name: customer
columns:
  - {{name: id, data_type: integer, nullable: false}}
  - {{name: name, data_type: string}}
  - {{name: credit, data_type: "decimal(10,2)"}}
primary_key: [id]
---
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: analytics.customer
target_schema: customer
on_bad_row: quarantine
---
kind: mapping
name: copy
source_connection: warehouse
source_table: analytics.customer
target_connection: warehouse
target_table: analytics.customer_copy
---
kind: pipeline
name: everything
nodes:
  - {{node_id: load, config: {{mapping: customers}}}}
  - {{node_id: copy, config: {{mapping: copy}}}}
edges:
  - {{from_node_id: load, to_node_id: copy}}
---
kind: schedule
name: customers
pipeline: everything
cron_expression: "0 2 * * *"
timezone: Europe/Berlin
"""


def make_shop(directory: Path) -> None:
    """The SQLite source: four customers, one with bad credit."""
    with sqlite3.connect(directory / "shop.db") as connection:
        connection.execute("create table customer (id integer primary key, name text, credit text)")
        connection.executemany(
            "insert into customer values (?, ?, ?)",
            [(1, "Åsa", "1.50"), (2, None, "2"), (3, "", "NaN?"), (4, "\x1b[31mred", None)],
        )
    connection.close()


@pytest.fixture
def shop(project: Project, postgresql: PostgresqlDatabase) -> Project:
    """A project with definitions that are applied, and a source with rows."""
    make_shop(project.directory)
    text = DEFINITIONS.format(
        directory=project.directory,
        host=postgresql.host,
        port=postgresql.port,
        database=postgresql.name,
        username=postgresql.username,
        password=PASSWORD,
    )
    project.write("definitions/all.yaml", text)
    outcome = project("apply", "--reason", "first", "--author", "ann")
    assert outcome.exit_code == 0, outcome.output
    return project


def edit(project: Project, old: str, new: str) -> None:
    """Change the text of the project's records, without applying it."""
    path = project.directory / "definitions/all.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
