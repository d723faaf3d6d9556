"""Types that only some servers have, and targets that lack a type, or a member of one, that the source has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import psycopg2
import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import BadRowsError, PlanError
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer
from synqx_dagster_tests.integration.transfer.loading import load, make_mapping
from synqx_dagster_tests.integration.transfer.types.cases import Case
from synqx_dagster_tests.integration.transfer.types.conftest import MakeDatabase
from synqx_dagster_tests.integration.transfer.types.databases import TABLE, Postgresql, fill
from synqx_dagster_tests.integration.transfer.types.postgresql_cases import OPTIONAL
from synqx_dagster_tests.integration.transfer.types.routes import LANE_COLUMN, Outcome, Route, connected, run_route

LANES: tuple[Literal["passthrough", "arrow"], ...] = ("passthrough", "arrow")


def _find_optional(server: PostgresqlServer) -> list[tuple[str, Case]]:
    found = []
    probe = server.create_database()
    for sql, one in OPTIONAL:
        try:
            probe.execute(sql)
        except (psycopg2.errors.FeatureNotSupported, psycopg2.errors.UndefinedFile):
            # Built without it, or without its extension: so are xml and hstore in the tests' own server.
            continue
        found.append((sql, one))
    probe.drop()
    return found


@pytest.mark.parametrize("lane", LANES)
def test_types_of_extensions_are_exact(
    postgresql_server: PostgresqlServer, make_database: MakeDatabase, lane: Literal["passthrough", "arrow"]
) -> None:
    optional = _find_optional(postgresql_server)
    cases = [one for _, one in optional]
    assert cases, "the tests' own server has pgvector"
    stations = [make_database("postgresql"), make_database("postgresql")]
    for database in stations:
        database.run(*(sql for sql, _ in optional))
    fill(stations[0], cases)
    stations[0].run(f"alter table {TABLE} add {LANE_COLUMN} inet")
    outcomes = run_route(Route(lane, tuple(stations), lane), cases)
    assert set(outcomes.values()) == {Outcome("exact")}


def _mapping_fields(lane: str) -> list[dict[str, object]]:
    names = ["id", "feeling"]
    direct: list[dict[str, object]] = [
        {"type": "direct", "source_columns": [name], "target_fields": [name]} for name in names
    ]
    if lane == "arrow":
        direct.append({"type": "hash", "source_columns": [LANE_COLUMN], "target_fields": [LANE_COLUMN]})
    return direct


@pytest.fixture
def target(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    return postgresql.create_database()


@contextmanager
def loaded_with(source: PostgresqlDatabase, target: PostgresqlDatabase) -> Iterator[list[Connector]]:

    with connected(Postgresql(source), Postgresql(target)) as connectors:
        yield connectors


SOURCE = f"""
create type mood as enum ('sad', 'happy');
create table people (id integer primary key, feeling mood, {LANE_COLUMN} inet);
insert into people values (1, 'sad'), (2, null);
"""


@pytest.mark.parametrize("lane", LANES)
def test_a_type_that_the_target_lacks_is_refused(
    postgresql: PostgresqlDatabase, target: PostgresqlDatabase, lane: str
) -> None:
    postgresql.execute(SOURCE)
    mapping = make_mapping(source_table="people", target_table="people", column_mappings=_mapping_fields(lane))
    with loaded_with(postgresql, target) as connectors, pytest.raises(PlanError, match=r"'feeling' \(mood\)"):
        load(connectors[0], connectors[1], mapping)
    assert target.execute("select to_regclass('people')") == [(None,)]


@pytest.mark.parametrize("lane", LANES)
def test_a_member_that_the_target_lacks_names_its_column(
    postgresql: PostgresqlDatabase, target: PostgresqlDatabase, lane: str
) -> None:
    postgresql.execute(SOURCE)
    postgresql.execute("alter type mood add value 'ecstatic' before 'sad'")
    postgresql.execute("insert into people values (3, 'ecstatic')")
    target.execute("create type mood as enum ('sad', 'happy'); create table people (id integer, feeling mood)")
    target.execute(f"alter table people add {LANE_COLUMN} text; insert into people values (7, 'happy')")
    mapping = make_mapping(source_table="people", target_table="people", column_mappings=_mapping_fields(lane))
    with loaded_with(postgresql, target) as connectors, pytest.raises(BadRowsError, match="column 'feeling'") as caught:
        load(connectors[0], connectors[1], mapping)
    assert "ecstatic" not in str(caught.value)
    assert target.execute("select id, feeling::text from people") == [(7, "happy")]
    target.execute("alter type mood add value 'ecstatic'")
    with loaded_with(postgresql, target) as connectors:
        load(connectors[0], connectors[1], mapping, load_id="again")
    rows = target.execute("select id, feeling::text from people order by id")
    assert rows == [(1, "sad"), (2, None), (3, "ecstatic")]
