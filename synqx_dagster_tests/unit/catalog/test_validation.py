"""What is wrong with a record, in the user's words."""

from __future__ import annotations

from typing import Any

import pytest

from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.catalog.yaml_tree import format_path
from synqx_dagster.model import RecordKind
from synqx_dagster_tests.unit.catalog import records

CONNECTION = {"name": "shop", "db_type": "postgresql"}
MAPPING = {
    "name": "m",
    "source_connection": "a",
    "source_table": "t",
    "target_connection": "b",
    "target_table": "t",
}
SCHEDULE = {"name": "s", "mapping": "m", "cron_expression": "0 2 * * *"}
SECRET_FORMS = "{env: NAME}, {file: PATH}, {sealed: true} or the value in quotes"


def problems_of(kind: RecordKind, values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidRecordError) as caught:
        build_record(kind, values)
    problems = caught.value.problems
    assert len({problem.path for problem in problems}) == len(problems), "two problems at one place"
    return {
        format_path(problem.path): problem.message + (f" ({problem.hint})" if problem.hint else "")
        for problem in problems
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"port": 0}, {"port": "must be at least 1"}),
        ({"port": 70000}, {"port": "must be at most 65535"}),
        ({"port": "5432"}, {"port": "must be a whole number: decimal digits, without quotes"}),
        ({"port": "0o17"}, {"port": "must be a whole number: decimal digits, without quotes"}),
        ({"port": 54.5}, {"port": "must be a whole number"}),
        ({"port": True}, {"port": "must be a whole number"}),
        ({"port": 10**30}, {"port": "must be at most 65535"}),
        ({"host": 5}, {"host": "must be text: put it in quotes"}),
        ({"host": ["a"]}, {"host": "must be text"}),
        ({"host": ""}, {"host": "must not be empty"}),
        ({"host": "x" * 256}, {"host": "must have at most 255 characters"}),
        ({"pool": {"sise": 3}}, {"pool.sise": "unknown key 'sise' (did you mean 'size'?)"}),
        ({"pool": 3}, {"pool": "must be keys with values"}),
        ({"pool": {"timeout_seconds": 0}}, {"pool.timeout_seconds": "must be more than 0"}),
        ({"options": []}, {"options": "must be keys with values"}),
        ({"options": {"a": [1]}}, {"options.a": "must be text, a whole number, a number or true or false"}),
        ({"password": 5}, {"password": "write a secret in quotes: YAML read this one as a number"}),
        ({"password": True}, {"password": f"must be {SECRET_FORMS}"}),
        ({"password": []}, {"password": f"must be {SECRET_FORMS}"}),
        ({"password": {}}, {"password": f"must be {SECRET_FORMS}"}),
        ({"password": {"enw": "A"}}, {"password": f"must be {SECRET_FORMS}"}),
        (
            {"password": {"env": "a b"}},
            {"password.env": "must be the name of an environment variable, such as SHOP_PASSWORD"},
        ),
        ({"password": {"file": 5}}, {"password.file": "must be text: put it in quotes"}),
        (
            {"password": {"env": "A", "file": "/b"}},
            {"password.file": "unknown key 'file' (known keys: env)"},
        ),
        ({"password": {"sealed": False}}, {"password.sealed": "must be true"}),
        (
            {"password": {"sealed": True, "version": 2}},
            {"password.version": "only the catalog gives versions; write {sealed: true}"},
        ),
        ({"name": None}, {"name": "must be text"}),
        ({"name": " x"}, {"name": "a name must not begin or end with a blank"}),
    ],
)
def test_connections(values: dict[str, Any], expected: dict[str, str]) -> None:
    assert problems_of("connection", CONNECTION | values) == expected


@pytest.mark.parametrize(
    ("column_mapping", "expected"),
    [
        ({"type": "splitt"}, {".type": "there is no such type of column mapping (did you mean 'split'?)"}),
        (
            {"source_columns": ["a"]},
            {"": "type is missing (types: direct, split, join, expression, constant, hash)"},
        ),
        (3, {"": "must be keys with values"}),
        (
            {"type": "split", "source_columns": ["a"], "target_fields": ["b"], "config": {"delim": ","}},
            {
                ".target_fields": "must have at least 2 items",
                ".config.delimiter": "delimiter is missing",
                ".config.delim": "unknown key 'delim' (did you mean 'delimiter'?)",
            },
        ),
        (
            {"type": "split", "source_columns": ["a"], "target_fields": ["b", "c"]},
            {".config": "config is missing (write config: {delimiter: ...})"},
        ),
        (
            {"type": "direct", "source_columns": ["a", "b"], "target_fields": []},
            {
                ".source_columns": "must have at most 1 item, not 2",
                ".target_fields": "must have at least 1 item",
            },
        ),
        (
            {"type": "direct", "source_columns": [""], "target_fields": ["a"]},
            {".source_columns[0]": "must not be empty"},
        ),
        (
            {"type": "constant", "value": [1], "target_fields": ["a"]},
            {".value": "must be text, a whole number, a number or true or false"},
        ),
    ],
)
def test_column_mappings(column_mapping: Any, expected: dict[str, str]) -> None:
    found = problems_of("mapping", MAPPING | {"column_mappings": [column_mapping]})
    assert found == {f"column_mappings[0]{path}": message for path, message in expected.items()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mapping": ["a", 4]}, {"mapping[1]": "must be text: put it in quotes"}),
        ({"mapping": {"a": 1}}, {"mapping": "must be text or a list"}),
        ({"mapping": 4}, {"mapping": "must be text or a list"}),
        ({"mapping": " a"}, {"mapping": "a name must not begin or end with a blank"}),
        ({"enabled": "yes"}, {"enabled": "must be true or false"}),
        ({"enabled": 1}, {"enabled": "must be true or false"}),
        (
            {"timezone": "Europe/Berln"},
            {"timezone": "'Europe/Berln' is not a time zone of the IANA database, such as Europe/Berlin"},
        ),
        ({"mapping": None}, {"": "give mapping or pipeline: what the schedule runs"}),
    ],
)
def test_schedules(values: dict[str, Any], expected: dict[str, str]) -> None:
    assert problems_of("schedule", SCHEDULE | values) == expected


def test_one_wrong_item_is_one_problem() -> None:
    """Pydantic counts wrong items as missing and would say that the list is too short as well."""
    found = problems_of("schema", {"name": "s", "columns": [{"name": "a", "data_type": "strng"}]})
    assert list(found) == ["columns[0].data_type"]


def test_choices() -> None:
    assert problems_of("mapping", MAPPING | {"mode": "replce"}) == {
        "mode": "must be 'replace', 'append', 'merge' or 'scd2' (did you mean 'replace'?)"
    }


def test_every_problem_at_once() -> None:
    found = problems_of("connection", {"port": 0, "hots": "x", "password": {"env": "1"}})
    assert set(found) == {"port", "hots", "password.env", "name", "db_type"}


def test_no_message_repeats_a_secret() -> None:
    canary = "hunter2 with spaces"
    for password in ({"env": canary}, {"sealed": canary}, [canary], {"value": [canary]}, {canary: 1}):
        found = problems_of("connection", CONNECTION | {"password": password})
        assert canary not in str(found)


@pytest.mark.parametrize("value", ["1", 1, 1.0, True, None])
def test_values_keep_their_type(value: Any) -> None:
    record = records.mapping(column_mappings=[{"type": "constant", "value": value, "target_fields": ["a"]}])
    assert record.column_mappings is not None
    found = record.column_mappings[0].value  # type: ignore[union-attr]
    assert found == value
    assert type(found) is type(value)
