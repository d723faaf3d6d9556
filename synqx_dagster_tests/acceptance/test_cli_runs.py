"""`synqx runs` and `synqx logs` on runs of a small job in a project's own Dagster home."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from synqx_dagster.defs.instance import open_instance
from synqx_dagster.pipelines.report import NodeReport
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.processes import reaped

NODES = [
    NodeReport("orders", "extract", 1200, 1200, seconds=0.5).to_dict(),
    NodeReport("only_paid", "rules", 1200, 700, rows_quarantined=3, seconds=0.1, fused_with=("orders",)).to_dict(),
]


@dg.op
def fill(context: dg.OpExecutionContext) -> None:
    context.log.info("filling")
    metadata: dict[str, Any] = {
        "synqx/mapping": "orders",
        "synqx/rows_in": 1200,
        "synqx/rows_out": 700,
        "synqx/rows_quarantined": 3,
        "synqx/nodes": NODES,
    }
    context.log_event(dg.AssetMaterialization(dg.AssetKey(["warehouse", "orders"]), metadata=metadata))


@dg.op(ins={"after": dg.In(dg.Nothing)})
def spill() -> None:
    raise dg.Failure("the bucket has a hole\nmend it", allow_retries=False)


@dg.job
def water() -> None:
    spill(fill())


@contextmanager
def instance_of(project: Project) -> Iterator[dg.DagsterInstance]:
    with open_instance(load_settings({"SYNQX_HOME": str(project.home)}, project.directory)) as instance:
        yield instance


@pytest.fixture
def run_id(project: Project) -> str:
    with instance_of(project) as instance:
        return water.execute_in_process(
            instance=instance, raise_on_error=False, tags={"synqx/revision": "3", "dagster/schedule_name": "nightly"}
        ).run_id


def test_a_run_is_shown_with_its_steps_and_nodes(project: Project, run_id: str) -> None:
    listed = project("runs", "--json").document
    assert [run["run_id"] for run in listed] == [run_id]

    outcome = project("runs", "show", run_id[:8])

    assert outcome.exit_code == 0, outcome.output
    lines = {line.split()[0]: line.split() for line in outcome.stdout.splitlines() if line.strip()}
    assert lines["run"] == ["run", run_id]
    assert lines["asked"][-2:] == ["schedule", "nightly"]
    assert lines["warehouse/orders"][1:6] == ["SUCCESS", "1", "1,200", "700", "3"]
    assert lines["only_paid"][:5] == ["only_paid", "(rules)", "1,200", "700", "3"]
    assert lines["spill"][1:3] == ["FAILURE", "1"]
    assert "spill: the bucket has a hole\n  mend it" in outcome.stdout

    document = project("runs", "show", "--json").document
    assert (document["run_id"], document["status"], document["revision"]) == (run_id, "FAILURE", 3)
    assert document["steps"][0]["nodes"] == NODES
    assert document["steps"][1]["error"] == "the bucket has a hole\nmend it"


def test_a_log_is_narrowed_to_a_step_and_a_level(project: Project, run_id: str) -> None:
    everything = project("logs", run_id[:8], "--level", "debug", "--json").document["lines"]
    of_step = project("logs", run_id[:8], "--step", "spill", "--json").document["lines"]

    assert {line["step"] for line in everything} == {None, "fill", "spill"}
    assert [(line["event"], line["level"]) for line in of_step] == [("STEP_FAILURE", "ERROR")]
    assert "filling" in project("logs", "--step", "fill").stdout
    wrong = project("logs", "--step", "spil")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "did you mean 'spill'?" in wrong.stderr


def test_following_an_ended_run_gives_a_json_line_for_each_event_and_ends(project: Project, run_id: str) -> None:
    outcome = project("logs", run_id[:8], "--follow", "--level", "DEBUG", "--json")

    documents = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert {document["run_id"] for document in documents} == {run_id}
    assert documents[-1]["event"] == "PIPELINE_FAILURE"


def test_following_goes_on_until_the_run_has_ended(project: Project) -> None:
    release = threading.Event()

    @dg.op
    def wait(context: dg.OpExecutionContext) -> None:
        context.log.info("waiting")
        assert release.wait(120)
        context.log.info("released")

    @dg.job
    def patience() -> None:
        wait()

    with instance_of(project) as instance:
        runner = threading.Thread(target=lambda: patience.execute_in_process(instance=instance))
        runner.start()
        try:
            while not (ids := instance.get_run_ids(limit=1)):
                assert runner.is_alive()
            command = [sys.executable, "-m", "synqx_dagster.cli.main", "logs", ids[0][:8], "--follow"]
            with reaped(
                subprocess.Popen(
                    command,
                    cwd=project.directory,
                    env=project.process_environment(),
                    stdout=subprocess.PIPE,
                    text=True,
                )
            ) as process:
                assert process.stdout is not None
                # A log that is followed for ever ends here, and the test fails by the exit code.
                guard = threading.Timer(180, process.kill)
                guard.start()
                for line in process.stdout:
                    if "waiting" in line:
                        release.set()
                        break
                rest = process.stdout.read()
                guard.cancel()
                assert process.wait(60) == 0
        finally:
            release.set()
            runner.join(120)
    assert "released" in rest


def test_a_run_that_is_not_there_is_an_error_of_the_input(project: Project) -> None:
    for arguments in (["runs", "show"], ["runs", "show", "abcd1234"], ["logs", "abcd1234"]):
        outcome = project(*arguments)
        assert (outcome.exit_code, outcome.stdout) == (2, ""), outcome.output


# --- purge --------------------------------------------------------------------------------------------------------


def test_old_runs_are_purged_when_asked_to(project: Project, run_id: str) -> None:
    nothing = project("runs", "purge")
    assert nothing.exit_code == 2
    assert "--older-than" in nothing.stderr
    assert project("runs", "purge", "--older-than", "soon").exit_code == 2

    planned = project("runs", "purge", "--older-than", "0d", "--keep-last", "0", "--dry-run", "--json").document
    # It holds the last load of an asset.
    assert planned == {
        "deleted": [],
        "kept": {"it made the last load of an asset": 1},
        "unfinished": False,
        "dry_run": True,
    }
    with instance_of(project) as instance:
        water.execute_in_process(instance=instance, raise_on_error=False)

    purged = project("runs", "purge", "--older-than", "0d", "--keep-last", "1")

    assert purged.exit_code == 0, purged.output
    assert purged.stdout.startswith("Deleted 1 run.\n")
    assert project("runs", "show", run_id).exit_code == 2


# --- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_are_printed_and_written_whole(project: Project, run_id: str) -> None:
    text = project("metrics").stdout
    names = {family.name: family for family in text_string_to_metric_families(text)}
    (asset,) = names["synqx_asset_last_load_rows_out"].samples
    assert (asset.labels, asset.value) == ({"asset": "warehouse/orders", "mapping": "orders"}, 700)
    assert names["synqx_vault_sealed"].samples[0].value == 0
    assert {metric["name"] for metric in project("metrics", "--json").document["metrics"]} >= names.keys()

    file = project.directory / "synqx.prom"
    file.write_text("old")
    written = project("metrics", "--output", "synqx.prom", "--json")

    assert written.document["samples"] == sum(len(family.samples) for family in names.values())
    assert file.read_text() == text
    assert file.stat().st_mode & 0o777 == 0o644
    assert {path.name for path in project.directory.iterdir()} == {".synqx", "synqx.prom"}


def test_a_file_that_cannot_be_written_is_an_error(project: Project) -> None:
    (project.directory / "taken").mkdir()
    for place in ("missing/synqx.prom", "taken"):
        outcome = project("metrics", "--output", place)
        assert (outcome.exit_code, outcome.stdout) == (2, "")
        assert "cannot be written" in outcome.stderr
    assert list((project.directory / "taken").iterdir()) == []
