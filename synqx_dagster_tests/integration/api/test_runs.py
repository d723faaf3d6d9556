"""Runs over HTTP, from Dagster's storage: lists, steps, logs, live events, and what is asked of the run control."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import httpx
import pytest
from dagster._core.events import ComputeLogsCaptureData
from dagster._core.storage.compute_log_manager import ComputeIOType

from synqx_dagster.api import run_events
from synqx_dagster.api.event_stream import StreamSlots
from synqx_dagster.api.routes import runs as run_routes
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.integration.api.hub import Hub, open_hub

UNKNOWN = "99999999-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with open_hub(tmp_path_factory.mktemp("hub")) as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(hub: Hub) -> httpx.Client:
    return hub.client(Role.VIEWER)


@pytest.fixture(scope="module")
def operator(hub: Hub) -> httpx.Client:
    return hub.client(Role.OPERATOR)


def get(client: httpx.Client, path: str, **query: Any) -> Any:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: httpx.Response, status: int) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    return str(answer.json()["detail"])


# --- lists --------------------------------------------------------------------------------------------------------


def names(hub: Hub, page: Any) -> list[str]:
    by_id = {run_id: name for name, run_id in hub.runs.items()}
    return [by_id[item["run_id"]] for item in page["items"] if item["run_id"] in by_id]


def test_runs_are_listed_by_pages_the_latest_first(hub: Hub, viewer: httpx.Client) -> None:
    whole = get(viewer, "/runs")
    assert names(hub, whole) == ["mirrored", "name things", "broken", "customers"]
    assert (whole["total"], whole["skip"], whole["limit"]) == (4, 0, 50)
    assert names(hub, get(viewer, "/runs", order="asc")) == names(hub, whole)[::-1]
    pages = [get(viewer, "/runs", skip=number, limit=1) for number in range(5)]
    assert [names(hub, page) for page in pages] == [["mirrored"], ["name things"], ["broken"], ["customers"], []]
    assert {page["total"] for page in pages} == {4}
    for sort in ("started_at", "ended_at"):
        assert sorted(names(hub, get(viewer, "/runs", sort=sort))) == sorted(hub.runs)


def test_runs_are_filtered(hub: Hub, viewer: httpx.Client) -> None:
    assert names(hub, get(viewer, "/runs", status="FAILURE")) == ["broken"]
    assert get(viewer, "/runs", status=["SUCCESS", "FAILURE"])["total"] == 4
    assert names(hub, get(viewer, "/runs", pipeline="name things")) == ["name things"]
    assert names(hub, get(viewer, "/runs", job="name_things")) == ["name things"]
    assert get(viewer, "/runs", job="other", pipeline="name things")["total"] == 0
    assert names(hub, get(viewer, "/runs", mapping="customers")) == ["customers"]
    assert names(hub, get(viewer, "/runs", mapping="broken")) == ["broken"]
    assert "no mapping 'nothing'" in problem(viewer.get("/runs", params={"mapping": "nothing"}), 404)
    now = datetime.now(UTC)
    assert get(viewer, "/runs", created_from=(now - timedelta(hours=1)).isoformat())["total"] == 4
    assert get(viewer, "/runs", created_to=(now - timedelta(hours=1)).isoformat())["total"] == 0


@pytest.mark.parametrize(
    "query",
    [
        {"status": "BROKEN"},
        {"limit": "0"},
        {"skip": "-1"},
        {"sort": "run_id"},
        {"created_from": "yesterday"},
        {"created_from": "2026-01-01T00:00:00"},
        {"created_from": "0001-01-01T00:00:00+14:00"},
    ],
)
def test_a_wrong_filter_is_a_problem(viewer: httpx.Client, query: dict[str, str]) -> None:
    problem(viewer.get("/runs", params=query), 422)


# --- one run ------------------------------------------------------------------------------------------------------


def test_one_run(hub: Hub, viewer: httpx.Client) -> None:
    run = get(viewer, f"/runs/{hub.runs['customers']}")
    assert (run["status"], run["revision"], run["trigger"]["kind"]) == ("SUCCESS", 1, "command")
    assert (run["steps_done"], run["steps_total"], run["error"]) == (1, 1, None)
    assert run["seconds"] > 0
    assert datetime.fromisoformat(run["started_at"]) <= datetime.fromisoformat(run["ended_at"])
    for wrong, status in ((UNKNOWN, 404), (hub.runs["customers"][:8], 404), ("not-hex!", 422), ("a", 422)):
        for path in ("", "/steps", "/logs", "/events", "/steps/x/logs", "/steps/x/output"):
            problem(viewer.get(f"/runs/{wrong}{path}"), status)


def test_the_steps_of_a_mapping_say_what_they_moved(hub: Hub, viewer: httpx.Client) -> None:
    document = get(viewer, f"/runs/{hub.runs['customers']}/steps")
    (step,) = document["steps"]
    assert (document["status"], step["status"], step["attempts"], step["error"]) == ("SUCCESS", "SUCCESS", 1, None)
    assert (step["rows_in"], step["rows_out"], step["rows_quarantined"]) == (7, 7, 0)
    assert step["seconds"] > 0
    assert [asset["asset_key"] for asset in step["assets"]] == ["warehouse/customer"]
    assert set(step["assets"][0]["checks"].values()) == {True}


def test_the_nodes_of_a_pipeline_are_shown_within_its_step(hub: Hub, viewer: httpx.Client) -> None:
    (step,) = get(viewer, f"/runs/{hub.runs['name things']}/steps")["steps"]
    nodes = {node["node_id"]: node for node in step["nodes"]}
    assert set(nodes) == {"read", "keep", "write"}
    assert {(node["rows_out"], node["error"]) for node in nodes.values()} == {(7, None)}
    assert nodes["keep"]["rows_in"] == 7


def test_a_failed_step_says_why(hub: Hub, viewer: httpx.Client) -> None:
    (step,) = get(viewer, f"/runs/{hub.runs['broken']}/steps")["steps"]
    assert step["status"] == "FAILURE"
    assert "not_there" in step["error"]
    assert get(viewer, f"/runs/{hub.runs['broken']}")["steps_done"] == 0


# --- logs ---------------------------------------------------------------------------------------------------------


def test_a_log_is_read_by_pages_and_levels(hub: Hub, viewer: httpx.Client) -> None:
    path = f"/runs/{hub.runs['customers']}/logs"
    whole = get(viewer, path)
    assert whole["next_after"] is None
    numbers = [line["number"] for line in whole["lines"]]
    assert numbers == sorted(set(numbers))
    assert any("7 rows" in line["message"] for line in whole["lines"])
    lines: list[Any] = []
    after: int | None = None
    while True:
        page = get(viewer, path, limit=3, **({} if after is None else {"after": after}))
        assert len(page["lines"]) <= 3
        lines += page["lines"]
        after = page["next_after"]
        if after is None:
            break
    assert lines == whole["lines"]
    assert {line["level"] for line in get(viewer, path, level="INFO")["lines"]} == {"INFO"}
    assert get(viewer, path, after=10**18)["lines"] == []
    problem(viewer.get(path, params={"after": 10**19}), 422)


def test_the_log_of_a_step_is_its_own(hub: Hub, viewer: httpx.Client) -> None:
    run_id = hub.runs["broken"]
    (step,) = get(viewer, f"/runs/{run_id}/steps")["steps"]
    key = step["step_key"]
    lines = get(viewer, f"/runs/{run_id}/steps/{key}/logs")["lines"]
    assert lines
    assert {line["step"] for line in lines} == {key}
    assert len(lines) < len(get(viewer, f"/runs/{run_id}/logs")["lines"])
    assert any(line["event"] == "STEP_FAILURE" and "not_there" in line["message"] for line in lines)
    assert "no step" in problem(viewer.get(f"/runs/{run_id}/steps/{key}x/logs"), 404)


# --- output -------------------------------------------------------------------------------------------------------

LINES = [f"line {number} of öüß" for number in range(900)]
LONG_LINE = "password=" + "kanarienvogel" * 1000


@dg.op
def print_lines() -> None:
    print("\n".join(LINES), flush=True)
    print(f"password=kanarienvogel\n{LONG_LINE}\n" + "x" * 2**21, file=sys.stderr, flush=True)


@dg.op
def fail_once(context) -> None:  # type: ignore[no-untyped-def]  # Dagster reads no annotation that is a text
    print(f"attempt {context.retry_number}", flush=True)
    if context.retry_number < 1:
        raise dg.RetryRequested(max_retries=1)


@dg.job(executor_def=dg.in_process_executor)
def printing() -> None:
    print_lines()
    fail_once()


@pytest.fixture(scope="module")
def printed(hub: Hub) -> Iterator[str]:
    """A run of two steps in one process, whose output Dagster has captured."""
    instance = hub.context.instance
    run_id = printing.execute_in_process(instance=instance).run_id
    yield run_id
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)


def test_what_a_step_printed_is_read_by_pages(viewer: httpx.Client, printed: str) -> None:
    path = f"/runs/{printed}/steps/print_lines/output"
    whole = get(viewer, path, limit=1024 * 1024)
    # Both steps ran in one process, so Dagster has one file for them.
    assert sorted(whole["step_keys"]) == ["fail_once", "print_lines"]
    assert (whole["captures"], whole["capture"], whole["next_after"], whole["is_complete"]) == (1, 1, None, True)
    assert set(LINES) <= set(whole["text"].splitlines())
    assert whole["text"].index("attempt 0") < whole["text"].index("attempt 1")
    pieces: list[str] = []
    after: int | None = 0
    while after is not None:
        page = get(viewer, path, after=after, limit=1024)
        assert page["text"].endswith("\n")
        assert len(page["text"].encode()) <= 1024
        pieces.append(page["text"])
        after = page["next_after"]
    assert len(pieces) > 15
    assert "".join(pieces) == whole["text"]
    assert page["end"] == whole["end"]
    assert get(viewer, path, after=2**40)["text"] == ""
    errors = get(viewer, path, stream="stderr", limit=1024 * 1024)["text"]
    assert "password=***" in errors
    assert "kanarienvogel" not in errors
    # However it is cut: a line comes whole, or not at all.
    for limit in (1024, 1033, 4096):
        at: int | None = 0
        texts = []
        while at is not None:
            page = get(viewer, path, stream="stderr", after=at, limit=limit)
            texts.append(page["text"])
            at = page["next_after"]
        assert "kanarienvogel" not in "".join(texts)
        assert any(text.endswith("x [the line goes on]\n") for text in texts)
    place = errors.index("password=***") + len("password=")
    refused = viewer.get(path, params={"stream": "stderr", "after": place})
    problem(refused, 422)
    assert "a page cannot begin within a line" in refused.text


def test_a_step_of_a_command_was_not_captured(hub: Hub, viewer: httpx.Client) -> None:
    run_id = hub.runs["customers"]
    (step,) = get(viewer, f"/runs/{run_id}/steps")["steps"]
    page = get(viewer, f"/runs/{run_id}/steps/{step['step_key']}/output")
    assert (page["text"], page["next_after"], page["is_complete"]) == ("", None, True)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"stream": "both"}, 422),
        ({"after": "-1"}, 422),
        ({"after": str(2**63)}, 422),
        ({"limit": "10"}, 422),
        ({"capture": "0"}, 422),
        ({"capture": "2"}, 404),
    ],
)
def test_an_output_that_there_is_not(viewer: httpx.Client, printed: str, query: dict[str, str], status: int) -> None:
    problem(viewer.get(f"/runs/{printed}/steps/print_lines/output", params=query), status)


def test_the_output_of_a_run_under_way_ends_with_its_last_whole_line(
    hub: Hub, viewer: httpx.Client, going_on: tuple[dg.DagsterInstance, dg.DagsterRun]
) -> None:
    instance, run = going_on
    log_key = instance.compute_log_manager.build_log_key_for_run(run.run_id, "afilekey")
    data = ComputeLogsCaptureData(file_key="afilekey", step_keys=["wait"])
    event = dg.DagsterEvent("LOGS_CAPTURED", run.job_name, event_specific_data=data)
    instance.report_dagster_event(event, run.run_id)
    path = f"/runs/{run.run_id}/steps/wait/output"
    with instance.compute_log_manager.open_log_stream(log_key, ComputeIOType.STDOUT) as stream:
        assert stream is not None
        stream.write("one\ntw")
        stream.flush()
        page = get(viewer, path)
        assert (page["text"], page["end"], page["next_after"], page["is_complete"]) == ("one\n", 4, None, False)
        stream.write("o\n")
    page = get(viewer, path, after=page["end"])
    assert (page["text"], page["end"]) == ("two\n", 8)


# --- events -------------------------------------------------------------------------------------------------------


def read_events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Events of a stream as they come; comments as events of the type ``comment``."""
    event: dict[str, Any] = {}
    for line in answer.iter_lines():
        if not line:
            if event:
                yield event
            event = {}
        elif line.startswith(":"):
            event["event"] = "comment"
        else:
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value


