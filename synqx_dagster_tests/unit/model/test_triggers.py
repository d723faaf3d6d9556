"""Schedules, sensors and alerts as users write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.model import Alert, RecordKind, Schedule, Sensor
from synqx_dagster.model.alert import find_url_problem

SCHEDULE = {"name": "nightly", "mapping": "a", "cron_expression": "0 2 * * *"}
HOOK = {"webhook": {"url": "https://hooks.example.com/T0/secret"}}
MAIL = {"host": "mail.example.com", "sender": "synqx@example.com", "recipients": ["on-call@example.com"]}


def refusals(kind: RecordKind, **values: object) -> str:
    with pytest.raises(InvalidRecordError) as caught:
        build_record(kind, values)
    return " / ".join(f"{'.'.join(map(str, problem.path))}: {problem.message}" for problem in caught.value.problems)


# --- schedules --------------------------------------------------------------------------------------------------


def test_a_schedule_makes_up_for_the_last_tick_unless_it_says_otherwise() -> None:
    record = build_record("schedule", SCHEDULE)
    assert isinstance(record, Schedule)
    assert (record.catch_up, record.catch_up_limit, record.grace_seconds) == ("last", 10, 300)
    assert not record.is_paused(datetime.now(UTC))


def test_a_pause_ends_at_its_moment_in_whatever_zone() -> None:
    record = build_record("schedule", {**SCHEDULE, "paused_until": "2030-01-31T09:00:00+01:00"})
    assert isinstance(record, Schedule)
    assert record.is_paused(datetime(2030, 1, 31, 7, 59, tzinfo=UTC))
    assert not record.is_paused(datetime(2030, 1, 31, 8, 0, tzinfo=UTC))


@pytest.mark.parametrize("text", ["tomorrow", "2030-01-31T08:00:00", "2030-02-30T08:00:00Z", ""])
def test_a_pause_needs_a_moment_with_a_time_zone(text: str) -> None:
    assert "paused_until: must be a moment with a time zone" in refusals("schedule", **SCHEDULE, paused_until=text)


def test_catch_up_has_bounds() -> None:
    assert "catch_up" in refusals("schedule", **SCHEDULE, catch_up="some")
    assert "catch_up_limit" in refusals("schedule", **SCHEDULE, catch_up="all", catch_up_limit=101)
    assert "grace_seconds" in refusals("schedule", **SCHEDULE, grace_seconds=1)


# --- sensors ----------------------------------------------------------------------------------------------------

WATCH = {"name": "changed", "type": "source_changed", "connection": "shop", "table": "public.orders"}


def test_sensors_of_each_type() -> None:
    watch = build_record("sensor", {**WATCH, "column": "updated_at", "mapping": ["a", "b"]})
    assert isinstance(watch, Sensor)
    assert watch.mapping_names == ("a", "b")
    assert watch.source is not None
    assert watch.source.schema == "public"
    files = {"name": "f", "type": "new_file", "connection": "inbox", "pattern": "*.csv", "pipeline": "load"}
    assert isinstance(build_record("sensor", files), Sensor)
    after = {"name": "s", "type": "pipeline_succeeded", "after_pipeline": "load", "pipeline": "report"}
    assert isinstance(build_record("sensor", after), Sensor)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (WATCH, "give mapping or pipeline, one of the two"),
        ({**WATCH, "mapping": "a", "pipeline": "b"}, "give mapping or pipeline, one of the two"),
        ({**WATCH, "mapping": "a", "pattern": "*"}, "pattern is not for the type source_changed"),
        ({**WATCH, "mapping": "a", "table": None}, "the type source_changed needs table"),
        ({**WATCH, "mapping": "a", "table": "a.b.c.d"}, "table"),
        ({**WATCH, "mapping": "a", "type": "webhook"}, "type: must be"),
        ({**WATCH, "mapping": "a", "interval_seconds": 1}, "interval_seconds: must be at least 5"),
        ({"name": "f", "type": "new_file", "mapping": "a"}, "the type new_file needs connection"),
        ({"name": "p", "type": "pipeline_succeeded", "mapping": "a"}, "needs after_pipeline"),
    ],
)
def test_a_sensor_that_fits_no_type_is_refused(values: dict[str, object], message: str) -> None:
    assert message in refusals("sensor", **values)


# --- alerts -----------------------------------------------------------------------------------------------------


def test_an_alert_has_exactly_one_channel() -> None:
    for channels in ({}, {**HOOK, "email": MAIL}):
        assert "give webhook, slack or email" in refusals("alert", name="a", events=["recovery"], **channels)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://hooks.example.com/x?token=1", None),
        ("http://127.0.0.1:9000/x", None),
        ("http://localhost/x", None),
        ("http://hooks.example.com/x", "plain http is for this machine only"),
        ("https://user:geheim@hooks.example.com/x", "user name or a password"),
        ("ftp://hooks.example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("hooks.example.com", "https://"),
        ("https://", "https://"),
        ("https://[::1/x", "not a URL"),
        ("https://a.example:99999/x", "not a URL"),
        ("https://a.example/x\r\nHost: b", "characters"),
        ("https://a.example/ü", "characters"),
    ],
)
def test_which_urls_a_webhook_may_have(url: str, problem: str | None) -> None:
    found = find_url_problem(url)
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_a_refused_url_is_not_repeated() -> None:
    text = refusals("alert", name="a", events=["recovery"], slack={"url": "http://hooks.example.com/canary-token"})
    assert "slack.url" in text
    assert "canary-token" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sender": "nobody"}, "must be a mail address"),
        ({"recipients": ["a@example.com\r\nBcc: b@example.com"]}, "must be a mail address"),
        ({"recipients": []}, "recipients"),
        ({"username": "u"}, "give username and password, or neither"),
        ({"tls": "none"}, "tls: none is for a mail server on this machine only"),
    ],
)
def test_a_mail_channel_that_cannot_be(change: dict[str, object], message: str) -> None:
    assert message in refusals("alert", name="a", events=["recovery"], email={**MAIL, **change})


def test_what_an_alert_covers() -> None:
    none: frozenset[str] = frozenset()
    everything = build_record("alert", {"name": "a", "events": ["recovery"], **HOOK})
    some = build_record("alert", {"name": "b", "events": ["recovery"], "mappings": ["m"], "pipelines": ["p"], **HOOK})
    assert isinstance(everything, Alert)
    assert isinstance(some, Alert)
    assert everything.covers(pipelines=none, mappings=none, schedules=none)
    assert some.covers(pipelines=none, mappings=frozenset({"m", "x"}), schedules=none)
    assert some.covers(pipelines=frozenset({"p"}), mappings=none, schedules=none)
    assert not some.covers(pipelines=frozenset({"m"}), mappings=frozenset({"p"}), schedules=frozenset({"m"}))
