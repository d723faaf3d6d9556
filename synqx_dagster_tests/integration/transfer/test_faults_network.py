"""Loads over a network that resets connections, is slow, hangs, or loses the reply to COMMIT."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import RetryableError
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest, Progress, ProgressMeter
from synqx_dagster_tests.faulty_proxies import LostReplies, Resets, Slowness, faulty_proxy
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.faults import (
    End,
    assert_books,
    assert_exact,
    connected,
    end_of,
    fill,
    load_until_done,
    orders,
)
from synqx_dagster_tests.integration.transfer.loading import connect, load
from synqx_dagster_tests.proxies import stalling_proxy

#: About 2.5 MB, which is more than all buffers on the way hold.
ROWS = 5_000

MYSQL = pytest.param("mysql", marks=pytest.mark.mysql)

#: What another variant shows as well, and takes long.
SLOW_MYSQL = pytest.param("mysql", marks=[pytest.mark.mysql, pytest.mark.slow])


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> End:
    end = end_of(postgresql, "source")
    fill(end, ROWS)
    return end


def make_end(kind: str, name: str, request: pytest.FixtureRequest) -> End:
    if kind == "mysql":
        return end_of(request.getfixturevalue("mysql"), name)
    postgresql: PostgresqlDatabase = request.getfixturevalue("postgresql")
    return end_of(postgresql.create_database(), name)


@pytest.mark.parametrize("kind", ["postgresql", MYSQL])
@pytest.mark.parametrize("mode", [pytest.param("replace", marks=pytest.mark.slow), "append"])
def test_a_target_connection_that_is_reset_in_mid_batch(
    kind: str, mode: str, source: End, request: pytest.FixtureRequest
) -> None:
    target = make_end(kind, "target", request)
    resets = Resets(after_bytes=300_000)
    with faulty_proxy(target.config.port or 0, resets.make_filters) as proxy:
        with connected(source.config, target.through(proxy.port)) as ends, pytest.raises(RetryableError):
            load(*ends, orders(mode=mode))
        assert resets.resets
        resets.enabled = False
        with connected(source.config, target.through(proxy.port)) as ends:
            assert load(*ends, orders(mode=mode), run_id="run-2").rows_out == ROWS
    assert_exact(source, target)


@pytest.mark.parametrize("kind", ["postgresql", MYSQL])
@pytest.mark.parametrize("to", ["postgresql", pytest.param("duckdb", marks=pytest.mark.slow)])
def test_a_source_connection_that_is_reset_in_mid_batch(
    kind: str, to: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = make_end(kind, "source", request)
    fill(source, ROWS)
    target = make_end("postgresql", "target", request) if to == "postgresql" else duckdb_end(tmp_path)
    resets = Resets(after_bytes=700_000)
    with faulty_proxy(source.config.port or 0, resets.make_filters) as proxy:
        with connected(source.through(proxy.port), target.config) as ends, pytest.raises(RetryableError):
            load(*ends, orders())
        assert resets.resets
        resets.enabled = False
        with connected(source.through(proxy.port), target.config) as ends:
            assert load(*ends, orders(), run_id="run-2").rows_out == ROWS
    assert_exact(source, target)


def duckdb_end(directory: Path) -> End:
    import duckdb

    path = str(directory / "target.duckdb")

    def fetch(sql: str) -> list[tuple[object, ...]]:
        with duckdb.connect(path, read_only=True) as database:
            rows: list[tuple[object, ...]] = database.execute(sql).fetchall()
            return rows

    return End("duckdb", ConnectionConfig(name="target", db_type="duckdb", database=path), fetch)


@pytest.mark.parametrize("parallelism", [1, 2])
def test_ranges_come_home_over_a_network_that_resets_every_connection(
    parallelism: int, source: End, request: pytest.FixtureRequest
) -> None:
    """No connection lives long enough for the table; each attempt brings some ranges home."""
    target = make_end("postgresql", "target", request)
    source.fetch("analyze orders")
    resets = Resets(after_bytes=900_000)
    mapping = orders(range_rows=1_000, parallelism=parallelism)
    with (
        faulty_proxy(source.config.port or 0, resets.make_filters) as proxy,
        connected(source.through(proxy.port), target.config) as ends,
    ):
        _, errors = load_until_done(*ends, mapping, attempts=12)
    assert errors
    runs = target.fetch("select count(distinct run_id) from _synqx_ledger where batch > 0")
    assert int(str(runs[0][0])) > 1
    assert_exact(source, target)


@pytest.mark.mysql
def test_a_lost_reply_to_commit_is_settled_by_mysqls_ledger(source: End, request: pytest.FixtureRequest) -> None:
    target = make_end("mysql", "target", request)
    replies = LostReplies(b"COMMIT")
    with (
        faulty_proxy(target.config.port or 0, replies.make_filters) as proxy,
        connected(source.config, target.through(proxy.port)) as ends,
    ):
        result = load(*ends, orders(mode="append"))
        assert replies.dropped.is_set()
        assert (result.rows_out, result.already_committed) == (ROWS, False)
        assert load(*ends, orders(mode="append")).already_committed
    assert_exact(source, target)


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_lost_reply_to_the_commit_of_a_range_loads_it_once(
    parallelism: int, source: End, request: pytest.FixtureRequest
) -> None:
    target = make_end("postgresql", "target", request)
    source.fetch("analyze orders")
    replies = LostReplies(b"COMMIT\x00")
    mapping = orders(range_rows=1_000, parallelism=parallelism)
    with (
        faulty_proxy(target.config.port or 0, replies.make_filters) as proxy,
        connected(source.config, target.through(proxy.port)) as ends,
    ):
        _, errors = load_until_done(*ends, mapping, attempts=3)
    assert replies.dropped.is_set()
    assert len(errors) == 1
    assert_exact(source, target)


@pytest.mark.mysql
@pytest.mark.parametrize("silent", [pytest.param("source", marks=pytest.mark.slow), "target"])
def test_a_silent_hang_of_mysql_in_mid_load_ends_and_a_retry_is_exact(
    silent: str, request: pytest.FixtureRequest
) -> None:
    source, target = make_end("mysql", "source", request), make_end("postgresql", "target", request)
    if silent == "target":
        source, target = end_of(request.getfixturevalue("postgresql"), "source"), make_end("mysql", "target", request)
    fill(source, ROWS * 4)
    victim = source if silent == "source" else target
    with stalling_proxy(victim.config.port or 0) as proxy:
        through = victim.through(proxy.port, silence_timeout_seconds=0.5, connect_timeout_seconds=2)
        configs = (through, target.config) if silent == "source" else (source.config, through)

        def stall_soon() -> None:
            while proxy.forwarded_bytes < 1 << 20:
                time.sleep(0.001)
            proxy.stall(new_connections_too=True)

        staller = threading.Thread(target=stall_soon)
        staller.start()
        with connected(*configs) as ends:
            with pytest.raises(RetryableError):
                load(*ends, orders(mode="append"))
            staller.join()
            proxy.recover()
            load_until_done(*ends, orders(mode="append"), attempts=3)
    assert_exact(source, target)


@pytest.mark.parametrize("kind", ["postgresql", SLOW_MYSQL])
def test_a_slow_link_is_waited_for_while_progress_goes_on(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of silence is far below what the load takes, and is not what ends it."""
    source = make_end(kind, "source", request)
    target = make_end("postgresql", "target", request)
    fill(source, ROWS)
    monkeypatch.setattr(ProgressMeter, "INTERVAL_SECONDS", 0.0)
    slowness = Slowness(bytes_per_second=800_000, delay_seconds=0.005)
    seen: list[Progress] = []
    with faulty_proxy(source.config.port or 0, slowness.make_filters) as proxy:
        through = source.through(proxy.port, silence_timeout_seconds=1.0)
        connectors = connect(through), connect(target.config)
        start = time.monotonic()
        result = run_load(LoadRequest(orders(), None, *connectors, "run-1", "load-1", progress=seen.append))
        assert time.monotonic() - start > 3
        for connector in connectors:
            connector.close()
    assert result.rows_out == ROWS
    copied = [how_far.bytes for how_far in seen if how_far.phase == "copy"]
    assert copied == sorted(copied)
    assert len(set(copied)) > 2
    assert_exact(source, target)
    assert_books(target, entries=1)
