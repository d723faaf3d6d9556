"""Loads between PostgreSQL databases that are not set up like most: other encodings, publications of everything."""

from __future__ import annotations

import hashlib
import uuid
from contextlib import closing

import pytest

from synqx_dagster.model.mapping import LoadMode
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping, make_schema


def create_encoded(postgresql: PostgresqlDatabase, encoding: str) -> PostgresqlDatabase:
    """A database of another encoding, on the same server."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgresql.server.execute(
        f"create database {name} encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0"
    )
    return PostgresqlDatabase(postgresql.server, name)


def test_hashes_are_of_utf8_whatever_the_sources_encoding_and_however_many_work_at_it(
    postgresql: PostgresqlDatabase,
) -> None:
    """Parallel workers take the database's encoding for their client's."""
    source = create_encoded(postgresql, "LATIN1")
    for setting in ("min_parallel_table_scan_size", "parallel_setup_cost", "parallel_tuple_cost"):
        source.execute(f"alter database {source.name} set {setting} = 0")
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        connection.set_client_encoding("UTF8")
        cursor.execute("create table words as select g as id, 'é' || g as word from generate_series(1, 20000) as g")
        cursor.execute("analyze words")
    hashed = {"type": "hash", "source_columns": ["word"], "target_fields": ["digest"]}
    kept = {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]}
    with closing(connect(source.config("source"))) as origin, closing(connect(postgresql.config("target"))) as target:
        mapping = make_mapping(source_table="words", target_table="words", column_mappings=[kept, hashed])
        assert load(origin, target, mapping).lane == "passthrough"
    expected = {number: hashlib.sha256(f"é{number}".encode()).hexdigest() for number in range(1, 20001)}
    assert dict(postgresql.execute("select id, digest from words")) == expected


def test_a_text_is_split_at_a_delimiter_of_several_bytes_whatever_the_encoding(postgresql: PostgresqlDatabase) -> None:
    source, target = create_encoded(postgresql, "SQL_ASCII"), create_encoded(postgresql, "SQL_ASCII")
    source.execute(r"create table t as select E'a\xe2\x80\x93\xc3\xa9' as pair")
    split = {
        "type": "split",
        "source_columns": ["pair"],
        "target_fields": ["first", "rest"],
        "config": {"delimiter": "–"},
    }
    mapping = make_mapping(source_table="t", target_table="t", column_mappings=[split])
    with closing(connect(source.config("source"))) as origin, closing(connect(target.config("target"))) as goal:
        load(origin, goal, mapping)
    rows = [tuple(bytes(value) for value in row) for row in target.execute("select first::bytea, rest::bytea from t")]
    assert rows == [(b"a", "é".encode())]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_table_that_is_published_as_soon_as_it_is_there_gets_its_good_rows(
    postgresql: PostgresqlDatabase, mode: LoadMode
) -> None:
    """Of a published table without a key nobody can delete the rows that share one."""
    target = postgresql.create_database()
    postgresql.execute("create table t (id int, v text); insert into t values (1, 'a'), (1, 'b'), (2, 'c')")
    target.execute("create publication everything for all tables")
    mapping = make_mapping(
        source_table="t", target_table="t", mode=mode, on_bad_row="quarantine", target_schema="schema"
    )
    schema = make_schema(id={"data_type": "integer", "nullable": False}, v="string")
    with closing(connect(postgresql.config("source"))) as origin, closing(connect(target.config("target"))) as goal:
        result = load(origin, goal, mapping, schema)
    assert (result.rows_out, result.rows_quarantined) == (1, 2)
    assert target.execute("select id, v from t") == [(2, "c")]
