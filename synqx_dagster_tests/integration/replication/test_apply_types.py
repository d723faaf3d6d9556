"""Values of every type arrive through the stream as a copy by the transfer engine would bring them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model import Mapping
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.adapt import TargetAlteredError
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import Insert, Relation
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.applying import (
    MadeTransaction,
    column,
    followed,
    insert,
    make_replication,
    make_target,
    printed_rows,
    relation,
    start,
)

#: Types that every target has a place for, and those that only PostgreSQL holds as they are.
COMMON = {
    "s": ("smallint", ["-32768", "32767", "0"]),
    "i": ("integer", ["-2147483648", "2147483647"]),
    "b": ("bigint", ["-9223372036854775808", "9223372036854775807"]),
    "n": ("numeric(30,10)", ["12345678901234567890.0123456789", "-0.0000000001", "0"]),
    "r": ("real", ["1.1", "-0", "1e-45", "3.4028235e38"]),
    "d": ("double precision", ["0.1", "-0", "5e-324", "1e308"]),
    "bo": ("boolean", ["true", "false"]),
    "t": ("text", ["", "\\N", "tab\there", "line\nbreak", "\\", "'\"", "ü😀", "trailing  "]),
    "v": ("varchar(20)", ["x", "blank "]),
    "by": ("bytea", ["\\x", "\\x00ff5c0a09", "\\x" + "".join(f"{byte:02x}" for byte in range(256))]),
    "da": ("date", ["2024-02-29", "1970-01-01"]),
    "ts": ("timestamp", ["2024-02-29 12:00:00.123456", "2000-01-01 00:00:00"]),
    "tz": ("timestamptz", ["2024-02-29 12:00:00.5+05:30"]),
    "ti": ("time", ["12:00:00.5", "23:59:59.999999"]),
    "u": ("uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    "j": ("json", ['{"b": 1, "a": [null, "ü"]}', "null"]),
}
POSTGRESQL = {
    "nn": ("numeric", ["NaN", "Infinity", "-Infinity", "1" * 200 + "." + "2" * 100]),
    "rn": ("real", ["NaN", "Infinity", "-Infinity"]),
    "dn": ("double precision", ["NaN", "Infinity", "-Infinity"]),
    "ch": ("char(5)", ["a", "a b"]),
    "dx": ("date", ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]),
    "tx": ("timestamptz", ["infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"]),
    "tt": ("time", ["24:00:00"]),
    "tz2": ("timetz", ["12:00:00.1+05:45"]),
    "iv": ("interval", ["1 mon -2 days 03:00:00.5", "-1 year"]),
    "jb": ("jsonb", ['{"a": 1.10, "b": "ü"}']),
    "ar": ("integer[]", ["{}", "{1,NULL,3}", "[0:1]={5,6}", "{{1,2},{3,4}}"]),
    "ta": ("text[]", ['{"a,b","c\\"d",NULL,"NULL",""}']),
    "ra": ("int4range", ["[1,5)", "empty", "(,)"]),
    "mr": ("datemultirange", ["{[2024-01-01,2024-02-01),[2024-03-01,2024-04-01)}"]),
    "ip": ("inet", ["2001:db8::1/64", "10.0.0.1"]),
    "bi": ("varbit", ["", "10110"]),
    "mo": ("money", ["$1,234.56"]),
    "tv": ("tsvector", ["'a':1A 'b'"]),
    "po": ("point", ["(1.5,-0)"]),
    "en": ("mood", ["sad", "it's"]),
    "dom": ("price", ["1.50"]),
    "co": ("pair", ['(1,"a,b")', "(,)"]),
}


def fill_source(database: PostgresqlDatabase, types: dict[str, tuple[str, list[str]]]) -> Relation:
    """A table with a row for each value of each type, and one of NULLs; gives what the log would say of it."""
    database.execute("create type mood as enum ('sad', 'it''s')")
    database.execute("create domain price as numeric(8,2)")
    database.execute("create type pair as (a integer, b text)")
    columns = ", ".join(f"{name} {spelt}" for name, (spelt, _) in types.items())
    database.execute(f"create table typed (id bigint primary key, {columns})")
    database.execute("insert into typed (id) values (0)")
    number = 0
    for name, (spelt, values) in types.items():
        for value in values:
            number += 1
            database.execute(f"insert into typed (id, {name}) values (%s, %s::{spelt})", (number, value))
    connector = PostgresqlConnector(database.config("source"))
    with connector.read() as session:
        found = session.find_columns(TableName("typed", "public"))
    connector.close()
    assert found is not None
    return relation("typed", found, key=["id"])


def stream(connector: Any, of: Relation, rows: list[Any]) -> None:
    replication = make_replication(tables=({"name": "typed"},), target_naming={"table": "streamed_{table}"})
    with Applier(replication, connector, followed(replication, "typed")) as applier:
        start(applier)
        for _ in range(2):
            try:
                report = applier.apply([MadeTransaction(100, [Insert(of, row) for row in rows])])
                break
            except TargetAlteredError:
                continue
        assert not report.stopped, report.stopped


def copy(source: Any, target: Any) -> None:
    mapping = Mapping(
        name="copied",
        source_connection="source",
        source_table="public.typed",
        target_connection="target",
        target_table="copied_typed",
    )
    run_load(LoadRequest(mapping, None, source, target, load_id="l", run_id="r"))


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql), "duckdb"])
def test_a_row_that_is_streamed_is_as_one_that_is_copied(
    kind: str, postgresql: PostgresqlDatabase, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    types = COMMON | POSTGRESQL if kind == "postgresql" else COMMON
    if kind == "mysql":
        # Of these it keeps no sign, and no copy would bring them either.
        types = {name: (spelt, [one for one in values if one != "-0"]) for name, (spelt, values) in types.items()}
    of = fill_source(postgresql, types)
    place: Any = tmp_path if kind == "duckdb" else request.getfixturevalue(kind)
    target = make_target(kind, place)
    source = PostgresqlConnector(postgresql.config("source"))
    rows = printed_rows(postgresql, "select * from typed order by id")
    assert len(rows) > 40
    stream(target.connector, of, rows)
    copy(source, target.connector)
    if kind == "postgresql":
        assert printed_rows(postgresql, "select * from streamed_typed order by id") == rows
        casts = "SELECT t::text FROM {} t ORDER BY id"
    else:
        text = "char" if kind == "mysql" else "varchar"
        names = [name if name != "by" else "hex(`by`)" if kind == "mysql" else 'hex("by")' for name in types]
        quoted = [name if "(" in name else target.connector.quote(name) for name in names]
        casts = f"SELECT id, {', '.join(f'CAST({name} AS {text})' for name in quoted)} FROM {{}} ORDER BY id"
    streamed, copied = target.rows(casts.format("streamed_typed")), target.rows(casts.format("copied_typed"))
    assert streamed == copied
    source.close()
    target.connector.close()


@pytest.mark.parametrize("kind", [pytest.param("mysql", marks=pytest.mark.mysql), "duckdb"])
def test_a_value_that_the_target_cannot_hold_is_refused(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place: Any = tmp_path if kind == "duckdb" else request.getfixturevalue(kind)
    target = make_target(kind, place)
    native, data_type, value = ("numeric(10,2)", "decimal(10,2)", "NaN")
    of = relation("odd", (column("id", "bigint", "bigint"), column("n", native, data_type)))
    replication = make_replication(tables=({"name": "odd"},))
    with Applier(replication, target.connector, followed(replication, "odd")) as applier:
        start(applier)
        if kind == "mysql":
            with pytest.raises(TargetAlteredError):
                applier.apply([MadeTransaction(100, [insert(of, "1", value)])])
        with pytest.raises(BadRowsError) as caught:
            applier.apply([MadeTransaction(100, [insert(of, "1", value)])])
        assert "NaN" not in str(caught.value)
    target.connector.close()
