"""The DuckDB of a stage: opened anew or used again, its types, and what it spills."""

from __future__ import annotations

import os
import subprocess
import sys

import pyarrow as pa
import pytest

from synqx_dagster.errors import OperatorFailedError
from synqx_dagster.pipelines import carriage, database
from synqx_dagster.pipelines.carriage import arrow_schema, make_column
from synqx_dagster.pipelines.database import StageDatabase
from synqx_dagster_tests.processes import reaped
from synqx_dagster_tests.unit.pipelines.steps import Bench, through


def test_a_duckdb_that_held_no_rows_is_used_again_and_knows_nothing_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_idle", {})
    first = StageDatabase(["x"], 128_000_000, None)
    first.register("given", pa.schema([("n", pa.int64())]), iter(()))
    assert first.view("kept", "SELECT 1 AS n") == '"kept"'
    first.close()
    second = StageDatabase(["y"], 128_000_000, None)
    assert second._duckdb is first._duckdb
    for name in ("given", "kept"):
        with pytest.raises(OperatorFailedError):
            list(second.stream(f"SELECT * FROM {name}", 10))
    second.close()
    # It has failed: what that has left in it nobody knows.
    assert database._idle == {128_000_000: []}
    interrupted = StageDatabase(["z"], 128_000_000, None)
    interrupted.interrupt()
    interrupted.close()
    assert database._idle == {128_000_000: []}


def test_types_are_asked_for_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carriage, "_arrow_types", {})
    columns = [make_column("n", "DECIMAL(9,2)"), make_column("t", "TIMESTAMP WITH TIME ZONE"), make_column("u", "UUID")]
    asked = arrow_schema(columns)
    assert asked == pa.schema([("n", pa.decimal128(9, 2)), ("t", pa.timestamp("us", "UTC")), ("u", pa.string())])
    with monkeypatch.context() as later:
        later.setattr(carriage, "_ask_arrow_types", None)
        assert arrow_schema(columns[1:]) == pa.schema(list(asked)[1:])


#: A process that is in the middle of a stage, until it is killed.
STAGE = """
import sys
from pathlib import Path
from synqx_dagster.pipelines.database import StageDatabase

stage = StageDatabase(["x"], 128_000_000, Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_spilled_is_removed_and_what_a_living_one_spills_is_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sees_nobody(pid: int, signal: int) -> None:
        raise ProcessLookupError

    spill = bench.directory / "spill"
    command = [sys.executable, "-c", STAGE, str(spill)]
    with reaped(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        (theirs,) = spill.iterdir()
        with monkeypatch.context() as elsewhere:
            # As in another container over the same volume, where its process has no number.
            elsewhere.setattr(os, "kill", sees_nobody)
            bench.run(through())
        assert list(spill.iterdir()) == [theirs]
        (theirs / "rows").write_bytes(b"x")
        process.kill()
        process.wait()
        bench.run(through(), "second")
        assert not list(spill.iterdir())
