"""What every connector promises of merges and histories: exact comparisons, true counts, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import DELETED_FLAG, Connector, HistorySpec, MergeSpec, RowChanges
from synqx_dagster.model.table import Column
from synqx_dagster_tests.contract.loading import ID, NAME, TABLE, Rows, column, epochs, load, read_all, spelt

FLAG = column(DELETED_FLAG, "boolean")
KEY = ("id",)


@pytest.fixture(autouse=True)
def merging(connector: Connector) -> None:
    """Leave out connectors that say that they do not merge; a plan refuses them."""
    if not connector.capabilities.merges:
        pytest.skip(f"{connector.db_type} does not merge")


def publish(
    connector: Connector, rows: Sequence[tuple[Any, ...]], spec: MergeSpec | HistorySpec, *, commit: bool = True
) -> RowChanges:
    """Stage rows of an id, a name and perhaps a flag, and publish them as the transfer engine does."""
    merge = spec.merge if isinstance(spec, HistorySpec) else spec
    columns: tuple[Column, ...] = (ID, NAME)
    staged = columns if merge.deleted_flag is None else (*columns, FLAG)
    with connector.write() as session:
        session.begin()
        staging = session.create_staging(
            TABLE, spelt(connector, staged), epoch=next(epochs), replaces=False, key=merge.key
        )
        session.write_batches(staging, spelt(connector, staged), Rows(staged, list(rows)).batches())
        if not connector.capabilities.transactional_ddl:
            session.commit()
            session.begin()
        session.lock_table(TABLE)
        if isinstance(spec, HistorySpec):
            changes = session.publish_history(staging, TABLE, spelt(connector, columns), spec)
        else:
            changes = session.publish_merge(staging, TABLE, spelt(connector, columns), spec)
        if commit:
            session.commit()
        else:
            session.rollback()
        if not connector.capabilities.transactional_ddl:
            session.drop_staging(staging)
    assert [item.table.name for item in connector.discover()] == [TABLE.name]
    return changes


def read_pairs(connector: Connector) -> list[tuple[int, str | None]]:
    return sorted((int(row[0]), row[1]) for row in read_all(connector))


def test_a_merge_inserts_updates_and_leaves_alone(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one"), (2, "two"), (3, None), (4, "x")]))
    rows = [(1, "one"), (2, "Two"), (3, None), (4, "x "), (5, None)]
    assert publish(connector, rows, MergeSpec(KEY)) == RowChanges(1, 2, 0)
    assert read_pairs(connector) == rows
    assert publish(connector, rows, MergeSpec(KEY)) == RowChanges()
    assert publish(connector, [], MergeSpec(KEY)) == RowChanges()


def test_a_merge_deletes_what_is_missing_or_flagged(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one"), (2, "two"), (3, "three")]))
    flagged = [(1, "one", True), (4, "four", True), (5, "five", False)]
    assert publish(connector, flagged, MergeSpec(KEY, deleted_flag=DELETED_FLAG)) == RowChanges(1, 0, 1)
    assert read_pairs(connector) == [(2, "two"), (3, "three"), (5, "five")]
    both = MergeSpec(KEY, delete_missing=True, deleted_flag=DELETED_FLAG)
    assert publish(connector, [(2, "two", True), (3, "drei", False)], both) == RowChanges(0, 1, 2)
    assert read_pairs(connector) == [(3, "drei")]
    assert publish(connector, [], MergeSpec(KEY, delete_missing=True)) == RowChanges(0, 0, 1)


def test_a_merge_that_is_rolled_back_leaves_nothing(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    publish(connector, [(1, "eins"), (2, "zwei")], MergeSpec(KEY, delete_missing=True), commit=False)
    assert read_pairs(connector) == [(1, "one")]


def test_a_history_closes_and_opens_versions(connector: Connector) -> None:
    moment, boolean = connector.capabilities.moment_kind, column("now", "boolean", nullable=False)
    ends = (column("since", moment, nullable=False), column("until", moment))
    with connector.write() as session:
        session.begin()
        session.ensure_schema(TABLE)
        session.create_table(TABLE, spelt(connector, (ID, NAME, *ends, boolean)), ("id", "since"))
        session.create_current_index(TABLE, KEY, "now")
        session.commit()
        assert not connector.capabilities.has_objects or ("id", "since") in session.find_unique_keys(TABLE)
        assert session.current_moment().endswith("+00")

    def spec(day: int) -> HistorySpec:
        merge = MergeSpec(KEY, delete_missing=True)
        return HistorySpec(merge, "since", "until", "now", f"2024-01-0{day} 00:00:00.000001+00")

    assert publish(connector, [(1, "one"), (2, "two")], spec(1)) == RowChanges(2, 0, 0)
    assert publish(connector, [(1, "one"), (2, "Two")], spec(2)) == RowChanges(1, 1, 0)
    assert publish(connector, [(1, "one"), (2, "Two")], spec(3)) == RowChanges()
    assert publish(connector, [(2, "Two"), (3, "three")], spec(4)) == RowChanges(1, 0, 1)
    assert publish(connector, [(1, "one")], spec(5)) == RowChanges(1, 0, 2)
    found = [
        (int(row[0]), row[1], row[2][:10], row[3] and row[3][:10], row[4] in (True, "true"))
        for row in sorted(read_all(connector), key=lambda row: (int(row[0]), row[2]))
    ]
    assert found == [
        (1, "one", "2024-01-01", "2024-01-04", False),
        (1, "one", "2024-01-05", None, True),
        (2, "two", "2024-01-01", "2024-01-02", False),
        (2, "Two", "2024-01-02", "2024-01-05", False),
        (3, "three", "2024-01-04", "2024-01-05", False),
    ]


@pytest.mark.parametrize("table", ["with index", "without"])
def test_unique_keys_are_told(connector: Connector, table: str) -> None:
    if not connector.capabilities.has_objects:
        pytest.skip("its tables have no indexes")
    name = connector.qualify(TABLE)
    with connector.write() as session:
        assert session.find_unique_keys(TABLE) == ()
        if table == "without":
            session.execute(f"CREATE TABLE {name} (id integer, name varchar(20))")
            session.execute(f"CREATE INDEX plain ON {name} (name)")
            assert session.find_unique_keys(TABLE) == ()
        else:
            session.execute(f"CREATE TABLE {name} (id integer PRIMARY KEY, name varchar(20))")
            session.execute(f"CREATE UNIQUE INDEX by_both ON {name} (name, id)")
            assert set(session.find_unique_keys(TABLE)) == {("id",), ("name", "id")}
