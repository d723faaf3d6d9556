"""`synqx schedules`, `sensors` and `alerts`, as a user has them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_receivers import WebReceiver

DEFINITIONS = """\
kind: connection
name: shop
db_type: sqlite
database: /nowhere/shop.db
---
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: shop
target_table: copy
---
kind: schedule
name: nightly
mapping: customers
cron_expression: "0 2 * * *"
timezone: Europe/Berlin
---
kind: sensor
name: changed
type: source_changed
connection: shop
table: customer
column: id
mapping: customers
---
kind: alert
name: on_call
events: [run_failure]
webhook: {{url: "{url}"}}
"""


@pytest.fixture
def declared(project: Project, web_receiver: WebReceiver) -> Project:
    project.write("synqx.yaml", DEFINITIONS.format(url=web_receiver.url()))
    outcome = project("apply", "synqx.yaml", "--yes")
    assert outcome.exit_code == 0, outcome.output
    return project


def test_schedules_are_listed_with_what_was_and_will_be(declared):
    outcome = declared("schedules", "list", "--json")
    (found,) = outcome.document
    assert (found["name"], found["runs"], found["state"]) == ("nightly", ["customers"], "enabled")
    assert (found["last_run_at"], found["last_run_status"]) == (None, None)
    assert datetime.fromisoformat(found["next_run_at"]) > datetime.now(UTC)
    text = declared("schedules", "list")
    assert "nightly" in text.stdout
    assert "No daemon runs here" in text.stderr


def test_disable_and_enable_each_write_a_revision_that_says_who_and_why(declared):
    outcome = declared("schedules", "disable", "nightly", "--author", "ada", "--reason", "the source moves", "--json")
    assert outcome.document == {"revision": 2, "changed": True, "schedules": ["nightly"]}
    (found,) = declared("schedules", "list", "--json").document
    assert (found["state"], found["next_run_at"]) == ("disabled", None)
    newest = declared("history", "--json").document[0]
    assert (newest["author"], newest["reason"]) == ("ada", "the source moves")
    assert declared("schedules", "disable", "nightly", "--json").document["changed"] is False
    assert "enabled: false" in declared("export").stdout
    assert "nightly is enabled." in declared("schedules", "enable", "nightly").stdout
    assert declared("schedules", "list", "--json").document[0]["state"] == "enabled"


def test_a_pause_ends_by_itself_or_by_enable(declared):
    assert declared("schedules", "pause", "nightly", "--for", "3d").exit_code == 0
    (found,) = declared("schedules", "list", "--json").document
    assert found["state"] == "paused"
    assert datetime.fromisoformat(found["next_run_at"]) >= datetime.fromisoformat(found["paused_until"])
    assert "paused" in declared("schedules", "show", "nightly").stdout
    declared("schedules", "enable", "nightly")
    assert declared("schedules", "show", "nightly", "--json").document["paused_until"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pause", "nightly"), "give --until or --for"),
        (("pause", "nightly", "--for", "2h", "--until", "2030-01-01"), "give --until or --for"),
        (("pause", "nightly", "--for", "soon"), "'soon' is no time"),
        (("pause", "nightly", "--for", "999999w"), "'999999w' is no time"),
        (("pause", "nightly", "--until", "soon"), "ISO 8601"),
        (("pause", "nightly", "--until", "2001-01-01T00:00"), "in the past"),
        (("disable", "nigthly"), "did you mean 'nightly'?"),
    ],
)
def test_what_cannot_be_changes_nothing(declared, arguments, message):
    outcome = declared("schedules", *arguments)
    assert outcome.exit_code == 2
    assert message in outcome.output
    assert len(declared("history", "--json").document) == 1


def test_sensors_are_listed_and_switched(declared):
    (found,) = declared("sensors", "list", "--json").document
    assert (found["name"], found["watches"], found["enabled"]) == ("changed", "customer at shop", True)
    assert declared("sensors", "disable", "changed").exit_code == 0
    assert declared("sensors", "list", "--json").document[0]["enabled"] is False
    assert "disabled" in declared("sensors", "list").stdout
    assert declared("sensors", "enable", "changed").exit_code == 0


def test_an_alert_is_tried_and_its_url_is_never_shown(declared, web_receiver):
    assert "canary" not in declared("export").stdout
    outcome = declared("alerts", "test", "on_call", "--json")
    assert outcome.document["delivered"] is True
    (call,) = web_receiver.received
    assert call.path == "/hook/canary-token"
    web_receiver.answers = [410]
    failed = declared("alerts", "test", "on_call")
    assert failed.exit_code == 1
    assert "answered 410" in failed.output
    assert "canary" not in failed.output
    (listed,) = declared("alerts", "list", "--json").document
    assert (listed["channel"], listed["waiting"], listed["last_sent_at"]) == ("webhook", 0, None)
    assert "on_call" in declared("alerts", "list").stdout
