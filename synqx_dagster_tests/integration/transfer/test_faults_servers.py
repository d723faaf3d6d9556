"""Servers that crash in mid load, end sessions, or hang in a transaction: a retry afterwards is exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import RetryableError
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest, Progress, ProgressMeter
from synqx_dagster_tests.fix_mysql import MysqlDatabase, MysqlServer, start_mysql, stop_mysql
from synqx_dagster_tests.fix_postgresql import (
    PostgresqlDatabase,
    PostgresqlServer,
    start_postgresql,
    stop_postgresql,
)
from synqx_dagster_tests.integration.transfer.faults import assert_exact, connected, end_of, fill, orders
from synqx_dagster_tests.integration.transfer.loading import ChildLoad, load

ROWS = 20_000

#: ER_NO_SUCH_THREAD.
NO_SUCH_THREAD = 1094


@pytest.fixture(scope="module")
def postgresql_to_crash() -> Iterator[PostgresqlServer]:
    """A server of this module's own."""
    server = start_postgresql()
    try:
        yield server
    finally:
        stop_postgresql(server)


@pytest.fixture(scope="module")
def mysql_to_crash(mysql_server: MysqlServer) -> Iterator[MysqlServer]:
    """A server of this module's own; the shared one is asked for so that its absence is dealt with there."""
    server = start_mysql()
    try:
        yield server
    finally:
        stop_mysql(server)


