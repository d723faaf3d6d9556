"""What becomes of what was seen of a replication: each trouble is told once, and that none is left is, too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from synqx_dagster.defs.replication_troubles import Finding, advance_troubles
from synqx_dagster.model import Replication

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPLICATION = Replication(
    name="mirror", source_connection="shop", target_connection="warehouse", tables=({"name": "*"},)
)
STOPPED = {"stopped:public.t": "public.t has stopped: a key occurs more than once"}
LOST = {"lost": "the slot is gone: nothing goes on by itself"}


def told(*findings: Finding, before: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Kinds and summaries of what one look after the other says."""
    events = []
    for finding in findings:
        advance = advance_troubles(REPLICATION, finding, NOW, before)
        before = advance.state
        events += [(event.event_type, str(event.body["summary"])) for event in advance.events]
        assert all(event.connection == "shop" for event in advance.events)
        assert all(event.body["replication"] == "mirror" for event in advance.events)
    return events


def test_a_replication_in_order_is_not_spoken_of() -> None:
    assert told(Finding("", {}), Finding("", {})) == []


def test_a_trouble_is_told_once_and_so_is_its_end() -> None:
    assert told(Finding("", STOPPED), Finding("", STOPPED), Finding("", {}), Finding("", {})) == [
        ("replication_trouble", "replication mirror: public.t has stopped: a key occurs more than once"),
        ("replication_recovery", "replication mirror is in order again"),
    ]


def test_what_comes_on_top_is_told_and_what_is_over_of_it_is_not() -> None:
    assert told(Finding("", STOPPED), Finding("", {**STOPPED, **LOST}), Finding("", STOPPED)) == [
        ("replication_trouble", "replication mirror: public.t has stopped: a key occurs more than once"),
        ("replication_trouble", "replication mirror: the slot is gone: nothing goes on by itself"),
    ]


def test_what_cannot_be_seen_has_not_ended() -> None:
    warned = Finding("it keeps 3 GB", STOPPED)
    assert [kind for kind, _ in told(warned, Finding(), Finding("", None), Finding(None, {}))] == [
        "replication_trouble",
        # The guard's was over before, the table's only now.
        "replication_recovery",
    ]


def test_figures_that_grow_are_the_same_trouble() -> None:
    assert len(told(Finding("it keeps 3 GB", {}), Finding("it keeps 4 GB", {}))) == 1


def test_what_the_guard_does_is_told_after_its_warning_and_once() -> None:
    warned, paused = Finding("it keeps 3 GB", {}), Finding("it keeps 4 GB; paused: nightly", {}, has_acted=True)
    assert told(warned, paused, paused, warned, Finding("", {})) == [
        ("replication_trouble", "replication mirror: it keeps 3 GB"),
        ("replication_trouble", "replication mirror: it keeps 4 GB; paused: nightly"),
        ("replication_recovery", "replication mirror is in order again"),
    ]


def test_several_at_once_are_one_message() -> None:
    advance = advance_troubles(REPLICATION, Finding("it keeps 3 GB", {**STOPPED, **LOST}), NOW, None)
    (event,) = advance.events
    assert len(event.body["details"]) == 3


def test_what_another_version_has_stored_is_forgotten() -> None:
    assert told(Finding("", {}), before={"troubles": ["x"]}) == []
