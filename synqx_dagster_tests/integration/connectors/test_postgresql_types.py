"""Every type of PostgreSQL arrives exactly, judged by server-side text on both ends, by both ways of copying."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

#: Types that both databases are given.
TYPES_SQL = """
create type mood as enum ('sad', 'it''s ok', 'happy');
create domain positive as integer check (value > 0);
create type pair as (a integer, b text);
"""

#: Column type and the values that it is tried with, as SQL expressions.
VALUES = {
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "numeric": ["'NaN'", "'Infinity'", "'-Infinity'", "1e-20", "'9' || repeat('9', 100)", "0.10"],
    "numeric(7,3)": ["1.5", "-9999.999", "'NaN'"],
    "numeric(3,-2)": ["12300", "-99900"],
    "numeric(2,5)": ["0.00012"],
    "real": ["'-0'", "1.4e-45", "3.4028235e38", "'NaN'", "'-Infinity'", "0.1"],
    "double precision": ["'-0'", "5e-324", "1e308", "'NaN'", "'Infinity'", "0.1"],
    "boolean": ["true", "false"],
    "char(5)": ["'ab   '", "''", "'é'"],
    "varchar(20)": ["'trailing   '", "''"],
    "text": [
        "''",
        "E'tab\\t nl\\n cr\\r bs\\\\ \\\\N \\\\.'",
        "E'\\n\\\\.\\n'",
        "'😀 e\u0301'",
        "repeat('x', 1000000)",
        "'\"'",
    ],
    '"char"': ["'a'"],
    "name": ["'a name'"],
    "bytea": ["''", "'\\x00ff0a225c'", "decode(repeat('00ff', 500000), 'hex')"],
    "date": ["'0001-01-01'", "'4713-01-01 BC'", "'5874897-12-31'", "'infinity'", "'-infinity'"],
    "timestamp": ["'2024-02-29 12:00:00.123456'", "'0044-03-15 BC'", "'294276-12-31 23:59:59.999999'", "'infinity'"],
    "timestamp(3)": ["'2024-02-29 12:00:00.123'"],
    "timestamptz": ["'2024-10-27 02:30:00+02'", "'2024-10-27 02:30:00+01'", "'0044-03-15 BC'", "'-infinity'"],
    "time": ["'24:00:00'", "'00:00:00.000001'"],
    "timetz": ["'24:00:00-15:59'", "'12:00:00.5+05:30'"],
    "interval": ["'1 year -2 months 3 days -04:05:06.789'", "'-1 mons +1 day'", "'0'"],
    "uuid": ["'123E4567-e89b-12d3-a456-426614174000'"],
    "inet": ["'::1'", "'10.0.0.1/8'", "'2001:db8::/32'"],
    "cidr": ["'10.0.0.0/8'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "json": ["'null'", '\'{"a": 1,  "a":2}\'', "'\"\\u00e9\"'", "'1e400'"],
    "jsonb": ["'null'", '\'{"b": 1, "a": [1.10]}\''],
    "integer[]": ["'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[5:6]={1,2}'"],
    "text[]": ["array['a,b', '\"q\"', '', null, '{}', E'back\\\\slash']"],
    "mood": ["'it''s ok'", "'happy'"],
    "positive": ["7"],
    "pair": ["row(1, 'a,\"b')::pair", "row(null, '')::pair"],
    "int4range": ["'[1,5)'", "'empty'", "'(,)'"],
    "datemultirange": ["'{[2024-01-01,2024-02-01),[2025-01-01,)}'"],
    "bit(3)": ["B'101'"],
    "varbit": ["B''", "B'1'"],
    "money": ["'-1234.56'"],
    "tsvector": ["'a fat:2 ''c d'''"],
    "point": ["'(1.5,-0)'"],
    "oid": ["4294967295"],
}


@pytest.fixture
def databases(postgresql: PostgresqlDatabase) -> tuple[PostgresqlDatabase, PostgresqlDatabase]:
    other = postgresql.create_database()
    for database, zone in ((postgresql, "Pacific/Apia"), (other, "America/St_Johns")):
        database.execute(TYPES_SQL)
        database.execute(f"alter database \"{database.name}\" set TimeZone = '{zone}'")
        database.execute(f"alter database \"{database.name}\" set DateStyle = 'German'")
    return postgresql, other


def fill(database: PostgresqlDatabase) -> None:
    """A table of one column for each type; row by row its values, and one row of NULLs."""
    columns = ", ".join(f"c{number} {name}" for number, name in enumerate(VALUES))
    statements = [f"create table every (id integer primary key, {columns})", "insert into every (id) values (0)"]
    for number, (name, values) in enumerate(VALUES.items()):
        statements.extend(
            f"insert into every (id, c{number}) values ({position}, ({value})::{name})"
            f" on conflict (id) do update set c{number} = excluded.c{number}"
            for position, value in enumerate(values, start=1)
        )
    database.execute(";\n".join(statements))


def texts(database: PostgresqlDatabase) -> list[tuple[object, ...]]:
    """Every value as its server prints it, in one form on both ends."""
    columns = ", ".join(f"md5(c{number}::text), left(c{number}::text, 60)" for number in range(len(VALUES)))
    return database.execute(
        "set TimeZone = 'UTC'; set DateStyle = ISO; set IntervalStyle = postgres; set extra_float_digits = 1;"
        f" select id, {columns} from every order by id"
    )


@pytest.mark.parametrize("way", ["arrow", "binary"])
def test_every_type_arrives_as_the_server_prints_it(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], way: str
) -> None:
    source, target = databases
    fill(source)
    table = TableName("every")
    reads, writes = PostgresqlConnector(source.config()), PostgresqlConnector(target.config())
    with reads.read() as reader, writes.write() as writer:
        columns = reader.find_columns(table)
        assert columns is not None
        writer.begin()
        writer.create_table(table, columns, ("id",))
        staging = writer.create_staging(table, columns, epoch=1)
        if way == "arrow":
            encoded = [reader.encode(f'"{c.name}"', c.data_type, c.native_type) for c in columns]
            schema = pa.schema([pa.field(c.name, e.arrow_type) for c, e in zip(columns, encoded, strict=True)])
            sql = f"SELECT {', '.join(e.sql for e in encoded)} FROM every"
            rows, _ = writer.write_batches(staging, columns, reader.iter_batches(sql, schema, batch_rows=3))
        else:
            stream = io.BytesIO()
            reader.copy_out("SELECT * FROM every", stream)
            stream.seek(0)
            rows = writer.copy_in(staging, columns, stream)
        assert rows == source.execute("select count(*) from every")[0][0]
        writer.publish_replace(staging, table, columns, ("id",))
        writer.commit()
        assert [c.native_type for c in writer.find_columns(table) or ()] == [c.native_type for c in columns]
    reads.close()
    writes.close()
    assert texts(target) == texts(source)


@pytest.mark.parametrize(
    ("native", "logical"),
    [
        ("numeric", "decimal"),
        ("numeric(7,3)", "decimal(7,3)"),
        ("numeric(3,-2)", "decimal(5,0)"),
        ("numeric(2,5)", "decimal(5,5)"),
        ("smallint", "smallint"),
        ("real", "real"),
        ("double precision", "float"),
        ("json", "json"),
        ("jsonb", "json"),
        ("bytea", "binary"),
        ("timestamp(3) without time zone", "timestamp"),
        ("positive", "string"),
        ("mood", "string"),
        ("integer[]", "string"),
        ("interval", "string"),
        ("money", "string"),
        ("bit(3)", "string"),
        ("character(5)", "string"),
        ("character varying(20)", "string"),
    ],
)
def test_types_mean_what_they_mean_and_keep_their_spelling(
    postgresql: PostgresqlDatabase, native: str, logical: str
) -> None:
    postgresql.execute(TYPES_SQL)
    postgresql.execute(f"create table t (c {native})")
    connector = PostgresqlConnector(postgresql.config())
    with connector.read() as session:
        columns = session.find_columns(TableName("t"))
        described = session.describe_query("select c from t")
    connector.close()
    assert columns is not None
    assert columns[0].native_type == native
    assert columns[0].data_type == DataType.parse(logical)
    if native != "positive":  # the server describes a domain in a result by its base type
        assert described[0].data_type == columns[0].data_type
    # A query's result does not tell every modifier, but what it says can hold every value.
    postgresql.execute(f"create table u (c {described[0].native_type}); insert into u select c from t")


def test_a_type_that_the_target_lacks_is_refused_before_anything_is_made(postgresql: PostgresqlDatabase) -> None:
    connector = PostgresqlConnector(postgresql.config())
    columns = (
        Column("id", DataType("integer")),
        Column("feeling", DataType("string"), native_type="mood", native_dialect="postgres"),
    )
    with connector.write() as session, pytest.raises(PlanError, match=r"'feeling' \(mood\)"):
        session.create_table(TableName("t"), columns, ())
    connector.close()
    assert postgresql.execute("select to_regclass('t')") == [(None,)]


def test_a_table_as_wide_as_tables_get(postgresql: PostgresqlDatabase) -> None:
    names = [f"c{number}" for number in range(1600)]
    columns = tuple(Column(name, DataType("smallint")) for name in names)
    connector = PostgresqlConnector(postgresql.config())
    batch = pa.RecordBatch.from_arrays([pa.array([1, None], pa.int16())] * 1600, names=names)
    with connector.write() as session:
        session.begin()
        session.create_table(TableName("wide"), columns, ())
        staging = session.create_staging(TableName("wide"), columns, epoch=1)
        session.write_batches(staging, columns, iter([batch]))
        session.publish_replace(staging, TableName("wide"), columns, ())
        session.commit()
    with connector.read() as reader:
        found = reader.find_columns(TableName("wide"))
        assert found is not None
        encoded = [reader.encode(f'"{c.name}"', c.data_type, c.native_type) for c in found]
        schema = pa.schema([pa.field(c.name, e.arrow_type) for c, e in zip(found, encoded, strict=True)])
        batches = list(
            reader.iter_batches(f"SELECT {', '.join(e.sql for e in encoded)} FROM wide", schema, batch_rows=10)
        )
    connector.close()
    assert pa.Table.from_batches(batches).equals(pa.Table.from_batches([batch.cast(schema)]))
