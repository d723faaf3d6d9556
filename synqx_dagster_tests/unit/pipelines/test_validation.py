"""Rules over values: compared in their column's type, checked before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from synqx_dagster_tests.unit.pipelines.graphs import node
from synqx_dagster_tests.unit.pipelines.steps import Bench, through


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
