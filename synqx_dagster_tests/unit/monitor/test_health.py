"""Changes of connections are told once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.connectors.protocol import ConnectionReport, Connector
from synqx_dagster.monitor import health
from synqx_dagster.monitor.health import HealthLook, HealthState, check_health, follow_health
from synqx_dagster_tests.unit.monitor.looks import MOMENT


@given(st.lists(st.booleans(), max_size=30))
def test_each_change_is_told_once(outcomes: list[bool]) -> None:
    state: HealthState | None = None
    told: list[bool] = []
    for number, ok in enumerate(outcomes):
        look = HealthLook(MOMENT + timedelta(seconds=number), ok, 0.1)
        state, change = follow_health(state, look)
        assert HealthState.from_dict(state.to_dict()) == state
        if change is not None:
            told.append(change.status == "up")
    changes = [ok for before, ok in zip([True, *outcomes], outcomes, strict=False) if before != ok]
    assert told == changes


def test_how_long_it_was_down_is_told() -> None:
    state, change = follow_health(None, HealthLook(MOMENT, False, 0.1, reason="refused", message="no"))
    assert change is not None
    assert (state.status, state.reason, state.message) == ("down", "refused", "no")
    state, change = follow_health(state, HealthLook(MOMENT + timedelta(seconds=30), False, 0.1, message="still no"))
    assert change is None
    assert (state.since, state.message) == (MOMENT.isoformat(), "still no")
    state, change = follow_health(state, HealthLook(MOMENT + timedelta(seconds=90), True, 0.1))
    assert change is not None
    assert (change.status, change.seconds) == ("up", 90)


class Scripted:
    """A connector whose tests go as they are told."""

    def __init__(self, *outcomes: bool) -> None:
        self.outcomes = list(outcomes)

    def test(self, *, timeout_seconds: float) -> ConnectionReport:
        return ConnectionReport(self.outcomes.pop(0), "it says so", latency_seconds=0.001)


@pytest.mark.parametrize(
    ("outcomes", "was_up", "ok", "left"),
    [
        ((True, False), True, True, 1),
        ((False, True), True, True, 0),
        ((False, False), True, False, 0),
        ((False, True), False, False, 1),
    ],
)
def test_a_failure_that_is_news_is_looked_at_twice(
    outcomes: tuple[bool, ...], was_up: bool, ok: bool, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "RETRY_SECONDS", 0.0)
    connector: Any = Scripted(*outcomes)
    look = check_health(cast("Connector", connector), timeout_seconds=1, was_up=was_up)
    assert look.ok == ok
    assert len(connector.outcomes) == left
    assert (look.latency_seconds is None) == (not ok)
