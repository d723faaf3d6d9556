"""Measures how long a code server takes to load a new revision of a large catalog while runs go on.

Run it on a calm machine: ``python -m benchmarks.reload``. The code server is the one that `synqx dev` starts. Between
two revisions one mapping differs, as after a user's change. "reload" is from the request, which `synqx apply` makes,
until the server answers with the new revision; "shown" is what it takes the web UI to fetch all definitions from it.
Then the same while `synqx run` runs a small pipeline of this catalog again and again in another process; every run has
to succeed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.definitions_load import make_catalog

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from synqx_dagster.catalog.store import Catalog

REPEATS = 3
#: What runs meanwhile, in the benchmark's own catalog of tables that nobody can reach.
MOVING = """
kind: connection
name: here
db_type: sqlite
database: {home}/here.db
---
kind: connection
name: there
db_type: duckdb
database: {home}/there.duckdb
---
kind: mapping
name: moved
source_connection: here
source_table: t
target_connection: there
target_table: t
---
kind: pipeline
name: moving
nodes:
  - {{node_id: moved, operator_type: load, operator_class: mapping, config: {{mapping: moved}}}}
"""


class Runs(threading.Thread):
    """Runs a pipeline until it is told to end; seconds and exit codes of its runs."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self._home = home
        self._ended = threading.Event()
        self.seconds: list[float] = []
        self.codes: list[int] = []

    def run(self) -> None:
        command = [sys.executable, "-m", "synqx_dagster.cli.main", "run", "moving", "--json"]
        while not self._ended.is_set():
            start = time.perf_counter()
            done = subprocess.run(
                command, cwd=self._home, env=_environment(self._home), capture_output=True, check=False
            )
            self.seconds.append(time.perf_counter() - start)
            self.codes.append(done.returncode)

    def __enter__(self) -> Runs:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "SYNQX_HOME": str(home), "DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"}


@contextmanager
def code_server(home: Path) -> Iterator[Path]:
    """The socket of a code server as `synqx dev` starts it, once it has loaded everything."""
    socket = home / "code.sock"
    command = [str(Path(sys.executable).parent / "dagster"), "code-server", "start", "-m", "synqx_dagster.definitions"]
    command += ["--socket", str(socket), "--location-name", "synqx", "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=home, env=_environment(home), start_new_session=True)
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise SystemExit(f"the code server ended with {process.returncode}")
            time.sleep(0.1)
        yield socket
    finally:
        # Nothing of it is wanted any more, and with so much to free it takes its time to end by itself.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def fetch(socket: Path, instance: DagsterInstance) -> int:
    """Fetch all definitions as the web UI does; gives their revision."""
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin

    origin = GrpcServerCodeLocationOrigin(host="localhost", socket=str(socket), location_name="synqx")
    with origin.create_location(instance) as location:
        (repository,) = location.get_repositories().values()
        metadata = repository.repository_snap.metadata or {}
        return int(str(metadata["synqx/revision"].value))


def change(catalog: Catalog, number: int) -> int:
    """Change one mapping; gives the new revision."""
    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import Definitions

    before = catalog.snapshot_for(mappings=["mapping_1"]).get_mapping("mapping_1")
    changed = before.model_copy(update={"description": f"change {number}"})
    plan = plan_changes(catalog, Definitions((changed,)))
    return apply_changes(catalog, plan, author="benchmark", reason=None)


def measure_reload(catalog: Catalog, socket: Path, instance: DagsterInstance, number: int) -> tuple[float, float]:
    """Seconds of the reload that follows a change, and of fetching what was loaded.

    Raises:
        SystemExit: The server has another revision.
    """
    from dagster._grpc.client import DagsterGrpcClient

    revision = change(catalog, number)
    start = time.perf_counter()
    DagsterGrpcClient(socket=str(socket)).reload_code(timeout=600)
    reloaded = time.perf_counter()
    found = fetch(socket, instance)
    if found != revision:
        raise SystemExit(f"the server has revision {found}, not {revision}")
    return reloaded - start, time.perf_counter() - reloaded


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mappings", type=int, default=10_000)
    parser.add_argument("--pipelines", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import read_documents
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.settings import load_settings

    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        make_catalog(home, options.mappings, 0, "tables", options.pipelines)
        with closing(sqlite3.connect(home / "here.db")) as database:
            database.execute("create table t (n integer not null)")
            database.execute("insert into t values (1)")
            database.commit()
        (home / "moving.yaml").write_text(MOVING.format(home=home))
        settings = load_settings({"SYNQX_HOME": str(home)}, home)
        with Catalog.open(settings) as catalog, open_instance(settings) as instance:
            plan = plan_changes(catalog, read_documents([home / "moving.yaml"]))
            apply_changes(catalog, plan, author="benchmark", reason=None)
            start = time.perf_counter()
            with code_server(home) as socket:
                print(f"start of the code server: {time.perf_counter() - start:.1f} s", flush=True)
                numbers = iter(range(10 * options.repeats))

                def reloads() -> str:
                    found = [measure_reload(catalog, socket, instance, next(numbers)) for _ in range(options.repeats)]
                    reload, shown = (statistics.median(seconds) for seconds in zip(*found, strict=True))
                    return f"reload {reload:.1f} s, shown after {shown:.1f} s more"

                print(f"nothing runs: {reloads()}", flush=True)
                with Runs(home) as runs:
                    report = reloads()
                print(f"while runs go on: {report}", flush=True)
            failed = sum(code != 0 for code in runs.codes)
            print(f"{len(runs.codes)} runs, {statistics.median(runs.seconds):.1f} s each, {failed} failed")
            if failed:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
