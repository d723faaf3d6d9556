"""Records refuse what makes no sense, and say it in the user's words."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synqx_dagster.model import Connection, Mapping, Pipeline, Schedule, Schema, TableName, dagster_name
from synqx_dagster.model.pipeline import find_cycle
from synqx_dagster.model.secret import LiteralSecret
from synqx_dagster.model.types import TYPE_KINDS, DataType

MAPPING = {
    "name": "customers",
    "source_connection": "shop",
    "source_table": "public.customer",
    "target_connection": "warehouse",
    "target_table": "analytics.customer",
}


def messages(error: ValidationError) -> str:
    return " | ".join(item["msg"] for item in error.errors(include_url=False, include_input=False))


@pytest.mark.parametrize(
    ("record", "values", "message"),
    [
        (Connection, {"name": "a", "db_type": "postgresql", "port": 0}, "greater than or equal to 1"),
        (Connection, {"name": "a", "db_type": "postgresql", "port": 70000}, "less than or equal to 65535"),
        (Connection, {"name": "a", "db_type": "postgresql", "hots": "x"}, "Extra inputs"),
        (Connection, {"name": "a", "db_type": "x", "host": "postgresql://u:hunter2@h/d"}, "looks like a URL"),
        (Connection, {"name": "a", "db_type": "x", "database": "postgresql://u:hunter2@h/d"}, "looks like a URL"),
        (Connection, {"name": "a", "db_type": "x", "host": "user:hunter2@h"}, "without user and password"),
        (Mapping, {**MAPPING, "target_table": "analytics._synqx_ledger"}, "SynqX's own"),
        (Connection, {"name": " a", "db_type": "postgresql"}, "begin or end with a blank"),
        (Connection, {"name": "a\nb", "db_type": "postgresql"}, "control characters"),
        (Connection, {"name": "数据", "db_type": "postgresql"}, "at least one ASCII"),
        (Connection, {"name": "a", "db_type": "postgresql", "password": 12}, "in quotes"),
        (Schema, {"name": "s", "columns": []}, "at least 1 item"),
        (Schema, {"name": "s", "columns": [{"name": "a", "data_type": "strng"}]}, "did you mean 'string'"),
        (Schema, {"name": "s", "columns": [{"name": "a", "data_type": "decimal(5,6)"}]}, "larger than its precision"),
        (Schema, {"name": "s", "columns": [{"name": "a", "data_type": "string"}] * 2}, "listed twice"),
        (
            Schema,
            {"name": "s", "columns": [{"name": "a", "data_type": "string"}], "primary_key": ["b"]},
            "not a column",
        ),
        (Mapping, {**MAPPING, "source_query": "select 1"}, "either source_table or source_query"),
        (Mapping, {**MAPPING, "source_table": None}, "either source_table or source_query"),
        (Mapping, {**MAPPING, "target_table": "a.b.c"}, "write table or schema.table"),
        (Mapping, {**MAPPING, "target_table": '"a'}, "quote is not closed"),
        (Mapping, {**MAPPING, "mode": "upsert"}, "'replace', 'append', 'merge' or 'scd2'"),
        (Mapping, {**MAPPING, "key": ["id"]}, "key is for the modes merge and scd2"),
        (Mapping, {**MAPPING, "mode": "merge", "key": ["id", "id"]}, "key names a column twice"),
        (Mapping, {**MAPPING, "mode": "merge", "history": {"valid_to": "x"}}, "history is for the mode scd2"),
        (Mapping, {**MAPPING, "mode": "scd2", "history": {"valid_to": "valid_from"}}, "two of its columns one name"),
        (Mapping, {**MAPPING, "cursor": {"column": "id"}}, "use merge or append"),
        (Mapping, {**MAPPING, "mode": "merge", "cursor": {"column": "id"}, "delete_missing": True}, "all rows"),
        (Mapping, {**MAPPING, "parallelism": 0}, "greater than or equal to 1"),
        (Mapping, {**MAPPING, "max_bad_rows": 5}, "max_bad_rows is for on_bad_row: quarantine"),
        (Mapping, {**MAPPING, "on_bad_row": "quarantine", "max_bad_rows": "many"}, "BadRowLimit"),
        (Mapping, {**MAPPING, "on_bad_row": "quarantine", "max_bad_rows": "101%"}, "between 0% and 100%"),
        (Mapping, {**MAPPING, "on_bad_row": "quarantine", "max_bad_rows": -1}, "not negative"),
        (Schedule, {"name": "s", "mapping": "m", "cron_expression": "* * * * *", "timezone": "Mars/X"}, "IANA"),
        (Schedule, {"name": "s", "mapping": "m", "cron_expression": "* * * * *", "timezone": "../etc"}, "IANA"),
        (Schedule, {"name": "s", "cron_expression": "* * * * *"}, "give mapping or pipeline"),
    ],
)
def test_bad_records_are_refused(record: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        record.model_validate(values)
    assert message in messages(caught.value)


def test_a_split_needs_a_delimiter() -> None:
    split = {"type": "split", "source_columns": ["a"], "target_fields": ["b", "c"], "config": {}}
    with pytest.raises(ValidationError) as caught:
        Mapping.model_validate({**MAPPING, "column_mappings": [split]})
    assert caught.value.errors()[0]["loc"][-1] == "delimiter"


@pytest.mark.parametrize(
    ("written", "bad_rows", "rows_in", "allowed"),
    [
        (0, 0, 10, True),
        (0, 1, 10, False),
        (5, 5, 5, True),
        (5, 6, 1000, False),
        ("0%", 1, 1000, False),
        ("0.5%", 5, 1000, True),
        ("0.5%", 6, 1000, False),
        ("100%", 3, 3, True),
    ],
)
def test_a_limit_of_bad_rows(written: int | str, bad_rows: int, rows_in: int, allowed: bool) -> None:
    mapping = Mapping.model_validate({**MAPPING, "on_bad_row": "quarantine", "max_bad_rows": written})
    assert mapping.max_bad_rows is not None
    assert mapping.max_bad_rows.allows(bad_rows, rows_in) is allowed
    assert mapping.model_dump(mode="json")["max_bad_rows"] == written
    assert Mapping.model_validate(mapping.model_dump(mode="json")) == mapping


def test_a_field_is_filled_once() -> None:
    direct = {"type": "direct", "source_columns": ["a"], "target_fields": ["b"]}
    with pytest.raises(ValidationError, match="fill the field 'b' twice"):
        Mapping.model_validate({**MAPPING, "column_mappings": [direct, direct]})


def test_a_pipelines_cycle_is_printed() -> None:
    nodes = [{"node_id": name, "config": {"mapping": name}} for name in "abc"]
    edges = [{"from_node_id": f, "to_node_id": t} for f, t in ("ab", "bc", "ca")]
    with pytest.raises(ValidationError, match="a -> b -> c -> a"):
        Pipeline.model_validate({"name": "p", "nodes": nodes, "edges": edges})


def test_a_literal_secret_neither_prints_nor_serialises() -> None:
    connection = Connection.model_validate({"name": "a", "db_type": "postgresql", "password": "hunter2-canary"})
    assert isinstance(connection.password, LiteralSecret)
    assert "hunter2" not in repr(connection)
    assert "hunter2" not in str(connection.password)
    with pytest.raises(Exception, match="must be sealed") as caught:
        connection.model_dump_json()
    assert "hunter2" not in str(caught.value)


def test_errors_do_not_echo_the_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        Connection.model_validate({"name": "a", "db_type": "x", "port": "no", "password": {"valeu": "hunter2"}})
    assert "hunter2" not in str(caught.value)


@given(st.text(min_size=1), st.none() | st.text(min_size=1))
def test_table_names_round_trip(name: str, schema: str | None) -> None:
    if "\x00" in name + (schema or ""):
        return
    table = TableName(name, schema)
    assert TableName.parse(str(table)) == table


@given(st.sampled_from(TYPE_KINDS), st.integers(1, 1000), st.integers(0, 1000))
def test_types_round_trip(kind: str, precision: int, scale: int) -> None:
    text = f"decimal({precision},{min(scale, precision)})" if kind == "decimal" else kind
    assert str(DataType.parse(text)) == text


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=4), max_size=8))
def test_a_cycle_is_found_just_when_there_is_one(raw: dict[int, list[int]]) -> None:
    graph = {str(node): [str(successor) for successor in following] for node, following in raw.items()}
    cycle = find_cycle(graph)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(after in graph[before] for before, after in itertools.pairwise(cycle))
        return
    # Without a cycle, removing nodes that lead nowhere empties the graph.
    left = {
        node: set(graph.get(node, ())) for node in {*graph, *(s for following in graph.values() for s in following)}
    }
    while leaves := [node for node, following in left.items() if not following & left.keys()]:
        for node in leaves:
            del left[node]
    assert not left


def test_long_chains_do_not_recurse() -> None:
    chain = {str(index): [str(index + 1)] for index in range(50_000)}
    assert find_cycle(chain) == ()
    chain["50000"] = ["0"]
    assert len(find_cycle(chain)) == 50_002


def test_dagster_names() -> None:
    assert dagster_name("User Backup Pipeline") == "User_Backup_Pipeline"
    assert dagster_name("größe-2") == "gr_e_2"
