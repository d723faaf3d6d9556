"""Looks at the logs of real servers: the newest version, and one from before some figures were there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.errors import ConnectionFailedError, RetryableError
from synqx_dagster.model.connection import WalThresholds
from synqx_dagster.monitor.wal import watch_wal
from synqx_dagster.monitor.wal_breaches import find_breaches
from synqx_dagster.monitor.wal_change import WalMark, compare
from synqx_dagster_tests.fix_postgresql import (
    PostgresqlServer,
    start_installed_postgresql,
    start_postgresql,
    stop_postgresql,
)
from synqx_dagster_tests.integration.monitor.servers import (
    config_of,
    look_at,
    reading,
    slot_of,
    standby_of,
    wait_until,
    write_log,
)
from synqx_dagster_tests.proxies import stalling_proxy


@pytest.fixture(scope="module", params=[18, 15])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresqlServer]:
    """A server with room for many slots, which tests may restart."""
    if request.param == 15:
        request.getfixturevalue("postgresql_15_server")  # skips, or fails in CI, where there is none
        found = start_installed_postgresql(15)
    else:
        found = start_postgresql(18)
    try:
        found.execute("alter system set max_replication_slots = 40")
        found.stop()
        found.start()
        found.execute("create publication everything for all tables")
        yield found
    finally:
        stop_postgresql(found)


@pytest.fixture(autouse=True)
def _without_slots(server: PostgresqlServer) -> Iterator[None]:
    yield
    server.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
    server.execute("alter system reset max_slot_wal_keep_size")
    server.reload()


def version_of(server: PostgresqlServer) -> int:
    [(number,)] = server.execute("show server_version_num")
    return int(number) // 10_000


def make_slot(server: PostgresqlServer, name: str) -> None:
    server.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))


def test_every_figure_is_there(server: PostgresqlServer) -> None:
    make_slot(server, "shop")
    server.execute("select pg_create_physical_replication_slot('standby')")
    look = look_at(server)
    assert look.missing == ()
    [(identifier, files, size)] = server.execute(
        "select system_identifier::text, (select count(*) from pg_ls_waldir()),"
        " (select sum(size) from pg_ls_waldir()) from pg_control_system()"
    )
    assert look.system_identifier == identifier
    assert (look.directory_files, look.directory_bytes) == (files, size)
    assert not look.is_standby
    assert look.timeline == "00000001"
    assert look.settings is not None
    assert look.settings.wal_level == "logical"
    assert look.settings.max_slot_wal_keep_bytes is None
    assert look.settings.max_slots == 40
    assert look.statistics is not None
    assert look.statistics.bytes > 0
    assert look.checkpoints is not None
    assert look.archiver is not None
    assert not look.archiver.is_failing
    shop, standby = slot_of(look, "shop"), slot_of(look, "standby")
    assert (shop.slot_type, shop.plugin, shop.database) == ("logical", "pgoutput", "postgres")
    assert (standby.slot_type, standby.plugin, standby.restart_lag_bytes) == ("physical", None, None)
    assert not shop.active
    assert shop.wal_status == "reserved"
    assert shop.spilled_bytes == 0
    # What the server began to tell with version 17.
    assert (shop.inactive_since is not None) == (version_of(server) >= 17)


def test_lags_are_the_servers_own(server: PostgresqlServer) -> None:
    make_slot(server, "shop")
    write_log(server, 2)
    look = look_at(server)
    [(restart, confirmed)] = server.execute(
        "select pg_current_wal_lsn() - restart_lsn, pg_current_wal_lsn() - confirmed_flush_lsn"
        " from pg_replication_slots where slot_name = 'shop'"
    )
    slot = slot_of(look, "shop")
    # The server may have written something of its own since.
    assert slot.restart_lag_bytes is not None
    assert slot.confirmed_lag_bytes is not None
    assert 16 * 1024**2 <= slot.restart_lag_bytes <= restart
    assert slot.confirmed_lag_bytes <= confirmed
    assert look.wal_lsn is not None


def test_twenty_slots_come_in_order(server: PostgresqlServer) -> None:
    for number in range(20):
        make_slot(server, f"slot_{number:02}")
    look = look_at(server)
    assert look.slots is not None
    assert [slot.name for slot in look.slots] == [f"slot_{number:02}" for number in range(20)]
    assert all(slot.spilled_bytes == 0 and slot.wal_status == "reserved" for slot in look.slots)


def test_a_reader_is_seen_at_its_slot_and_among_the_clients(server: PostgresqlServer) -> None:
    make_slot(server, "shop")
    with reading(server, "shop"):
        look = wait_until(lambda: found if slot_of(found := look_at(server), "shop").active else None)
        assert look.clients is not None
        [client] = look.clients
        assert client.user_name == "postgres"
        assert client.state in ("startup", "catchup", "streaming")
    look = wait_until(lambda: found if not slot_of(found := look_at(server), "shop").active else None)
    thresholds = WalThresholds(max_inactive_seconds=1)
    since = {"shop": look.server_seconds - 5}
    assert [breach.key for breach in find_breaches(look, thresholds, (), since)] == ["slot:shop:inactive"]


def test_spilled_transactions_are_counted(server: PostgresqlServer) -> None:
    make_slot(server, "shop")
    server.execute("create table if not exists wide (text text)")
    server.execute("insert into wide select repeat('x', 200) from generate_series(1, 5000)")
    server.execute("alter system set logical_decoding_work_mem = '64kB'")
    server.reload()
    try:
        server.execute(
            "select count(*) from pg_logical_slot_get_binary_changes('shop', null, null,"
            " 'proto_version', '1', 'publication_names', 'everything')"
        )
        slot = wait_until(lambda: found if (found := slot_of(look_at(server), "shop")).spilled_bytes else None)
        assert slot.spilled_transactions == 1
        assert slot.spilled_bytes is not None
        assert slot.spilled_bytes > 1_000_000
    finally:
        server.execute("alter system reset logical_decoding_work_mem")
        server.reload()


def test_a_slot_that_the_server_gave_up_is_lost(server: PostgresqlServer) -> None:
    make_slot(server, "forgotten")
    make_slot(server, "fine")
    server.execute("alter system set max_slot_wal_keep_size = '16MB'")
    server.reload()
    write_log(server, 2)
    look = wait_until(
        lambda: found if (found := look_at(server)).settings and found.settings.max_slot_wal_keep_bytes else None
    )
    [breach, _] = find_breaches(look, WalThresholds())
    assert breach.key in ("slot:fine:unreserved", "slot:fine:lost")
    write_log(server, 3)
    server.execute("checkpoint")
    server.execute("select pg_drop_replication_slot('fine')")
    make_slot(server, "fine")
    look = look_at(server)
    assert look.settings is not None
    assert look.settings.max_slot_wal_keep_bytes == 16 * 1024**2
    forgotten, fine = slot_of(look, "forgotten"), slot_of(look, "fine")
    assert forgotten.is_lost
    assert not fine.is_lost
    assert forgotten.safe_wal_bytes is None
    assert fine.safe_wal_bytes is not None
    assert (forgotten.invalidation_reason == "wal_removed") == (version_of(server) >= 17)
    [breach] = find_breaches(look, WalThresholds())
    assert breach.key == "slot:forgotten:lost"
    assert breach.is_severe


def test_who_may_not_see_a_figure_is_told_the_grant(server: PostgresqlServer) -> None:
    server.execute('create role "poor ""x""" login')
    try:
        look = look_at(server, username='poor "x"')
        assert {item.figure for item in look.missing} == {"directory", "clients"}
        assert (look.directory_bytes, look.clients) == (None, None)
        assert look.slots == ()
        assert look.wal_lsn is not None
        assert look.system_identifier is not None
        for item in look.missing:
            assert item.grant is not None
            server.execute(item.grant)
        look = look_at(server, username='poor "x"')
        assert look.missing == ()
        assert look.directory_bytes is not None
        assert look.clients == ()
    finally:
        server.execute('drop owned by "poor ""x"""')
        server.execute('drop role "poor ""x"""')


