"""Nodes whose rows a function of the user's makes: what it gives, and what is said when it gives something else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.errors import BadRowsError, NodeTimeoutError, OperatorFailedError
from synqx_dagster_tests.unit.pipelines.graphs import node
from synqx_dagster_tests.unit.pipelines.steps import FUNCTIONS, Bench, pandas, run_chain, through

TWICE = {
    "n": "bigint",
    "word": "string",
    "price": "decimal(10,2)",
    "day": "date",
    "secret": "string",
    "twice": "bigint",
}


@pytest.mark.parametrize("per", ["frame", "batch"])
def test_a_pandas_function(bench: Bench, per: str) -> None:
    rows = run_chain(bench, pandas("doubled", per=per, columns=TWICE), select="n, twice, price::varchar, day::varchar")
    assert rows[7] == (7, 14, "7.25", "2024-01-08")
    assert (bench.reports["f"].rows_in, bench.reports["f"].rows_out) == (1000, 1000)


def test_an_arrow_function(bench: Bench) -> None:
    function = node(
        "f",
        "transform.arrow",
        function=f"{FUNCTIONS}:scaled",
        columns={"n": "bigint", "scaled": "bigint"},
        parameters={"factor": 3},
    )
    assert run_chain(bench, function)[5] == (5, 15)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("raises", r"raised ValueError at functions.py:\d+"),
        (
            "lacks_a_column",
            "gave other columns than the node declares: it lacks 'word', 'price', 'day', 'secret', 'twice'",
        ),
        ("is_no_frame", "gave int, not a DataFrame"),
        ("wrong_type", r"gave values in 'twice' \(large_string\) that are no int64"),
        ("missing", "cannot be imported"),
        ("leaves", r"the function \S+:leaves raised SystemExit at functions.py:\d+"),
        ("gives_nothing", r"gave NoneType, not a DataFrame \(end it with a return of what it has made\)"),
        ("gives_twice", r"gave the column 'n' twice \(let it drop or rename one of the two"),
    ],
)
def test_a_function_that_is_wrong(bench: Bench, function: str, says: str) -> None:
    bench.run(through(pandas("doubled", columns=TWICE)))
    with pytest.raises(OperatorFailedError, match=says) as caught:
        bench.run(through(pandas(function, columns=TWICE)), "second")
    assert caught.value.message.startswith("node 'f': ")
    assert "canary" not in str(caught.value)
    assert bench.reports["f"].error is not None
    assert bench.fetch("select count(*) from loaded") == [(1000,)]


def test_who_must_look_for_a_function_s_mistake_is_told_what_to_call_it_with(bench: Bench) -> None:
    with pytest.raises(OperatorFailedError) as caught:
        bench.run(through(pandas("raises", columns=TWICE)))
    assert caught.value.hint == (
        "to see its message, call it in Python on a DataFrame with the columns 'n', 'word', 'price', 'day', 'secret'"
    )
    arrow = node("f", "transform.arrow", function=f"{FUNCTIONS}:raises", columns={"n": "bigint"})
    with pytest.raises(OperatorFailedError, match="on a RecordBatch with the columns 'n', 'word'"):
        bench.run(through(arrow), "second")


def test_a_function_that_exits_fails_in_a_process_of_its_own_too(bench: Bench) -> None:
    with pytest.raises(OperatorFailedError, match=r"node 'f': the function \S+:leaves raised SystemExit"):
        bench.run(through(pandas("leaves", columns=TWICE, timeout_seconds=60)))


def test_a_function_that_hangs_is_ended(bench: Bench) -> None:
    with pytest.raises(NodeTimeoutError, match="node 'f' did not end within its 3 s"):
        bench.run(through(pandas("hangs", columns=TWICE, timeout_seconds=3)))


def test_a_function_that_takes_its_process_with_it(bench: Bench) -> None:
    with pytest.raises(OperatorFailedError, match="the process of node 'f' died"):
        bench.run(through(pandas("dies", columns=TWICE, timeout_seconds=60)))


@pytest.mark.parametrize("per", ["frame", "batch"])
def test_what_fails_before_a_function_is_not_waited_for_until_its_time_is_up(bench: Bench, per: str) -> None:
    cast = node("c", "transform.cast", columns={"word": "integer"})
    function = pandas("doubled", per=per, columns={**TWICE, "word": "integer"}, timeout_seconds=40)
    before = time.monotonic()
    with pytest.raises(BadRowsError, match="node 'c': a value in column 'word' is not integer"):
        bench.run(through(cast, function))
    assert time.monotonic() - before < 40
    assert [name for name, report in bench.reports.items() if report.error] == ["c"]


def test_a_function_in_a_process_of_its_own_gives_the_same(bench: Bench) -> None:
    rows = run_chain(bench, pandas("doubled", columns=TWICE, timeout_seconds=120), select="n, twice")
    assert rows[7] == (7, 14)


def test_a_process_of_its_own_does_not_know_what_opens_the_vault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = ("MASTER_PASSWORD", "KEY_FILE", "CATALOG_URL", "CELERY_BROKER", "CELERY_BACKEND")
    for name in [name for name in os.environ if name.startswith("SYNQX_")]:
        monkeypatch.delenv(name)
    for name in (*secret, "OF_THE_USER"):
        monkeypatch.setenv(f"SYNQX_{name}", "canary")
    asked = pandas("environment", columns={"names": "string"}, timeout_seconds=120)
    assert run_chain(bench, asked, select="names", order="1") == [("SYNQX_OF_THE_USER",)]


def test_a_frame_larger_than_the_memory_limit(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        "create table numbers (n integer, pad text)",
        "insert into numbers with recursive c(i) as (select 0 union all select i + 1 from c where i < 199999)"
        " select i, hex(randomblob(250)) from c",
    )
    wide = pandas("doubled", columns={"n": "bigint", "pad": "string", "twice": "bigint"})
    with pytest.raises(OperatorFailedError, match="larger than the pipeline's memory limit"):
        bench.run(through(wide), memory_bytes=64_000_000)


def test_a_function_is_called_for_no_rows(bench: Bench) -> None:
    empty = node("e", "transform.filter", condition="n < 0")
    count = node("f", "transform.pandas", function=f"{FUNCTIONS}:counted", columns={"rows": "bigint"})
    assert run_chain(bench, empty, count, order="1") == [(0,)]


@pytest.mark.parametrize(
    ("function", "declared"),
    [("halves", "real"), ("wall_clock", "timestamptz"), ("big", "float")],
    ids=["digits of a float", "a wall clock for a moment", "an integer beyond a float"],
)
def test_what_a_function_gives_is_not_changed_to_fit(bench: Bench, function: str, declared: str) -> None:
    made = node("f", "transform.pandas", function=f"{FUNCTIONS}:{function}", columns={"x": declared})
    with pytest.raises(OperatorFailedError, match="without loss"):
        bench.run(through(made))


@pytest.mark.parametrize("declared", ["real", "float"])
def test_a_decimal_is_a_float_as_far_as_all_its_digits_are_kept(bench: Bench, declared: str) -> None:
    def made(price: str) -> dict[str, Any]:
        return pandas("prices", columns={"x": declared}, parameters={"price": price})

    rows = run_chain(bench, made("-7.1"), select="x::varchar", order="x")
    assert rows == [("-7.1",)] * 999 + [(None,)]
    bench.run(through(node("none", "transform.filter", condition="n < 0"), made("-7.1")), "second")
    assert bench.fetch("select count(*) from loaded") == [(0,)]
    for price in ("12345678901234567890.12", "0.10000000000000000001", "9999999999999999.99"):
        with pytest.raises(OperatorFailedError, match="without loss"):
            bench.run(through(made(price)), price)
