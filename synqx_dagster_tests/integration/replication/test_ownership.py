"""What others have made at the source is theirs: slots and publications that bear a replication's names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.errors import ConfigurationError, PlanError, RetryableError, SynqxError
from synqx_dagster.replication import operations, status
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.position import PositionBook
from synqx_dagster.replication.status import drop_endangered, read_book
from synqx_dagster.replication.tables import state_schema
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.replicating import Pair, open_pair


@pytest.fixture
def pair(postgresql: PostgresqlDatabase, tmp_path: Path) -> Iterator[Pair]:
    postgresql.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')")
    with open_pair(postgresql, postgresql.create_database(), tmp_path / "spill") as found:
        yield found


@pytest.fixture
def silent(pair: Pair) -> Iterator[Any]:
    """A target that does not answer."""
    config = replace(pair.target.config("warehouse"), host="127.0.0.1", port=1)
    connector = PostgresqlConnector(config)
    yield connector
    connector.close()


def make_slot(pair: Pair) -> Any:
    name = pair.replication.slot_name
    pair.source.execute(f"select pg_create_logical_replication_slot('{name}', 'pgoutput')")
    return slot_of(pair)


def slot_of(pair: Pair) -> Any:
    return pair.source.execute(
        "select slot_name, confirmed_flush_lsn::text, active from pg_replication_slots where slot_name = %s",
        (pair.replication.slot_name,),
    )


def ends_of(pair: Pair) -> tuple[Any, Any, Any]:
    return pair.replication, pair.source_connector, pair.target_connector


def test_a_foreign_slot_is_left_by_all_that_is_done(pair: Pair) -> None:
    before = make_slot(pair)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="there is a slot") as caught:
            pair.follow()
        assert "give `slot:` another name" in str(caught.value.hint)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="there is a slot"):
            operations.create(*ends_of(pair))
    with pytest.raises(ConfigurationError, match="was left"):
        drop_endangered(*ends_of(pair), "too much")
    dropped = operations.drop(*ends_of(pair))
    assert not dropped.slot
    assert "left: the target does not know it" in dropped.lines[0]
    assert slot_of(pair) == before
    assert pair.publications() == []
    # With a name of its own it begins.
    pair.change(slot=f"{pair.replication.slot_name}_own")
    pair.follow()
    pair.assert_equal("t")


def test_who_was_quicker_keeps_his_slot(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def reach(place: str) -> None:
        # After the look, and before the slot is made.
        if place == "replication_before_slot" and not made:
            made.append(make_slot(pair))

    monkeypatch.setattr("synqx_dagster.replication.own_slot.reach", reach)
    with pytest.raises(ConfigurationError, match="there is a slot"):
        pair.follow()
    state, _ = read_book(pair.replication, pair.target_connector)
    assert (state.slot, state.status) == (None, "new")
    with pytest.raises(ConfigurationError, match="there is a slot"):
        pair.follow()
    assert not operations.drop(*ends_of(pair)).slot
    assert slot_of(pair) == made[0]


def test_a_slot_of_an_attempt_that_was_killed_is_replaced(pair: Pair) -> None:
    with pair.target_connector.write() as session:
        book = PositionBook(pair.target_connector, session, "mirror", state_schema(pair.replication))
        state = book.begin_attempt("killed")
        session.begin()
        book.advance(replace(state, slot=pair.replication.slot_name, status="creating"))
        session.commit()
    make_slot(pair)
    pair.follow()
    pair.assert_equal("t")


def test_a_resync_leaves_a_slot_that_came_after_ours_was_given_up(pair: Pair) -> None:
    pair.follow()
    drop_endangered(*ends_of(pair), "too much")
    assert slot_of(pair) == []
    before = make_slot(pair)
    operations.resync(*ends_of(pair))
    with pytest.raises(ConfigurationError, match="there is a slot"):
        pair.follow()
    assert slot_of(pair) == before


def test_of_a_target_that_is_silent_a_publication_of_ours_stands_for_the_slot(pair: Pair, silent: Any) -> None:
    before = make_slot(pair)
    with pytest.raises(RetryableError) as caught:
        operations.drop(pair.replication, pair.source_connector, silent)
    assert "left: the target cannot be asked whose it is" in str(caught.value.hint)
    with pytest.raises(ConfigurationError, match="was left"):
        drop_endangered(pair.replication, pair.source_connector, silent, "too much")
    assert slot_of(pair) == before
    pair.source.execute(f"select pg_drop_replication_slot('{pair.replication.slot_name}')")
    pair.follow()
    with pytest.raises(RetryableError) as caught:
        operations.drop(pair.replication, pair.source_connector, silent)
    assert f"slot {pair.replication.slot_name}: dropped" in str(caught.value.hint)
    assert (slot_of(pair), pair.publications()) == ([], [])


def test_a_run_that_was_asked_to_end_makes_nothing(pair: Pair) -> None:
    assert pair.follow(is_paused=lambda: True).ending == "paused"
    assert (pair.slots(), pair.publications()) == ([], [])
    # Paused and dropped while it looks at the source: it makes no slot.
    asked: list[bool] = []

    def is_paused() -> bool:
        asked.append(True)
        if len(asked) == 2:
            assert pair.publications() == [pair.replication.publication_name]
            assert operations.drop(*ends_of(pair)).publication
        return len(asked) >= 2

    assert pair.follow(is_paused=is_paused).ending == "paused"
    assert (pair.slots(), pair.publications()) == ([], [])


def test_a_run_that_is_overtaken_by_a_drop_leaves_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for moment in ("replication_before_slot", "replication_slot_made"):
        said: list[str] = []

        def reach(place: str, moment: str = moment, said: list[str] = said) -> None:
            if place == moment and not said:
                said.append(moment)
                operations.drop(*ends_of(pair))

        monkeypatch.setattr("synqx_dagster.replication.own_slot.reach", reach)
        with pytest.raises(SynqxError):
            pair.follow()
        assert said
        assert (pair.slots(), pair.publications()) == ([], []), moment


def test_what_a_run_makes_while_it_is_dropped_is_dropped_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.follow()
    forget = operations._forget
    runs: list[str] = []

    def begin_again(*arguments: Any) -> None:
        forget(*arguments)
        if not runs:
            runs.append(pair.follow().ending)

    monkeypatch.setattr(operations, "_forget", begin_again)
    operations.drop(*ends_of(pair))
    assert runs == ["idle"]
    assert (pair.slots(), pair.publications()) == ([], [])
    assert pair.status().state == "new"


@pytest.mark.slow
def test_a_run_between_two_looks_is_no_loss(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.follow()
    numbers = itertools.count(10)

    def go_on() -> None:
        pair.source.execute("insert into t values (%s, 'c')", (next(numbers),))
        pair.follow()

    def read_between(*arguments: Any) -> Any:
        go_on()
        found = read_book(*arguments)
        go_on()
        return found

    monkeypatch.setattr(status, "read_book", read_between)
    assert (pair.status().state, pair.status().reason) == ("following", None)
    assert status.find_work(*ends_of(pair)).lost is None
    assert not operations.create(*ends_of(pair)).made_slot
    # Were it lost, a resync would begin with another slot.
    assert [str(table) for table in operations.resync(*ends_of(pair))] == ["public.t"]
    assert len(slot_of(pair)) == 1


def test_what_an_overtaken_run_has_stored_is_no_loss(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.follow()
    begin = Applier.begin
    runs: list[str] = []

    def begin_later(applier: Applier, run_id: str) -> int | None:
        if not runs:
            runs.append("begins")
            pair.source.execute("insert into t values (3, 'c')")
            runs.append(pair.follow().ending)
        return begin(applier, run_id)

    monkeypatch.setattr(Applier, "begin", begin_later)
    pair.source.execute("insert into t values (4, 'd')")
    assert pair.follow().ending == "idle"
    assert runs == ["begins", "idle"]
    pair.assert_equal("t")


def test_a_users_own_publication_is_used_and_left_alone(pair: Pair) -> None:
    name = pair.replication.publication_name
    pair.source.execute("create table other (id int primary key)")
    pair.change(tables=["public.t"])
    pair.source.execute(f"create publication {name} for table other; comment on publication {name} is 'mine'")
    with pytest.raises(PlanError, match="t is not in it"):
        pair.follow()
    (problem,) = operations.create(*ends_of(pair)).source.problems
    remedy = problem.remedy.removeprefix("its owner runs: ")
    assert published(pair) == [("other",)]
    pair.source.execute(remedy)
    pair.follow()
    pair.assert_equal("t")
    dropped = operations.drop(*ends_of(pair))
    assert (dropped.slot, dropped.publication) == (True, False)
    assert f"publication {name}: left: SynqX has not made it" in dropped.lines
    assert published(pair) == [("other",), ("t",)]
    assert pair.source.execute("select obj_description(oid, 'pg_publication') from pg_publication") == [("mine",)]


def published(pair: Pair) -> Any:
    return pair.source.execute("select tablename::text from pg_publication_tables order by 1")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupted_create_leaves_nothing_half_made(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    make = operations._make_slot

    def interrupted(*arguments: Any) -> None:
        if moment == "after":
            make(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "_make_slot", interrupted)
    with pytest.raises(KeyboardInterrupt):
        operations.create(*ends_of(pair))
    assert len(pair.publications()) == len(pair.slots()) == (1 if moment == "after" else 0)
