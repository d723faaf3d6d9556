"""Expressions: one scalar over a row, in the source's dialect."""

from __future__ import annotations

import pytest

from synqx_dagster.errors import QueryRefusedError
from synqx_dagster.mapping.expressions import parse_expression, resolve_names

REFUSED = {
    "": "empty",
    "-- nothing": "empty",
    "a, b": "2 expressions",
    "a as b": "an alias",
    "a from t": "goes on",
    "a where b": "goes on",
    "a) from t where (b": "closes nothing",
    "1; select 2": "more than one",
    "*": "a star",
    "count(*)": "aggregate count",
    "max(a)": "aggregate max",
    "string_agg(a, ',')": "aggregate",
    "row_number() over ()": "window",
    "sum(a) over (partition by b)": "window",
    "(select 1)": "subquery",
    "exists (select 1)": "subquery",
    "a in (select b from t)": "subquery",
    "unnest(a)": "rows",
    "generate_series(1, 3)": "rows",
    "$1": "parameter",
    "customer.email": "'customer'",
    "pg_sleep(1)": "pg_sleep",
    "a +": "cannot be read",
    "(" * 500 + "a" + ")" * 500: "deeper",
    "not " * 3000 + "a": "too deep",
    "select 1": "cannot be read",
    "distinct a": "goes on",
}


@pytest.mark.parametrize("text", list(REFUSED))
def test_what_is_not_one_scalar_is_refused(text: str) -> None:
    with pytest.raises(QueryRefusedError) as caught:
        parse_expression(text, "postgres")
    assert REFUSED[text] in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "text", "names"),
    [
        ("postgres", 'lower(Email) || "Email"', ["email", "Email"]),
        ("postgres", "source.a + SOURCE.b", ["a", "b"]),
        ("postgres", "date_trunc('day', created_at) at time zone 'UTC'", ["created_at"]),
        ("postgres", "extract(year from d) + interval '1 day' * n", ["d", "n"]),
        ("postgres", "case when a then current_date end", ["a"]),
        ("mysql", "concat(`a b`, \"text\", _utf8'x')", ["a b"]),
        ("mysql", "date_add(d, interval 1 day)", ["d"]),
        ("sqlite", "max(a, b) || [c d]", ["a", "b", "c d"]),
        ("duckdb", "list_transform(a, x -> x + b)", ["a", "b"]),
        ("postgres", "1 -- c", []),
    ],
)
def test_the_columns_of_an_expression_are_found(dialect: str, text: str, names: list[str]) -> None:
    parsed = parse_expression(text, dialect)
    found, missing = resolve_names(parsed, ["email", "Email", "a", "b", "created_at", "d", "n", "a b", "c d"], dialect)
    assert list(found.values()) == names
    assert missing == []


def test_names_follow_the_rules_of_their_database() -> None:
    parsed = parse_expression('Name || "name" || "NAME"', "postgres")
    assert resolve_names(parsed, ["name", "Name"], "postgres") == (
        {("Name", False): "name", ("name", True): "name"},
        ["NAME"],
    )
    parsed = parse_expression('Name || "NAME"', "sqlite")
    assert resolve_names(parsed, ["nAmE"], "sqlite")[1] == []
    assert resolve_names(parse_expression("ÄB", "postgres"), ["Äb", "äb"], "postgres")[0] == {("ÄB", False): "Äb"}


def test_volatile_functions_are_known() -> None:
    assert parse_expression("random() * a", "postgres").is_volatile
    assert not parse_expression("now() > a", "postgres").is_volatile
