"""Loads that would take more sessions than the pools of their connections allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.model import Connection, Pipeline
from synqx_dagster_tests.unit.catalog.checking import catalog_of, problems_of
from synqx_dagster_tests.unit.catalog.records import connection, mapping

ENDS = (connection("shop"), connection("warehouse"))


def postgresql(name: str, **values: Any) -> Connection:
    return connection(name, db_type="postgresql", database="db", username="me", **values)


def test_more_parallel_ranges_than_a_pool_has_sessions(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "kind: connection\nname: shop\ndb_type: postgresql\ndatabase: db\nhost: localhost\nusername: me\n"
        "pool: {size: 4, max_overflow: 2}\n"
        "---\nkind: mapping\nname: load\nsource_connection: shop\nsource_table: a\n"
        "target_connection: shop\ntarget_table: b\nparallelism: 3\n"
    )
    (problem,) = check_definitions(read_documents([tmp_path]), known=None)
    # Two ends, of three ranges and the load itself each.
    assert str(problem) == (
        f"{tmp_path}/a.yaml:15 parallelism: parallelism 3 takes 8 sessions of 'shop', and its pool allows 6"
        " (lower parallelism, or raise pool.size or pool.max_overflow of the connection)"
    )


@pytest.mark.parametrize(("parallelism", "count"), [(1, 0), (9, 0), (10, 1), (64, 1)])
def test_each_parallel_range_takes_a_session_of_both_pools(parallelism: int, count: int) -> None:
    ends = postgresql("shop", host="localhost"), postgresql("warehouse", host="localhost")
    problems = problems_of(*ends, mapping(parallelism=parallelism))
    assert len(problems) == count
    if parallelism == 10:
        assert "parallelism 10 takes 11 sessions of 'shop', and its pool allows 10" in problems[0]


def test_ranges_of_postgresql_are_written_to_mysql_at_the_same_time() -> None:
    values: dict[str, Any] = {"host": "localhost", "database": "db", "username": "me"}
    ends = postgresql("shop", host="localhost", pool={"size": 20}), connection("warehouse", db_type="mysql", **values)
    (problem,) = problems_of(*ends, mapping(parallelism=10))
    assert "parallelism 10 takes 11 sessions of 'warehouse', and its pool allows 10" in problem


def test_a_pool_is_of_no_concern_where_ranges_are_read_one_after_another() -> None:
    server = postgresql("server", host="localhost")
    many: dict[str, Any] = {"parallelism": 64}
    assert not problems_of(*ENDS, mapping(**many))
    assert not problems_of(*ENDS, server, mapping(**many, source_connection="server"))
    assert not problems_of(*ENDS, server, mapping(**many, target_connection="server"))
    query = mapping(**many, source_query="select 1", source_connection="server", target_connection="server")
    assert not problems_of(server, query)


def test_a_pool_that_shrinks_below_what_a_mapping_of_the_catalog_takes() -> None:
    ends = postgresql("shop", host="localhost"), postgresql("warehouse", host="localhost")
    known = catalog_of(*ends, mapping(parallelism=5))
    assert not problems_of(*ends, mapping(parallelism=5), known=known)
    smaller = postgresql("shop", host="localhost", pool={"size": 2, "max_overflow": 3})
    (problem,) = problems_of(smaller, known=known)
    assert problem.startswith(
        "connection 'shop' pool: mapping 'customers': parallelism 5 takes 6 sessions of 'shop', and its pool allows 5"
    )


def many_extracts(count: int, **values: Any) -> Pipeline:
    """A pipeline whose one step reads so many tables of the connection ``shop``, and loads into it."""
    extract: dict[str, Any] = {"operator_type": "extract", "operator_class": "table", **values}
    names = [f"e{number}" for number in range(count)]
    shop: dict[str, Any] = {"connection": "shop"}
    record = build_record(
        "pipeline",
        {
            "name": "p",
            "nodes": [
                *({"node_id": name, **extract, "config": {**shop, "table": name}} for name in names),
                {"node_id": "u", "operator_type": "transform", "operator_class": "union"},
                {
                    "node_id": "load",
                    "operator_type": "load",
                    "operator_class": "table",
                    "config": shop | {"table": "t"},
                },
            ],
            "edges": [{"from_node_id": first, "to_node_id": "u"} for first in names]
            + [{"from_node_id": "u", "to_node_id": "load"}],
        },
    )
    assert isinstance(record, Pipeline)
    return record


def test_each_extract_of_a_step_and_its_load_take_a_session_of_the_pool() -> None:
    shop = postgresql("shop", host="localhost")
    assert not problems_of(shop, many_extracts(9))
    assert not problems_of(shop, many_extracts(10, stored=True))
    assert problems_of(shop, many_extracts(10)) == [
        "pipeline 'p' nodes[11]: the step 'load' takes 11 sessions of 'shop' at the same time, and its pool allows 10"
        " (raise pool.size or pool.max_overflow of the connection, or set stored: true at some of the step's extracts,"
        " which then are steps of their own)"
    ]
    # Of a file there are as many sessions as anybody wants.
    assert not problems_of(connection("shop"), many_extracts(20))


def test_a_pool_that_shrinks_below_what_a_pipeline_of_the_catalog_takes() -> None:
    shop = postgresql("shop", host="localhost")
    smaller = postgresql("shop", host="localhost", pool={"size": 2, "max_overflow": 1})
    known = catalog_of(shop, many_extracts(3))
    (problem,) = problems_of(smaller, known=known)
    assert problem.startswith(
        "connection 'shop' pool: pipeline 'p': the step 'load' takes 4 sessions of 'shop' at the same time,"
        " and its pool allows 3"
    )
    # What the catalog has held before keeps nobody from something else.
    assert not problems_of(connection("other"), known=catalog_of(smaller, many_extracts(3)))
