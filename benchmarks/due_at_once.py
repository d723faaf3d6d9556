"""Measures how long 100 schedules that are due in one minute take, four at once, and how the web UI answers meanwhile.

Run it on a calm machine: ``python -m benchmarks.due_at_once``. Webserver, daemon and code server are those of
``dagster dev``, on Dagster's SQLite storage; the loads are tiny, so that starting runs is all there is to do. Without
a pause the web UI is asked for what its pages show first: the latest runs, the schedules, one with its last tick, and
the log of the latest run. Every schedule has to have one run, which succeeded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from benchmarks.servers import find_free_port

_REPOSITORY = Path(__file__).parents[1]
_CONNECTIONS = """
kind: connection
name: here
db_type: sqlite
database: {home}/here.db
---
kind: connection
name: there
db_type: sqlite
database: {home}/there.db
pool: {{timeout_seconds: 120}}
"""
_SCHEDULED = """---
kind: mapping
name: m{number}
source_connection: here
source_table: t
target_connection: there
target_table: t{number}
---
kind: schedule
name: s{number}
mapping: m{number}
cron_expression: "{minute} {hour} * * *"
"""
#: The first queries of the pages Runs and Automation, and of a run's own page.
_PAGES = {
    "runs": "{ runsOrError(limit: 30) { ... on Runs { results"
    " { runId status jobName startTime endTime tags { key value } assetSelection { path } } } }"
    " runsFeedCountOrError(view: RUNS) { ... on RunsFeedCount { count } } }",
    "schedules": "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError"
    " { ... on RepositoryLocation { repositories { schedules { name cronSchedule scheduleState { status } } } }"
    " } } } } }",
    # Its page asks for what belongs to a row when the row is seen.
    "a schedule": '{ scheduleOrError(scheduleSelector: {repositoryLocationName: "synqx",'
    ' repositoryName: "__repository__", scheduleName: "s0"}) { ... on Schedule { name scheduleState'
    " { status ticks(limit: 1) { status timestamp runIds } runs(limit: 1) { runId status } } } } }",
    "run": '{{ logsForRun(runId: "{run}", limit: 1000) {{ ... on EventConnection'
    " {{ events {{ __typename ... on MessageEvent {{ message timestamp stepKey }} }} }} }} }}",
}


def make_project(home: Path, schedules: int, at_once: int, due: datetime) -> dict[str, str]:
    """A catalog with the schedules and Dagster's settings; gives the environment of its processes."""
    environment = {**os.environ, "SYNQX_HOME": str(home), "DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    with closing(sqlite3.connect(home / "here.db")) as database, database:
        database.execute("create table t (id integer primary key, name text)")
        database.executemany("insert into t values (?, ?)", [(number, f"name {number}") for number in range(3)])
    due = due.astimezone(UTC)
    records = [_SCHEDULED.format(number=number, minute=due.minute, hour=due.hour) for number in range(schedules)]
    (home / "records.yaml").write_text(_CONNECTIONS.format(home=home) + "".join(records))
    synqx = [sys.executable, "-m", "synqx_dagster.cli.main"]
    for arguments in (["init", "--generate-key-file"], ["apply", str(home / "records.yaml")]):
        subprocess.run([*synqx, *arguments], cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL)
    config = home / "dagster.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["concurrency"]["runs"]["max_concurrent_runs"] = at_once
    config.write_text(yaml.safe_dump(settings))
    return environment


@contextmanager
def dagster_dev(home: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of its GraphQL, once it answers."""
    shutil.copy(_REPOSITORY / "workspace.yaml", home)
    port = find_free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)]
    with (home / "dev.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}/graphql"
        try:
            while True:
                if process.poll() is not None:
                    raise SystemExit(f"dagster dev ended with {process.returncode}:\n{(home / 'dev.log').read_text()}")
                try:
                    ask(address, "{ version }")
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.2)
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def ask(address: str, query: str) -> Any:
    """Run a GraphQL query.

    Raises:
        SystemExit: It has errors.
        urllib.error.URLError: Nobody answers.
    """
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        answer = json.load(reply)
    if "errors" in answer:
        raise SystemExit(f"the web UI answers with {answer['errors']}")
    return answer["data"]


def watch(address: str, home: Path, schedules: int) -> tuple[dict[str, list[float]], list[Any]]:
    """Ask for the pages until all runs have ended: seconds of each answer by page, and the runs."""
    from dagster import DagsterInstance

    found: dict[str, list[float]] = {page: [] for page in _PAGES}
    with DagsterInstance.from_config(str(home)) as instance:
        while True:
            latest = ""
            for page, query in _PAGES.items():
                if page == "run" and not latest:
                    continue
                start = time.perf_counter()
                answer = ask(address, query.format(run=latest) if page == "run" else query)
                found[page].append(time.perf_counter() - start)
                if page == "runs":
                    runs = answer["runsOrError"]["results"]
                    latest = runs[0]["runId"] if runs else ""
                time.sleep(0.15)
            runs = instance.get_runs()
            if len(runs) >= schedules and all(run.is_finished for run in runs):
                return found, list(runs)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=4)
    options = parser.parse_args()
    due = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        environment = make_project(home, options.schedules, options.at_once, due)
        with dagster_dev(home, environment) as address:
            seconds, runs = watch(address, home, options.schedules)
            took = (datetime.now(UTC) - due).total_seconds()
    counts = Counter(run.tags["synqx/schedule"] for run in runs)
    succeeded = sum(run.is_success for run in runs)
    print(
        f"{len(counts)} schedules, {len(runs)} runs, {succeeded} succeeded;"
        f" the last ended {took:.0f} s after all were due"
    )
    for page, values in seconds.items():
        ordered = sorted(values)
        print(
            f"{page}: {len(values)} answers, median {statistics.median(values):.2f} s,"
            f" p95 {ordered[int(len(ordered) * 0.95)]:.2f} s, slowest {ordered[-1]:.2f} s"
        )
    if counts != {f"s{number}": 1 for number in range(options.schedules)} or succeeded != len(runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
