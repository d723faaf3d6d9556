"""What every connector promises of publishing: all of a load or nothing, and what hangs on a table stays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import SynqxError
from synqx_dagster.model.table import TableName
from synqx_dagster_tests.contract.loading import ID, NAME, TABLE, Rows, epochs, load, names_in, read_all, spelt, stage


def test_replace_leaves_only_the_new_rows_and_append_adds(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one"), (2, "two")]))
    load(connector, Rows((ID, NAME), [(2, "zwei"), (3, "drei")]))
    assert names_in(connector) == ["zwei", "drei"]
    load(connector, Rows((ID, NAME), [(4, "vier")]), append=True)
    assert names_in(connector) == ["zwei", "drei", "vier"]
    load(connector, Rows((ID, NAME)))
    assert names_in(connector) == []
    assert [item.table.name for item in connector.discover()] == ["customer"]


def test_a_load_that_is_rolled_back_leaves_nothing(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    for publish in ("replace", "append"):
        with connector.write() as session:
            staging = stage(connector, session, Rows((ID, NAME), [(2, "two")]))
            if publish == "replace":
                session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
            else:
                session.publish_append(staging, TABLE, spelt(connector, (ID, NAME)))
            session.rollback()
            if not connector.capabilities.transactional_ddl:
                session.drop_staging(staging)
        assert names_in(connector) == ["one"]
    assert [item.table.name for item in connector.discover()] == ["customer"]


def test_leaving_a_session_without_a_commit_rolls_back(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.begin()
        session.execute(f"DELETE FROM {connector.qualify(TABLE)}")
    assert names_in(connector) == ["one"]


def test_what_hangs_on_a_table_survives_its_replacement(connector: Connector) -> None:
    if not connector.capabilities.has_objects:
        pytest.skip("nothing hangs on a table here")
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.execute(f"CREATE VIEW loud AS SELECT id, upper(name) AS name FROM {connector.qualify(TABLE)}")
        session.execute(f"CREATE INDEX by_name ON {connector.qualify(TABLE)} (name)")
        before = session.find_columns(TABLE)
    load(connector, Rows((ID, NAME), [(2, "two")]))
    assert names_in(connector, TableName("loud")) == ["TWO"]
    with connector.write() as session:
        assert session.find_columns(TABLE) == before
        with pytest.raises(SynqxError):
            session.execute(f"CREATE INDEX by_name ON {connector.qualify(TABLE)} (name)")


def test_columns_that_are_not_loaded_get_their_default(connector: Connector) -> None:
    if not connector.capabilities.has_objects:
        pytest.skip("columns have no defaults here")
    with connector.write() as session:
        session.execute(
            f"CREATE TABLE {connector.qualify(TABLE)}"
            " (id integer PRIMARY KEY, name varchar(20), kind varchar(9) DEFAULT 'new')"
        )
    load(connector, Rows((ID, NAME), [(1, "one")]))
    load(connector, Rows((ID, NAME), [(2, "two")]), append=True)
    assert [row[1:] for row in read_all(connector)] == [("one", "new"), ("two", "new")]


@pytest.mark.parametrize("bad", [[(1, "one"), (1, "again")], [(None, "nobody")]], ids=["double key", "null key"])
def test_rows_that_break_the_key_are_refused_and_nothing_changes(connector: Connector, bad: list[Any]) -> None:
    load(connector, Rows((ID, NAME), [(7, "seven")]))
    with connector.write() as session:
        with pytest.raises(SynqxError):  # noqa: PT012  # some engines refuse when staging, some when publishing
            staging = stage(connector, session, Rows((ID, NAME), bad))
            session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
        session.rollback()
        if not connector.capabilities.transactional_ddl:
            for item in connector.discover():
                if item.table.name != TABLE.name:
                    session.drop_staging(item.table)
    assert names_in(connector) == ["seven"]
    assert [item.table.name for item in connector.discover()] == ["customer"]


def test_an_error_of_the_batches_ends_the_write_as_it_is(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(7, "seven")]))

    class SourceBrokeError(Exception):
        """Stands for whatever a source may raise."""

    def batches() -> Iterable[pa.RecordBatch]:
        yield from Rows((ID, NAME), [(number, "x") for number in range(5_000)]).batches()
        raise SourceBrokeError

    with connector.write() as session:
        session.begin()
        staging = session.create_staging(TABLE, spelt(connector, (ID, NAME)), epoch=next(epochs))
        with pytest.raises(SourceBrokeError):
            session.write_batches(staging, spelt(connector, (ID, NAME)), batches())
        session.rollback()
        if not connector.capabilities.transactional_ddl:
            session.drop_staging(staging)
    assert names_in(connector) == ["seven"]
