"""Steps from end to end: rows add up node by node, failures name their node and leave the target as it was."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synqx_dagster.errors import (
    BadRowsError,
    FatalError,
    NodeTimeoutError,
    OperatorFailedError,
    PlanError,
    SourceChangedError,
)
from synqx_dagster.pipelines.database import StageDatabase
from synqx_dagster.pipelines.report import NodeReport
from synqx_dagster.pipelines.run import StepRequest, open_stored_step
from synqx_dagster_tests.unit.pipelines.graphs import graph, node
from synqx_dagster_tests.unit.pipelines.steps import LOAD, NUMBERS, READ, Bench, pandas, run_chain, through

# --- operators --------------------------------------------------------------------------------------------------


def test_rows_pass_unchanged(bench: Bench) -> None:
    rows = run_chain(bench, select="n, word, price::varchar, day::varchar")
    assert len(rows) == 1000
    assert rows[31] == (31, "w3", "31.25", "2024-01-02")


def test_select_and_rename(bench: Bench) -> None:
    nodes = [
        node("s", "transform.select", columns=["word", "n"]),
        node("r", "transform.rename", columns={"word": "Wort"}),
    ]
    run_chain(bench, *nodes)
    assert bench.fetch("describe loaded")[0][0] == "Wort"
    assert bench.fetch("select Wort from loaded where n = 8") == [("w1",)]


def test_derive_replaces_where_the_column_stands(bench: Bench) -> None:
    run_chain(bench, node("d", "transform.derive", columns={"word": "upper(word)", "tax": "price * 0.19"}))
    assert [row[0] for row in bench.fetch("describe loaded")] == ["n", "word", "price", "day", "secret", "tax"]
    assert bench.fetch("select word, tax::varchar from loaded where n = 4") == [("W4", "0.8075")]


def test_casts_are_exact_or_fail(bench: Bench) -> None:
    rows = run_chain(
        bench, node("c", "transform.cast", columns={"n": "string", "day": "timestamp"}), select="n, day::varchar"
    )
    assert rows[-1] == ("999", "2024-01-10 00:00:00")
    cast = node("c", "transform.cast", columns={"n": "string", "price": "integer"})
    with pytest.raises(BadRowsError, match=r"node 'c': a value in column 'price' is not integer"):
        bench.run(through(cast, load=node("other", "load")), "second")
    assert bench.fetch("select count(*) from loaded") == [(1000,)]


@pytest.mark.parametrize(
    ("config", "masked"),
    [
        ({"method": "hash"}, "sha256(secret)"),
        ({"method": "hash", "salt": "a'b"}, "sha256('a''b' || secret)"),
        ({"method": "redact"}, "'***'"),
        ({"method": "keep_last", "characters": 2}, "repeat('*', length(secret) - 2) || right(secret, 2)"),
        ({"method": "null"}, "null"),
    ],
)
def test_masks(bench: Bench, config: dict[str, Any], masked: str) -> None:
    run_chain(bench, node("m", "transform.mask", columns=["secret"], **config))
    expected = masked.replace("secret", "('canary-' || n)")
    assert bench.fetch(f"select count(*) from loaded where secret is not distinct from {expected}") == [(1000,)]


def test_filter_counts_what_passes(bench: Bench) -> None:
    run_chain(bench, node("f", "transform.filter", condition="n % 10 = 0 or word is null"))
    assert (bench.reports["f"].rows_in, bench.reports["f"].rows_out) == (1000, 100)
    assert (bench.reports["numbers"].rows_in, bench.reports["numbers"].rows_out) == (1000, 1000)
    assert (bench.reports["loaded"].rows_in, bench.reports["loaded"].rows_out) == (100, 100)


@pytest.mark.parametrize(
    ("how", "rows"), [("inner", 20), ("left", 1000), ("right", 30), ("full", 1010), ("semi", 20), ("anti", 980)]
)
def test_joins(tmp_path: Path, how: str, rows: int) -> None:
    bench = Bench(
        tmp_path,
        *NUMBERS,
        "create table names (id integer, n integer, word text)",
        "insert into names select n + 990 - 10, n + 980, 'x' || n from numbers where n < 30",
    )
    other = node("names", "extract")
    join = node("j", "transform.join", left="numbers", on={"n": "n"}, how=how)
    bench.run(graph([READ, other, join, LOAD], "numbers>j>loaded", "names>j"))
    assert bench.fetch("select count(*), count(n) from loaded") == [(rows, rows)]
    assert (bench.reports["j"].rows_in, bench.reports["j"].rows_out) == (1030, rows)
    if how not in ("semi", "anti"):
        assert "word_right" in [row[0] for row in bench.fetch("describe loaded")]


def test_union_matches_columns_by_name(bench: Bench) -> None:
    nodes = [
        READ,
        node("again", "extract", query="select secret, day, price, word, n from numbers"),
        node("u", "transform.union"),
        LOAD,
    ]
    bench.run(graph(nodes, "numbers>u>loaded", "again>u"))
    assert bench.fetch("select count(*), count(distinct n), max(secret) from loaded") == [(2000, 1000, "canary-999")]
    assert bench.reports["u"].rows_out == 2000


def test_union_refuses_other_columns(bench: Bench) -> None:
    nodes = [READ, node("less", "extract", query="select n from numbers"), node("u", "transform.union"), LOAD]
    with pytest.raises(PlanError, match="'less' gives no column 'word'"):
        bench.run(graph(nodes, "numbers>u>loaded", "less>u"))


def test_aggregate(bench: Bench) -> None:
    columns = {"total": "sum(price)", "rows": "count(*)", "spread": "max(n) - min(n)"}
    run_chain(bench, node("a", "transform.aggregate", group_by=["word"], columns=columns), order="word")
    assert bench.fetch("select word, total::varchar, rows, spread from loaded where word = 'w0'") == [
        ("w0", "71106.75", 143, 994)
    ]


def test_deduplicate_is_the_same_each_time(bench: Bench) -> None:
    keep = node("d", "transform.deduplicate", key=["word"], order_by=["-day"])
    first = run_chain(bench, keep)
    assert len(first) == 7
    assert all(str(row[3]) == "2024-01-30" for row in first)
    # Rows that come in another order are the same rows.
    bench.run(through(node("turned", "transform.sort", by=["-secret"]), keep), "second")
    assert bench.fetch("select * from loaded order by n") == first


def test_sample_takes_the_same_keys(bench: Bench) -> None:
    first = run_chain(bench, node("s", "transform.sample", percent=20, key=["n"]))
    assert 120 < len(first) < 280
    bench.run(through(node("s", "transform.sample", percent=20, key=["n"])), "second")
    assert bench.fetch("select * from loaded order by n") == first
    bench.run(through(node("s", "transform.sample", rows=5)), "third")
    assert bench.fetch("select count(*) from loaded") == [(5,)]


def test_sql_reads_its_inputs_by_name(bench: Bench) -> None:
    query = "select word, count(*) as c from numbers where n < 70 group by all having c > 5 order by word"
    rows = run_chain(bench, node("q", "transform.sql", query=query), order="word")
    assert rows == [(f"w{number}", 10) for number in range(7)]


def test_types_that_arrow_lacks_come_back(bench: Bench) -> None:
    query = (
        "select n, uuid() as u, n::hugeint * 100000000000000000000 as big, interval (n) month as span,"
        " 'a'::enum('a', 'b') as choice, [n, null] as list from numbers"
    )
    nodes = [
        node("q", "transform.sql", query=query),
        node("f", "transform.filter", condition="big >= 0"),
        node("d", "transform.derive", columns={"kind": "typeof(u) || typeof(big) || typeof(span) || typeof(list)"}),
    ]
    rows = run_chain(bench, *nodes, select="kind, big::varchar, span::varchar, list::varchar, choice::varchar")
    assert rows[13] == ("UUIDHUGEINTINTERVALBIGINT[]", "1300000000000000000000", "1 year 1 month", "[13, NULL]", "a")


def test_a_chain_of_a_hundred_nodes(bench: Bench) -> None:
    nodes = [node(f"d{number}", "transform.derive", columns={"n": "n + 1"}) for number in range(100)]
    assert run_chain(bench, *nodes, select="min(n), max(n)", order="1") == [(100, 1099)]
    assert bench.reports["d99"].rows_out == 1000


def bytes_within(directory: Path) -> int:
    """The size of the files within a directory, of which any may vanish meanwhile."""
    found = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                found += (Path(folder) / name).stat().st_size
    return found


@contextmanager
def watched_spill(directory: Path) -> Iterator[list[int]]:
    """How many bytes lie in a bench's directory for spilling, again and again."""
    spilled = [0]

    def watch() -> None:
        while not done.wait(0.02):
            spilled.append(bytes_within(directory / "spill"))

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield spilled
    finally:
        done.set()
        watcher.join()


