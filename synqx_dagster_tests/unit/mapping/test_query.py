"""The guard of source queries: each trap of a server or of the parser is a case."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.errors import QueryRefusedError
from synqx_dagster.mapping.query import clean_query, parse_query
from synqx_dagster.mapping.scan import scan

ACCEPTED = {
    "postgres": [
        "select 1",
        "SELECT a FROM t;",
        "with a as (select 1 as x) select x from a",
        "(select 1)",
        "select 1 union all select 2 except select 3",
        "select * from (values (1)) as v(x)",
        "select 'a;b', $$;$$, $tag$ ' ; $tag$, E'\\';', \"a;\"\"b\" from t",
        "select 1 /* ; drop table t /* nested */ */ from t -- ; delete",
        "select a -> 'b', a[1], b ~ 'x', '{1}'::int[] from t",
        "select 1 as pg_sleep",
        "select e from e where u & 1 = 1",
    ],
    "mysql": [
        "select `a``;b`, \"x;\", 'it\\'s;' from t # comment ; select 2",
        "select 1--1",
        "select 1 -- one ; two",
    ],
    "sqlite": ['select [a;b], "c", `d` from Album', "select max(a, b) from t"],
    "duckdb": ["from t", "select * exclude (a) from t", "select $$;$$"],
}

REFUSED = {
    "postgres": {
        "": "empty",
        "-- nothing": "empty",
        ";": "empty",
        "select 1; drop table t": "more than one statement",
        "select 1; commit; insert into t values (1)": "more than one statement",
        "select": "selects no column",
        "table t": "begins with TABLE",
        "values (1)": "begins with VALUES",
        "copy t to program 'sh'": "begins with COPY",
        "explain select 1": "begins with EXPLAIN",
        "delete from t returning *": "begins with DELETE",
        "do $$ begin end $$": "begins with DO",
        "select 1 into t": "SELECT INTO",
        "select * from t for update": "locks rows",
        "select * from (select * from t for no key update) x": "locks rows",
        "with a as (delete from t returning *) select * from a": "DELETE inside",
        "with a as (insert into t values (1) returning *) select * from a": "INSERT inside",
        "with a as (update t set x = 1 returning *) select * from a": "UPDATE inside",
        "select pg_read_file('/etc/passwd')": "pg_read_file",
        "select pg_catalog.pg_read_file ('/etc/passwd')": "pg_read_file",
        "select \"pg_read_file\"('/etc/passwd')": "pg_read_file",
        "select * from pg_ls_dir('.')": "pg_ls_dir",
        "select PG_SLEEP(9)": "pg_sleep",
        "select pg_sleep/**/(9)": "pg_sleep",
        "select pg_advisory_lock(1)": "pg_advisory_lock",
        "select set_config('a.b', 'c', false)": "set_config",
        "select ts_rewrite('a'::tsquery, 'select plainto_tsquery(pg_read_file(''x''))')": "ts_rewrite",
        "select query_to_xml('delete from t', true, true, '')": "query_to_xml",
        "select * from dblink('', 'select 1') as t(a int)": "dblink",
        "select lo_export(1, '/tmp/x')": "lo_export",
        "select nextval('s')": "nextval",
        'select U&"\\0070g_sleep"(1)': "U&",
        "select u&'\\0061'": "U&",
        "select 'open": "not closed",
        'select "open': "not closed",
        "select $$open": "not closed",
        "select /* open": "not closed",
        "select /* /* */ 1": "not closed",
        "select (1": "not closed",
        "select 1)": "closes nothing",
        "select (1]": "closes nothing",
        "select $1": "parameters",
        "select 1 +": "cannot be read",
        "select * from lateral .": "cannot be read",
        "select " + "array[" * 20 + "1" + "]" * 20: "names of types",
        "select " + "text(" * 20 + "1" + ")" * 20: "names of types",
        "select '\x00'": "NUL",
        "select \x00": "NUL",
        "select \ud800": "surrogate",
        "select " + "(" * 3000 + "1" + ")" * 3000: "deeper",
        "select " + "not " * 3000 + "true": "too deep",
        "select " + "case when true then " * 3000 + "1" + " end" * 3000: "CASE is nested",
        "select 1" + "::int" * 3000: "too deep",
        "select a" + "[1]" * 3000: "indexes in a row",
        "select " + "+".join(["1"] * 3000): "too deep",
        " union all ".join(["select 1"] * 3000): "too deep",
    },
    "mysql": {
        "select 1 into outfile '/tmp/x'": "cannot be read",
        "select 1 into dumpfile '/tmp/x'": "cannot be read",
        "select 1 into @x": "INTO",
        "select /*!50000 sleep(9), */ 1": "runs as code",
        "select /*M!100000 sleep(9), */ 1": "runs as code",
        "select 1 lock in share mode": "cannot be read",
        "select @a := 1": "parameters or variables",
        "select load_file('/etc/passwd')": "load_file",
        "select sleep(9)": "sleep",
        "select benchmark(1, 1)": "benchmark",
        "select get_lock('a', 1)": "get_lock",
        "select 'a\\'; delete from t; -- '": "",
        "select " + "acos(" * 12 + "1" + ")" * 12 + " +": "cannot be read",
        "handler t open": "begins with HANDLER",
    },
    "sqlite": {
        "pragma writable_schema = 1": "begins with PRAGMA",
        "attach 'x' as y": "begins with ATTACH",
        "select load_extension('x')": "load_extension",
        "select ?": "parameters",
        "select :a": "parameters",
        "select [open": "not closed",
    },
    "duckdb": {
        "select * from 'x.csv'": "reads a file",
        'select * from "/etc/passwd"': "reads a file",
        "select * from read_csv('/etc/passwd')": "read_csv",
        "select getenv('HOME')": "getenv",
        "from query('delete from t')": "query",
        "copy t to 'x'": "begins with COPY",
        "install httpfs": "begins with INSTALL",
    },
}


@pytest.mark.parametrize(("dialect", "sql"), [(d, sql) for d, queries in ACCEPTED.items() for sql in queries])
def test_one_select_is_accepted(dialect: str, sql: str) -> None:
    parse_query(sql, dialect)
    cleaned = clean_query(sql, dialect)
    assert not cleaned.endswith(";")
    assert parse_query(f"SELECT * FROM ({cleaned}) AS source", dialect)


@pytest.mark.parametrize(
    ("dialect", "sql", "reason"),
    [(dialect, sql, reason) for dialect, queries in REFUSED.items() for sql, reason in queries.items() if reason],
)
def test_everything_else_is_refused_with_its_reason(dialect: str, sql: str, reason: str) -> None:
    with pytest.raises(QueryRefusedError) as caught:
        parse_query(sql, dialect)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_backslash_ends_no_string_in_mysql_but_does_in_postgresql() -> None:
    sql = "select 'a\\'; delete from t; -- '"
    assert parse_query(sql, "mysql").sql("mysql").startswith("SELECT")
    with pytest.raises(QueryRefusedError, match="more than one statement"):
        parse_query(sql, "postgres")


def test_the_place_is_named() -> None:
    with pytest.raises(QueryRefusedError, match="line 2, column 8: more than one"):
        parse_query("select 1\n  from;drop table t", "postgres")
    with pytest.raises(QueryRefusedError, match=r"line 2"):
        parse_query("select a\nfrom t t t", "postgres")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("se'\"`$;-#/*\\()[]ECTL\n ax!U&1é\x00"), max_size=40), st.sampled_from(sorted(ACCEPTED)))
def test_whatever_is_scanned_is_either_refused_or_harmless_in_brackets(text: str, dialect: str) -> None:
    try:
        scanned = scan(f"select {text}", dialect)
    except QueryRefusedError:
        return
    again = scan(f"select ({scanned.text})", dialect)
    assert again.text == f"select ({scanned.text})"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(sorted(ACCEPTED)))
def test_any_text_is_parsed_or_refused(text: str, dialect: str) -> None:
    for sql in (text, f"select {text}"):
        try:
            parse_query(sql, dialect)
        except QueryRefusedError:
            continue
