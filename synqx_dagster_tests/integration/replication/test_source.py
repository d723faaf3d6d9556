"""What is said of sources that cannot be followed as wanted: each problem with the remedy, which then works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.errors import ConfigurationError, PlanError, SynqxError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.publication import drop_publication, ensure_publication
from synqx_dagster.replication.slot import create_slot
from synqx_dagster.replication.source import SourceReport
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer
from synqx_dagster_tests.integration.replication.following import inspect, make_replication, publish


@contextmanager
def connected(source: PostgresqlDatabase, **changes: Any) -> Iterator[PostgresqlConnector]:
    connector = PostgresqlConnector(replace(source.config("source"), **changes))
    try:
        yield connector
    finally:
        connector.close()


def look(source: PostgresqlDatabase, *tables: str | dict[str, Any], **fields: Any) -> SourceReport:
    with connected(source) as connector:
        return inspect(connector, make_replication(*tables, **fields))


def problem(source: PostgresqlDatabase, *tables: str | dict[str, Any], **fields: Any) -> str:
    """The one problem that there is, with its remedy."""
    report = look(source, *tables, **fields)
    assert len(report.problems) == 1, report.problems
    return str(report.problems[0])


def run_remedy(source: PostgresqlDatabase, text: str) -> None:
    """Run the statement that a problem names."""
    source.execute(text[text.index("(ALTER") + 1 : -1] if "(ALTER" in text else text)


def test_tables_are_found_by_name_and_by_pattern(source: PostgresqlDatabase) -> None:
    source.execute("create schema shop; create schema other")
    for name in ("shop.orders", "shop.order_lines", "shop.customers", "other.orders", "public.orders"):
        source.execute(f"create table {name} (id int primary key)")
    source.execute('create table shop."odd[1].*" (id int primary key); create table _synqx_ledger (id int primary key)')
    source.execute("create view shop.order_view as select 1; create temp table order_temp (id int)")
    found = look(source, "shop.order*", {"name": "shop.orders", "where": "id > 0"}, "orders", "public.*")
    assert [(str(table.table), table.entry.name) for table in found.tables] == [
        ("public.orders", "orders"),
        ("shop.order_lines", "shop.order*"),
        ("shop.orders", "shop.orders"),
    ]
    assert [str(table.table) for table in look(source, 'shop."odd[1].*"', '"*".orders').tables] == [
        "other.orders",
        "public.orders",
        'shop."odd[1].*"',
        "shop.orders",
    ]
    assert "missing: the source has no such table" in problem(source, "missing", "orders")
    assert "order_view: the source has no such table" in problem(source, "shop.order_view")


def test_keys_and_columns_are_as_the_log_will_have_them(source: PostgresqlDatabase) -> None:
    source.execute(
        "create table t (b int, a int, x text, g int generated always as (a + 1) stored, primary key (a, b))"
    )
    (table,) = look(source, "t").tables
    version = int(source.execute("show server_version_num")[0][0])
    assert table.key == ("a", "b")
    assert table.identity == ("a", "b")
    expected = ["b", "a", "x", *(["g"] if version >= 180_000 else [])]
    assert [column.name for column in table.columns] == expected
    assert table.left_out == (() if version >= 180_000 else ("g",))
    assert not any(column.generated for column in table.columns)


def test_a_table_without_a_key(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int not null, x text)")
    assert "it has no primary key" in problem(source, "t")
    assert 'ALTER TABLE "public"."t" ADD PRIMARY KEY' in problem(source, "t")
    # History needs no key, and what is published must be told apart all the same.
    run_remedy(source, problem(source, "t", mode="history"))
    assert look(source, "t", mode="history").problems == ()
    assert "no key by which rows could be matched" in problem(source, "t")
    assert look(source, {"name": "t", "key": ["id"]}).problems == ()


def test_a_unique_index_that_would_do(source: PostgresqlDatabase) -> None:
    source.execute('create table t (id int not null, x text); create unique index "by id" on t (id)')
    run_remedy(source, problem(source, "t"))
    (table,) = look(source, "t").tables
    assert (table.replica_identity, table.key) == ("index", ("id",))


def test_a_key_that_may_be_checked_late_is_none(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key deferrable, x text)")
    assert "it has no primary key" in problem(source, "t")


def test_an_identity_of_nothing(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key); alter table t replica identity nothing")
    for mode in ("mirror", "history"):
        assert "no replica identity" in problem(source, "t", mode=mode)
    run_remedy(source, problem(source, "t"))
    assert look(source, "t").problems == ()


def test_a_key_that_the_log_does_not_tell(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, code text unique)")
    told = problem(source, {"name": "t", "key": ["code"]})
    assert "does not tell 'code'" in told
    source.execute("alter table t replica identity full")
    assert look(source, {"name": "t", "key": ["code"]}).problems == ()
    assert "no column 'nope'" in problem(source, {"name": "t", "key": ["nope"]})


def test_columns_that_leave_out_what_is_needed(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int, code text, x text, primary key (id, code))")
    assert "add code to columns" in problem(source, {"name": "t", "columns": ["id", "x"]})
    assert "no column 'nope'" in problem(source, {"name": "t", "columns": ["id", "code", "nope"]})
    source.execute("alter table t replica identity full")
    assert "columns cannot be limited" in problem(source, {"name": "t", "columns": ["id", "code"]})


def test_partitions_that_tell_less_than_the_whole(source: PostgresqlDatabase) -> None:
    source.execute("create table p (id int primary key, x text) partition by hash (id)")
    source.execute("create table p0 partition of p for values with (modulus 2, remainder 0)")
    source.execute("create table p1 partition of p for values with (modulus 2, remainder 1)")
    source.execute("alter table p1 replica identity nothing")
    told = problem(source, "p")
    assert told.startswith("public.p1: ")
    run_remedy(source, told)
    (table,) = look(source, "*").tables
    assert table.is_partitioned
    assert table.leaves == (TableName("p0", "public"), TableName("p1", "public"))
    # The whole covers the part.
    assert [str(one.table) for one in look(source, "p", "p0").tables] == ["public.p"]
    assert [str(one.table) for one in look(source, "p0").tables] == ["public.p0"]


def test_tables_that_have_no_log(source: PostgresqlDatabase) -> None:
    source.execute("create unlogged table t (id int primary key)")
    run_remedy(source, problem(source, "t"))
    assert look(source, "t").problems == ()
    source.execute("create table child () inherits (t)")
    assert "inherit" in problem(source, "t")


@pytest.mark.parametrize(
    "where",
    [
        "nope > 1",
        "id > ",
        "true); drop table t; --",
        "true) union select 1 where (true",
        "(select true)",
    ],
)
def test_conditions_that_are_none_are_refused_and_do_nothing(source: PostgresqlDatabase, where: str) -> None:
    source.execute("create table t (id int primary key)")
    entry = {"name": "t", "where": where}
    report = look(source, entry)
    with connected(source) as connector, connector.write() as session:
        if not report.problems:
            # A condition in itself, and none that a publication may have.
            with pytest.raises(SynqxError, match=r"publication|syntax|WHERE"):
                ensure_publication(session, "synqx_test", report.published, report.server.version)
    assert source.execute("select count(*) from pg_publication") == [(0,)]
    assert source.execute("select count(*) from t") == [(0,)]


def test_the_rights_of_a_user(source: PostgresqlDatabase, source_server: PostgresqlServer) -> None:
    source.execute("create schema s; create table s.t (id int primary key)")
    role = f"follower_{source.name}"
    source.execute(f'create role "{role}" login')
    replication = make_replication("s.t")
    try:
        with connected(source, username=role) as connector:
            told = "\n".join(str(one) for one in inspect(connector, replication).problems)
            assert f'ALTER ROLE "{role}" REPLICATION' in told
            assert f'GRANT CREATE ON DATABASE "{source.name}" TO "{role}"' in told
            assert f'GRANT USAGE ON SCHEMA "s" TO "{role}"; GRANT SELECT ON "s"."t" TO "{role}"' in told
            assert "only its owner can publish it" in told
            owners_statement = told[told.index("runs: CREATE PUBLICATION") + 6 : -1]
            source.execute(
                f'alter role "{role}" replication; grant usage on schema s to "{role}"; grant select on s.t to "{role}"'
            )
            source.execute(owners_statement)
            # With it made by its owner nothing else is needed.
            report = inspect(connector, replication)
            assert report.problems == ()
            with connector.write() as session:
                assert not ensure_publication(
                    session, replication.publication_name, report.published, report.server.version
                )
            source.execute("create table s.u (id int primary key)")
            wider = replication.model_copy(update={"tables": make_replication("s.*").tables})
            source.execute(f'grant select on s.u to "{role}"')
            told = "\n".join(str(one) for one in inspect(connector, wider).problems)
            assert "does not fit (s.u is not in it), and is somebody else's" in told
    finally:
        source.execute(f'drop owned by "{role}"; drop role "{role}"')


def test_a_publication_is_made_and_altered_to_cover_exactly_what_is_wanted(source: PostgresqlDatabase) -> None:
    source.execute("create table a (id int primary key, x text); create table b (id int primary key)")
    source.execute("create table c (id int primary key)")
    replication = make_replication({"name": "a", "columns": ["id", "x"], "where": "id > 1 and (id < 5 or id = 7)"}, "b")
    name = replication.publication_name
    with connected(source) as connector:
        assert publish(connector, replication)
        assert not publish(connector, replication)
        tampered = [
            (f"alter publication {name} add table c", (), ("public.c is in it",)),
            (f"alter publication {name} drop table b", ("public.b is not in it",), ()),
            (f"alter publication {name} set (publish = 'insert')", ("it leaves out inserts, updates, deletes or",), ()),
            (f"alter publication {name} set table a (id) where (id > 1), b", ("public.a is in it with other",) * 2, ()),
            (f"alter publication {name} set table a (id, x) where (id > 2), b", ("another row filter",), ()),
            (f"alter publication {name} set table a (id, x), b", ("without a row filter",), ()),
            (
                f"drop publication {name}; create publication {name} for all tables;"
                f" comment on publication {name} is 'SynqX {{}}'",
                ("via_root",),
                ("for all tables",),
            ),
        ]
        for statement, lacking, surplus in tampered:
            source.execute(statement)
            state = inspect(connector, replication).publication
            shown = "\n".join((*state.lacking, *state.surplus))
            assert not state.is_exact, statement
            for text in (*lacking, *surplus):
                assert text in shown or text == "via_root", (statement, shown)
            assert bool(state.lacking) == bool(lacking) or "for all tables" in shown
            assert publish(connector, replication), statement
            assert inspect(connector, replication).publication.is_exact
        with connector.write() as session:
            drop_publication(session, name)
        assert inspect(connector, replication).publication.found is None


def test_what_would_stop_the_source_is_found_by_the_server_itself(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, x int)")
    replication = make_replication({"name": "t", "where": "x > 1"})
    with connected(source) as connector, connector.write() as session:
        report = inspect(connector, replication)
        with pytest.raises(PlanError, match="would refuse UPDATE and DELETE") as caught:
            ensure_publication(session, replication.publication_name, report.published, report.server.version)
        assert 'ALTER TABLE "public"."t" REPLICA IDENTITY FULL' in (caught.value.hint or "")
    assert source.execute("select count(*) from pg_publication") == [(0,)]
    source.execute("insert into t values (1, 2); update t set x = 3; delete from t")


def test_a_tables_triggers_see_nothing_of_us(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key); create table seen (x int)")
    source.execute(
        "create function note() returns trigger language plpgsql as"
        " $$ begin insert into seen values (1); return null; end $$"
    )
    source.execute("create trigger noted before delete on t for each statement execute function note()")
    with connected(source) as connector:
        publish(connector, make_replication("t"))
    assert source.execute("select count(*) from seen") == [(0,)]


def test_a_server_whose_log_does_not_tell_of_rows(postgresql_15_server: PostgresqlServer) -> None:
    server = postgresql_15_server
    source = server.create_database()
    source.execute("create table t (id int primary key)")
    server.execute("alter system set wal_level = replica")
    # What the fixture gives on the command line counts for more than the file.
    server.stop()
    options = f"-c unix_socket_directories={server.host} -c listen_addresses=127.0.0.1 -c port={server.port}"
    log = str(server.data_directory / "server.log")
    server.run("pg_ctl", "-w", "-D", str(server.data_directory), "-l", log, "-o", options, "start")
    try:
        told = problem(source, "t")
        assert "wal_level is 'replica'" in told
        assert "ALTER SYSTEM SET wal_level = 'logical'" in told
        with connected(source) as connector:
            with pytest.raises(ConfigurationError, match="wal_level") as caught, create_slot(connector, "synqx_x"):
                pass
            assert "ALTER SYSTEM" in (caught.value.hint or "")
    finally:
        server.execute("alter system reset all")
        server.stop()
        server.start()
    source.drop()


def test_slots_and_senders_that_are_all_in_use_and_a_slot_that_is_not_ours(
    source: PostgresqlDatabase, source_server: PostgresqlServer
) -> None:
    source.execute("create table t (id int primary key)")
    other = source_server.create_database()
    replication: Replication = make_replication("t")
    free = int(source.execute("show max_replication_slots")[0][0]) - int(
        source.execute("select count(*) from pg_replication_slots")[0][0]
    )
    names = [f"synqx_fill_{number}" for number in range(free)]
    try:
        for name in names:
            other.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
        told = problem(source, "t")
        assert "replication slots of the server are in use" in told
        assert names[0] in told
        foreign = replication.model_copy(update={"slot": names[0]})
        with connected(source) as connector:
            (one,) = inspect(connector, foreign).problems
            assert f"belongs to database '{other.name}'" in str(one)
    finally:
        with closing(other.connect()) as connection, connection.cursor() as cursor:
            for name in names:
                cursor.execute("select pg_drop_replication_slot(%s)", (name,))
    other.drop()
