"""Targets in a database whose tables are all published: PostgreSQL deletes no row that nothing tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import PlanError
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping, make_schema

SCHEMA = make_schema(id="integer", name={"data_type": "string", "nullable": False})


@pytest.fixture
def end(postgresql: PostgresqlDatabase) -> Iterator[Connector]:
    postgresql.execute(
        "create table t (id int, name text); insert into t values (1, 'a'), (2, null), (3, 'c'), (3, 'd');"
        "alter table t replica identity full; create publication everything for all tables"
    )
    connector = connect(postgresql.config())
    yield connector
    connector.close()


def make(**fields: Any) -> Any:
    return make_mapping(
        **{
            "source_table": "t",
            "target_table": "copy.t",
            "target_schema": "schema",
            "on_bad_row": "quarantine",
            **fields,
        }
    )


def test_the_quarantine_is_emptied_of_what_an_earlier_load_refused(
    postgresql: PostgresqlDatabase, end: Connector
) -> None:
    for load_id in "abc":
        assert load(end, end, make(), SCHEMA, load_id=load_id).rows_quarantined == 3
    assert postgresql.execute("select count(*), min(load_id) from copy._synqx_quarantine") == [(3, "c")]


@pytest.mark.parametrize("on_bad_row", ["quarantine", "fail"])
def test_a_quarantine_that_an_earlier_version_made_is_repaired(
    postgresql: PostgresqlDatabase, end: Connector, on_bad_row: str
) -> None:
    load(end, end, make(), SCHEMA, load_id="a")
    postgresql.execute("alter table copy._synqx_quarantine replica identity default; delete from t where id > 1;")
    load(end, end, make(on_bad_row=on_bad_row), SCHEMA, load_id="b")
    assert postgresql.execute("select count(*) from copy._synqx_quarantine") == [(0,)]


def test_a_quarantine_that_is_not_published_is_left_alone(postgresql: PostgresqlDatabase, end: Connector) -> None:
    load(end, end, make(), SCHEMA, load_id="a")
    postgresql.execute("drop publication everything; alter table copy._synqx_quarantine replica identity default")
    load(end, end, make(), SCHEMA, load_id="b")
    identity = "select relreplident::text from pg_class where relname = '_synqx_quarantine'"
    assert postgresql.execute(identity) == [("d",)]


def test_rows_that_share_a_key_leave_the_staging_table_of_a_load_in_ranges(
    postgresql: PostgresqlDatabase, end: Connector
) -> None:
    postgresql.execute(
        "create table big (n serial primary key, id int, name text);"
        "insert into big (id, name) select i % 2990, 'x' from generate_series(1, 3000) i; analyze big"
    )
    for load_id in "ab":
        result = load(end, end, make(source_table="big", range_rows=1000), SCHEMA, load_id=load_id)
        assert (result.rows_out, result.rows_quarantined) == (2980, 20)


def test_every_table_that_synqx_keeps_can_be_changed(postgresql: PostgresqlDatabase, end: Connector) -> None:
    load(end, end, make(), SCHEMA, load_id="a")
    postgresql.execute("create table big as select i as id, 'x' as name from generate_series(1, 3000) i")
    postgresql.execute("alter table big add primary key (id); analyze big")
    load(end, end, make(source_table="big", target_table="copy.big", range_rows=1000), SCHEMA, load_id="b")
    kept = "select tablename from pg_tables where schemaname = 'copy' and tablename like '\\_synqx%'"
    tables = [name for (name,) in postgresql.execute(kept)]
    assert set(tables) == {"_synqx_fence", "_synqx_ledger", "_synqx_quarantine", "_synqx_ranges"}
    for name in tables:
        postgresql.execute(f"delete from copy.{name}")


def test_a_target_whose_rows_nothing_tells_apart_is_refused_in_the_plan(
    postgresql: PostgresqlDatabase, end: Connector
) -> None:
    mapping = make_mapping(source_table="t", target_table="plain")
    load(end, end, mapping, load_id="a")
    with pytest.raises(PlanError, match="replica identity") as caught:
        plan_load(mapping, None, end, end)
    postgresql.execute((caught.value.hint or "").partition("run: ")[2])
    assert load(end, end, mapping, load_id="b").rows_out == 4
    assert load(end, end, make_mapping(source_table="t", target_table="plain", mode="append"), load_id="c").rows_in == 4


def test_a_publication_of_insertions_alone_asks_for_no_identity(postgresql: PostgresqlDatabase, end: Connector) -> None:
    postgresql.execute("alter publication everything set (publish = 'insert, truncate')")
    mapping = make_mapping(source_table="t", target_table="plain")
    load(end, end, mapping, load_id="a")
    plan_load(mapping, None, end, end)
    assert load(end, end, mapping, load_id="b").rows_out == 4
    for published in ("update", "delete"):
        postgresql.execute(f"alter publication everything set (publish = '{published}')")
        with pytest.raises(PlanError, match="replica identity"):
            plan_load(mapping, None, end, end)
