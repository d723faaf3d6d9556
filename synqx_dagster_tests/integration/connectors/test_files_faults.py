"""Loads into files that die, stop or meet: afterwards the directory holds exactly the expected rows, once.

A child process kills itself at the n-th of its steps that change anything durable (a rename, a flush, a removal; a
request to the object store), for every n until it gets through: no step is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import duckdb
import pytest

from synqx_dagster.connectors.files import FilesConnector
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.model.table import TableName
from synqx_dagster_tests.fix_s3 import S3Prefix
from synqx_dagster_tests.integration.transfer.loading import ChildLoad, connect, load, make_mapping
from synqx_dagster_tests.processes import reaped

ROWS = 500

CHILD = textwrap.dedent(
    """
    import itertools, json, os, signal, sys
    from synqx_dagster.connectors.protocol import ConnectionConfig
    from synqx_dagster.connectors.registry import connector_class
    from synqx_dagster.errors import SynqxError
    from synqx_dagster.model import Mapping
    from synqx_dagster.transfer.load import run_load
    from synqx_dagster.transfer.result import LoadRequest

    asked = json.load(sys.stdin)

    def connect(values):
        return connector_class(values["db_type"])(ConnectionConfig(**values))

    def run(attempt):
        steps = itertools.count(1)
        def step(original):
            def wrapped(*args, **more):
                if more.pop("counts", True) and next(steps) == attempt["die_at"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **more)
            return wrapped
        if attempt["die_at"]:
            if asked["target"]["options"].get("url"):
                import botocore.client
                call = botocore.client.BaseClient._make_api_call
                changes = ("Put", "Create", "Upload", "Complete", "Delete", "Abort", "Copy")
                counted = step(call)
                botocore.client.BaseClient._make_api_call = lambda self, name, params: counted(
                    self, name, params, counts=name.startswith(changes))
            else:
                for name in ("replace", "fsync", "unlink", "rename", "mkdir"):
                    setattr(os, name, step(getattr(os, name)))
        try:
            result = run_load(LoadRequest(Mapping.model_validate(asked["mapping"]), None, connect(asked["source"]),
                                          connect(asked["target"]), attempt["run_id"], attempt["load_id"]))
        except SynqxError as error:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        else:
            print(json.dumps({"rows_out": result.rows_out, "already_committed": result.already_committed}), flush=True)

    # A child for each attempt, forked before any library has threads.
    for attempt in asked["attempts"]:
        child = os.fork()
        if not child:
            run(attempt)
            os._exit(0)
        _, status = os.waitpid(child, os.WUNTRACED)
        print(json.dumps({"killed": os.WIFSIGNALED(status)}), flush=True)
    """
)


def run_attempts(
    source: ConnectionConfig, target: ConnectionConfig, mapping: Any, attempts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run attempts one after the other, each in a process of its own; what they and their ends report."""

    def values(config: ConnectionConfig) -> dict[str, Any]:
        names = ("name", "db_type", "database", "username", "password")
        return {**{name: getattr(config, name) for name in names}, "options": dict(config.options)}

    asked = {
        "source": values(source),
        "target": values(target),
        "mapping": mapping.model_dump(mode="json", exclude_none=True),
        "attempts": attempts,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with reaped(process):
        output, _ = process.communicate(json.dumps(asked), timeout=240)
        assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> ConnectionConfig:
    path = tmp_path / "source.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create table orders as"
            f" select i::integer as id, repeat(md5(i::varchar), 3) as body from range({ROWS}) r(i)"
        )
    return ConnectionConfig("source", "duckdb", database=str(path))


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> ConnectionConfig:
    """The files that a test's parameter says."""
    if request.param == "s3":
        prefix: S3Prefix = request.getfixturevalue("s3")
        return prefix.config("target")
    return ConnectionConfig("target", "files", database=str(tmp_path / "out"), options={"format": request.param})


def ids_in(config: ConnectionConfig) -> list[int]:
    with FilesConnector(config).read() as session:
        assert session.find_columns(TableName("orders")) is not None
        return sorted(
            row
            for batch in session.iter_batches('select id from "."."orders"', schema_of("id"), batch_rows=10_000)
            for row in batch.column(0).to_pylist()
        )


def schema_of(name: str) -> Any:
    import pyarrow as pa

    return pa.schema([pa.field(name, pa.int32())])


def ledger_of(config: ConnectionConfig) -> list[tuple[object, ...]]:
    with FilesConnector(config).write() as session:
        return session.fetch_all('select load_id, run_id, rows_out from "."."_synqx_ledger" order by epoch')


def leftovers_of(config: ConnectionConfig) -> list[str]:
    """Unfinished files in a local target."""
    root = Path(config.database or "/nonexistent")
    # A process that died just after it had made its directory left that empty; it goes after a minute.
    unfinished = [path for path in root.glob("_synqx/unfinished/*") if any(path.iterdir())]
    return [str(path) for path in (*unfinished, *root.glob("_synqx/.*"))]


@pytest.mark.parametrize(
    ("target", "mode"),
    [
        ("parquet", "append"),
        pytest.param("csv", "replace", marks=pytest.mark.slow),
        pytest.param("s3", "append", marks=pytest.mark.slow),
        pytest.param("s3", "replace", marks=pytest.mark.slow),
    ],
    indirect=["target"],
)
def test_killed_at_any_step_a_retry_is_exact(source: ConnectionConfig, target: ConnectionConfig, mode: str) -> None:
    """Load, then die at each step of a second load in turn; each is retried and must be there exactly once."""
    mapping = make_mapping(source_table="orders", target_table="orders", mode=mode)
    load(connect(source), connect(target), mapping, load_id="load-0")
    # Every step in each run of the suite would take minutes; the two modes take different ones.
    every, first = 3, 1 + (mode == "append")
    kills = done = 0
    for start in range(first, 400, every * 8):
        attempts = []
        for die_at in range(start, start + every * 8, every):
            load_id = f"load-{die_at}"
            attempts += [
                {"load_id": load_id, "run_id": f"run-{die_at}", "die_at": die_at},
                {"load_id": load_id, "run_id": f"retry-{die_at}", "die_at": 0},
            ]
        reports = run_attempts(source, target, mapping, attempts)
        killed = [report for report in reports if report.get("killed")]
        kills += len(killed)
        errors = [report for report in reports if "error" in report]
        assert errors == []
        done += len(attempts) // 2
        assert ids_in(target) == sorted(list(range(ROWS)) * (done + 1 if mode == "append" else 1))
        assert len(ledger_of(target)) == done + 1
        if len(killed) < len(attempts) // 2:
            # The last ones ran to their end: there are no further steps.
            break
    assert kills >= 4
    assert leftovers_of(target) == []


@pytest.mark.parametrize("target", ["jsonl", "s3"], indirect=True)
def test_a_paused_attempt_that_comes_back_late_is_refused(source: ConnectionConfig, target: ConnectionConfig) -> None:
    mapping = make_mapping(source_table="orders", target_table="orders", mode="append")
    late = ChildLoad(source, target, mapping, failpoints="before_commit=stop")
    with late:
        late.wait_until_stopped()
        result = load(connect(source), connect(target), mapping, run_id="run-2")
        assert (result.rows_out, result.already_committed) == (ROWS, False)
        late.resume()
        report = late.wait()
    assert report is not None
    assert report["error"] == "FencedError"
    assert ids_in(target) == list(range(ROWS))
    assert [row[1] for row in ledger_of(target)] == ["run-2"]