def follow(client: httpx.Client, run_id: str, headers: dict[str, str] | None = None, **query: Any) -> list[Any]:
    with client.stream("GET", f"/runs/{run_id}/events", params=query, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        return list(read_events(answer))


def test_the_events_of_an_ended_run_are_its_whole_log_and_then_the_end(hub: Hub, viewer: httpx.Client) -> None:
    run_id = hub.runs["broken"]
    first, *rest = follow(viewer, run_id, level="DEBUG")
    assert set(first) == {"retry"}
    assert (rest[0]["event"], rest[0]["data"]["status"]) == ("status", "FAILURE")
    assert rest[-1] == {"event": "end", "data": {"status": "FAILURE"}}
    lines = get(viewer, f"/runs/{run_id}/logs", limit=2000)["lines"]
    assert [event["data"] for event in rest[1:-1]] == lines
    assert [int(event["id"]) for event in rest[1:-1]] == [line["number"] for line in lines]


def test_a_client_that_comes_again_goes_on_after_the_last_event(hub: Hub, viewer: httpx.Client) -> None:
    run_id = hub.runs["customers"]
    logs = [event for event in follow(viewer, run_id) if event.get("event") == "log"]
    rest = [event for event in follow(viewer, run_id, {"Last-Event-ID": logs[1]["id"]}) if event.get("event") == "log"]
    assert rest == logs[2:]
    assert follow(viewer, run_id, after=int(logs[-1]["id"]))[-1]["event"] == "end"
    problem(viewer.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": "x"}), 422)


@dg.op
def wait() -> None:
    raise AssertionError("nobody runs this")


@dg.job
def waiting() -> None:
    wait()


@pytest.fixture
def going_on(hub: Hub) -> Iterator[tuple[dg.DagsterInstance, dg.DagsterRun]]:
    """A run that is under way, and whose events a test writes."""
    instance = hub.context.instance
    run = instance.create_run_for_job(waiting, status=dg.DagsterRunStatus.STARTED)
    yield instance, run
    if not instance.get_run_by_id(run.run_id).is_finished:  # type: ignore[union-attr]  # it is there
        instance.report_run_canceled(run)
    instance.delete_run(run.run_id)


def test_a_run_is_followed_until_it_ends(
    hub: Hub,
    viewer: httpx.Client,
    going_on: tuple[dg.DagsterInstance, dg.DagsterRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_events, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(run_events, "HEARTBEAT_SECONDS", 0.2)
    instance, run = going_on
    with viewer.stream("GET", f"/runs/{run.run_id}/events", timeout=60) as answer:
        events = read_events(answer)
        assert "retry" in next(events)
        assert next(events)["data"]["status"] == "STARTED"
        assert next(events)["event"] == "comment"  # nothing happens for a while
        instance.report_engine_event("it goes on", run)
        said = next(event for event in events if event["event"] == "log")
        assert said["data"]["message"] == "it goes on"
        instance.report_run_failed(run, "it is over")
        rest = [event for event in events if event["event"] != "comment"]
    # A run says why it ends before it has ended; whether one look finds both is a matter of chance.
    assert rest[-1] == {"event": "end", "data": {"status": "FAILURE"}}
    assert sorted(event["event"] for event in rest) == ["end", "log", "status"]
    assert any("it is over" in event["data"]["message"] for event in rest if event["event"] == "log")


def test_a_client_that_goes_away_gives_everything_back(
    viewer: httpx.Client, going_on: tuple[dg.DagsterInstance, dg.DagsterRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_events, "POLL_SECONDS", 0.05)
    slots = StreamSlots()
    monkeypatch.setattr(run_routes, "_slots", slots)
    before = threading.active_count()
    for _ in range(3):
        with viewer.stream("GET", f"/runs/{going_on[1].run_id}/events") as answer:
            next(answer.iter_lines())
            assert slots.open_streams == 1
        deadline = time.monotonic() + 30
        while slots.open_streams:
            assert time.monotonic() < deadline, "the slot of a client that went away is still taken"
            time.sleep(0.02)
    # The thread pool may have grown to what one request needs at once; no thread waits for a stream.
    assert threading.active_count() <= before + 3


def test_there_are_so_many_streams_at_once_and_no_more(
    viewer: httpx.Client, going_on: tuple[dg.DagsterInstance, dg.DagsterRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_events, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(run_routes, "_slots", StreamSlots(total=5, each=2))
    path = f"/runs/{going_on[1].run_id}/events"
    with viewer.stream("GET", path), viewer.stream("GET", path):
        refused = viewer.get(path)
        assert "Too many" in problem(refused, 503)
        assert refused.headers["retry-after"] == "10"
        # Streams hold no threads, so that everything else is answered meanwhile.
        assert viewer.get("/runs").status_code == 200


def test_a_stream_does_not_outlive_the_login_that_opened_it(
    viewer: httpx.Client, going_on: tuple[dg.DagsterInstance, dg.DagsterRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_events, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(run_events, "MAX_SECONDS", 0.2)
    events = follow(viewer, going_on[1].run_id)
    assert "end" not in [event.get("event") for event in events]


def test_a_run_that_is_deleted_ends_its_stream(hub: Hub, viewer: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_events, "POLL_SECONDS", 0.05)
    instance = hub.context.instance
    run = instance.create_run_for_job(waiting, status=dg.DagsterRunStatus.STARTED)
    with viewer.stream("GET", f"/runs/{run.run_id}/events") as answer:
        events = read_events(answer)
        next(events)
        instance.delete_run(run.run_id)
        assert list(events)[-1] == {"event": "end", "data": {"status": None}}


# --- cancel, do again ---------------------------------------------------------------------------------------------


def test_runs_are_cancelled_and_done_again_through_the_run_control(hub: Hub, operator: httpx.Client) -> None:
    run_id = hub.runs["broken"]
    answer = operator.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "canceling")
    assert hub.control.cancelled == [(run_id, "operator")]
    for body, from_failure in ((None, True), ({}, True), ({"from_failure": False}, False)):
        answer = operator.post(f"/runs/{run_id}/reexecute", **({} if body is None else {"json": body}))
        assert answer.status_code == 202, answer.text
        assert answer.json()["run_id"] == "11111111-2222-4333-8444-555555555555"
        assert hub.control.repeated[-1] == (run_id, "operator", from_failure)


def test_what_cannot_be_cancelled_or_done_again(hub: Hub, viewer: httpx.Client, operator: httpx.Client) -> None:
    run_id = hub.runs["broken"]
    problem(viewer.post(f"/runs/{run_id}/cancel"), 403)
    problem(viewer.post(f"/runs/{run_id}/reexecute"), 403)
    problem(operator.post(f"/runs/{UNKNOWN}/cancel"), 404)
    problem(operator.post(f"/runs/{run_id}/reexecute", json={"from_failure": "yes"}), 422)
    problem(operator.post(f"/runs/{run_id}/reexecute", json={"from": 1}), 422)
    hub.control.refuses = True
    try:
        problem(operator.post(f"/runs/{run_id}/cancel"), 409)
    finally:
        hub.control.refuses = False
    control, hub.context.runs = hub.context.runs, None
    try:
        assert "starts and ends no runs" in problem(operator.post(f"/runs/{run_id}/cancel"), 503)
    finally:
        hub.context.runs = control
