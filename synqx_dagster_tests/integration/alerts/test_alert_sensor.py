"""From what happened to who is told: real runs in a real instance, a real catalog, a real web server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from synqx_dagster.alerts.delivery import deliver
from synqx_dagster.alerts.messages import AlertEvent
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.defs import alert_sensor
from synqx_dagster.defs.alert_sensor import (
    ALERT_SENSOR_NAME,
    build_alert_sensor,
    concerns,
    load_state,
    report_alerts,
)
from synqx_dagster.defs.load_names import LoadNames
from synqx_dagster.defs.names import op_name
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model import Alert
from synqx_dagster_tests.integration.alerts.desk import Desk, failed_run, our_failure, run, state_of


def test_a_failure_is_told_once_and_so_is_the_recovery(desk):
    desk.declare()
    run(desk.instance, "load", our_failure())
    desk.now = datetime.now(UTC)
    assert "alerts begin now" in desk.look()[0]
    assert desk.told() == []
    run_id = run(desk.instance, "load", our_failure())
    assert desk.look() == ["on_call: told 1"]
    (failure,) = desk.told()
    assert (failure["event"], failure["run_id"], failure["pipelines"]) == ("run_failure", run_id, ["load"])
    assert failure["troubles"] == [
        {"name": "customers", "message": "2 rows break the contract\nlook at them", "error": "BadRowsError"}
    ]
    assert desk.look(30) == ["nothing to tell"]
    run(desk.instance, "load")
    run(desk.instance, "load")
    desk.look(30)
    assert [message["event"] for message in desk.told()] == ["recovery"]


def test_what_an_error_from_elsewhere_says_is_not_told(desk):
    desk.declare()
    desk.look()
    run(desk.instance, "load", ValueError("canary-value"))
    desk.look()
    (message,) = desk.told()
    assert "canary" not in json.dumps(message)
    assert "ValueError that SynqX did not expect" in message["troubles"][0]["message"]


def test_a_run_that_will_be_tried_again_is_not_told_yet(desk):
    desk.declare()
    desk.look()
    run(desk.instance, "load", our_failure(), tags={"dagster/will_retry": "true"})
    assert desk.look() == ["nothing to tell"]
    run(desk.instance, "load", our_failure())
    desk.look()
    assert len(desk.told()) == 1


@pytest.mark.parametrize(
    ("tags", "after_seconds", "is_told"),
    [
        ({}, 0, False),
        ({}, 599, False),
        ({}, 601, True),
        ({"dagster/will_retry": "false"}, 0, True),
        ({"dagster/auto_retry_run_id": "another"}, 601, False),
    ],
    ids=["not yet", "still not yet", "never came", "changed its mind", "tells of itself"],
)
def test_a_failure_that_dagster_does_not_retry_after_all_is_told(desk, tags, after_seconds, is_told):
    desk.declare()
    desk.look()
    run_id = run(desk.instance, "load", our_failure(), tags={"dagster/will_retry": "true"})
    desk.look()
    if tags:
        desk.instance.add_run_tags(run_id, tags)
    desk.look(after_seconds)
    assert [message["run_id"] for message in desk.told()] == ([run_id] if is_told else [])
    desk.look(3000)
    assert (desk.told() == []) == (is_told or "dagster/auto_retry_run_id" in tags)


def test_a_failure_of_which_dagster_has_not_yet_said_whether_it_will_retry_waits_for_that(catalog, web_receiver):
    with dg.DagsterInstance.local_temp(overrides={"run_retries": {"enabled": True}}) as instance:
        desk = Desk(catalog, instance, web_receiver)
        desk.declare()
        desk.look()
        run_id = failed_run(instance, "load")
        assert desk.look() == ["nothing to tell"]
        instance.add_run_tags(run_id, {"dagster/will_retry": "false"})
        assert desk.look(15) == ["on_call: told 1"]


STEP = op_name(["warehouse", "main", "customers"])


@pytest.mark.parametrize(("mapping_name", "is_told"), [("customers", True), ("orders", False)])
def test_an_alert_over_a_mapping_is_told_what_synqx_did_not_expect_in_its_step(desk, mapping_name, is_told):
    desk.declare(mappings=[mapping_name])
    desk.look()
    assert STEP in LoadNames(desk.catalog.snapshot()).by_step
    run(desk.instance, "__ASSET_JOB", ValueError("canary-value"), step=STEP)
    desk.look()
    told = desk.told()
    assert bool(told) is is_told
    assert all(message["troubles"][0]["name"] == "customers" for message in told)


def test_an_alert_over_a_mapping_is_told_of_a_run_of_its_asset_that_failed_outside_of_its_steps(desk):
    desk.declare(mappings=["customers"])
    desk.look()
    failed_run(desk.instance, "__ASSET_JOB", asset_selection=frozenset({dg.AssetKey(["warehouse", "main", "orders"])}))
    assert desk.look() == ["nothing to tell"]
    key = dg.AssetKey(["warehouse", "main", "customers"])
    failed_run(desk.instance, "__ASSET_JOB", asset_selection=frozenset({key}))
    desk.look()
    (message,) = desk.told()
    assert message["mappings"] == ["customers"]


def test_a_step_of_a_pipeline_is_no_mapping(desk):
    desk.declare()
    desk.look()
    metadata = {"synqx/mapping": "load: sorted", "synqx/error": BadRowsError.__name__}
    run(desk.instance, "load", dg.Failure("why", metadata=metadata, allow_retries=False))
    desk.look()
    (message,) = desk.told()
    assert (message["mappings"], message["troubles"][0]["name"]) == ([], "load: sorted")


@pytest.mark.parametrize(
    ("about", "is_told"),
    [
        ({"pipelines": ["load"]}, True),
        ({"mappings": ["customers"]}, True),
        ({"mappings": ["orders"]}, False),
        ({"schedules": ["hourly"]}, False),
        ({"enabled": False}, False),
        ({"events": ["recovery"]}, False),
    ],
)
def test_an_alert_is_about_what_it_names(desk, about, is_told):
    desk.declare(**about)
    desk.look()
    run(desk.instance, "load", our_failure())
    desk.look()
    assert bool(desk.told()) is is_told


def test_rows_in_quarantine_are_told_from_the_threshold_on(desk):
    desk.declare(events=["quarantine_threshold"], quarantine_rows=5)
    desk.look()
    run(desk.instance, "load", bad_rows=4)
    run(desk.instance, "load", bad_rows=5)
    run(desk.instance, "load", bad_rows=9, known_rows=5)
    desk.look()
    (message,) = desk.told()
    assert message["quarantine"] == {"customers": 5}


@pytest.mark.parametrize(("location", "is_told"), [("somebody-elses", False), ("synqx", True)])
def test_runs_of_another_code_location_are_nobodys_business(desk, location, is_told):
    desk.declare()
    desk.location = "synqx"
    desk.look()
    place = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), location)
    failed_run(
        desk.instance,
        "load",
        tags={"synqx/revision": "1"},
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(place, "__repository__"), "load"),
    )
    desk.look()
    assert bool(desk.told()) is is_told


def test_two_code_locations_over_one_catalog_tell_what_is_theirs(desk):
    desk.declare()
    for desk.location in ("a", "b"):
        desk.look()
        state_of(desk.instance, desk.now, ALERT_SENSOR_NAME, desk.location)
        place = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), desk.location)
        origin = RemoteJobOrigin(RemoteRepositoryOrigin(place, "__repository__"), "load")
        failed_run(desk.instance, "load", remote_job_origin=origin)
    for desk.location in ("a", "b"):
        assert desk.look() == ["on_call: told 1"]
    (report,) = report_alerts(desk.instance, desk.catalog, list(desk.catalog.snapshot().alerts.values()))
    assert report["last_sent_at"] is not None


def test_what_nobody_looked_at_for_days_is_no_news(desk):
    desk.declare()
    desk.now = datetime.now(UTC) - timedelta(days=9)
    desk.look()
    old = datetime.now(UTC)
    run(desk.instance, "load", our_failure())
    desk.now = old + timedelta(days=2)
    assert desk.look() == ["nothing to tell"]


def test_an_event_that_was_found_late_is_as_old_as_it_is(desk):
    desk.declare()
    desk.look()
    desk.receiver.answers = [503]
    run(desk.instance, "load", our_failure())
    failed_at = datetime.now(UTC)
    desk.look(7200)
    state = load_state(desk.instance, desk.catalog)
    assert state is not None
    (item,) = state.queues["on_call"].pending
    assert item.queued_at <= failed_at.timestamp()


def test_a_look_that_dagster_gave_up_is_not_met_by_another_one(desk):
    desk.declare()
    desk.look()
    run(desk.instance, "load", our_failure())
    with alert_sensor._looking:
        assert desk.look() == ["the look before this one has not ended"]
    assert desk.look() == ["on_call: told 1"]


@pytest.mark.parametrize(
    ("about", "is_told"),
    [
        ({"mappings": ["orders"]}, False),
        ({"mappings": ["orders"], "pipelines": ["elsewhere"]}, False),
        ({"mappings": ["customers"]}, True),
        ({"pipelines": ["load"]}, True),
        ({}, True),
    ],
)
def test_an_alert_over_a_mapping_is_about_the_rows_of_that_one(about, is_told):
    values = {"name": "a", "events": ["quarantine_threshold"], "quarantine_rows": 5, **about}
    alert = build_record("alert", {**values, "slack": {"url": {"env": "HOOK"}}})
    assert isinstance(alert, Alert)
    event = AlertEvent(
        *("quarantine:1", "quarantine_threshold", "2026-01-01T00:00:00+00:00", "load", "load set 7 rows aside"),
        pipelines=("load",),
        mappings=("customers", "orders"),
        quarantine={"customers": 6, "orders": 1},
    )
    assert concerns(alert, event) is is_told


# --- delivery -----------------------------------------------------------------------------------------------------


def test_a_webhook_that_is_down_loses_nothing_and_is_said(desk):
    desk.declare()
    desk.look()
    desk.receiver.answers = [503, 503]
    ids = [run(desk.instance, "load", our_failure()), run(desk.instance, "load", our_failure())]
    (line,) = desk.look()
    assert "2 wait; the last attempt failed" in line
    assert "answered 503" in line
    assert desk.look(10) != ["nothing to tell"], "it says so as long as it waits"
    assert len(desk.receiver.received) == 1, "no attempt before the wait is over"
    desk.look(25)
    assert len(desk.receiver.received) == 2
    (report,) = report_alerts(desk.instance, desk.catalog, list(desk.catalog.snapshot().alerts.values()))
    assert (report["waiting"], report["channel"]) == (2, "webhook")
    assert "answered 503" in report["last_error"]
    desk.told()
    # What waits is in Dagster's storage: another process goes on with it.
    assert desk.look(61) == ["on_call: told 2"]
    assert [message["run_id"] for message in desk.told()] == ids
    assert desk.look(61) == ["nothing to tell"]


def test_what_nobody_expected_in_one_alert_stops_no_other_one(desk, monkeypatch, caplog):
    desk.declare(name="a_first")
    desk.declare()
    desk.look()
    run(desk.instance, "load", our_failure())

    def stumble(alert: Alert, *arguments: Any, **options: Any) -> None:
        if alert.name == "a_first":
            raise ZeroDivisionError("canary-secret")
        deliver(alert, *arguments, **options)

    monkeypatch.setattr(alert_sensor, "deliver", stumble)
    lines = desk.look()
    assert "on_call: told 1" in lines
    (failed,) = [line for line in lines if line.startswith("a_first")]
    assert "1 wait; the last attempt failed: alert 'a_first': ZeroDivisionError that SynqX did not expect" in failed
    state = load_state(desk.instance, desk.catalog)
    assert state is not None
    assert state.queues["a_first"].pending[0].attempts == 1
    assert "canary" not in f"{state.to_json()} {caplog.text}"


def test_beyond_the_cap_messages_are_counted_and_said_with_the_next(desk):
    desk.declare(max_per_hour=2)
    desk.look()
    for _ in range(5):
        run(desk.instance, "load", our_failure())
    assert "3 run_failure not sent since the last message" in desk.look()[0]
    assert len(desk.told()) == 2
    run(desk.instance, "load", our_failure())
    desk.look(3700)
    (message,) = desk.told()
    assert message["suppressed"] == {"run_failure": 3}


def test_a_sealed_vault_spends_no_attempt(desk):
    desk.declare()
    desk.look()
    desk.catalog.vault.seal()
    run(desk.instance, "load", our_failure())
    (line,) = desk.look()
    assert "1 wait, because the vault is sealed" in line
    assert desk.told() == []
    desk.catalog.vault.unlock(password=desk.catalog.settings.master_password)
    assert desk.look(1) == ["on_call: told 1"]


def test_no_secret_is_in_what_is_kept_or_told(desk, caplog):
    desk.declare()
    desk.look()
    desk.receiver.answers = [500]
    run(desk.instance, "load", our_failure())
    snapshot = desk.catalog.snapshot()
    sensor = build_alert_sensor(snapshot, lambda: desk.catalog)
    assert sensor.name == ALERT_SENSOR_NAME
    data = sensor.evaluate_tick(dg.build_sensor_context(instance=desk.instance))
    key = f"synqx/alerts/{desk.catalog.catalog_id}/"
    kept = desk.instance.daemon_cursor_storage.get_cursor_values({key})[key]
    seen = [data.skip_message, kept, caplog.text, repr(snapshot), json.dumps(snapshot.to_dict())]
    assert "answered 500" in data.skip_message
    assert all("canary" not in text for text in seen)
    assert b"canary-token" not in b"".join(call.body for call in desk.receiver.received)
