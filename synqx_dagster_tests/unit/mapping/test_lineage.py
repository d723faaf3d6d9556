"""Lineage: from target fields to the columns of source tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.mapping.lineage import lineage_digest, trace_lineage
from synqx_dagster.model import TableName
from synqx_dagster_tests.unit.mapping.test_compile import column, direct, expression, record, schema


def traced(query: str, *, dialect: str = "postgres", columns: list[str] | None = None, tables: Any = None) -> Any:
    mapping = record(source_table=None, source_query=query)
    known = [column(name) for name in columns] if columns is not None else None
    names = {TableName.parse(name): found for name, found in (tables or {}).items()}
    lineage = trace_lineage(mapping, None, known, dialect=dialect, tables=names)
    return (
        [str(table) for table in lineage.tables],
        {field: [f"{table}.{name}" for table, name in origins] for field, origins in lineage.columns.items()},
    )


def test_a_table_is_traced_through_every_kind_of_mapping() -> None:
    mapping = record(
        [
            direct("id", "key"),
            {"type": "split", "source_columns": ["n"], "target_fields": ["a", "b"], "config": {"delimiter": " "}},
            {"type": "join", "source_columns": ["x", "y"], "target_fields": ["j"], "config": {"separator": ""}},
            {"type": "hash", "source_columns": ["n"], "target_fields": ["h"]},
            {"type": "constant", "value": 1, "target_fields": ["c"]},
            expression('lower(Email) || "Q" || email', "e"),
            expression("not ) sql", "broken"),
        ]
    )
    lineage = trace_lineage(mapping, None, None, dialect="postgres")
    table = TableName("customer", "public")
    assert lineage.tables == (table,)
    assert lineage.columns == {
        "key": ((table, "id"),),
        "a": ((table, "n"),),
        "b": ((table, "n"),),
        "j": ((table, "x"), (table, "y")),
        "h": ((table, "n"),),
        "c": (),
        "e": ((table, "email"), (table, "Q")),
        "broken": (),
    }


def test_a_mirror_knows_its_columns_from_the_schema_or_the_source() -> None:
    assert trace_lineage(record(), None, None, dialect="postgres").columns == {}
    table = TableName("customer", "public")
    target = schema({"a": "string"})
    assert trace_lineage(record(), target, None, dialect="postgres").columns == {"a": ((table, "a"),)}
    assert trace_lineage(record(), None, [column("b")], dialect="postgres").columns == {"b": ((table, "b"),)}


QUERIES = [
    (
        'select id, full_name as "Name", a||b c from Customer where x',
        ["customer"],
        {"id": ["customer.id"], "Name": ["customer.full_name"], "c": ["customer.a", "customer.b"]},
    ),
    (
        "select c.id, o.total, c.a + o.b as s from public.customer c join orders o on o.cid = c.id",
        ["public.customer", "orders"],
        {"id": ["public.customer.id"], "total": ["orders.total"], "s": ["public.customer.a", "orders.b"]},
    ),
    ("select n from a, b", ["a", "b"], {"n": ["None.n"]}),
    (
        "with a as (select id, x as y from t), b as (select * from a) select y, id as i, "
        "(select max(z) from u where u.id = b.id) m from b",
        ["t", "u"],
        {"y": ["t.x"], "i": ["t.id"], "m": ["u.z", "u.id", "t.id"]},
    ),
    ("select a, b from t union all select c, d from u", ["t", "u"], {"a": ["t.a", "u.c"], "b": ["t.b", "u.d"]}),
    (
        "with recursive r as (select 1 as n, id from t union all select n + 1, r.id from r) select n, id from r",
        ["t"],
        {"n": [], "id": ["t.id"]},
    ),
    ("with v(q) as (select id from t) select q from v", ["t"], {"q": ["t.id"]}),
    ("select z.a from (select b from u) z(a)", ["u"], {"a": ["u.b"]}),
    ("select x.v from t, lateral (select t.a + 1 as v) x", ["t"], {"v": ["t.a"]}),
    ("select row_number() over (partition by k order by z) rn from t", ["t"], {"rn": ["t.k", "t.z"]}),
    ("with unused as (select id from zz), c as (select 1 as id) select id from t", ["zz", "t"], {"id": ["t.id"]}),
    ("select g from generate_series(1, 3) g", [], {"g": ["None.g"]}),
    ("select 1 as one", [], {"one": []}),
    ('select \'it\'\'s\' as "Ä.b", "Ä" as c from "T x"', ["T x"], {"Ä.b": [], "c": ["T x.Ä"]}),
    ("select * from t", ["t"], {}),
    ("select id from a.b.c", ["b.c"], {"id": ["b.c.id"]}),
]


@pytest.mark.parametrize(("query", "tables", "columns"), QUERIES, ids=[query[:40] for query, _, _ in QUERIES])
def test_queries_are_traced(query: str, tables: list[str], columns: dict[str, list[str]]) -> None:
    assert traced(query) == (tables, columns)


def test_known_columns_expand_stars_and_settle_whose_a_column_is() -> None:
    tables = {"customer": ["id", "name"], "orders": ["total", "cid"]}
    query = "select * from customer c join orders o on o.cid = c.id"
    assert traced(query, columns=["id", "name", "total"], tables=tables)[1] == {
        "id": ["customer.id"],
        "name": ["customer.name"],
        "total": ["orders.total"],
    }
    assert traced("select name, total from customer, orders", tables=tables)[1] == {
        "name": ["customer.name"],
        "total": ["orders.total"],
    }
    assert traced("select o.* from t, orders o", columns=["x"])[1] == {"x": ["orders.x"]}


def test_case_is_kept_where_the_database_keeps_it() -> None:
    assert traced("select Name from Album", dialect="sqlite") == (["Album"], {"Name": ["Album.Name"]})
    known = {"Album": ["AlbumId", "Title"]}
    query = "select ALBUMID as id, title from album"
    assert traced(query, dialect="sqlite", tables=known)[0] == ["Album"]
    assert traced("select Name from Album")[0] == ["album"]


@pytest.mark.parametrize("query", ["garbage ((", "select 1; select 2", "delete from t", "select " + "(" * 900])
def test_what_cannot_be_read_has_no_tables(query: str) -> None:
    assert traced(query, columns=["a"]) == ([], {"a": ["None.a"]})


PIECES = [
    "select",
    "a",
    "b",
    "*",
    ",",
    "from",
    "t",
    "u",
    "join",
    "on",
    "(",
    ")",
    "with",
    "as",
    "union",
    "1",
    ".",
    "lateral",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join))
def test_odd_sql_never_raises(query: str) -> None:
    traced("select a from t " + query, columns=["a", "b"])


# --- the digest of what is traced ---------------------------------------------------------------------------

SPLIT = {"type": "split", "source_columns": ["n"], "target_fields": ["a", "b"], "config": {"delimiter": " "}}
#: Mapping, schema and dialect of which each is traced to something else than all others.
DIFFERENT: list[tuple[Any, Any, str]] = [
    (record(), None, "postgres"),
    (record(), schema({"a": "string"}), "postgres"),
    (record(), schema({"a": "string", "b": "string"}), "postgres"),
    (record(source_table="other.customer"), None, "postgres"),
    (record(source_table=None, source_query="select A from t"), None, "postgres"),
    (record(source_table=None, source_query="select A from t"), None, "sqlite"),
    (record(source_table=None, source_query="select a from u"), None, "postgres"),
    (record([direct("id", "key")]), None, "postgres"),
    (record([direct("id", "other")]), None, "postgres"),
    (record([direct("no", "key")]), None, "postgres"),
    (record([expression("id + no", "key")]), None, "postgres"),
    (record([expression("ID", "e")]), None, "postgres"),
    (record([expression("ID", "e")]), None, "sqlite"),
    (record([{"type": "constant", "value": 1, "target_fields": ["key"]}]), None, "postgres"),
    (record([SPLIT]), None, "postgres"),
    (record([direct("id", "key"), SPLIT]), None, "postgres"),
]


def test_what_is_traced_to_something_else_has_another_digest() -> None:
    digests = [lineage_digest(mapping, target, dialect) for mapping, target, dialect in DIFFERENT]
    traces = [trace_lineage(mapping, target, None, dialect=dialect) for mapping, target, dialect in DIFFERENT]
    for number, trace in enumerate(traces):
        assert traces.index(trace) == number, "this case shows nothing"
    assert len(set(digests)) == len(DIFFERENT)


def test_what_lineage_does_not_look_at_is_not_in_the_digest() -> None:
    salted = {"type": "hash", "source_columns": ["n"], "target_fields": ["h"]}
    plain = lineage_digest(record([salted, SPLIT]), None, "postgres")
    changed = [
        record([{**salted, "config": {"salt": "geheim"}}, SPLIT]),
        record([salted, {**SPLIT, "config": {"delimiter": "-"}}]),
        record([salted, SPLIT], mode="append", description="another", target_table="y", name="n"),
    ]
    assert {lineage_digest(mapping, None, "postgres") for mapping in changed} == {plain}
    assert lineage_digest(record([salted, SPLIT]), schema({"a": "string"}), "postgres") == plain
    retyped = [lineage_digest(record(), schema({"a": kind}), "postgres") for kind in ("string", "integer")]
    assert retyped[0] == retyped[1]
