"""Incremental loads and the quarantine as a user of the command line meets them, on SQLite files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster_tests.fix_cli import Project

DEFINITIONS = """\
kind: connection
name: shop
db_type: sqlite
database: {directory}/shop.db
---
kind: connection
name: lake
db_type: sqlite
database: {directory}/lake.db
---
kind: schema
name: customer
columns:
  - {{name: id, data_type: integer, nullable: false}}
  - {{name: credit, data_type: "decimal(10,2)"}}
primary_key: [id]
---
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: lake
target_table: customer
target_schema: customer
mode: merge
cursor: {{column: changed}}
on_bad_row: quarantine
---
kind: mapping
name: days
source_connection: shop
source_table: visit
target_connection: lake
target_table: days
mode: merge
cursor: {{column: day}}
---
kind: mapping
name: numbers
source_connection: shop
source_table: visit
target_connection: lake
target_table: numbers
mode: merge
cursor: {{column: id}}
---
kind: mapping
name: appended
source_connection: shop
source_table: visit
target_connection: lake
target_table: appended
mode: append
cursor: {{column: id}}
---
kind: mapping
name: copies
source_connection: shop
source_table: customer
target_connection: lake
target_table: copies
"""


def execute(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(sql).fetchall()
        connection.commit()
        return rows


@pytest.fixture
def shop(project: Project) -> Project:
    source = project.directory / "shop.db"
    execute(source, "create table customer (id integer primary key, credit text, changed text not null)")
    execute(source, "insert into customer values (1, '1.50', '2024-01-01'), (2, 'lots', '2024-01-02')")
    execute(source, "create table visit (id integer primary key, day date not null)")
    project.write("definitions/all.yaml", DEFINITIONS.format(directory=project.directory))
    outcome = project("apply")
    assert outcome.exit_code == 0, outcome.output
    return project


def test_runs_read_what_is_new_or_what_they_are_told_to(shop: Project) -> None:
    source = shop.directory / "shop.db"
    assert shop("run", "customers", "--json").document["assets"][0]["rows_in"] == 2
    execute(source, "insert into customer values (3, '3', '2024-01-03')")
    plan = shop("plan", "customers")
    assert "\"changed\" >= '2024-01-02'" in plan.output
    assert shop("run", "customers", "--json").document["assets"][0]["rows_in"] == 2
    assert shop("run", "customers", "--full", "--json").document["assets"][0]["rows_in"] == 3
    part = shop("run", "customers", "--from", "2024-01-01", "--to", "2024-01-02", "--json")
    assert part.document["assets"][0]["rows_in"] == 1
    rows = execute(shop.directory / "lake.db", "select id, credit from customer order by id")
    assert rows == [(1, 1.5), (3, 3)]


def test_a_window_that_cannot_be_is_wrong_input(shop: Project) -> None:
    for arguments, words in (
        (("copies", "--from", "5"), "need a cursor, and there is none in 'copies'"),
        (("customers", "--full", "--to", "5"), "cannot both be read"),
        (("customers", "--from", "2026-11-22", "--to", "2026-11-21"), "'2026-11-21' is not above --from '2026-11-22'"),
        (("customers", "--from", "x", "--to", "x"), "is not above"),
        (("days", "--from", "garbage"), "'garbage' is not a value of the cursor column 'day' (date)"),
        (("numbers", "--to", "1e5"), "'1e5' is not a value of the cursor column 'id' (bigint)"),
        (("numbers", "--from", "10", "--to", "9"), "is not above"),
        (("appended", "--from", "1"), "appends: --from and --to would leave no place to go on from"),
    ):
        outcome = shop("run", *arguments)
        assert outcome.exit_code == 2, outcome.output
        assert words in outcome.output
        for word in ("isoformat", "literal", "int()", "could not convert"):
            assert word not in outcome.output, "the words of Python"
    assert shop("runs", "--json").document == []
    assert not (shop.directory / "lake.db").exists()


def test_rows_in_quarantine_are_listed_shown_and_tried_again(shop: Project) -> None:
    source = shop.directory / "shop.db"
    assert shop("quarantine", "list").output.startswith("No row lies in quarantine")
    shop("run", "customers")
    listed = shop("quarantine", "list", "--json").document
    reason = "credit: is not a decimal(10,2)"
    assert listed == {
        "rows": [{"mapping": "customers", "target": "lake: customer", "reason": reason, "rows": 1}],
        "failed": [],
    }
    assert reason in shop("quarantine", "list").output
    shown = shop("quarantine", "show", "customers", "--json").document["rows"]
    assert [(row["source_key"], row["source_row"]["credit"], row["reason"]) for row in shown] == [
        ({"id": "2"}, "lots", reason)
    ]
    assert '{"id": "2"}' in shop("quarantine", "show", "customers").output

    still_bad = shop("quarantine", "retry", "customers", "--json")
    assert still_bad.exit_code == 0, still_bad.output
    assert still_bad.document["assets"][0]["rows_quarantined"] == 1
    # Mended at the source, with no trace in the cursor column: the watermark alone would never find it again.
    execute(source, "update customer set credit = '2' where id = 2")
    execute(source, "update customer set credit = '9' where id = 1")
    mended = shop("quarantine", "retry", "customers", "--json").document["assets"][0]
    assert (mended["rows_in"], mended["rows_quarantined"]) == (1, 0)
    rows = execute(shop.directory / "lake.db", "select id, credit from customer order by id")
    assert rows == [(1, 1.5), (2, 2)]
    assert shop("quarantine", "list", "--json").document["rows"] == []
    runs = shop("runs", "--json").document
    nothing = shop("quarantine", "retry", "mapping:customers")
    assert nothing.exit_code == 0
    assert nothing.output == "Nothing to try again: no row of customers lies in quarantine.\n"
    document = shop("quarantine", "retry", "customers", "--json").document
    assert (document["run_id"], document["status"], document["assets"]) == (None, "SUCCESS", [])
    assert shop("runs", "--json").document == runs


def test_retrying_what_replaces_all_is_pointless(shop: Project) -> None:
    outcome = shop("quarantine", "retry", "copies")
    assert outcome.exit_code == 2
    assert "every load tries all of them again" in outcome.output
    assert shop("runs", "--json").document == []


def test_a_source_that_cannot_be_asked_is_the_runs_matter(shop: Project) -> None:
    execute(shop.directory / "shop.db", "drop table customer")
    outcome = shop("run", "customers", "--from", "2024-01-01", "--json")
    assert outcome.exit_code == 1
    assert "the source has no table customer" in outcome.document["failures"][0]["message"]


def test_a_run_says_what_became_of_the_targets_rows(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shop.directory / "shop.db"
    shop("run", "customers")
    execute(source, "update customer set credit = '7', changed = '2024-01-03' where id = 1")
    execute(source, "insert into customer values (3, '3', '2024-01-03')")
    asset = shop("run", "customers", "--json").document["assets"][0]
    assert [asset[name] for name in ("rows_inserted", "rows_updated", "rows_deleted")] == [1, 1, 0]
    for width in (80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        mixed = shop("run", "customers", "copies").stdout
        assert all(word in mixed for word in ("inserted", "updated", "deleted"))
        assert max(map(len, mixed.splitlines())) <= width
        assert "inserted" not in shop("run", "copies").stdout


def test_a_plan_that_lists_changes_does_not_say_that_nothing_differs(shop: Project) -> None:
    shop("run", "copies")
    assert "The target does not differ." in shop("plan", "copies").output
    execute(shop.directory / "shop.db", "alter table customer add vip boolean")
    frozen = shop("run", "copies")
    assert frozen.exit_code == 1
    name, hint = frozen.stderr.splitlines()[-2:]
    assert name.strip().startswith("vip: the mapping fills it")
    assert hint.startswith("  set evolution: add_columns; or ")
    assert "copies: mapping 'copies'" not in frozen.stderr
    path = shop.directory / "definitions/all.yaml"
    path.write_text(path.read_text() + "evolution: add_columns\n")
    assert shop("apply").exit_code == 0
    plan = shop("plan", "copies").output
    assert "vip: added as" in plan
    assert "does not differ" not in plan
