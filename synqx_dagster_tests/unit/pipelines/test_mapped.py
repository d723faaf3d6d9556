"""The transform `mapping` gives what a mapping with the same column mappings loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.errors import DataError, PlanError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest
from synqx_dagster_tests.unit.pipelines.graphs import check, node, pipeline
from synqx_dagster_tests.unit.pipelines.steps import Bench, run_chain, through

PEOPLE = (
    "create table numbers (n integer primary key, name text, price decimal(10,2), day date, seen timestamp,"
    " data blob, big decimal(38, 0))",
    "insert into numbers values"
    " (1, 'Ada Lovelace', 10.25, '2024-02-29', '2024-02-29 12:00:00.5', x'00ff', 99999999999999999999),"
    " (2, 'Plato', null, null, null, null, null),"
    " (3, '', -0.01, '9999-12-31', '0001-01-01 00:00:00', x'', -1)",
)
COLUMN_MAPPINGS = [
    {"type": "direct", "source_columns": ["n"], "target_fields": ["id"]},
    {"type": "split", "source_columns": ["name"], "target_fields": ["first", "last"], "config": {"delimiter": " "}},
    {"type": "join", "source_columns": ["n", "day"], "target_fields": ["both"], "config": {"separator": "/"}},
    {"type": "expression", "expression": "coalesce(name, 'nobody')", "target_fields": ["who"]},
    {"type": "expression", "expression": "upper(name)", "target_fields": ["loud"]},
    {"type": "constant", "value": "x", "target_fields": ["mark"]},
    {"type": "hash", "source_columns": ["name"], "target_fields": ["digest"]},
    {"type": "direct", "source_columns": ["day"], "target_fields": ["day"]},
    {"type": "direct", "source_columns": ["seen"], "target_fields": ["seen"]},
    {"type": "direct", "source_columns": ["data"], "target_fields": ["data"]},
    {"type": "direct", "source_columns": ["big"], "target_fields": ["big"]},
]


def mapped(*column_mappings: dict[str, Any]) -> dict[str, Any]:
    return node("mapped", "transform.mapping", column_mappings=list(column_mappings))


@pytest.fixture
def people(tmp_path: Path) -> Bench:
    return Bench(tmp_path, *PEOPLE)


def test_it_gives_what_a_mapping_loads(people: Bench) -> None:
    found = run_chain(people, mapped(*COLUMN_MAPPINGS), order="id")
    record = Mapping(
        name="same",
        source_connection="source",
        source_table="numbers",
        target_connection="target",
        target_table="same",
        column_mappings=COLUMN_MAPPINGS,
    )
    run_load(LoadRequest(record, None, people.connectors["source"], people.connectors["target"], "run", "load"))
    assert found == people.fetch("select * from same order by id")
    assert len(found) == 3
    types = "select column_name, data_type from information_schema.columns where table_name = '{}' order by 1"
    assert people.fetch(types.format("loaded")) == people.fetch(types.format("same"))


def test_constants_alone_have_a_row_for_each_row(people: Bench) -> None:
    constant = {"type": "constant", "value": 7, "target_fields": ["seven"]}
    assert run_chain(people, mapped(constant), order="seven") == [(7,)] * 3


def test_a_value_that_breaks_a_mapping_fails_the_node_and_names_the_field(people: Bench) -> None:
    config = {"delimiter": "a", "extra_parts": "bad_row"}
    split = {"type": "split", "source_columns": ["name"], "target_fields": ["one", "two"], "config": config}
    with pytest.raises(DataError, match="'mapped': a value in column 'two' has more parts") as caught:
        run_chain(people, mapped(split), order="one")
    assert "Lovelace" not in str(caught.value)


def test_duckdb_computes_what_only_a_database_can(people: Bench) -> None:
    expression = "list_reverse(string_split(name, ' '))[1]"
    last = {"type": "expression", "expression": expression, "target_fields": ["last"]}
    assert run_chain(people, mapped(last), order="last") == [("",), ("Lovelace",), ("Plato",)]
    wrong = {"type": "expression", "expression": "no_such_function(name)", "target_fields": ["x"]}
    with pytest.raises(PlanError, match="no_such_function"):
        people.run(through(mapped(wrong)))


@pytest.mark.parametrize(
    ("column_mapping", "message"),
    [
        ({"type": "direct", "source_columns": ["nobody"], "target_fields": ["x"]}, "gives no column 'nobody'"),
        ({"type": "expression", "expression": "nobody + 1", "target_fields": ["x"]}, "reads 'nobody'"),
        ({"type": "expression", "expression": "1 +", "target_fields": ["x"]}, ""),
        ({"type": "constant", "value": 1, "target_fields": ["id"]}, "'id' would be there twice"),
    ],
)
def test_what_is_wrong_is_said_before_it_runs(column_mapping: dict[str, Any], message: str) -> None:
    read = node("numbers", "extract", columns=["n"])
    first = {"type": "direct", "source_columns": ["n"], "target_fields": ["id"]}
    made, problems = check(
        pipeline([read, mapped(first, column_mapping), node("loaded", "load")], "numbers>mapped>loaded")
    )
    assert made is None
    (problem,) = problems
    assert message in problem.message
    assert problem.path[:4] == ("nodes", 1, "config", "column_mappings")
