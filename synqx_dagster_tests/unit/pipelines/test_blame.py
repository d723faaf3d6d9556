"""Failures within one query of several nodes: said of the node, and of what of it, that has failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.errors import OperatorFailedError
from synqx_dagster_tests.unit.pipelines.graphs import graph, node
from synqx_dagster_tests.unit.pipelines.steps import LOAD, NUMBERS, READ, Bench, through

FINE = node("fine", "transform.derive", columns={"ok": "n + 1", "also": "n * 2"})
LATER = node("later", "transform.derive", columns={"more": "n + 2"})


@pytest.mark.parametrize(
    ("guilty", "says"),
    [
        (
            node("d", "transform.derive", columns={"a": "n + 1", "b": "secret::integer"}),
            "node 'd': column 'b' failed in DuckDB: ConversionException",
        ),
        (
            node("f", "transform.filter", condition="secret::integer > 0"),
            "node 'f': failed in DuckDB: ConversionException",
        ),
        (
            node("q", "transform.sql", query="select n, secret::date as day from fine"),
            "node 'q': failed in DuckDB: ConversionException",
        ),
    ],
    ids=["derive", "filter", "sql"],
)
def test_one_node_of_a_stage_is_named(bench: Bench, guilty: dict[str, Any], says: str) -> None:
    with pytest.raises(OperatorFailedError) as caught:
        bench.run(through(FINE, guilty, LATER))
    assert caught.value.message == says
    assert "canary" not in str(caught.value)
    assert [name for name, report in bench.reports.items() if report.error] == [guilty["node_id"]]


def test_a_rule_that_fails_is_named_with_its_column(bench: Bench) -> None:
    rules = [
        {"check": "not_null", "column": "n"},
        {"check": "expression", "column": "secret", "condition": "secret::integer > 0"},
    ]
    with pytest.raises(OperatorFailedError) as caught:
        bench.run(through(FINE, node("v", "validate.rules", rules=rules), LATER))
    assert caught.value.message == (
        "node 'v': rule 2 (expression, column 'secret') failed in DuckDB: ConversionException"
    )
    rules[1].pop("column")
    with pytest.raises(OperatorFailedError, match=r"rule 2 \(expression 'secret::integer > 0'\) failed"):
        bench.run(through(FINE, node("v", "validate.rules", rules=rules), LATER), "second")


def test_the_row_that_fails_may_come_late(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        "create table numbers (n integer, pad text)",
        "insert into numbers with recursive c(i) as (select 0 union all select i + 1 from c where i < 149999)"
        " select i, printf('%0400d', i) from c",
    )
    derived = node("d", "transform.derive", columns={"x": "if(n = 140000, 'bad', '1')::integer"})
    chain = through(node("fine", "transform.derive", columns={"ok": "n + 1"}), derived)
    with pytest.raises(OperatorFailedError, match=r"^node 'd': column 'x' failed in DuckDB"):
        bench.run(chain)


def test_a_failure_that_nobody_can_make_again_is_of_all_nodes(bench: Bench) -> None:
    once = node("d", "transform.derive", columns={"x": "if(n = 999, 'bad', '1')::integer"})
    chain = through(node("fine", "transform.derive", columns={"ok": "n + 1"}), once)
    with pytest.MonkeyPatch.context() as patch:
        # As if the row had come too long before.
        patch.setattr("synqx_dagster.pipelines.blame.RecentRows.add", lambda self, batch: None)
        with pytest.raises(OperatorFailedError, match=r"^nodes 'numbers', 'fine', 'd': failed in DuckDB"):
            bench.run(chain)


def test_each_input_of_a_join_is_looked_at(tmp_path: Path) -> None:
    bench = Bench(tmp_path, *NUMBERS, "create table names (n integer, word text)", "insert into names values (1, 'x')")
    other = node("names", "extract")
    broken = node("d", "transform.derive", columns={"number": "word::integer"})
    nodes = [READ, other, broken, node("j", "transform.join", left="numbers", on=["n"]), LOAD]
    with pytest.raises(OperatorFailedError, match=r"^node 'd': column 'number' failed in DuckDB"):
        bench.run(graph(nodes, "numbers>j>loaded", "names>d>j"))
