"""Lines of JSON: every digit kept, every type found by all lines, nothing quoted in an error."""

from __future__ import annotations

import json

import pytest
from synqx_connector_ndjson.lines import infer_columns, parse_line, plain_digits, to_carrier

from synqx_dagster.errors import BadRowsError
from synqx_dagster.model.types import DataType


def types_of(*lines: str) -> dict[str, str]:
    found = infer_columns(parse_line(line, at) for at, line in enumerate(lines, 1))
    return {name: str(facts.data_type) for name, facts in found.items()}


def test_a_type_is_what_all_lines_agree_on() -> None:
    assert types_of('{"a": 1, "b": true, "c": "x", "d": 1.50, "e": [1], "f": null}', '{"a": -2, "d": 100}') == {
        "a": "bigint",
        "b": "boolean",
        "c": "string",
        "d": "decimal(5,2)",
        "e": "json",
        "f": "string",
    }
    assert types_of('{"a": 1}', '{"a": "1"}') == {"a": "json"}
    assert types_of('{"a": 9223372036854775808}') == {"a": "decimal(19,0)"}
    assert types_of('{"a": 1e40}') == {"a": "decimal"}


def test_what_is_missing_is_nullable() -> None:
    found = infer_columns(parse_line(line, 1) for line in ('{"a": 1}', '{"a": 2, "b": 3}', '{"a": null}'))
    assert {name: facts.nullable for name, facts in found.items()} == {"a": True, "b": True}


@pytest.mark.parametrize(
    ("raw", "data_type", "carrier"),
    [
        ("123456789012345678901234567890.10", DataType("decimal", 32, 2), "123456789012345678901234567890.10"),
        ("1.5e3", DataType("decimal", 4, 0), "1500"),
        ("-0.0", DataType("decimal", 2, 1), "-0.0"),
        ('{"b": 1.0, "b": 2}', DataType("json"), '{"b": 1.0, "b": 2}'),
        ('"\\u00e9"', DataType("string"), "é"),
        ('"\\u00e9"', DataType("json"), '"\\u00e9"'),
        ("false", DataType("boolean"), False),
        ("null", DataType("json"), None),
    ],
)
def test_a_value_arrives_as_it_was_written(raw: str, data_type: DataType, carrier: object) -> None:
    assert to_carrier(parse_line(f'{{"v": {raw}}}', 1)["v"], data_type) == carrier


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        '"secret"',
        "{",
        '{"a": secret}',
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": 1} {"b": 2}',
        '{"a" 1}',
        '{"a": 1,}',
    ],
)
def test_a_line_that_is_no_object_is_named_and_not_quoted(line: str) -> None:
    with pytest.raises(BadRowsError, match="line 7 ") as caught:
        parse_line(line, 7)
    assert "secret" not in str(caught.value)


def test_an_exponent_is_written_out_within_reason() -> None:
    assert plain_digits("12e-3") == "0.012"
    with pytest.raises(BadRowsError, match="exponent"):
        plain_digits("1e999999999")


def test_keys_may_hold_anything() -> None:
    names = ["", "a b", 'quo"te', "select", "名前", "\n"]
    line = json.dumps(dict.fromkeys(names, 1))
    assert list(parse_line(line, 1)) == names