def test_a_join_larger_than_the_memory_spills(tmp_path: Path) -> None:
    # 66 MB of text on either side do not fit into 64; rows that are much wider DuckDB could not part at all.
    filled = "with recursive c(i) as (select 0 union all select i + 1 from c where i < 149999) select i, "
    bench = Bench(
        tmp_path,
        "create table numbers (n integer, pad text)",
        "create table names (n integer, other text)",
        f"insert into numbers {filled} hex(randomblob(220)) from c",
        f"insert into names {filled} hex(randomblob(220)) from c",
    )
    join = node("j", "transform.join", left="numbers", on=["n"])
    sums = {"rows": "count(*)", "keys": "count(distinct n)", "left": "sum(length(pad))", "right": "sum(length(other))"}
    nodes = [READ, node("names", "extract"), join, node("a", "transform.aggregate", columns=sums), LOAD]
    with watched_spill(tmp_path) as spilled:
        bench.run(graph(nodes, "numbers>j>a>loaded", "names>j"), memory_bytes=64_000_000)
    assert max(spilled) > 0
    assert bench.fetch("select * from loaded") == [(150_000, 150_000, 66_000_000, 66_000_000)]
    assert not list((tmp_path / "spill").iterdir())


@pytest.mark.slow
def test_a_sort_larger_than_the_memory_spills(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        "create table numbers (n integer, pad text)",
        "insert into numbers with recursive c(i) as (select 0 union all select i + 1 from c where i < 399999)"
        " select i, hex(randomblob(200)) from c",
    )
    with watched_spill(tmp_path) as spilled:
        bench.run(through(node("s", "transform.sort", by=["pad"])), memory_bytes=150_000_000)
    assert max(spilled) > 0
    assert bench.fetch("select count(*), count(distinct n) from loaded") == [(400_000, 400_000)]
    in_order = (
        "select bool_and(before <= pad) from (select pad, lag(pad, 1, '') over (order by rowid) as before from loaded)"
    )
    assert bench.fetch(in_order) == [(True,)]
    assert not list((tmp_path / "spill").iterdir())


