"""Dagster's home."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
import yaml

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.instance import (
    PROCESS_TAG,
    default_config,
    end_dead_runs,
    open_instance,
    own_process_tag,
    prepare_instance,
    sync_pool_limits,
)
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.settings import Settings, load_settings
from synqx_dagster_tests.unit.defs.fakes import connection

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"SYNQX_HOME": str(tmp_path / "home")})


def test_a_new_home_is_configured_and_its_storage_is_there(settings):
    home = prepare_instance(settings)
    assert (home / "dagster.yaml").read_text() == default_config()
    assert (home / "history" / "runs.db").exists()
    assert (home / "history" / "runs" / "index.db").exists()
    assert (home / "schedules" / "schedules.db").exists()
    with open_instance(settings) as instance:
        assert instance.telemetry_enabled is False
        assert instance.event_log_storage.supports_global_concurrency_limits


def test_preparing_keeps_a_configuration_that_is_there(settings):
    settings.dagster_home.mkdir()
    config = settings.dagster_home / "dagster.yaml"
    config.write_text("telemetry: {enabled: false}\n")
    prepare_instance(settings)
    prepare_instance(settings)
    assert config.read_text() == "telemetry: {enabled: false}\n"


def test_several_at_once_prepare_one_home(settings):
    with ThreadPoolExecutor(4) as pool:
        homes = list(pool.map(lambda _: prepare_instance(settings), range(4)))
    assert set(homes) == {settings.dagster_home}
    with open_instance(settings) as instance:
        assert instance.get_runs_count() == 0


def test_a_configuration_that_dagster_refuses_is_named(settings):
    settings.dagster_home.mkdir()
    (settings.dagster_home / "dagster.yaml").write_text("telemetry: {enabled: maybe}\n")
    with pytest.raises(ConfigurationError, match=r"dagster\.yaml"):
        prepare_instance(settings)


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        prepare_instance(load_settings({"SYNQX_HOME": str(tmp_path / "file" / "home")}))


def test_the_checkout_has_the_same_configuration():
    assert yaml.safe_load((REPOSITORY / "dagster.yaml").read_text()) == yaml.safe_load(default_config())


def limits(instance: dg.DagsterInstance) -> dict[str, int]:
    return {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}


def test_pool_limits_follow_the_catalog_and_leave_others_alone(settings):
    limited = CatalogSnapshot.from_records(1, [connection("shop", max_concurrent_loads=2), connection("warehouse")])
    raised = CatalogSnapshot.from_records(2, [connection("shop", max_concurrent_loads=3), connection("warehouse")])
    unlimited = CatalogSnapshot.from_records(3, [connection("shop"), connection("warehouse")])
    with open_instance(settings) as instance:
        instance.event_log_storage.set_concurrency_slots("conn_warehouse", 7)
        for snapshot, expected in ((limited, 2), (limited, 2), (raised, 3)):
            sync_pool_limits(instance, snapshot)
            assert limits(instance) == {"conn_warehouse": 7, "conn_shop": expected}
        sync_pool_limits(instance, unlimited)
        assert limits(instance) == {"conn_warehouse": 7}


def test_a_part_of_the_catalog_leaves_the_limits_of_the_rest(settings):
    shop, crm = connection("shop", max_concurrent_loads=2), connection("crm", max_concurrent_loads=4)
    free = connection("crm", max_concurrent_loads=None)
    with open_instance(settings) as instance:
        sync_pool_limits(instance, CatalogSnapshot.from_records(1, [shop, crm]))
        sync_pool_limits(instance, CatalogSnapshot.from_records(1, [shop]), is_whole=False)
        assert limits(instance) == {"conn_shop": 2, "conn_crm": 4}
        sync_pool_limits(instance, CatalogSnapshot.from_records(2, [free]), is_whole=False)
        assert limits(instance) == {"conn_shop": 2}
        sync_pool_limits(instance, CatalogSnapshot.from_records(3, [free]))
        assert limits(instance) == {}


def test_processes_that_set_limits_at_the_same_time_set_them_once(settings):
    names = [f"c{number}" for number in range(15)]
    snapshot = CatalogSnapshot.from_records(1, [connection(name, max_concurrent_loads=2) for name in names])
    barrier = threading.Barrier(4)

    def sync() -> None:
        with open_instance(settings) as own:
            barrier.wait()
            sync_pool_limits(own, snapshot)

    with open_instance(settings) as instance:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(sync) for _ in range(4)]:
                done.result()
        slots = {name: instance.event_log_storage.get_concurrency_info(f"conn_{name}").slot_count for name in names}
    assert slots == dict.fromkeys(names, 2)


@pytest.fixture
def dead_process_tag() -> str:
    """The tag of a process that was and is not any more."""
    host = own_process_tag()[PROCESS_TAG].partition(":")[0]
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{host}:{process.pid}:1"


def started_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    @dg.job
    def nothing() -> None:
        pass

    run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
    return run.run_id


def test_runs_of_processes_that_are_gone_are_ended_and_give_back_their_slots(settings, dead_process_tag):
    same_pid = f"{dead_process_tag.partition(':')[0]}:{os.getpid()}:1"
    with open_instance(settings) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("conn_warehouse", 1)
        killed = started_run(instance, {PROCESS_TAG: dead_process_tag})
        storage.claim_concurrency_slot("conn_warehouse", killed, "load")
        pid_used_again = started_run(instance, {PROCESS_TAG: same_pid})
        alive = started_run(instance, dict(own_process_tag()))
        elsewhere = started_run(instance, {PROCESS_TAG: "another-host:1:1"})
        launched = started_run(instance, {})
        assert set(end_dead_runs(instance)) == {killed, pid_used_again}
        assert end_dead_runs(instance) == []
        statuses = {run.run_id: run.status.value for run in instance.get_runs()}
        assert [statuses[run_id] for run_id in (killed, pid_used_again)] == ["FAILURE"] * 2
        assert [statuses[run_id] for run_id in (alive, elsewhere, launched)] == ["STARTED"] * 3
        assert storage.get_concurrency_info("conn_warehouse").active_slot_count == 0
