"""What is found wrong without a connection, with its place."""

from __future__ import annotations

from typing import Any

import pytest

from synqx_dagster.mapping.check import check_mapping
from synqx_dagster_tests.unit.mapping.test_compile import direct, expression, record, schema

SPLIT = {"type": "split", "source_columns": ["n"], "target_fields": ["first", "lsat"], "config": {"delimiter": " "}}


def found(problems: Any) -> list[tuple[str, str, str | None]]:
    return [(problem.location.field, problem.message, problem.hint) for problem in problems]


def test_a_sound_mapping_has_no_problem() -> None:
    mapping = record([direct("a", "id"), expression("lower(b)", "first"), {**SPLIT, "target_fields": ["x", "y"]}])
    target = schema({"id": "integer", "first": "string", "x": "string", "y": "date"}, key=("id",))
    assert check_mapping(mapping, target, source_dialect="postgres") == []
    assert check_mapping(record(), target, source_dialect="postgres") == []


def test_all_problems_are_found_at_once_each_with_its_place() -> None:
    mapping = record(
        [
            direct("a", "idd"),
            SPLIT,
            expression("count(*)", "n"),
            {"type": "constant", "value": "soon", "target_fields": ["since"]},
            {"type": "hash", "source_columns": ["a"], "target_fields": ["raw"]},
        ],
        source_table=None,
        source_query="delete from t",
    )
    target = schema(
        {"id": "integer", "first": "string", "last": "string", "n": "integer", "since": "date", "raw": "binary"},
        key=("id",),
    )
    problems = found(check_mapping(mapping, target, source_dialect="postgres"))
    assert [(place, hint) for place, _, hint in problems if hint and "did you mean" in hint] == [
        ("column_mappings[0].target_fields[0]", "did you mean 'id'?"),
        ("column_mappings[1].target_fields[1]", "did you mean 'last'?"),
    ]
    assert [place for place, _, _ in problems] == [
        "source_query",
        "column_mappings[0].target_fields[0]",
        "column_mappings[1].target_fields[1]",
        "column_mappings[2].expression",
        "column_mappings[3].value",
        "column_mappings[4].target_fields",
        "column_mappings",
    ]
    assert "nothing fills the field 'id'" in problems[-1][1]
    assert "soon" not in str(problems)


@pytest.mark.parametrize("dialect", ["postgres", "mysql", "sqlite", "duckdb"])
def test_expressions_are_read_in_the_sources_dialect(dialect: str) -> None:
    mapping = record([expression("`a b` || 1", "x")])
    problems = check_mapping(mapping, None, source_dialect=dialect)
    assert bool(problems) == (dialect in ("postgres", "duckdb"))
