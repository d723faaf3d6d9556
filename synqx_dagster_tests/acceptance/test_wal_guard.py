"""What the WAL guard does beside runs, after evaluations that were ended half-way, and while a server hangs."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import dagster as dg
import pytest

from synqx_dagster.alerts.messages import AlertEvent
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.defs.alert_events import begin_memory
from synqx_dagster.defs.alert_sensor import concerns
from synqx_dagster.defs.instance import open_instance
from synqx_dagster.defs.monitor_events import begin_changes, take_changes
from synqx_dagster.defs.replication_assets import REPLICATION_TAG
from synqx_dagster.defs.replication_guard import GuardRounds, GuardState, guard_slots, read_cursor, write_cursor
from synqx_dagster.defs.replication_sensors import find_run
from synqx_dagster.model import Alert
from synqx_dagster.replication.stream import open_stream
from synqx_dagster_tests.acceptance import test_cli_replications as replications
from synqx_dagster_tests.acceptance.test_cli_replications import Shop, guarded, look_at_all
from synqx_dagster_tests.proxies import stalling_proxy

shop = replications.shop
catalog = replications.catalog

WORK = (
    "kind: mapping\nname: m\nsource_connection: shop\nsource_table: sales.orders\n"
    "target_connection: warehouse\ntarget_table: x\n---\n"
    'kind: schedule\nname: nightly\nmapping: m\ncron_expression: "0 2 * * *"\n---\n'
    'kind: schedule\nname: other\nmapping: m\ncron_expression: "0 3 * * *"\n'
)


def without_replication(shop: Shop) -> None:
    """Take the replication out of the catalog."""
    text = (shop.run.directory / "synqx.yaml").read_text()
    shop.run.write("synqx.yaml", text[: text.rindex("---")])
    assert shop.run("apply", "synqx.yaml", "--yes", "--prune").exit_code == 0


def move_source(shop: Shop, port: int) -> None:
    """Let the source be reached over another port."""
    text = (shop.run.directory / "synqx.yaml").read_text()
    place = f"host: {shop.source.host}\nport: {shop.source.port}\n"
    assert place in text
    shop.run.write("synqx.yaml", text.replace(place, f"host: 127.0.0.1\nport: {port}\n", 1))
    assert shop.run("apply", "synqx.yaml", "--yes").exit_code == 0


def test_a_run_that_does_not_read_the_slot_does_not_hold_the_guard_up(shop: Shop, catalog: Catalog) -> None:
    guarded(shop, catalog, "drop_slot")
    replication = catalog.latest_snapshot().get_replication("shop-mirror")
    with open_instance(catalog.settings) as instance:
        # One that copies for hours.
        instance.add_run(
            dg.DagsterRun(
                job_name="shop_mirror",
                status=dg.DagsterRunStatus.STARTED,
                tags={REPLICATION_TAG: replication.name},
            )
        )
        assert find_run(instance, replication) is not None
    assert "the slot was dropped" in look_at_all(catalog, {})[-1]
    assert shop.left_behind()[0] == []


def test_a_slot_that_is_read_is_left_to_its_reader(shop: Shop, catalog: Catalog) -> None:
    guarded(shop, catalog, "drop_slot")
    snapshot = catalog.latest_snapshot()
    replication = snapshot.get_replication("shop-mirror")
    connector = PostgresqlConnector(shop.source.config("shop"))
    directory = shop.run.directory / "spill"
    directory.mkdir()
    try:
        with open_stream(
            connector,
            replication.slot_name,
            replication.publication_name,
            after_lsn=0,
            memory_bytes=1024**2,
            spill_directory=directory,
        ):
            look_at_all(catalog, {})
            assert shop.left_behind()[0] == [(shop.slot,)]
    finally:
        connector.close()
    assert "the slot was dropped" in look_at_all(catalog, {})[-1]


@pytest.mark.slow
def test_what_was_paused_is_found_without_a_cursor(shop: Shop, catalog: Catalog) -> None:
    shop.run.write("more.yaml", WORK)
    assert shop.run("apply", "more.yaml", "--yes").exit_code == 0
    guarded(shop, catalog, "pause")
    # Dagster keeps the cursor of an evaluation that it has ended for taking too long as it was before.
    look_at_all(catalog, {})
    snapshot = catalog.latest_snapshot()
    assert not snapshot.get_schedule("nightly").enabled
    assert not snapshot.get_schedule("other").enabled
    # What somebody has written since stays as he wrote it.
    shop.run.write("more.yaml", WORK.replace("0 3", "0 4") + "enabled: false\n")
    assert shop.run("apply", "more.yaml", "--yes").exit_code == 0
    look_at_all(catalog, {})
    shop.source.execute("drop table neighbour")
    for _ in range(2):
        shop.source.execute("checkpoint")
        assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    (line,) = look_at_all(catalog, {})
    assert "started again: schedule:nightly" in line
    snapshot = catalog.latest_snapshot()
    assert (snapshot.get_schedule("nightly").enabled, snapshot.get_schedule("other").enabled) == (True, False)


def test_a_replication_that_was_removed_keeps_nothing_paused(shop: Shop, catalog: Catalog) -> None:
    shop.run.write("more.yaml", WORK)
    assert shop.run("apply", "more.yaml", "--yes").exit_code == 0
    guarded(shop, catalog, "pause")
    look_at_all(catalog, {})
    text = (shop.run.directory / "synqx.yaml").read_text()
    shop.run.write("synqx.yaml", text[: text.rindex("---")])
    # As they are by now: this is no change of theirs.
    shop.run.write(
        "more.yaml",
        WORK.replace("---\nkind: schedule\nname: other", "enabled: false\n---\nkind: schedule\nname: other")
        + "enabled: false\n",
    )
    assert shop.run("apply", "synqx.yaml", "more.yaml", "--yes", "--prune").exit_code == 0
    assert not catalog.latest_snapshot().get_schedule("nightly").enabled
    look_at_all(catalog, {})
    snapshot = catalog.latest_snapshot()
    assert (snapshot.get_schedule("nightly").enabled, snapshot.get_schedule("other").enabled) == (True, True)


@pytest.mark.slow
def test_a_source_that_hangs_is_not_waited_for(shop: Shop, catalog: Catalog) -> None:
    guarded(shop, catalog, "warn")
    with stalling_proxy(shop.source.port) as proxy:
        move_source(shop, proxy.port)
        proxy.stall(new_connections_too=True)
        rounds = GuardRounds()
        with open_instance(catalog.settings) as instance:
            for _ in range(2):
                started = time.monotonic()
                (line,) = guard_slots(instance, catalog, catalog.latest_snapshot(), {}, rounds, seconds=1.0)
                assert time.monotonic() - started < 5
                assert "could not look: its source has not answered yet" in line
        proxy.recover()


def test_a_removed_replication_whose_source_hangs_is_not_waited_for(shop: Shop, catalog: Catalog) -> None:
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    with stalling_proxy(shop.source.port) as proxy:
        move_source(shop, proxy.port)
        without_replication(shop)
        proxy.stall(new_connections_too=True)
        states: dict[str, GuardState] = {}
        with open_instance(catalog.settings) as instance:
            started = time.monotonic()
            guard_slots(instance, catalog, catalog.latest_snapshot(), states, seconds=1.0)
            assert time.monotonic() - started < 5
        assert states["shop-mirror"].settled_at == 0
        states = read_cursor(write_cursor(states))
        assert states["shop-mirror"].tried_at > 0
        proxy.recover()
        look_at_all(catalog, states)
    assert shop.left_behind() == ([], [])
    assert states["shop-mirror"].settled_at > 0


def test_troubles_are_told_once_and_so_is_their_end(shop: Shop, catalog: Catalog) -> None:
    def told() -> list[AlertEvent]:
        look_at_all(catalog, {})
        return take_changes(catalog, memory, datetime.now(UTC))

    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    memory = begin_memory(datetime.now(UTC), begin_changes(catalog))
    assert told() == []
    shop.target.execute("alter table customer add constraint short check (length(name) < 20)")
    shop.source.execute("update customer set name = repeat('x', 30) where id = 1")
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    (event,) = told()
    assert (event.event_type, event.subject, event.connections) == (
        "replication_trouble",
        "shop-mirror",
        ("shop", "warehouse"),
    )
    assert "public.customer has stopped" in event.summary
    assert "short" in event.summary
    about = {"name": "a", "events": ["replication_trouble"], "webhook": {"url": {"env": "URL"}}}
    for names, is_told in ((["shop-mirror"], True), (["another"], False), ([], True)):
        assert concerns(Alert.model_validate({**about, "replications": names}), event) is is_told
    assert AlertEvent.from_dict(event.to_dict()) == event
    assert told() == []

    shop.source.execute("select pg_drop_replication_slot(%s)", (shop.slot,))
    (event,) = told()
    assert "is gone" in event.summary
    assert told() == []
    shop.target.execute("alter table customer drop constraint short")
    assert shop.run("replications", "resync", "shop-mirror", "--yes").exit_code == 0
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    assert [event.event_type for event in told()] == ["replication_recovery"]


def test_the_cursor_of_another_version_is_read() -> None:
    assert read_cursor('{"a": {"paused": ["schedule:x"], "settled_at": 4}}') == {"a": GuardState(4)}
    assert read_cursor("[]") == {}
    assert read_cursor(None) == {}