# --- validation -----------------------------------------------------------------------------------------------------

RULES: list[tuple[dict[str, Any], int, str]] = [
    ({"check": "not_null", "column": "gap"}, 334, "is null"),
    ({"check": "range", "column": "n", "minimum": 10, "maximum": 989}, 20, "is not at least 10 and at most 989"),
    ({"check": "in", "column": "word", "values": ["w1", "w2", "it's"]}, 714, "is not one of the allowed values"),
    ({"check": "regex", "column": "secret", "pattern": "canary-[0-9]{1,2}"}, 900, "does not match canary-[0-9]{1,2}"),
    ({"check": "expression", "condition": "price < 990", "message": "too dear"}, 10, "too dear"),
    ({"check": "unique", "columns": ["word", "day"]}, 1000, "occurs more than once"),
]


@pytest.mark.parametrize(("rule", "bad", "reason"), RULES, ids=[rule["check"] for rule, _, _ in RULES])
def test_rules_set_rows_aside_in_the_load_s_transaction(
    bench: Bench, rule: dict[str, Any], bad: int, reason: str
) -> None:
    gap = node("g", "transform.derive", columns={"gap": "case when n % 3 > 0 then n end"})
    valid = node("v", "validate.rules", rules=[rule], on_bad_row="quarantine", key=["N"])
    bench.run(through(gap, valid, load=node("loaded", "load", on_bad_row="quarantine")))
    report = bench.reports["v"]
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (1000, 1000 - bad, bad)
    assert (bench.reports["loaded"].rows_in, bench.reports["loaded"].rows_out) == (1000, 1000 - bad)
    kept = bench.fetch("select reason, source_row, source_key from _synqx_quarantine")
    assert len(kept) == bad
    for why, row, key in kept[:3]:
        assert reason in why
        assert '"secret":"canary-' in row
        assert key is not None