@pytest.mark.parametrize(
    ("revoke", "give_back", "figure"),
    [
        (
            "revoke all on function pg_catalog.pg_control_system() from public",
            "grant execute on function pg_catalog.pg_control_system() to public",
            "identity",
        ),
        (
            "revoke all on pg_catalog.pg_replication_slots from public",
            "grant select on pg_catalog.pg_replication_slots to public",
            "slots",
        ),
        (
            "revoke all on pg_catalog.pg_stat_archiver from public",
            "grant select on pg_catalog.pg_stat_archiver to public",
            "archiver",
        ),
        (
            "revoke all on pg_catalog.pg_stat_wal from public",
            "grant select on pg_catalog.pg_stat_wal to public",
            "statistics",
        ),
        (
            "revoke all on pg_catalog.pg_stat_replication_slots from public",
            "grant select on pg_catalog.pg_stat_replication_slots to public",
            "spills",
        ),
    ],
)
def test_each_figure_goes_alone(server: PostgresqlServer, revoke: str, give_back: str, figure: str) -> None:
    server.execute("create role watcher login in role pg_monitor")
    make_slot(server, "shop")
    server.execute(revoke)
    try:
        look = look_at(server, username="watcher")
        [missing] = look.missing
        assert missing.figure == figure
        assert missing.grant is not None
        assert look.directory_bytes is not None
        server.execute(missing.grant)
        assert look_at(server, username="watcher").missing == ()
    finally:
        server.execute(give_back)
        server.execute("drop owned by watcher")
        server.execute("drop role watcher")


def test_functions_of_users_do_not_stand_in_for_the_servers(server: PostgresqlServer) -> None:
    server.execute("create schema evil")
    server.execute("create function evil.pg_ls_waldir() returns table (size int8) language sql as 'select 666::int8'")
    server.execute("create role watcher login in role pg_monitor")
    server.execute("grant usage on schema evil to watcher")
    server.execute("alter role watcher set search_path = evil, pg_catalog")
    try:
        look = look_at(server, username="watcher")
        assert look.directory_bytes is not None
        assert look.directory_bytes % 1024**2 == 0
    finally:
        server.execute("drop schema evil cascade")
        server.execute("drop role watcher")