@pytest.fixture
def other(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    """The end that does not crash."""
    return postgresql


@pytest.fixture(autouse=True)
def progress_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first megabyte is reported while more of it is to come."""
    monkeypatch.setattr(ProgressMeter, "INTERVAL_SECONDS", 0.0)


def restart(server: PostgresqlServer) -> None:
    server.stop("immediate")
    server.start()


class InMidCopy:
    """Does something when a load has begun to copy, and once."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.done = False

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "copy" and progress.bytes > 0 and not self.done:
            self.done = True
            self._act()


def attempt_meanwhile(source: Connector, target: Connector, act: Callable[[], object], **fields: object) -> None:
    """A load in the middle of which something happens that ends it."""
    meanwhile = InMidCopy(act)
    with pytest.raises(RetryableError):
        run_load(LoadRequest(orders(**fields), None, source, target, "run-1", "load-1", progress=meanwhile))
    assert meanwhile.done


RANGES = {"range_rows": 4_000}


def slow(value: object) -> object:
    """A variant of what another one shows as well; servers take long to start again."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("fields", [slow({}), slow({"mode": "merge", "key": ["id"]}), {"mode": "append", **RANGES}])
def test_a_target_that_crashes_in_mid_load(
    fields: dict[str, object], other: PostgresqlDatabase, postgresql_to_crash: PostgresqlServer
) -> None:
    source, target = end_of(other, "source"), end_of(postgresql_to_crash.create_database(), "target")
    fill(source, ROWS)
    other.execute("analyze")
    with connected(source.config, target.config) as ends:
        attempt_meanwhile(*ends, lambda: restart(postgresql_to_crash), **fields)
    with connected(source.config, target.config) as ends:
        assert load(*ends, orders(**fields), run_id="run-2").rows_out == ROWS
    assert_exact(source, target)


@pytest.mark.parametrize("fields", [slow({}), slow(RANGES), {"cursor": {"column": "id"}, "mode": "append"}])
def test_a_source_that_crashes_in_mid_read(
    fields: dict[str, object], other: PostgresqlDatabase, postgresql_to_crash: PostgresqlServer
) -> None:
    source, target = end_of(postgresql_to_crash.create_database(), "source"), end_of(other, "target")
    fill(source, ROWS)
    source.fetch("checkpoint")
    source.fetch("analyze")
    with connected(source.config, target.config) as ends:
        attempt_meanwhile(*ends, lambda: restart(postgresql_to_crash), **fields)
    if "cursor" in fields:
        assert target.fetch("select watermark from _synqx_ledger") == []
    with connected(source.config, target.config) as ends:
        assert load(*ends, orders(**fields), run_id="run-2").rows_out == ROWS
    assert_exact(source, target)


@pytest.mark.mysql
@pytest.mark.parametrize("mode", [slow("replace"), "append"])
def test_a_mysql_target_that_is_killed_in_mid_load(
    mode: str, other: PostgresqlDatabase, mysql_to_crash: MysqlServer
) -> None:
    source, target = end_of(other, "source"), end_of(mysql_to_crash.create_database(), "target")
    fill(source, ROWS)
    with connected(source.config, target.config) as ends:
        attempt_meanwhile(*ends, lambda: mysql_to_crash.stop(crash=True), mode=mode)
        # It is still down.
        with pytest.raises(RetryableError):
            load(*ends, orders(mode=mode), run_id="run-2")
        mysql_to_crash.start()
        assert load(*ends, orders(mode=mode), run_id="run-3").rows_out == ROWS
    assert_exact(source, target)


@pytest.mark.slow
@pytest.mark.mysql
def test_a_mysql_source_that_is_killed_in_mid_read(other: PostgresqlDatabase, mysql_to_crash: MysqlServer) -> None:
    source, target = end_of(mysql_to_crash.create_database(), "source"), end_of(other, "target")
    fill(source, ROWS * 4)
    with connected(source.config, target.config) as ends:
        attempt_meanwhile(*ends, lambda: mysql_to_crash.stop(crash=True))
        mysql_to_crash.start()
        assert load(*ends, orders(), run_id="run-2").rows_out == ROWS * 4
    assert_exact(source, target)


@pytest.mark.mysql
@pytest.mark.parametrize("victim", [slow("source"), "target"])
def test_a_mysql_session_that_is_killed_in_mid_load(
    victim: str, mysql: MysqlDatabase, postgresql: PostgresqlDatabase
) -> None:
    ends = (end_of(mysql, "source"), end_of(postgresql, "target"))
    source, target = ends if victim == "source" else (end_of(postgresql, "source"), end_of(mysql, "target"))
    fill(source, ROWS * 2)

    def kill() -> None:
        killed = 0
        for number, user, *_ in mysql.execute("show processlist"):
            if user == mysql.server.username and int(number) != mysql.execute("select connection_id()")[0][0]:
                killed += _kill(mysql, int(number))
        assert killed

    with connected(source.config, target.config) as connectors:
        attempt_meanwhile(*connectors, kill)
        assert load(*connectors, orders(), run_id="run-2").rows_out == ROWS * 2
    assert_exact(source, target)


def _kill(mysql: MysqlDatabase, number: int) -> int:
    import pymysql

    try:
        mysql.execute(f"kill {number}")
    except pymysql.err.OperationalError as error:
        if error.args[0] != NO_SUCH_THREAD:
            raise
        return 0  # It has ended by itself.
    return 1


def test_a_session_that_idles_in_its_transaction_is_ended_and_a_retry_is_exact(
    other: PostgresqlDatabase, postgresql_to_crash: PostgresqlServer
) -> None:
    """The process is stopped for longer than the server lets a transaction idle."""
    source, target = end_of(other, "source"), end_of(postgresql_to_crash.create_database(), "target")
    fill(source, ROWS)
    postgresql_to_crash.execute("alter system set idle_in_transaction_session_timeout = '1s'")
    postgresql_to_crash.reload()
    try:
        child = ChildLoad(
            source.config,
            target.through(postgresql_to_crash.port, idle_timeout_seconds=1),
            orders(),
            failpoints="before_commit=stop",
        )
        with child:
            child.wait_until_stopped()
            deadline = time.monotonic() + 60
            while target.fetch(
                "select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                " and state like 'idle in transaction%'"
            ):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            child.resume()
            report = child.wait()
        assert report is not None
        assert report["error"] == "RetryableError", report
        assert "idle" in report["message"] or "lost" in report["message"], report
        with connected(source.config, target.config) as ends:
            assert load(*ends, orders(), run_id="run-2").rows_out == ROWS
    finally:
        postgresql_to_crash.execute("alter system reset idle_in_transaction_session_timeout")
        postgresql_to_crash.reload()
    assert_exact(source, target)