@pytest.mark.parametrize(
    ("value", "minimum", "bad"),
    [("'nan'", "a", 0), ("'nan'::double", 0, 1), ("'nan'::real", 0, 1), ("null::double", 0, 0)],
    ids=["a text", "a float", "a real", "null"],
)
def test_nan_is_in_no_range_and_a_text_of_that_name_is(bench: Bench, value: str, minimum: Any, bad: int) -> None:
    other = "'b'" if minimum == "a" else "1"
    derived = node("d", "transform.derive", columns={"x": f"case n when 1 then {value} else {other} end"})
    rules = [{"check": "range", "column": "x", "minimum": minimum}]
    valid = node("v", "validate.rules", rules=rules, on_bad_row="quarantine")
    bench.run(through(derived, valid, load=node("loaded", "load", on_bad_row="quarantine")))
    assert bench.reports["v"].rows_quarantined == bad


def test_rules_that_fail_load_nothing(bench: Bench) -> None:
    bench.run(through())
    valid = node("v", "validate.rules", rules=[{"check": "range", "column": "n", "maximum": 900}])
    with pytest.raises(
        BadRowsError, match=r"node 'v': 99 of 1,000 rows break its rules: n: is not at most 900"
    ) as caught:
        bench.run(through(valid), "second")
    assert "canary" not in str(caught.value)
    assert bench.fetch("select count(*) from loaded") == [(1000,)]


def test_too_many_bad_rows_load_nothing(bench: Bench) -> None:
    rules = [{"check": "range", "column": "n", "maximum": 900}]
    valid = node("v", "validate.rules", rules=rules, on_bad_row="quarantine", max_bad_rows="5%")
    with pytest.raises(BadRowsError, match="max_bad_rows allows 5%"):
        bench.run(through(valid, load=node("loaded", "load", on_bad_row="quarantine")))


