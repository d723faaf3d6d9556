"""Replications that are refused before they reach the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.model import Record, TableName
from synqx_dagster_tests.unit.catalog.records import (
    connection,
    definitions,
    mapping,
    pipeline,
    replication,
    schedule,
    schema,
)

SERVER: dict[str, Any] = {"db_type": "postgresql", "host": "db.example", "database": "app", "username": "u"}
ORIGIN = connection("origin", **SERVER)
OTHER = connection("other", **SERVER | {"database": "app2"})
WAREHOUSE = connection("warehouse", **SERVER | {"host": "dw.example", "database": "dw"})
ENDS = (ORIGIN, OTHER, WAREHOUSE)


def problems_of(*declared: Record) -> list[str]:
    return [str(problem) for problem in check_definitions(definitions(*ENDS, *declared), known=None)]


def test_sound_replications() -> None:
    assert not problems_of(
        connection("lake", db_type="duckdb", database="/srv/lake.duckdb"),
        replication(),
        replication(
            "by_name",
            source_connection="other",
            mode="soft_delete",
            tables=["sales.orders", {"name": "sales.lines", "columns": ["id", "price"], "where": "price > 0"}],
            target_naming={"target_schema": "sales"},
        ),
        replication("into_a_file", target_connection="lake", slot="third", publication="third"),
    )


def test_the_documented_form_is_read(tmp_path: Path) -> None:
    file = tmp_path / "replication.yaml"
    file.write_text(
        "kind: replication\nname: mirror\nsource_connection: origin\ntarget_connection: warehouse\n"
        "tables: [public.*, sales.orders]\n",
        encoding="utf-8",
    )
    found = read_documents([file])
    assert not found.problems
    [read] = found.records
    assert read == replication(tables=["public.*", "sales.orders"])
    assert read.tables[1].source == TableName("orders", "sales")  # type: ignore[attr-defined]  # it is a replication
    values = CatalogSnapshot.from_records(1, [read])
    assert CatalogSnapshot.from_dict(values.to_dict()) == values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"source_connection": "lake"}, "source_connection: changes of duckdb cannot be followed"),
        ({"target_connection": "old"}, "target_connection: a replication cannot write to sqlite"),
        ({"target_connection": "only_read"}, "target_connection: the connection 'only_read' is a source"),
        ({"parallelism": 20}, "parallelism: parallelism 20 takes 21 sessions of 'origin', and its pool allows 10"),
        ({"source_connection": "warehose"}, "did you mean 'warehouse'?"),
        (
            {"tables": ["a", "sales.a"], "target_naming": {"target_schema": "all"}},
            "tables[1]: a and sales.a would become one table: all.a",
        ),
        (
            {
                "tables": [
                    {
                        "name": "a",
                        "column_mappings": [
                            {"type": "expression", "expression": "(select 1)", "target_fields": ["x"]},
                        ],
                    }
                ]
            },
            "tables[0].column_mappings[0].expression",
        ),
        (
            {
                "tables": [
                    {
                        "name": "a",
                        "key": ["id"],
                        "column_mappings": [
                            {"type": "direct", "source_columns": ["number"], "target_fields": ["id"]},
                        ],
                    }
                ]
            },
            "tables[0].key[0]: no column mapping takes the key's column 'id' as it is",
        ),
        ({"tables": [{"name": "a", "columns": ["b"], "key": ["id"]}]}, "tables[0].key[0]: columns leave out 'id'"),
        ({"tables": [{"name": "a", "where": "true) or (true"}]}, "tables[0].where"),
        ({"tables": [{"name": "a", "where": "id in (select 1)"}]}, "tables[0].where"),
        (
            {"mode": "soft_delete", "tables": [{"name": "a", "columns": ["id", "Deleted_At"]}]},
            "tables[0].columns[1]: mode soft_delete keeps a column 'Deleted_At' of its own",
        ),
    ],
)
def test_one_replication(values: dict[str, Any], expected: str) -> None:
    found = problems_of(
        connection("lake", db_type="duckdb", database="/srv/lake.duckdb"),
        connection("old", db_type="sqlite", database="/srv/old.db"),
        connection("only_read", **SERVER | {"host": "x.example", "role": "source"}),
        replication(**values),
    )
    assert any(expected in text for text in found), found


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Two names, two patterns, and one of each.
        ({"tables": ["orders"]}, {"tables": ["public.orders"]}),
        ({"tables": ["ord*"]}, {"tables": ["*s"]}),
        ({"tables": ["orders"]}, {"tables": ["o?ders"]}),
        ({"tables": ["a"], "target_naming": {"table": "raw_{table}"}}, {"tables": [{"name": "b", "target": "raw_a"}]}),
    ],
)
def test_two_replications_into_one_table(first: dict[str, Any], second: dict[str, Any]) -> None:
    pair = (replication("one", **first), replication("two", source_connection="other", slot="two", **second))
    [problem] = problems_of(*pair)
    assert "may write the same table" in problem


def test_patterns_that_cannot_meet_are_no_problem() -> None:
    assert not problems_of(
        replication("one", tables=["a*"]),
        replication("two", tables=["b*"], slot="b", publication="b"),
        replication("three", source_connection="other", target_naming={"target_schema": "of_{schema}"}),
    )


def test_a_mapping_or_a_pipeline_that_loads_the_table() -> None:
    loads = mapping("orders", source_connection="other", target_table="public.orders", source_table="o")
    [problem] = problems_of(loads, replication(tables=["orders"]))
    assert "tables[0]: the mapping 'orders' and this replication write one table: public.orders at warehouse" in problem
    # Which tables a pattern stands for, its source alone knows.
    assert not problems_of(loads, replication(tables=["*"]))


def test_a_slot_has_one_consumer_on_its_server() -> None:
    mirror = replication("one", slot="shared", tables=["a"])
    [problem] = problems_of(mirror, replication("two", source_connection="other", slot="shared", tables=["b"]))
    assert "slot: the replication 'one' has the slot 'shared' at this source, too" in problem
    # A publication is of a database.
    assert not problems_of(
        replication("one", publication="p", tables=["a"]),
        replication("two", source_connection="other", publication="p", tables=["b"]),
    )


def test_names_that_become_one_slot() -> None:
    found = problems_of(replication("my-shop", tables=["a"]), replication("my.shop", tables=["b"]))
    assert any("slot" in text for text in found)


@pytest.mark.parametrize(
    ("values", "is_loop"),
    [
        ({"tables": ["orders"]}, True),
        ({"tables": ["public.*"]}, True),
        ({"tables": ["*.*"], "target_naming": {"target_schema": "copy"}}, True),
        ({"tables": ["public.*"], "target_naming": {"target_schema": "copy"}}, False),
        ({"tables": ["orders"], "target_naming": {"table": "{table}_copy"}}, False),
    ],
)
def test_a_replication_does_not_read_what_it_writes(values: dict[str, Any], is_loop: bool) -> None:
    # By another name of the same database.
    same = connection("same", **SERVER)
    found = problems_of(same, replication(target_connection="same", **values))
    assert any("would read what it writes" in text for text in found) is is_loop, found


def test_its_job_and_sensor_have_a_name_of_their_own() -> None:
    loads = mapping("m", source_connection="other", target_connection="warehouse", source_table="x")
    [problem] = problems_of(loads, schedule("mirror", mapping="m"), replication())
    assert "the schedule 'mirror' has this name in Dagster, too" in problem
    [problem] = problems_of(loads, pipeline("mirror", "m"), replication())
    assert "the pipeline 'mirror' has this name in Dagster, too" in problem
    [problem] = problems_of(replication("synqx_run"))
    assert "reserved" in problem


def test_what_is_in_the_catalog_already_counts() -> None:
    known = CatalogSnapshot.from_records(1, [*ENDS, schema(), replication("one", tables=["orders"])])
    new = replication("two", source_connection="other", tables=["orders"])
    [problem] = check_definitions(definitions(new), known=known)
    assert "may write the same table" in problem.message
    assert "replication 'two'" in str(problem)
    assert "tables[0]" in str(problem)
