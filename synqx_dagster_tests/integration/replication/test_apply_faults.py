"""An applier that is killed, paused, overtaken, or loses its connection: each change is in the target once."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.connectors.registry import connector_class
from synqx_dagster.errors import FencedError, RetryableError
from synqx_dagster.replication.adapt import TargetAlteredError
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import UNCHANGED, Change
from synqx_dagster.replication.position import PositionBook
from synqx_dagster.replication.tables import state_schema
from synqx_dagster.transfer.failpoints import VARIABLE
from synqx_dagster_tests.faulty_proxies import LostReplies, Resets, faulty_proxy
from synqx_dagster_tests.forked import fork_context, wait_until_stopped
from synqx_dagster_tests.integration.replication.applying import (
    MadeTransaction,
    Target,
    delete,
    followed,
    insert,
    make_replication,
    make_target,
    relation,
    start,
    update,
)

ITEM = relation()
PLACES = (
    "replication_read",
    "replication_staged",
    "replication_changed",
    "replication_before_commit",
    "replication_after_commit",
)
PATIENCE_SECONDS = 120


@pytest.fixture(params=["postgresql", pytest.param("mysql", marks=pytest.mark.mysql), "duckdb"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    kind = request.param
    place: Any = tmp_path if kind == "duckdb" else request.getfixturevalue(kind)
    made = make_target(kind, place)
    yield made
    made.connector.close()


def make_batches() -> list[list[tuple[int, list[Change]]]]:
    """Three batches of two transactions, which do everything to rows that others have made."""
    first: list[Change] = [insert(ITEM, str(number), "a", f"big {number}") for number in range(40)]
    second: list[Change] = [update(ITEM, str(number), "b", UNCHANGED) for number in range(0, 40, 2)]
    third: list[Change] = [
        update(ITEM, str(number + 100), "moved", UNCHANGED, old=(str(number), None, None)) for number in range(0, 40, 4)
    ]
    fourth: list[Change] = [delete(ITEM, str(number)) for number in range(1, 40, 4)]
    fifth: list[Change] = [insert(ITEM, str(number), "again", "x") for number in range(0, 40, 8)]
    sixth: list[Change] = [update(ITEM, str(number), "c", UNCHANGED) for number in range(2, 40, 4)]
    return [[(100, first), (200, second)], [(300, third), (400, fourth)], [(500, fifth), (600, sixth)]]


def run_applier(config: ConnectionConfig, mode: str, run_id: str, places: str) -> None:
    """A process that follows the whole log from where the target is, until it is killed."""
    os.environ[VARIABLE] = places
    connector: Connector = connector_class(config.db_type)(config)
    replication = make_replication(mode=mode)
    try:
        with Applier(replication, connector, followed(replication), piece_bytes=10_000) as applier:
            start(applier, run_id=run_id)
            follow_all(applier)
    finally:
        connector.close()


def follow_all(applier: Applier) -> None:
    """Apply every batch; a transaction that was applied is skipped by its position."""
    for batch in make_batches():
        for _ in range(2):
            try:
                applier.apply([MadeTransaction(lsn, changes) for lsn, changes in batch])
                break
            except TargetAlteredError:
                continue


def begin_process(*arguments: object) -> BaseProcess:
    process = fork_context([__name__]).Process(target=run_applier, args=arguments, daemon=True)
    process.start()
    return process


def epoch_of(target: Target) -> int:
    """As the target has it."""
    [(epoch,)] = target.rows("SELECT epoch FROM _synqx_replications")
    return int(epoch)


def rows_of(target: Target, mode: str) -> Sequence[tuple[Any, ...]]:
    if mode == "history":
        names = "change_lsn, change_ordinal, change_operation, id, name, big"
        return target.rows(f"SELECT {names} FROM item ORDER BY 1, 2")
    return target.rows("SELECT * FROM item ORDER BY id")


def expected_rows(mode: str, tmp_path: Path) -> Sequence[tuple[Any, ...]]:
    """What a DuckDB of its own holds after the same batches, undisturbed."""
    directory = tmp_path / "undisturbed"
    directory.mkdir()
    calm = make_target("duckdb", directory)
    replication = make_replication(mode=mode)
    with Applier(replication, calm.connector, followed(replication)) as applier:
        start(applier)
        follow_all(applier)
    return rows_of(calm, mode)


@pytest.mark.parametrize("mode", ["mirror", "history"])
def test_killed_at_every_place_the_target_holds_each_change_once(target: Target, mode: str, tmp_path: Path) -> None:
    epochs: list[int] = []
    for number, place in enumerate(PLACES):
        process = begin_process(target.connector.config, mode, f"run-{number}", f"{place}=kill")
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == -signal.SIGKILL, place
        epochs.append(epoch_of(target))
    replication = make_replication(mode=mode)
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier, run_id="last")
        follow_all(applier)
        epochs.append(applier.state.epoch)
    assert epochs == list(range(epochs[0], epochs[0] + len(PLACES) + 1))
    assert rows_of(target, mode) == expected_rows(mode, tmp_path)
    if target.kind == "postgresql":
        left = target.rows("SELECT relname FROM pg_class WHERE relname LIKE '\\_synqx\\_changes%'")
        assert left == []


def apply_one(applier: Applier, lsn: int, key: str) -> None:
    """One new row; where the table is made by that, it is read again."""
    try:
        applier.apply([MadeTransaction(lsn, [insert(ITEM, key, "a", "x")])])
    except TargetAlteredError:
        applier.apply([MadeTransaction(lsn, [insert(ITEM, key, "a", "x")])])


def test_an_applier_that_slept_while_its_replication_was_made_anew_commits_nothing(target: Target) -> None:
    replication = make_replication()
    with (
        Applier(replication, target.connector, followed(replication)) as sleeper,
        Applier(replication, target.connector, followed(replication)) as newer,
    ):
        start(sleeper)
        apply_one(sleeper, 100, "1")
        with target.connector.write() as session:
            book = PositionBook(target.connector, session, replication.name, state_schema(replication))
            book.begin_attempt("drop")
            session.begin()
            book.forget()
            session.commit()
        # As many attempts as there were before.
        start(newer)
        with pytest.raises(FencedError):
            apply_one(sleeper, 200, "2")
        apply_one(newer, 300, "3")
    assert [row[0] for row in target.rows("SELECT id FROM item ORDER BY id")] == [1, 3]


@pytest.mark.parametrize("place", ["replication_staged", "replication_before_commit"])
@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql)])
def test_an_applier_that_was_paused_and_overtaken_commits_nothing(
    kind: str, place: str, request: pytest.FixtureRequest
) -> None:
    target = make_target(kind, request.getfixturevalue(kind))
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as first:
        start(first, run_id="first")
        follow_one(first, 100, [insert(ITEM, "1", "a", "x")])
        with Applier(replication, target.connector, followed(replication)) as second:
            second.begin("second")
            follow_one(second, 200, [insert(ITEM, "2", "b", "x")])
            with pytest.raises(FencedError, match="a newer run has taken over"):
                first.apply([MadeTransaction(200, [insert(ITEM, "2", "doubled", "x")])])
            with pytest.raises(FencedError):
                first.stop_table(next(iter(first.table_states)), "no")
            with pytest.raises(FencedError):
                first.set_position(999, slot=None, status="lost")
            assert second.begin("third") == 208
    assert target.rows("SELECT id, name FROM item ORDER BY id") == [(1, "a"), (2, "b")]
    target.connector.close()


def follow_one(applier: Applier, lsn: int, changes: list[Change]) -> None:
    for _ in range(2):
        try:
            applier.apply([MadeTransaction(lsn, changes)])
            return
        except TargetAlteredError:
            continue


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql)])
def test_a_newer_attempt_waits_for_a_commit_that_is_under_way_and_goes_on_behind_it(
    kind: str, request: pytest.FixtureRequest
) -> None:
    target = make_target(kind, request.getfixturevalue(kind))
    replication = make_replication()
    # It stops with the fence's row locked, in the middle of a batch; then it dies, and its transaction with it.
    process = begin_process(target.connector.config, "mirror", "stopped", "replication_before_commit=stop")
    wait_until_stopped(process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_SECONDS)
    with Applier(replication, target.connector, followed(replication)) as applier:
        assert applier.begin("newer") == 0
        follow_all(applier)
        assert applier.state.position == 608
    target.connector.close()


#: How each server's client ends a COMMIT.
COMMITS = {"postgresql": b"COMMIT\x00", "mysql": b"COMMIT"}


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql)])
def test_a_commit_whose_reply_was_lost_is_settled_by_the_position(kind: str, request: pytest.FixtureRequest) -> None:
    target = make_target(kind, request.getfixturevalue(kind))
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        follow_one(applier, 100, [insert(ITEM, "1", "a", "x")])
    lost = LostReplies(COMMITS[kind], (b"UPDATE", b"_synqx_replications"))
    lost.enabled = False
    with faulty_proxy(target.connector.config.port or 0, lost.make_filters) as proxy:
        connector = through(target, proxy.port)
        with Applier(replication, connector, followed(replication)) as applier:
            applier.begin("proxied")
            lost.enabled = True
            report = applier.apply([MadeTransaction(200, [update(ITEM, "1", "b", UNCHANGED)])])
            assert lost.dropped.is_set()
            assert report.position == 208
            # Over a session of its own from then on.
            assert applier.apply([MadeTransaction(300, [insert(ITEM, "2", "c", "x")])]).position == 308
        connector.close()
    assert target.rows("SELECT id, name FROM item ORDER BY id") == [(1, "b"), (2, "c")]
    target.connector.close()


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql)])
def test_a_connection_that_is_reset_leaves_nothing_and_the_applier_goes_on(
    kind: str, request: pytest.FixtureRequest
) -> None:
    target = make_target(kind, request.getfixturevalue(kind))
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        follow_one(applier, 100, [insert(ITEM, "1", "a", "x")])
    resets = Resets(after_bytes=200_000)
    with faulty_proxy(target.connector.config.port or 0, resets.make_filters) as proxy:
        connector = through(target, proxy.port)
        changes: list[Change] = [insert(ITEM, str(number), "b", "x" * 100) for number in range(10, 10_000)]
        with Applier(replication, connector, followed(replication), piece_bytes=100_000) as applier:
            applier.begin("proxied")
            with pytest.raises(RetryableError):
                applier.apply([MadeTransaction(200, changes)])
            assert resets.resets > 0
            assert target.rows("SELECT count(*) FROM item") == [(1,)]
            resets.enabled = False
            assert applier.apply([MadeTransaction(200, changes)]).position == 208
        connector.close()
    assert target.rows("SELECT count(*) FROM item") == [(len(changes) + 1,)]
    target.connector.close()


def through(target: Target, port: int) -> Connector:
    """The same target by way of a proxy."""
    plain = {"sslmode": "disable"} if target.kind == "postgresql" else {"ssl_mode": "disabled"}
    config = dataclasses.replace(target.connector.config, host="127.0.0.1", port=port, options=plain)
    return connector_class(config.db_type)(config)
