"""Thresholds of slots: each alone, told once, and kept again only with a margin."""

from __future__ import annotations

from datetime import timedelta

import pytest

from synqx_dagster.model.connection import WalThresholds
from synqx_dagster.monitor.wal import Archiver, WalSlot
from synqx_dagster.monitor.wal_breaches import find_breaches, track_inactive
from synqx_dagster_tests.unit.monitor.looks import MOMENT, make_look, make_slot

THRESHOLDS = WalThresholds(max_lag_bytes=1000, max_inactive_seconds=60, min_safe_bytes=500)


def keys(slot: WalSlot, before: tuple[str, ...] = ()) -> list[str]:
    return [breach.key for breach in find_breaches(make_look(slot), THRESHOLDS, before)]


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        (make_slot(), []),
        (make_slot(restart_lag_bytes=1000), []),
        (make_slot(restart_lag_bytes=1001), ["slot:shop:lag"]),
        (make_slot(restart_lag_bytes=None, confirmed_lag_bytes=None), []),
        (make_slot(safe_wal_bytes=500), []),
        (make_slot(safe_wal_bytes=499), ["slot:shop:safe"]),
        (make_slot(safe_wal_bytes=-1), ["slot:shop:safe"]),
        (make_slot(wal_status="extended"), []),
        (make_slot(wal_status="unreserved"), ["slot:shop:unreserved"]),
        (make_slot(wal_status="lost", restart_lag_bytes=None), ["slot:shop:lost"]),
        (make_slot(invalidation_reason="idle_timeout", restart_lag_bytes=9**9), ["slot:shop:lost"]),
        (make_slot(active=False, inactive_since=MOMENT - timedelta(seconds=60)), []),
        (make_slot(active=False, inactive_since=MOMENT - timedelta(seconds=61)), ["slot:shop:inactive"]),
        (make_slot(active=True, inactive_since=MOMENT - timedelta(days=1)), []),
    ],
)
def test_each_threshold_alone(slot: WalSlot, expected: list[str]) -> None:
    assert keys(slot) == expected


def test_a_figure_around_its_threshold_is_told_once() -> None:
    assert keys(make_slot(restart_lag_bytes=950)) == []
    assert keys(make_slot(restart_lag_bytes=950), ("slot:shop:lag",)) == ["slot:shop:lag"]
    assert keys(make_slot(restart_lag_bytes=900), ("slot:shop:lag",)) == []
    assert keys(make_slot(safe_wal_bytes=550), ("slot:shop:safe",)) == ["slot:shop:safe"]
    assert keys(make_slot(safe_wal_bytes=556), ("slot:shop:safe",)) == []
    # Another slot's is no excuse.
    assert keys(make_slot(restart_lag_bytes=950), ("slot:other:lag",)) == []


def test_an_older_server_is_asked_since_we_first_saw_it() -> None:
    slot = make_slot(active=False)
    first = track_inactive(make_look(slot), {})
    later = make_look(slot, server_seconds=MOMENT.timestamp() + 61)
    since = track_inactive(later, first)
    assert since == first
    assert [breach.key for breach in find_breaches(later, THRESHOLDS, (), since)] == ["slot:shop:inactive"]
    assert track_inactive(make_look(make_slot()), since) == {}


def test_an_archiver_fails_until_it_succeeds_again() -> None:
    failing = Archiver(5, 1, "a", MOMENT, "b", MOMENT + timedelta(seconds=1), None)
    assert [breach.key for breach in find_breaches(make_look(archiver=failing), THRESHOLDS)] == ["archiver"]
    well = Archiver(6, 1, "b", MOMENT + timedelta(seconds=2), "b", MOMENT + timedelta(seconds=1), None)
    assert find_breaches(make_look(archiver=well), THRESHOLDS) == ()


def test_thresholds_that_are_off_are_off() -> None:
    slot = make_slot(restart_lag_bytes=9**15, safe_wal_bytes=0, active=False, inactive_since=MOMENT - timedelta(days=9))
    assert find_breaches(make_look(slot), WalThresholds(max_lag_bytes=None)) == ()