def test_stored_rows_bring_their_bad_rows_to_the_load_that_keeps_them(bench: Bench) -> None:
    rules = [{"check": "range", "column": "n", "maximum": 900}]
    valid = node("v", "validate.rules", rules=rules, on_bad_row="quarantine", quarantine="loaded")
    loads = [node("loaded", "load", on_bad_row="quarantine"), node("other", "load")]
    results = bench.run(graph([READ, valid, *loads], "numbers>v>loaded", "v>other"))
    assert results["loaded"].load.rows_quarantined == 99
    assert results["other"].load.rows_quarantined == 0
    assert bench.fetch("select count(*) from _synqx_quarantine") == [(99,)]
    assert bench.fetch("select count(*) from other") == [(901,)]


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_table_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(SourceChangedError, match="nowhere"):
        bench.run(graph([node("a", "extract", table="nowhere"), LOAD], "a>loaded"))


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: node("d", "transform.derive", columns={"x": "word + price"}), PlanError),
        (lambda: node("d", "transform.sql", query="select nothing from numbers"), PlanError),
        (lambda: node("d", "transform.derive", columns={"x": "cast(secret as integer)"}), FatalError),
    ],
    ids=["types that do not fit", "a column that is not there", "a value that fails"],
)
def test_sql_that_fails_names_its_node_and_no_value(
    bench: Bench, made: Callable[[], dict[str, Any]], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        bench.run(through(made()))
    assert "'d'" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_the_same_load_twice_is_made_once(bench: Bench) -> None:
    load = node("loaded", "load", mode="append")
    first = bench.run(through(load=load))["loaded"].load
    second = bench.run(through(load=load))["loaded"].load
    assert (first.already_committed, second.already_committed) == (False, True)
    assert bench.fetch("select count(*) from loaded") == [(1000,)]


def test_an_incremental_extract_goes_on_from_the_ledger(bench: Bench) -> None:
    import sqlite3

    read = node("numbers", "extract.incremental", cursor={"column": "n"})
    made = graph([read, node("loaded", "load", mode="merge", key=["n"])], "numbers>loaded")
    assert bench.run(made, "one")["loaded"].load.rows_in == 1000
    with sqlite3.connect(bench.directory / "source.db") as source:
        source.execute("insert into numbers values (1000, 'new', '1.00', '2024-01-01', 'canary')")
    source.close()
    result = bench.run(made, "two")["loaded"].load
    # The row at the watermark is read again.
    assert (result.rows_in, result.rows_inserted, result.watermark_after) == (2, 1, "1000")
    assert bench.fetch("select count(*) from loaded") == [(1001,)]


def test_every_row_is_judged_although_nobody_reads_it(bench: Bench) -> None:
    valid = node("v", "validate.rules", rules=[{"check": "range", "column": "n", "maximum": 998}])
    few = node("few", "transform.sample", rows=5)
    with pytest.raises(BadRowsError, match="node 'v': 1 of 1,000 rows break its rules"):
        bench.run(through(valid, few))
    kept = node(
        "v", "validate.rules", rules=[{"check": "range", "column": "n", "maximum": 900}], on_bad_row="quarantine"
    )
    bench.run(through(kept, few, load=node("loaded", "load", on_bad_row="quarantine")))
    assert bench.fetch("select count(*) from loaded") == [(5,)]
    assert bench.fetch("select count(*) from _synqx_quarantine") == [(99,)]


def test_an_error_is_of_the_node_that_failed_and_not_of_one_that_reads_it(bench: Bench) -> None:
    valid = node("v", "validate.rules", rules=[{"check": "not_null", "column": "n"}])
    with pytest.raises(OperatorFailedError) as caught:
        bench.run(through(pandas("raises"), node("o", "transform.filter", condition="n > 0"), valid))
    assert caught.value.message.startswith("node 'f': the function")
    assert [name for name, report in bench.reports.items() if report.error] == ["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("n", "n + 0.5::double"), ("day::timestamp", "day::timestamptz"), ("n", "n::varchar")],
    ids=["integers and floats", "two kinds of moments", "numbers and texts"],
)
def test_columns_without_a_type_in_common_are_neither_joined_nor_united(bench: Bench, one: str, other: str) -> None:
    ends = [
        READ,
        node("again", "extract", table="numbers"),
        node("x", "transform.sql", query=f"select {one} as k from numbers"),
        node("y", "transform.sql", query=f"select {other} as k from again"),
        LOAD,
    ]
    for both in (node("b", "transform.union"), node("b", "transform.join", left="x", on=["k"])):
        with pytest.raises(PlanError, match=r"node 'b': the columns 'k' .* have no type in common"):
            bench.run(graph([*ends[:-1], both, LOAD], "numbers>x>b>loaded", "again>y>b"))


def test_types_are_compared_with_the_first_input_that_has_the_column(bench: Bench) -> None:
    nodes = [
        READ,
        node("x", "extract", query="select n as k from numbers"),
        node("y", "extract", query="select word as K from numbers"),
        node("u", "transform.union", missing_columns="null"),
        LOAD,
    ]
    with pytest.raises(PlanError, match=r"node 'u': the columns 'k' .* and 'K' .* have no type in common"):
        bench.run(graph(nodes, "numbers>u>loaded", "x>u", "y>u"))


def test_a_rename_to_a_name_that_is_there_is_refused_once_the_columns_are_known(bench: Bench) -> None:
    with pytest.raises(PlanError, match="node 'r': the column 'word' would be there twice"):
        bench.run(through(node("r", "transform.rename", columns={"secret": "word"})))


def test_two_attempts_at_a_stored_step_keep_apart(bench: Bench) -> None:
    made = graph([READ, node("l1", "load"), node("l2", "load")], "numbers>l1", "numbers>l2")
    bench.run(made)
    folder = bench.directory / "exchange" / "p" / "run" / "numbers"
    first = bench.exchange.find(("p", "run", "numbers"))
    bench.run(made)
    second = bench.exchange.find(("p", "run", "numbers"))
    assert first is not None
    assert second is not None
    assert first.attempt != second.attempt
    assert {entry.name for entry in folder.iterdir()} == {first.attempt, second.attempt, "dataset.json"}
    # An attempt that comes late takes nothing away from who reads the other one.
    assert sum(batch.num_rows for batch in bench.exchange.read(("p", "run", "numbers"), first).iter_batches()) == 1000


def test_sql_that_hangs_is_ended_when_its_time_is_up(bench: Bench) -> None:
    endless = (
        "select count(*) as c from (select n, unnest(range(1000000)) as i from numbers) a,"
        " (select unnest(range(1000000)) as j) b where (a.i * b.j + a.n) % 7 = 5"
    )
    before = time.monotonic()
    with pytest.raises(NodeTimeoutError, match="node 'q' did not end within its 1 s"):
        bench.run(through(node("q", "transform.sql", query=endless, timeout_seconds=1)))
    assert time.monotonic() - before < 30
    assert [name for name, report in bench.reports.items() if report.error] == ["q"]


def test_who_wants_no_more_rows_hears_of_no_time_out(bench: Bench) -> None:
    made = graph([{**READ, "stored": True, "timeout_seconds": 600}, LOAD], "numbers>loaded")
    reports: list[NodeReport] = []
    request = StepRequest(
        graph=made,
        step=made.steps[0],
        connectors=bench.connectors,
        schemas={},
        exchange=bench.exchange,
        inputs={},
        run_id="run",
        load_id="run",
        memory_bytes=256_000_000,
        spill=bench.directory / "spill",
        on_reports=reports.extend,
    )
    with open_stored_step(request) as (stream, _):
        rows = stream.iter_batches()
        assert isinstance(rows, Generator)
        next(rows)
        # The node's time is up while nobody reads; to wait for it would be to guess how long the first rows take.
        (timer,) = stream._timers
        timer.cancel()
        timer.function(*timer.args, **timer.kwargs)
        rows.close()
    assert [report.error for report in reports] == [None]


def test_what_fails_after_a_limit_says_of_what(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64())])
    stage = StageDatabase(["x"], 128_000_000, tmp_path)
    try:
        batches = (pa.record_batch([list(range(2048))], schema=schema) for _ in range(1000))
        stage.register("many", schema, batches)
        assert sum(batch.num_rows for batch in stage.stream("select * from many limit 5", 1000)) == 5
        stage.connection.unregister("many")
        with pytest.raises(OperatorFailedError, match="failed in DuckDB: ConversionException"):
            list(stage.stream("select cast('x' || n as integer) from range(9) t(n)", 1000))
    finally:
        stage.close()
