"""The web UI follows the catalog without a restart, and runs keep the revision that they started with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.execution import run_targets
from synqx_dagster.defs.instance import open_instance, prepare_instance
from synqx_dagster.defs.reload import find_servers, request_reload
from synqx_dagster.defs.run_logs import iter_logs
from synqx_dagster.defs.runs import get_run, read_report
from synqx_dagster_tests.unit.defs.dev_server import DevServer, dagster_dev, wait_for
from synqx_dagster_tests.unit.defs.projects import CUSTOMERS, Project, locked_target

#: What is promised between a change of the catalog and the web UI showing it, to a machine with processors to spare.
SHOWN_WITHIN_SECONDS = 10


def promised_seconds() -> float:
    """What is promised on this machine now: longer, when more processes want its processors than it has."""
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)
    return SHOWN_WITHIN_SECONDS * max(1.0, crowd)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    directory: Path = tmp_path_factory.mktemp("dev")
    project = Project(directory)
    project.fill()
    prepare_instance(project.settings)
    # Started before there is a catalog: `dagster dev` must come up all the same, and find it when it is there.
    with dagster_dev(project) as server:
        yield server


def shown(server: DevServer, description: str, asset: str = "warehouse/customer") -> float:
    """Seconds until the web UI shows a description."""
    start = time.monotonic()
    wait_for(
        lambda: server.descriptions().get(asset) == description,
        seconds=60,
        what=f"asset described as {description!r}",
    )
    return time.monotonic() - start


@pytest.mark.slow
def test_the_catalog_shows_up_in_a_server_that_started_without_one(server):
    assert server.descriptions() == {}
    server.project.apply(CUSTOMERS, description="first")
    assert find_servers(server.project.settings), "the code server left no note"
    assert request_reload(server.project.settings) == 1
    assert shown(server, "first") < promised_seconds()


def test_a_writer_that_asks_sees_its_revision_at_once(server):
    server.project.apply(CUSTOMERS, description="asked for")
    request_reload(server.project.settings)
    assert shown(server, "asked for") < promised_seconds()


@pytest.mark.slow
def test_a_writer_that_cannot_ask_is_caught_by_the_sensor(server):
    server.project.apply(CUSTOMERS, description="caught")
    # The sensor looks every five seconds, and the reload takes three on a machine that does nothing else.
    assert shown(server, "caught") < 3 * promised_seconds()


@pytest.mark.slow
def test_a_run_in_flight_finishes_on_its_revision(server):
    project = server.project
    old = project.apply(CUSTOMERS, description="old")
    request_reload(project.settings)
    shown(server, "old")
    with locked_target(project):
        run_id = server.launch("load_customers")
        wait_for(lambda: server.status(run_id) == "STARTED", seconds=60, what="started run")
        new = project.apply(CUSTOMERS, description="new")
        request_reload(project.settings)
        assert shown(server, "new") < promised_seconds()
        assert server.status(run_id) == "STARTED"
    status = wait_for(
        lambda: (found := server.status(run_id)) in ("SUCCESS", "FAILURE") and found,
        seconds=60,
        what="end of the run",
    )
    with open_instance(project.settings) as instance:
        assert status == "SUCCESS", [line.message for line in iter_logs(instance, run_id)]
        assert get_run(instance, run_id).revision == old
        (asset,) = read_report(instance, run_id).assets
    assert asset.rows_in == 3
    assert new == old + 1
    assert len(project.rows()) == 3


def test_the_next_run_takes_the_new_revision(server):
    project = server.project
    project.apply(CUSTOMERS.replace("target_table: customer", "target_table: customer_again"), description="next")
    request_reload(project.settings)
    shown(server, "next", "warehouse/customer_again")
    run_id = server.launch("load_customers")
    wait_for(lambda: server.status(run_id) == "SUCCESS", seconds=60, what="successful run")
    assert len(project.rows("customer_again")) == 3


ORDERED = """
kind: mapping
name: first
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: one
description: {description}
---
kind: mapping
name: second
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: two
---
kind: mapping
name: third
source_connection: warehouse
source_query: select one.id, one.name from one join two on two.id = one.id
target_connection: warehouse
target_table: three
---
kind: pipeline
name: forwards
nodes:
  - {{node_id: a, config: {{mapping: first}}}}
  - {{node_id: b, config: {{mapping: second}}}}
  - {{node_id: c, config: {{mapping: third}}}}
