"""Rules over values: compared in their column's type, checked before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from synqx_dagster.errors import PlanError
from synqx_dagster_tests.unit.pipelines.graphs import check, node, pipeline
from synqx_dagster_tests.unit.pipelines.steps import LOAD, READ, Bench, through


def judge(bench: Bench, value: str, rule: dict[str, Any]) -> int:
    """How many of a thousand rows with one value a rule sets aside."""
    derived = node("d", "transform.derive", columns={"x": value})
    valid = node("v", "validate.rules", rules=[{"column": "x", **rule}], on_bad_row="quarantine")
    bench.run(through(derived, valid, load=node("loaded", "load", on_bad_row="quarantine")))
    set_aside = bench.reports["v"].rows_quarantined
    assert set_aside in (0, 1000)
    return int(set_aside > 0)


BIG = "9007199254740993"


@pytest.mark.parametrize(
    ("value", "bounds", "bad"),
    [
        ("0.1::real", {"maximum": 0.1}, 0),
        ("0.1::real", {"minimum": 0.1}, 0),
        ("0.1::real", {"maximum": 0.09}, 1),
        ("16777216::real", {"minimum": 16777217}, 1),
        ("0.1::double", {"minimum": 0.1, "maximum": 0.1}, 0),
        (f"{BIG}::bigint", {"maximum": 9007199254740992.0}, 1),
        (f"{BIG}::bigint", {"minimum": 9007199254740992.5}, 0),
        (f"{BIG}::bigint", {"maximum": f"{BIG}.5"}, 0),
        (f"{BIG}::bigint", {"maximum": f"{BIG[:-1]}2.5"}, 1),
        ("5::tinyint", {"maximum": 1e40, "minimum": -(10**40)}, 0),
        ("5::tinyint", {"minimum": 1e40}, 1),
        ("null::tinyint", {"minimum": 1e40}, 0),
        ("null::tinyint", {"maximum": 1e40}, 0),
        ("null::decimal(38,30)", {"minimum": 0, "maximum": 1_000_000_000}, 0),
        ("99999999999999999999999999999999999999::hugeint", {"maximum": 99999999999999999999999999999999999998}, 1),
        (f"{BIG}.30::decimal(38,2)", {"maximum": f"{BIG}.3"}, 0),
        (f"{BIG}.30::decimal(38,2)", {"maximum": f"{BIG}.299999"}, 1),
        ("0.10::decimal(4,2)", {"maximum": 0.1, "minimum": 0.1}, 0),
        ("10000000000000000000000000000000000000::decimal(38,0)", {"minimum": 0.001, "maximum": 1e60}, 0),
        ("date '2024-05-01'", {"minimum": "2024-05-01", "maximum": "2024-05-01"}, 0),
        ("'b'", {"minimum": "a", "maximum": "c"}, 0),
    ],
)
def test_a_bound_is_compared_in_the_type_of_its_column(
    bench: Bench, value: str, bounds: dict[str, Any], bad: int
) -> None:
    assert judge(bench, value, {"check": "range", **bounds}) == bad


@pytest.mark.parametrize(
    ("value", "allowed", "bad"),
    [
        ("0.1::real", [0.1], 0),
        ("0.1::double", [0.1], 0),
        (f"{BIG}::bigint", [9007199254740992.0], 1),
        ("1::bigint", [1.5], 1),
        ("null::bigint", [1.5], 0),
        ("1.50::decimal(6,2)", [1.5, 2], 0),
        ("1.50::decimal(6,2)", [1.505], 1),
        ("true", [True], 0),
        ("'it''s'", ["it's"], 0),
    ],
)
def test_allowed_values_are_compared_in_the_type_of_their_column(
    bench: Bench, value: str, allowed: list[Any], bad: int
) -> None:
    assert judge(bench, value, {"check": "in", "values": allowed}) == bad


# --- before anything runs -------------------------------------------------------------------------------------------


def problem_of(rule: dict[str, Any], **types: str) -> tuple[str, str] | None:
    """Where the one problem with a rule is, behind nodes that declare types, and what it is."""
    cast = node("c", "transform.cast", columns=types) if types else node("c", "transform.filter", condition="true")
    renamed = node("r", "transform.rename", columns={"x": "y"})
    valid = node("v", "validate.rules", rules=[{"check": "not_null", "column": "y"}, {"column": "y", **rule}])
    made = pipeline([READ, cast, renamed, valid, LOAD], "numbers>c>r>v>loaded")
    problems = check(made)[1]
    if not problems:
        return None
    (problem,) = problems
    return ".".join(map(str, problem.path)), problem.message


@pytest.mark.parametrize(
    ("rule", "data_type", "place", "says"),
    [
        ({"check": "regex", "pattern": "[a"}, None, "pattern", "the pattern is no regular expression: missing ]: [a"),
        ({"check": "regex", "pattern": "(?=a)b"}, None, "pattern", "the pattern is no regular expression"),
        ({"check": "range", "minimum": 2, "maximum": 1.5}, None, "minimum", "the minimum 2 is larger than"),
        ({"check": "range", "minimum": float("nan")}, None, "minimum", "nan is no number that rows"),
        ({"check": "range", "minimum": "9", "maximum": "10"}, "string", "minimum", "the minimum 9 is larger than"),
        ({"check": "range", "minimum": "10", "maximum": "9"}, "bigint", "minimum", "the minimum 10 is larger than"),
        ({"check": "range", "maximum": "ten"}, "bigint", "maximum", "'ten' is no number, and the column is bigint"),
        ({"check": "range", "maximum": 10}, "string", "maximum", "10 is no text, and the column holds texts"),
        ({"check": "range", "maximum": "2024-13-01"}, "date", "maximum", "'2024-13-01' is no date"),
        ({"check": "range", "maximum": 7}, "timestamp", "maximum", "7 is no timestamp"),
        ({"check": "range", "minimum": "2024-10-1", "maximum": "2024-9-1"}, "date", "minimum", "is larger than"),
        ({"check": "in", "values": [1, True]}, "integer", "values.1", "true is no number, and the column is integer"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused_before_it_is_saved(
    rule: dict[str, Any], data_type: str | None, place: str, says: str
) -> None:
    found = problem_of(rule, **({"x": data_type} if data_type else {}))
    assert found is not None
    assert found[0] == f"nodes.3.config.rules.1.{place}"
    assert says in found[1]


@pytest.mark.parametrize(
    ("rule", "data_type"),
    [
        ({"check": "regex", "pattern": r"\d{2,3}|é"}, None),
        ({"check": "range", "minimum": "9", "maximum": "10"}, None),
        ({"check": "range", "minimum": "9", "maximum": "10"}, "decimal(9,2)"),
        ({"check": "range", "minimum": 1, "maximum": 1}, "real"),
        ({"check": "range", "minimum": "2024-09-01", "maximum": "2024-10-01"}, "timestamptz"),
        ({"check": "in", "values": [True]}, "boolean"),
        ({"check": "in", "values": ["1"]}, "string"),
    ],
)
def test_a_rule_that_can_hold_is_not_refused(rule: dict[str, Any], data_type: str | None) -> None:
    assert problem_of(rule, **({"x": data_type} if data_type else {})) is None


def test_types_that_the_source_knows_are_checked_before_rows_come(bench: Bench) -> None:
    valid = node("v", "validate.rules", rules=[{"check": "range", "column": "n", "minimum": "one"}])
    with pytest.raises(PlanError, match="node 'v': column 'n': 'one' is no number, and the column is bigint"):
        bench.run(through(valid))