def test_a_restart_is_noticed_and_makes_no_absurd_rate(server: PostgresqlServer) -> None:
    server.execute("create table if not exists filler (i int)")
    write_log(server, 1)
    server.execute("checkpoint")
    first = WalMark.of(look_at(server))
    server.stop("fast")
    server.start()
    write_log(server, 1)
    second = WalMark.of(look_at(server))
    change = compare(first, second)
    assert change.restarted
    assert change.wal_bytes is not None
    assert 0 < change.wal_bytes < 1024**3
    assert change.checkpoints is not None
    assert 0 <= change.checkpoints < 100
    # A crash loses what was counted.
    server.stop("immediate")
    server.start()
    third = WalMark.of(look_at(server))
    change = compare(second, third)
    assert change.restarted
    assert change.checkpoints is None
    assert change.archive_failures is None
    assert change.wal_bytes is None or 0 <= change.wal_bytes < 1024**3
    assert compare(third, WalMark.of(look_at(server))).restarted is False


def test_archive_failures_are_counted(server: PostgresqlServer) -> None:
    server.execute("alter system set archive_mode = on")
    server.execute("alter system set archive_command = 'false'")
    server.stop()
    server.start()
    try:
        before = WalMark.of(look_at(server))
        write_log(server, 1)
        look = wait_until(lambda: found if (found := look_at(server)).archiver and found.archiver.failed else None)
        assert [breach.key for breach in find_breaches(look, WalThresholds())] == ["archiver"]
        change = compare(before, WalMark.of(look))
        assert change.archive_failures is not None
        assert change.archive_failures > 0
    finally:
        server.execute("alter system reset archive_mode")
        server.execute("alter system reset archive_command")
        server.stop("immediate")
        server.start()


def test_a_standby_shows_how_far_it_has_replayed(server: PostgresqlServer) -> None:
    with standby_of(server) as standby:
        write_log(server, 1)
        end = look_at(server).wal_lsn
        assert end is not None
        # Each figure is of a moment of its own: what was replayed may have been received after it was asked for.
        look = wait_until(
            lambda: found if min((found := look_at(standby)).wal_lsn or 0, found.received_lsn or 0) >= end else None
        )
        assert look.is_standby
        assert look.missing == ()
        assert look.timeline is None
        assert look.received_lsn is not None
        assert look.received_lsn >= end
        assert look.system_identifier == look_at(server).system_identifier
        assert look.directory_bytes is not None
        primary = look_at(server)
        assert primary.clients is not None
        assert [client.state for client in primary.clients] == ["streaming"]
        # One log, two ways to count it: what was replayed here is nothing that was written there.
        assert compare(WalMark.of(primary), WalMark.of(look)).wal_bytes is None


# --- servers that do not answer ------------------------------------------------------------------------------------


def test_a_server_that_hangs_costs_its_time_out_and_no_more(server: PostgresqlServer) -> None:
    postmaster = int((server.data_directory / "postmaster.pid").read_text().splitlines()[0])
    connector = PostgresqlConnector(config_of(server))
    os.kill(postmaster, signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(ConnectionFailedError) as caught:
            watch_wal(connector, timeout_seconds=1)
    finally:
        os.kill(postmaster, signal.SIGCONT)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - started < 10


def test_a_server_that_falls_silent_half_way_costs_its_time_out_and_no_more(server: PostgresqlServer) -> None:
    with stalling_proxy(server.port) as proxy:
        connector = PostgresqlConnector(config_of(server, port=proxy.port))
        with connector.monitor(timeout_seconds=2) as session:
            assert session.fetch_rows("select 1 as one")[0]["one"] == 1
            proxy.stall(new_connections_too=True)
            started = time.monotonic()
            with pytest.raises(RetryableError, match="no answer within 2 s"):
                session.fetch_rows("select 1 as one")
            assert time.monotonic() - started < 10


def test_the_server_ends_a_slow_query_too(server: PostgresqlServer) -> None:
    connector = PostgresqlConnector(config_of(server))
    with connector.monitor(timeout_seconds=1) as session, pytest.raises(RetryableError):
        session.fetch_rows("select pg_sleep(60)")
    wait_until(
        lambda: server.execute("select 1 where not exists (select from pg_stat_activity where query ~ 'pg_[s]leep')")
    )


def test_a_session_cannot_write(server: PostgresqlServer) -> None:
    connector = PostgresqlConnector(config_of(server))
    with connector.monitor(timeout_seconds=5) as session, pytest.raises(Exception, match="read-only"):
        session.fetch_rows("create table made_by_monitor (i int)")


def test_the_queries_are_files() -> None:
    import synqx_dagster.monitor.queries as queries

    files = {path.name for path in Path(queries.__file__).parent.glob("*.sql")}
    assert len(files) >= 15
    assert all(queries.find_query(name.rsplit("_", 1)[0], 18) for name in files)
    assert queries.find_query("wal_spills", 13) is None
    assert queries.find_query("wal_slots", 15) != queries.find_query("wal_slots", 18)
