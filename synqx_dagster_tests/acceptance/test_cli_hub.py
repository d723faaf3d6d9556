"""`synqx search`, `synqx agents` and `synqx lineage` as a user has them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from synqx_dagster_tests.fix_cli import Project

DEFINITIONS = """
kind: connection
name: shop
db_type: sqlite
database: {directory}/shop.db
---
kind: connection
name: warehouse
db_type: sqlite
database: {directory}/warehouse.db
---
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: customer
column_mappings:
  - {{type: direct, source_columns: [id], target_fields: [id]}}
  - {{type: direct, source_columns: [mail], target_fields: [email]}}
---
kind: agent
name: Churn guard
short_description: "Finds customers who leave \\e[31m"
business_domain: Customer care
status: active
goals: [keep customers]
tools: [{{name: Jira}}]
mappings: [customers]
kpis:
  - {{name: reliable, target: 0.99, metric: success_rate}}
  - {{name: mood, target: green, current: amber}}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Project:
    directory: Path = tmp_path_factory.mktemp("hub")
    project = Project(directory, {"SYNQX_MASTER_PASSWORD": "correct horse battery staple"})
    with closing(sqlite3.connect(directory / "shop.db")) as database, database:
        database.execute("create table customer (id integer primary key, mail text)")
    project.write("definitions/hub.yaml", DEFINITIONS.format(directory=directory))
    assert project("init").exit_code == 0
    applied = project("apply")
    assert applied.exit_code == 0, applied.output
    return project


def test_search_shows_what_is_found_and_where(hub: Project) -> None:
    outcome = hub("search", "customers", "leave")
    assert outcome.exit_code == 0, outcome.output
    assert "Churn guard" in outcome.stdout
    assert "\x1b" not in outcome.stdout

    document = hub("search", "email", "--json").document
    (hit,) = document["hits"]
    assert (hit["kind"], hit["title"], hit["record_kind"], hit["record_name"]) == (
        "column",
        "email",
        "mapping",
        "customers",
    )
    assert (document["total"], document["counts"]) == (1, {"column": 1})
    assert hub("search", "email", "--kind", "agent", "--json").document["hits"] == []


def test_search_says_what_it_took_a_word_for(hub: Project) -> None:
    outcome = hub("search", "custmoers")
    assert "No word begins with 'custmoers': looked for customers" in outcome.stderr
    assert "customers" in outcome.stdout
    outcome = hub("search", "zzzzzz", "--limit", "1")
    assert outcome.exit_code == 0
    assert "Nothing was found." in outcome.stdout
    assert "--limit shows more" in hub("search", "customers", "-n", "1").stderr


def test_agents_are_listed_and_shown(hub: Project) -> None:
    listed = hub("agents", "list", "--json").document
    assert [(item["name"], item["business_domain"], item["view_count"]) for item in listed] == [
        ("Churn guard", "Customer care", 0)
    ]
    UUID(listed[0]["id"])
    assert "Churn guard" in hub("agents", "list").stdout
    assert hub("agents", "list", "--domain", "Sales", "--json").document == []
    assert "No agents" in hub("agents", "list", "--status", "draft").stdout

    shown = hub("agents", "show", listed[0]["id"], "--json").document
    assert shown["name"] == "Churn guard"
    assert [(kpi["name"], kpi["current"]) for kpi in shown["kpis"]] == [("reliable", None), ("mood", "amber")]
    drawn = hub("agents", "show", "Churn guard").stdout
    assert "keep customers" in drawn
    assert "success_rate, 30 d" in drawn
    assert "\x1b" not in drawn
    unknown = hub("agents", "show", "churn gard")
    assert (unknown.exit_code, "did you mean 'Churn guard'" in unknown.output) == (2, True)


def test_a_kpi_is_measured_once_something_has_run(hub: Project) -> None:
    assert hub("run", "customers").exit_code == 0
    shown = hub("agents", "show", "Churn guard", "--json").document
    assert shown["kpis"][0]["current"] == 1.0


def test_lineage_by_tables_and_columns(hub: Project) -> None:
    drawn = hub("lineage", "customers").stdout
    assert "shop/customer" in drawn
    assert "mapping customers" in drawn
    assert "email" not in drawn
    assert "shop/customer mail" in hub("lineage", "customers", "--columns").stdout
    document = hub("lineage", "warehouse/customer", "--up", "--column", "email", "--json").document
    assert [node["asset"] for node in document["nodes"]] == ["warehouse/customer", "shop/customer"]
    assert [(edge["upstream_column"], edge["downstream_column"]) for edge in document["column_edges"]] == [
        ("mail", "email")
    ]
    assert [node["asset"] for node in hub("lineage", "customers", "--down", "--json").document["nodes"]] == [
        "warehouse/customer"
    ]
    unknown = hub("lineage", "warehouse/custome")
    assert (unknown.exit_code, "did you mean 'warehouse/customer'" in unknown.output) == (2, True)


def test_what_an_agent_says_is_exported_and_applied_again(hub: Project) -> None:
    exported = hub("export").stdout
    assert "kind: agent" in exported
    hub.write("again/all.yaml", exported)
    assert "Nothing to change" in hub("apply", "again", "--dry-run").output


def test_an_agent_that_links_to_nothing_is_refused(hub: Project) -> None:
    hub.write("wrong/agent.yaml", "kind: agent\nname: wrong\nmappings: [customer]\n")
    outcome = hub("check", "wrong")
    assert outcome.exit_code == 2
    assert "there is no mapping 'customer' (did you mean 'customers'?)" in outcome.output