edges: [{{from_node_id: a, to_node_id: b}}]
---
kind: pipeline
name: backwards
nodes: [{{node_id: a, config: {{mapping: first}}}}, {{node_id: b, config: {{mapping: second}}}}]
edges: [{{from_node_id: b, to_node_id: a}}]
"""


@pytest.mark.slow
def test_no_asset_of_a_pipeline_is_out_of_date_after_its_run(server):
    project = server.project
    project.apply(ORDERED, description="ordered")
    request_reload(project.settings)
    shown(server, "ordered", "warehouse/one")
    with Catalog.open(project.settings) as catalog:
        report = run_targets(catalog, ["forwards"])
    assert report.succeeded
    assert [asset.name for asset in report.assets] == ["first", "second", "third"]
    tables = [f"warehouse/{table}" for table in ("one", "two", "three")]
    assert [server.staleness()[table] for table in tables] == [("FRESH", [])] * 3
    # The order of one pipeline is none of the other's business, and a selection in the web UI keeps it.
    run_id = server.launch("backwards", "warehouse/one", "warehouse/two")
    wait_for(lambda: server.status(run_id) == "SUCCESS", seconds=60, what="successful run")
    with open_instance(project.settings) as instance:
        assert [asset.name for asset in read_report(instance, run_id).assets] == ["second", "first"]
    # That the third's sources are newer now is true, and the only thing there is to say.
    causes = [("DATA", table) for table in tables[:2]]
    assert [server.staleness()[table] for table in tables] == [("FRESH", []), ("FRESH", []), ("STALE", causes)]


PARTED = """
kind: mapping
name: parted
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: parted
partitions: {{type: static, values: ["name 0", "name 1", "name 2"]}}
partition_column: name
description: {description}
"""

BACKFILL = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""


@pytest.mark.slow
def test_a_backfill_of_the_web_ui_replaces_its_partitions_alone(server):
    project = server.project
    project.apply(PARTED, description="parted")
    request_reload(project.settings)
    shown(server, "parted", "warehouse/parted")
    with closing(project.target()) as target:
        target.execute("create table parted (id integer primary key, name text)")
        target.executemany("insert into parted values (?, ?)", [(90 + number, f"name {number}") for number in range(3)])
        target.commit()
    answer = server.query(
        BACKFILL,
        params={"assetSelection": [{"path": ["warehouse", "parted"]}], "partitionNames": ["name 0", "name 2"]},
    )["launchPartitionBackfill"]
    with open_instance(project.settings) as instance:
        of_it = dg.RunsFilter(tags={"dagster/backfill": answer["backfillId"]})
        # The daemon looks for backfills twice a minute.
        wait_for(
            lambda: bool(runs := instance.get_runs(of_it)) and all(run.is_finished for run in runs),
            seconds=180,
            what="end of the backfill",
        )
        assert {run.status for run in instance.get_runs(of_it)} == {dg.DagsterRunStatus.SUCCESS}
    # The one in the middle was not asked for.
    assert sorted(project.rows("parted")) == [(0, "name 0"), (2, "name 2"), (91, "name 1")]


NIGHTLY = """
---
kind: schedule
name: nightly
pipeline: load_customers
cron_expression: "0 2 * * *"
"""

_SELECTOR = '{repositoryLocationName: "synqx", repositoryName: "__repository__", scheduleName: "nightly"}'


def schedule_state(server: DevServer) -> dict[str, str] | None:
    """What the web UI says of the schedule; None before it is there."""
    found = server.query(
        f"{{ scheduleOrError(scheduleSelector: {_SELECTOR})"
        " { __typename ... on Schedule { scheduleState { id status } } } }"
    )["scheduleOrError"]
    return found["scheduleState"] if found["__typename"] == "Schedule" else None


def shows_status(server: DevServer, status: str) -> bool:
    state = schedule_state(server)
    return state is not None and state["status"] == status


def is_enabled(server: DevServer) -> bool:
    with Catalog.open(server.project.settings) as catalog:
        return catalog.snapshot().get_schedule("nightly").enabled


def test_a_schedule_that_is_stopped_in_the_web_ui_is_disabled_in_the_catalog(server):
    settings = server.project.settings
    server.project.apply(CUSTOMERS + NIGHTLY, description="with a schedule")
    request_reload(settings)
    wait_for(lambda: shows_status(server, "RUNNING"), seconds=120, what="schedule that runs")
    state = schedule_state(server)
    assert state is not None
    server.query("mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }", id=state["id"])
    wait_for(lambda: not is_enabled(server), seconds=120, what="revision that says so")
    with Catalog.open(settings) as catalog:
        assert catalog.history(1)[0].author == "the web UI"
    # The catalog decides from here on: what the web UI stored must not outlive it.
    server.project.apply(CUSTOMERS + NIGHTLY, description="enabled again")
    request_reload(settings)
    wait_for(lambda: shows_status(server, "RUNNING"), seconds=120, what="schedule that runs again")
    assert is_enabled(server)


EVERY_MINUTE = """
---
kind: schedule
name: every_minute
pipeline: load_customers
cron_expression: "* * * * *"
"""


# Two minutes of waiting; a daemon's ticks are tested in `test_daemon_ticks` as well.
@pytest.mark.slow
def test_a_schedule_starts_a_run_when_its_minute_comes(server):
    project = server.project
    applied = datetime.now(UTC)
    revision = project.apply(CUSTOMERS + EVERY_MINUTE, description="by the clock")
    request_reload(project.settings)
    by_the_clock = dg.RunsFilter(tags={"synqx/schedule": "every_minute"}, statuses=[dg.DagsterRunStatus.SUCCESS])
    with open_instance(project.settings) as instance:
        # A minute at most, and what a daemon and a run take on a busy machine.
        (run, *_) = wait_for(lambda: instance.get_runs(by_the_clock) or None, seconds=300, what="run by the clock")
    tick = datetime.fromisoformat(run.tags["synqx/scheduled_at"])
    assert (tick.second, tick.microsecond) == (0, 0)
    assert applied < tick <= datetime.now(UTC)
    assert run.tags["synqx/revision"] == str(revision)
    assert len(project.rows()) == 3
