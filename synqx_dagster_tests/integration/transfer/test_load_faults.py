"""Loads that die, hang or meet: afterwards the target holds exactly the expected rows, once."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import SynqxError
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import (
    ChildLoad,
    Databases,
    connect,
    load,
    make_mapping,
)

ROWS = 5000
SOURCE = f"""
create table orders (id integer primary key, body text);
insert into orders select i, repeat(md5(i::text), 4) from generate_series(1, {ROWS}) as i;
"""
CHECKSUM = "select count(*), count(distinct id), md5(string_agg(t::text, '' order by id)) from orders as t"
LEFTOVERS = (
    "select tablename from pg_tables where schemaname = 'public' and tablename <> 'orders'"
    " and tablename not in ('_synqx_ledger', '_synqx_fence', '_synqx_quarantine')"
)


@pytest.fixture
def pair(postgresql: PostgresqlDatabase) -> Databases:
    postgresql.execute(SOURCE)
    return postgresql, postgresql.create_database()


def assert_exact(source: PostgresqlDatabase, target: PostgresqlDatabase, *, entries: int = 1) -> None:
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
    assert target.execute("select count(*) from _synqx_ledger") == [(entries,)]
    assert target.execute(LEFTOVERS) == []


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("mid_copy", "append"),
        ("after_copy", "replace"),
        ("before_commit", "replace"),
        ("before_commit", "append"),
        ("after_commit", "append"),
    ],
)
def test_killed_anywhere_a_retry_is_exact(pair: Databases, place: str, mode: str) -> None:
    source, target = pair
    mapping = make_mapping(source_table="orders", target_table="orders", mode=mode)
    configs = (source.config("source"), target.config("target"))
    assert ChildLoad(*configs, mapping, failpoints=f"{place}=kill").wait() is None
    retried = ChildLoad(*configs, mapping, run_id="run-2").wait()
    assert retried == {"rows_out": ROWS, "already_committed": place == "after_commit"}
    assert_exact(source, target)


def test_a_paused_attempt_that_comes_back_late_is_refused(
    pair: Databases,
) -> None:
    source, target = pair
    mapping = make_mapping(source_table="orders", target_table="copies", mode="append")
    configs = (source.config("source"), target.config("target"))
    target.execute("create table copies (id integer, body text)")
    # The table exists and append takes no lock that a second writer would wait for.
    late = ChildLoad(*configs, mapping, failpoints="before_commit=stop")
    with late:
        late.wait_until_stopped()
        assert ChildLoad(*configs, mapping, run_id="run-2").wait() == {"rows_out": ROWS, "already_committed": False}
        late.resume()
        report = late.wait()
    assert report is not None
    assert report["error"] == "FencedError"
    assert target.execute("select count(*), count(distinct id) from copies") == [(ROWS, ROWS)]
    assert target.execute("select run_id, epoch from _synqx_ledger") == [("run-2", 2)]


def test_two_loads_at_once_leave_one_exact_result(pair: Databases) -> None:
    source, target = pair
    mapping = make_mapping(source_table="orders", target_table="orders")
    configs = (source.config("source"), target.config("target"))
    children = [ChildLoad(*configs, mapping, load_id=f"load-{n}", run_id=f"run-{n}") for n in range(3)]
    with ExitStack() as stack:
        for child in children:
            stack.enter_context(child)
        reports = [child.wait() for child in children]
    done = [report for report in reports if report and "rows_out" in report]
    assert done, reports
    assert_exact(source, target, entries=len(done))


class DroppedReply:
    """Forwards one TCP port to another, until the client has said COMMIT: that it forwards, the reply it drops."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._upstream_port = port
        self.port: int = self._listener.getsockname()[1]
        self.armed_after = b"_synqx_ledger"
        self.dropped = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream_port))
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        drop_replies = threading.Event()

        def back() -> None:
            with closing(client), closing(server):
                while data := _receive(server):
                    if drop_replies.is_set():
                        # The reply is here, so the server has committed; the client never hears of it.
                        self.dropped.set()
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(data)

        threading.Thread(target=back, daemon=True).start()
        recorded = False
        while data := _receive(client):
            recorded = recorded or (b"INSERT INTO" in data and self.armed_after in data)
            if recorded and data.upper().endswith(b"COMMIT\x00") and not self.dropped.is_set():
                drop_replies.set()
            try:
                server.sendall(data)
            except OSError:
                return


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def test_a_lost_reply_to_commit_is_settled_by_the_ledger(
    pair: Databases,
) -> None:
    source, target = pair
    with closing(DroppedReply(target.port)) as proxy:
        through_proxy = ConnectionConfig(
            name="target",
            db_type="postgresql",
            host="127.0.0.1",
            port=proxy.port,
            database=target.name,
            username=target.username,
            options={"sslmode": "disable"},
        )
        mapping = make_mapping(source_table="orders", target_table="orders", mode="append")
        source_connector, target_connector = connect(source.config("source")), connect(through_proxy)
        result = load(source_connector, target_connector, mapping)
        assert proxy.dropped.is_set()
        assert (result.rows_out, result.already_committed) == (ROWS, False)
        again = load(source_connector, target_connector, mapping)
        assert again.already_committed
        source_connector.close()
        target_connector.close()
    assert_exact(source, target)


@pytest.mark.parametrize("end", [pytest.param("source", marks=pytest.mark.slow), "target"])
def test_a_terminated_backend_ends_the_attempt_and_a_retry_is_exact(pair: Databases, end: str) -> None:
    source, target = pair
    source.execute("create view slow as select id, body || coalesce(pg_sleep(0.0005)::text, '') as body from orders")
    mapping = make_mapping(source_query="select id, body from slow", target_table="orders")
    connectors = (connect(source.config("source")), connect(target.config("target")))
    victim = source if end == "source" else target
    done = threading.Event()

    def terminate() -> None:
        while not done.wait(0.05):
            victim.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                " and pid <> pg_backend_pid() and query like '%COPY%'"
            )

    killer = threading.Thread(target=terminate)
    killer.start()
    try:
        with pytest.raises(SynqxError) as caught:
            load(*connectors, mapping)
    finally:
        done.set()
        killer.join()
    assert caught.value.exit_code == 1
    assert load(*connectors, mapping, run_id="run-2").rows_out == ROWS
    assert_exact(source, target)
    for connector in connectors:
        connector.close()


@pytest.mark.parametrize("lane", ["passthrough", "arrow"])
def test_an_interrupt_ends_a_load_that_waits_for_its_source(pair: Databases, lane: str, tmp_path: Path) -> None:
    source, target = pair
    # Two minutes for all rows; the first ones are there at once.
    source.execute("create view slow as select id, body || coalesce(pg_sleep(0.025)::text, '') as body from orders")
    config = target.config("target")
    if lane == "arrow":
        config = ConnectionConfig(name="target", db_type="duckdb", database=str(tmp_path / "target.duckdb"))
    child = ChildLoad(source.config("source"), config, make_mapping(source_table="slow", target_table="copies"))
    with child:
        while not any(
            "slow" in query
            for (query,) in source.execute(
                "select query from pg_stat_activity where datname = current_database() and state = 'active'"
                " and pid <> pg_backend_pid()"
            )
        ):
            assert child.is_alive
            time.sleep(0.1)
        time.sleep(1)
        assert child.interrupt(patience_seconds=20) == 1
    if lane == "passthrough":
        assert target.execute("select tablename from pg_tables where tablename = 'copies'") == []
