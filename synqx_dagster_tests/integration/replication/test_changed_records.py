"""What becomes of tables whose record, publication or state was changed between runs, or beside one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.errors import SlotLostError
from synqx_dagster.model.table import TableName
from synqx_dagster.replication import operations
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.progress import FollowProgress
from synqx_dagster.replication.status import find_work
from synqx_dagster.replication.tables import FollowedTable, follow_table
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.replicating import Pair, open_pair
from synqx_dagster_tests.integration.replication.test_follow_targets import start_child


@pytest.fixture
def pair(source: PostgresqlDatabase, postgresql: PostgresqlDatabase, tmp_path: Path) -> Iterator[Pair]:
    source.execute(
        "create table t (id int primary key, v text, w int); insert into t values (1, 'a', 10), (2, 'b', 20);"
        "create table u (id int primary key, v text); insert into u values (1, 'a')"
    )
    with open_pair(source, postgresql, tmp_path / "spill", tables=["t", "u"]) as found:
        found.follow()
        yield found


def test_a_table_that_was_left_out_for_a_while_is_copied_again(pair: Pair) -> None:
    pair.change(tables=["u"])
    pair.follow()
    assert [str(table.source) for table in pair.status().tables] == ["public.u"]
    pair.source.execute("insert into t values (3, 'c', 30); delete from t where id = 1")
    pair.follow()
    pair.change(tables=["t", "u"])
    pair.follow()
    pair.assert_equal("t")


def test_another_target_gets_all_rows(pair: Pair) -> None:
    pair.change(tables=[{"name": "t", "target": "elsewhere"}, "u"])
    pair.source.execute("insert into t values (3, 'c', 30)")
    report = pair.follow()
    assert any("public.t is copied again" in warning for warning in report.warnings)
    pair.assert_equal("t", "elsewhere")
    assert pair.follow().warnings == ()
    assert {str(table.source): str(table.target) for table in pair.status().tables}["public.t"] == "elsewhere"


def test_wider_columns_and_rows_come_for_what_is_there_too(pair: Pair) -> None:
    pair.change(tables=[{"name": "u", "where": "id > 1"}, {"name": "t", "columns": ["id", "v"]}])
    pair.source.execute("insert into u values (2, 'b')")
    pair.follow()
    assert pair.content("u") == ["(2,b)"]
    pair.change(tables=["t", {"name": "u", "where": "id > 0"}])
    pair.follow()
    pair.assert_equal("t")
    pair.assert_equal("u")


def test_another_mode_whose_copy_does_not_fit_stops_the_table(pair: Pair) -> None:
    pair.change(mode="history")
    report = pair.follow()
    assert any("cannot be copied" in warning for warning in report.warnings), report.warnings
    assert pair.status().state == "degraded"
    pair.target.execute("drop table t; drop table u")
    pair.change(mode="soft_delete")
    pair.follow()
    pair.source.execute("delete from t where id = 1")
    pair.follow()
    assert pair.content("t", columns="id, is_deleted") == ["(1,t)", "(2,f)"]


def test_a_state_of_an_earlier_version_goes_on_without_a_copy(pair: Pair) -> None:
    pair.target.execute(
        "update _synqx_replicated_tables set relation = (relation::jsonb - 'definition')::text;"
        " delete from t where id = 1"
    )
    assert pair.follow().warnings == ()
    assert pair.content("t") == ["(2,b,20)"]
    pair.change(tables=[{"name": "t", "where": "id < 100"}, "u"])
    pair.follow()
    pair.assert_equal("t")


def test_a_replication_that_never_copies_follows_the_changed_record_from_here_on(
    postgresql: PostgresqlDatabase, tmp_path: Path
) -> None:
    postgresql.execute("create table t (id int primary key, v text)")
    with open_pair(postgresql, postgresql.create_database(), tmp_path, tables=["t"], snapshot="never") as pair:
        pair.follow()
        pair.source.execute("insert into t values (1, 'a')")
        pair.follow()
        pair.change(tables=[{"name": "t", "target": "elsewhere"}])
        pair.source.execute("insert into t values (2, 'b')")
        report = pair.follow()
        assert [warning for warning in report.warnings if "from here on" not in warning] == []
        assert pair.target.execute("select * from t") == [(1, "a")]
        assert pair.target.execute("select * from elsewhere") == [(2, "b")]


def test_a_target_may_move_to_another_replication(pair: Pair, tmp_path: Path) -> None:
    pair.change(tables=["u"])
    pair.follow()
    slot = f"other_{pair.source.name}"
    with open_pair(pair.source, pair.target, tmp_path / "other", "other", tables=["t"], slot=slot) as second:
        second.follow()
        second.source.execute("insert into t values (3, 'c', 30)")
        second.follow()
        second.assert_equal("t")


# --- the publication ------------------------------------------------------------------------------------------------


def test_tables_that_were_taken_out_of_the_publication_are_copied_again(pair: Pair) -> None:
    name = pair.replication.publication_name
    pair.source.execute(f'alter publication "{name}" drop table t')
    pair.source.execute("insert into t values (3, 'c', 30); delete from t where id = 1; insert into u values (2, 'b')")
    report = pair.follow()
    assert [warning for warning in report.warnings if "is copied again" in warning] == [
        f"public.t is copied again: the publication {name!r} did not bring all its changes"
    ]
    pair.assert_equal("t")
    pair.assert_equal("u")
    assert pair.follow().warnings == ()


def test_a_publication_of_other_changes_has_all_tables_copied_again(pair: Pair) -> None:
    pair.source.execute(f"alter publication \"{pair.replication.publication_name}\" set (publish = 'insert')")
    pair.source.execute("delete from t where id = 1; update u set v = 'z'")
    # What it is to be is written down before it is put right: a run that is refused in between loses nothing.
    operations.create(pair.replication, pair.source_connector, pair.target_connector)
    pair.follow()
    pair.assert_equal("t")
    pair.assert_equal("u")


def test_a_publication_that_is_gone_is_a_loss_with_a_way_out(pair: Pair) -> None:
    pair.source.execute(f'drop publication "{pair.replication.publication_name}"')
    pair.source.execute("insert into t values (3, 'c', 30); delete from u")
    for _ in range(2):
        with pytest.raises(SlotLostError, match=r"lost|the publication .* is gone"):
            pair.follow()
        with pytest.raises(SlotLostError):
            operations.create(pair.replication, pair.source_connector, pair.target_connector)
        assert pair.content("t") == ["(1,a,10)", "(2,b,20)"]
        assert pair.status().state == "lost"
        assert find_work(pair.replication, pair.source_connector, pair.target_connector).lost is not None
    operations.resync(pair.replication, pair.source_connector, pair.target_connector)
    pair.follow()
    pair.source.execute("insert into t values (4, 'd', 40)")
    pair.follow()
    pair.assert_equal("t")
    pair.assert_equal("u")
    assert pair.status().state == "following"


def make_publication_anew(pair: Pair) -> None:
    """Drop it and make it again, as it was; changes come in between, and no version lets the log tell of them."""
    name = pair.replication.publication_name
    [(tables, comment)] = pair.source.execute(
        "select (select string_agg(tablename, ', ') from pg_publication_tables), obj_description(oid, 'pg_publication')"
        " from pg_publication"
    )
    pair.source.execute(f'drop publication "{name}"')
    pair.source.execute("insert into t values (3, 'c', 30); delete from u")
    pair.source.execute(f'create publication "{name}" for table {tables} with (publish_via_partition_root = true)')
    pair.source.execute(f'comment on publication "{name}" is %s', (comment,))


def test_a_publication_that_was_made_anew_is_a_loss_with_a_way_out(pair: Pair) -> None:
    make_publication_anew(pair)
    ends = (pair.source_connector, pair.target_connector)
    assert "made again" in pair.wait_for_work()
    with pytest.raises(SlotLostError, match="was dropped and made again"):
        operations.create(pair.replication, *ends)
    with pytest.raises(SlotLostError, match="was dropped and made again"):
        pair.follow()
    assert pair.content("t") == ["(1,a,10)", "(2,b,20)"]
    assert pair.status().state == "lost"
    operations.resync(pair.replication, *ends)
    assert pair.follow().warnings == ()
    pair.source.execute("insert into t values (4, 'd', 40)")
    pair.follow()
    pair.assert_equal("t")
    pair.assert_equal("u")


def test_a_resync_after_a_publication_was_made_anew_begins_with_a_new_slot(pair: Pair) -> None:
    make_publication_anew(pair)
    ends = (pair.source_connector, pair.target_connector)
    with pytest.raises(SlotLostError, match="made again"):
        operations.resync(pair.replication, *ends, ["public.t"])
    # Nobody has looked before.
    operations.resync(pair.replication, *ends)
    assert pair.follow().warnings == ()
    pair.source.execute("insert into t values (4, 'd', 40)")
    pair.follow()
    pair.assert_equal("t")
    pair.assert_equal("u")


def test_a_table_that_was_taken_out_and_put_back_is_copied_again(pair: Pair) -> None:
    name = pair.replication.publication_name
    pair.source.execute(f'alter publication "{name}" drop table t')
    pair.source.execute("insert into t values (3, 'c', 30); insert into u values (2, 'b')")
    pair.source.execute(f'alter publication "{name}" add table only t')
    report = pair.follow()
    assert report.warnings == (f"public.t is copied again: the publication {name!r} did not bring all its changes",)
    assert {str(table.source): table.rows_copied for table in report.tables} == {"public.t": 3, "public.u": None}
    pair.assert_equal("t")
    pair.assert_equal("u")
    assert pair.follow().warnings == ()


# --- copies ---------------------------------------------------------------------------------------------------------


def test_a_copy_that_is_recognised_after_a_kill_knows_the_columns_it_had(
    source: PostgresqlDatabase, postgresql: PostgresqlDatabase, tmp_path: Path
) -> None:
    source.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')")
    with open_pair(source, postgresql, tmp_path / "spill", tables=["t"]) as pair:
        process = start_child(pair, SYNQX_FAILPOINTS="after_table_copy=kill")
        assert process.wait(timeout=120) == -signal.SIGKILL
        source.execute("alter table t rename column v to title; insert into t values (3, 'c')")
        assert [table.rows_copied for table in pair.follow().tables] == [None]
        source.execute("update t set title = 'z' where id = 1")
        pair.follow()
        pair.assert_equal("t")


def test_a_copy_that_is_asked_for_during_a_copy_is_made(pair: Pair) -> None:
    ends = (pair.source_connector, pair.target_connector)
    operations.resync(pair.replication, *ends, ["t"])
    asked: list[str] = []

    def ask(progress: FollowProgress) -> None:
        if progress.phase == "copy" and not asked:
            asked.extend(map(str, operations.resync(pair.replication, *ends, ["t"])))

    pair.follow(on_progress=ask)
    assert asked == ["public.t"]
    pair.target.execute("delete from t")
    pair.follow()
    pair.assert_equal("t")


def test_a_copy_that_is_asked_for_while_changes_come_in_is_made(pair: Pair) -> None:
    with Applier(pair.replication, pair.target_connector, followed(pair)) as applier:
        applier.begin("overtaken by a request")
        operations.resync(pair.replication, pair.source_connector, pair.target_connector, ["t"])
        applier.stop_table(TableName("t", "public"), "too late")
        applier.stop_table(TableName("u", "public"), "in time")
    assert {str(table.source): table.status for table in pair.status().tables} == {
        "public.t": "pending",
        "public.u": "stopped",
    }


def followed(pair: Pair) -> list[FollowedTable]:
    """What the replication of `pair` follows."""
    return [follow_table(pair.replication, TableName(one.name, "public"), one) for one in pair.replication.tables]
