"""`synqx verify` as a user has it, and what Dagster keeps of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import dagster as dg
import pytest

from synqx_dagster_tests.fix_cli import Project

DEFINITIONS = """\
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
verify: {verify}
"""

KEY = dg.AssetKey(["warehouse", "customer"])


@pytest.fixture
def shop(project: Project) -> Project:
    """A project whose one mapping has been loaded."""
    return load(project, "on_demand")


def load(project: Project, verify: str) -> Project:
    run(project, "shop", "create table customer (id integer primary key, name text, credit real)")
    run(project, "shop", "insert into customer values (1, 'Ann', 1.5), (2, null, 2), (3, '', null), (10, 'Bob', 4)")
    project.write("definitions.yaml", DEFINITIONS.format(directory=project.directory, verify=verify))
    assert project("apply").exit_code == 0
    outcome = project("run", "customers", "--json")
    assert outcome.exit_code == 0, outcome.output
    checks = outcome.document["assets"][0]["checks"]
    assert checks.get("content") == (True if verify == "after_load" else None)
    return project


def run(project: Project, database: str, *statements: str) -> None:
    with closing(sqlite3.connect(project.directory / f"{database}.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def evaluations(project: Project, check: str = "content") -> list[dg.AssetCheckEvaluation]:
    """What Dagster keeps of a check, the newest first."""
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        records = instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(KEY, check), 10)
        found = [record.event.dagster_event.event_specific_data for record in records]  # type: ignore[union-attr]
    return [evaluation for evaluation in found if isinstance(evaluation, dg.AssetCheckEvaluation)]


def test_a_mapping_may_ask_for_it_after_each_load(project: Project) -> None:
    load(project, "after_load")
    (evaluation,) = evaluations(project)
    assert evaluation.passed
    assert evaluation.target_materialization_data is not None


def test_what_is_the_same_says_so_and_is_kept(shop: Project) -> None:
    assert evaluations(shop) == []
    outcome = shop("verify", "customers")
    assert outcome.exit_code == 0, outcome.output
    assert "Same: 4 rows of 3 columns are the same on both sides." in outcome.stdout
    (evaluation,) = evaluations(shop)
    assert evaluation.passed


def test_what_differs_is_listed_by_key(shop: Project) -> None:
    run(shop, "warehouse", "update customer set name = 'canary' where id = 10", "delete from customer where id = 2")
    run(shop, "warehouse", "insert into customer values (11, 'extra', 0)")
    outcome = shop("verify", "customers", "--json")
    assert outcome.exit_code == 1
    found = outcome.document
    assert (found["missing"], found["extra"], found["different"], found["passed"]) == (1, 1, 1, False)
    assert found["differences"] == [
        {"kind": "missing", "key": {"id": "2"}, "rows": 1, "columns": []},
        {"kind": "different", "key": {"id": "10"}, "rows": 1, "columns": ["name"]},
        {"kind": "extra", "key": {"id": "11"}, "rows": 1, "columns": []},
    ]

    outcome = shop("verify", "customers", "--limit", "1")
    assert outcome.exit_code == 1
    assert "Differs: 1 missing, 1 extra, 1 different (keys)" in outcome.stdout
    assert "The first 1 key; --limit lists more." in outcome.stdout
    latest = evaluations(shop)[0]
    assert not latest.passed
    assert latest.metadata["missing"].value == 1
    assert "canary" not in outcome.output + repr(latest)


def test_values_are_for_those_who_ask(shop: Project) -> None:
    run(shop, "warehouse", "update customer set name = '\x1b[31mred' where id = 3")
    outcome = shop("verify", "mapping:customers", "--show-values", "--no-record")
    assert outcome.exit_code == 1
    assert '""' in outcome.stdout
    assert "\\x1b[31mred" in outcome.stdout
    assert "\x1b" not in outcome.stdout
    assert evaluations(shop) == []


def test_a_target_that_is_not_there_is_an_error(shop: Project) -> None:
    run(shop, "warehouse", "drop table customer")
    outcome = shop("verify", "customers", "--json")
    assert outcome.exit_code == 1
    assert outcome.document["error"]["type"] == "TargetMismatchError"
    assert shop("verify", "custmers").exit_code == 2


def test_rows_that_break_the_key_fail_its_checks_and_not_the_run(project: Project) -> None:
    run(project, "shop", "create table customer (id integer primary key, name text)")
    run(project, "shop", "insert into customer values (1, 'Ann'), (2, null)")
    run(project, "warehouse", "create table customer (id integer, name text)")
    run(project, "warehouse", "insert into customer values (1, 'Bob'), (null, 'Eve')")
    keyed = "kind: schema\nname: keyed\ncolumns: [{name: id, data_type: integer}, {name: name, data_type: string}]\n"
    appended = DEFINITIONS.format(directory=project.directory, verify="on_demand")
    project.write("a.yaml", f"{appended}mode: append\ntarget_schema: keyed\n---\n{keyed}primary_key: [id]\n")
    assert project("apply").exit_code == 0

    outcome = project("run", "customers", "--json")

    assert outcome.exit_code == 0, outcome.output
    checks = outcome.document["assets"][0]["checks"]
    assert checks == {"contract": True, "row_count": True, "not_null_keys": False, "unique_keys": False}
    for check, description in [
        ("not_null_keys", "id: NULL in 1 row"),
        ("unique_keys", "id: 1 keys occur more than once"),
    ]:
        (found,) = evaluations(project, check)
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert found.description == description
