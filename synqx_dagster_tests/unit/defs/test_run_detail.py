"""One run in detail, and its log, from the events of real runs of a small job."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from synqx_dagster.defs import run_logs
from synqx_dagster.defs.instance import PROCESS_TAG
from synqx_dagster.defs.run_detail import NODES_METADATA, find_trigger, parse_nodes, read_detail
from synqx_dagster.defs.run_logs import LogReader, check_step, iter_logs
from synqx_dagster.defs.runs import get_latest_run, get_run
from synqx_dagster.errors import NotFoundError
from synqx_dagster.pipelines.report import NodeReport

NODES = [
    NodeReport("read", "extract", 10, 10, seconds=0.5).to_dict(),
    NodeReport("keep", "rules", 10, 7, rows_quarantined=3, seconds=0.1, fused_with=("read",)).to_dict(),
]


@dg.op
def load(context: dg.OpExecutionContext) -> None:
    context.log.info("seven rows")
    for name, rows in (("one", 4), ("two", 3)):
        metadata: dict[str, Any] = {
            "synqx/mapping": name,
            "synqx/rows_in": 10,
            "synqx/rows_out": rows,
            "synqx/rows_quarantined": 0,
            NODES_METADATA: NODES,
        }
        context.log_event(dg.AssetMaterialization(dg.AssetKey(["db", name]), metadata=metadata))


@dg.op(ins={"after": dg.In(dg.Nothing)})
def flaky(context: dg.OpExecutionContext) -> None:
    if context.retry_number == 0:
        raise dg.RetryRequested(max_retries=1)


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def broken() -> None:
    nodes = [{**NODES[0], "rows_out": 3, "error": "the file ended"}]
    raise dg.Failure("it broke", metadata={NODES_METADATA: nodes, "synqx/error": "DataError"}, allow_retries=False)


@dg.op(ins={"after": dg.In(dg.Nothing)})
def last() -> None:
    raise AssertionError("a step after a failed one ran")


@dg.job
def work() -> None:
    begun = load()
    flaky(begun)
    last(broken(begun))


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture(scope="module")
def run_id(instance: dg.DagsterInstance) -> str:
    result = work.execute_in_process(
        instance=instance, raise_on_error=False, tags={"synqx/revision": "7", "dagster/schedule_name": "nightly"}
    )
    return result.run_id


def test_every_step_says_what_became_of_it(instance: dg.DagsterInstance, run_id: str) -> None:
    detail = read_detail(instance, run_id[:6])

    assert (detail.info.run_id, detail.info.status, detail.info.revision) == (run_id, "FAILURE", 7)
    assert str(detail.trigger) == "schedule nightly"
    steps = {step.step_key: step for step in detail.steps}
    assert {name: (step.status, step.attempts) for name, step in steps.items()} == {
        "load": ("SUCCESS", 1),
        "flaky": ("SUCCESS", 2),
        "broken": ("FAILURE", 1),
        "last": ("NOT_STARTED", 0),
    }
    assert (steps["broken"].error, detail.error) == ("it broke", None)
    assert steps["last"].seconds is None
    assert steps["load"].seconds is not None


def test_rows_are_those_of_all_assets_and_nodes_are_shown_once(instance: dg.DagsterInstance, run_id: str) -> None:
    load_step = read_detail(instance, run_id).steps[0]

    assert (load_step.rows_in, load_step.rows_out, load_step.rows_quarantined) == (20, 7, 0)
    assert [(asset.asset_key, asset.name, asset.rows_out) for asset in load_step.assets] == [
        ("db/one", "one", 4),
        ("db/two", "two", 3),
    ]
    assert [node.to_dict() for node in load_step.nodes] == NODES


def test_a_failed_step_shows_how_far_its_nodes_came(instance: dg.DagsterInstance, run_id: str) -> None:
    (broken_step,) = [step for step in read_detail(instance, run_id).steps if step.step_key == "broken"]

    assert [(node.node_id, node.rows_out, node.error) for node in broken_step.nodes] == [("read", 3, "the file ended")]


def test_the_document_is_json(instance: dg.DagsterInstance, run_id: str) -> None:
    document = json.loads(json.dumps(read_detail(instance, run_id).to_dict()))

    assert document["trigger"] == {"kind": "schedule", "name": "nightly", "scheduled_for": None}
    assert document["steps"][0]["nodes"] == NODES


def test_a_run_that_ended_under_its_steps_says_which_were_not_done(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(work, status=dg.DagsterRunStatus.STARTED)
    start = dg.DagsterEvent("STEP_START", run.job_name, step_key="load", message="")
    instance.report_dagster_event(start, run.run_id)
    assert {step.step_key: step.status for step in read_detail(instance, run.run_id).steps} == {
        "load": "RUNNING",
        "flaky": "PENDING",
        "broken": "PENDING",
        "last": "PENDING",
    }

    instance.report_run_failed(run, "the process is gone")

    detail = read_detail(instance, run.run_id)
    assert {step.status for step in detail.steps} == {"INTERRUPTED", "NOT_STARTED"}
    assert detail.error == "the process is gone"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, "user"),
        ({"user": "ada"}, "user ada"),
        ({PROCESS_TAG: "host:1:1"}, "the command line"),
        ({"dagster/schedule_name": "nightly"}, "schedule nightly"),
        ({"dagster/sensor_name": "files"}, "sensor files"),
        ({"dagster/backfill": "abc", "dagster/parent_run_id": "12345678-9"}, "backfill abc"),
        ({"dagster/parent_run_id": "12345678-9", "dagster/schedule_name": "nightly"}, "retry of run 12345678"),
        ({"dagster/from_automation_condition": "true"}, "automation"),
    ],
)
def test_who_asked_for_a_run(tags: dict[str, str], expected: str) -> None:
    assert str(find_trigger(tags)) == expected


@pytest.mark.parametrize("value", ["no json", "3", '{"node_id": "a"}', '["a", {"operator": "x"}]', "null"])
def test_what_is_no_list_of_nodes_is_passed_over(value: str) -> None:
    assert parse_nodes(dg.MetadataValue.text(value)) == []
    assert parse_nodes(dg.MetadataValue.json({"nodes": value})) == []


def test_values_of_the_wrong_type_are_not_said() -> None:
    values = {"node_id": 3, "rows_in": "4", "seconds": True, "rows_out": None, "fused_with": "ab"}
    assert parse_nodes(dg.MetadataValue.json([values])) == [NodeReport("3", "")]


# --- finding a run ------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_a_beginning_that_no_other_has(instance: dg.DagsterInstance) -> None:
    ids = ["feedf00d-0000-4000-8000-000000000001", "feedf00d-0000-4000-8000-000000000002"]
    for run_id in ids:
        instance.add_run(dg.DagsterRun(job_name="found", run_id=run_id))

    assert get_run(instance, ids[0]).run_id == ids[0]
    assert get_latest_run(instance).run_id == ids[1]
    with pytest.raises(NotFoundError, match="several runs begin with 'feedf00d'"):
        get_run(instance, "feedf00d")
    for unknown in ("fee", "feedbeef", "%", ""):
        with pytest.raises(NotFoundError, match="there is no run"):
            get_run(instance, unknown)


# --- logs ---------------------------------------------------------------------------------------------------------


def test_the_log_says_step_and_event(instance: dg.DagsterInstance, run_id: str) -> None:
    lines = list(iter_logs(instance, run_id))

    (said,) = [line for line in lines if "seven rows" in line.message]
    assert (said.level, said.step, said.event) == ("INFO", "load", None)
    (failed,) = [line for line in lines if line.event == "STEP_FAILURE"]
    assert (failed.level, failed.step) == ("ERROR", "broken")
    assert "it broke" in failed.message


def test_a_step_that_a_run_does_not_have_is_refused_with_the_nearest(instance: dg.DagsterInstance, run_id: str) -> None:
    check_step(instance, run_id, "load")
    with pytest.raises(NotFoundError, match="did you mean 'broken'"):
        check_step(instance, run_id, "broke")


class FakeLog:
    """A log whose records come to light in another order than their places, as with two writers."""

    def __init__(self) -> None:
        self.visible: list[int] = []

    def get_records_for_run(self, run_id: str, cursor: str | None, limit: int) -> Any:
        after = int(cursor or 0)
        found = [number for number in sorted(self.visible) if number > after]
        records = [SimpleNamespace(storage_id=number, event_log_entry=self.entry(number)) for number in found[:limit]]
        end = str(records[-1].storage_id) if records else str(after)
        return SimpleNamespace(records=records, cursor=end, has_more=len(found) > limit)

    @staticmethod
    def entry(number: int) -> Any:
        return SimpleNamespace(message=f"line {number}", dagster_event=None, timestamp=0.0, level=20, step_key=None)


def test_each_line_is_given_once_also_one_that_comes_to_light_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(run_logs.time, "monotonic", lambda: clock[0])
    log: Any = FakeLog()
    reader = LogReader(log, "run")

    def read() -> list[str]:
        return [line.message.removeprefix("line ") for line in reader.read_new()]

    log.visible = [1, 3]
    assert read() == ["1", "3"]
    clock[0] = 5
    log.visible = [1, 2, 3, 4]
    assert read() == ["2", "4"]
    for clock[0] in (12, 20, 40, 41):
        assert read() == []
    log.visible += range(5, 1500)
    assert read() == [str(number) for number in range(5, 1500)]
    assert read() == []
