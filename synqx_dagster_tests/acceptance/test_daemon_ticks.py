"""A real daemon: what it owes a schedule when it is killed, and when many schedules are due at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.tags import PARENT_RUN_ID_TAG

from synqx_dagster.defs.instance import CONFIG_FILE, prepare_instance
from synqx_dagster_tests.unit.defs.dev_server import wait_for
from synqx_dagster_tests.unit.defs.projects import CUSTOMERS, REPOSITORY, Project

EVERY_MINUTE = """
---
kind: schedule
name: every_minute
pipeline: load_customers
cron_expression: "* * * * *"
catch_up: {catch_up}
"""


@contextmanager
def daemon(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``dagster-daemon`` until the block ends; killed with all that it started, as a power cut does."""
    shutil.copy(REPOSITORY / "workspace.yaml", project.directory)
    with (project.directory / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-w", "workspace.yaml"],
            cwd=project.directory,
            env=project.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    # A daemon that ended by itself leaves its code servers and runs in the group.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.fill()
    prepare_instance(made.settings)
    return made


@contextmanager
def opened(project: Project) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        yield instance


def runs_by_tick(instance: dg.DagsterInstance) -> Counter[str]:
    """Runs of each tick; a run that was retried because its process died counts once."""
    runs = [run for run in instance.get_runs() if PARENT_RUN_ID_TAG not in run.tags]
    return Counter(run.tags["synqx/scheduled_at"] for run in runs)


def has_run(project: Project, moment: datetime) -> bool:
    with opened(project) as instance:
        return moment.isoformat() in runs_by_tick(instance)


def next_minute(after: datetime | None = None) -> datetime:
    return (after or datetime.now(UTC)).replace(second=0, microsecond=0) + timedelta(minutes=1)


def wait_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))


def is_being_evaluated(project: Project, moment: datetime) -> bool:
    """Whether the daemon has begun a tick, ended or not."""
    with opened(project) as instance:
        return any(
            tick.timestamp == moment.timestamp() and tick.status in (TickStatus.STARTED, TickStatus.SUCCESS)
            for state in instance.all_instigator_state()
            if state.instigator_name == "every_minute"
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=3)
        )


@pytest.mark.slow
@pytest.mark.parametrize("catch_up", ["last", "all"])
def test_a_daemon_that_is_killed_across_a_tick_runs_it_once(project, catch_up):
    project.apply(CUSTOMERS + EVERY_MINUTE, description="d", catch_up=catch_up)
    with daemon(project) as process:
        wait_for(lambda: _count(project) > 0, seconds=300, what="first run by the clock")
        struck = next_minute()
        wait_until(struck)
        wait_for(lambda: is_being_evaluated(project, struck), seconds=60, what="tick that has begun")
        kill(process)
    # Nobody is there for two ticks.
    missed = [struck + timedelta(minutes=1), struck + timedelta(minutes=2)]
    wait_until(missed[-1] + timedelta(seconds=5))
    with daemon(project):
        wait_for(lambda: has_run(project, missed[-1]), seconds=300, what="run of the last missed tick")
        following = next_minute()
        wait_for(lambda: has_run(project, following), seconds=300, what="run of the tick after it")
    with opened(project) as instance:
        counts = runs_by_tick(instance)
    assert max(counts.values()) == 1
    # A tick that ended before it made a run was missed like those after it, and of these `last` makes up for the last.
    assert counts[struck.isoformat()] in ({1} if catch_up == "all" else {0, 1})
    assert counts[missed[1].isoformat()] == 1
    assert counts[missed[0].isoformat()] == (1 if catch_up == "all" else 0)


def _count(project: Project) -> int:
    with opened(project) as instance:
        return instance.get_runs_count()


SCHEDULES = 100
ONE_OF_MANY = """
---
kind: mapping
name: m{number}
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: target_{number}
---
kind: schedule
name: s{number}
mapping: m{number}
cron_expression: "{minute} {hour} * * *"
"""


@pytest.mark.slow
def test_a_hundred_schedules_in_one_minute_four_at_once(project):
    config = project.home / CONFIG_FILE
    values = yaml.safe_load(config.read_text())
    values["concurrency"]["runs"]["max_concurrent_runs"] = 4
    config.write_text(yaml.safe_dump(values))
    due = next_minute() + timedelta(minutes=2)
    text = "".join(ONE_OF_MANY.format(number=number, minute=due.minute, hour=due.hour) for number in range(SCHEDULES))
    project.apply(text.lstrip().removeprefix("---"))
    ended = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    most = 0

    def all_ended() -> bool:
        nonlocal most
        with opened(project) as instance:
            runs = instance.get_runs()
        most = max(most, sum(run.status == dg.DagsterRunStatus.STARTED for run in runs))
        return sum(run.status in ended for run in runs) >= SCHEDULES

    with daemon(project):
        wait_for(all_ended, seconds=3600, what="hundred runs that have ended")
        with opened(project) as instance:
            runs = instance.get_runs()
    assert Counter(run.tags["synqx/schedule"] for run in runs) == {f"s{number}": 1 for number in range(SCHEDULES)}
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert most <= 4
    assert all(len(project.rows(f"target_{number}")) == 3 for number in range(SCHEDULES))
