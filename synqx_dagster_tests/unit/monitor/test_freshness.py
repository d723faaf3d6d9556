"""How old a last load may be, what changes with a look, and which tables a look is about."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.monitor.freshness import AgeLook, FreshnessState, Rota, describe_age, judge_ages

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("last_load", "since", "age", "is_fresh"),
    [
        (NOW, 0.0, 0.0, True),
        (NOW - 60, 0.0, 60.0, True),
        (NOW - 60.001, 0.0, 60.001, False),
        (NOW + 3600, 0.0, 0.0, True),
        (None, NOW - 60, 60.0, True),
        (None, NOW - 61, 61.0, False),
        (None, NOW + 5, 0.0, True),
    ],
    ids=["just now", "at the bound", "beyond it", "another clock is ahead", "never, at the bound", "never", "set back"],
)
def test_an_age_counts_from_the_last_load_or_from_the_first_look(
    last_load: float | None, since: float, age: float, is_fresh: bool
) -> None:
    look = AgeLook(60, last_load, since, NOW)
    assert look.age_seconds == pytest.approx(age)
    assert look.is_fresh is is_fresh


def test_what_is_said() -> None:
    said = AgeLook(3600, NOW - 3601, 0, NOW).describe()
    assert said == "last loaded 1970-01-12 12:46:39 UTC, longer ago than the 60 min that are allowed"
    said = AgeLook(5400, NOW - 3601, 0, NOW).describe()
    assert said == "last loaded 1970-01-12 12:46:39 UTC, within the 90 min that are allowed"
    said = AgeLook(86_400, None, NOW - 180_000, NOW).describe()
    assert said == "never loaded; first looked at 1970-01-10 11:46:40 UTC, longer ago than the 24 h that are allowed"
    assert [describe_age(seconds) for seconds in (0, 119, 120, 7199, 172_800)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2 d",
    ]


def test_each_change_is_told_once() -> None:
    state = FreshnessState()
    told = []
    for now, last_load in ((0, None), (60, None), (61, None), (90, None), (100, 95), (101, 95), (156, 95), (200, 199)):
        found = judge_ages({"a": 60}, {"a": last_load}, state, now)
        # As it is stored and read again, also after a restart.
        state = FreshnessState.from_dict(json.loads(json.dumps(found.state.to_dict())))
        told += [(now, "overdue") for _ in found.overdue] + [(now, "recovered") for _ in found.recovered]
    assert told == [(61, "overdue"), (100, "recovered"), (156, "overdue"), (200, "recovered")]


def test_what_is_not_looked_at_stays_and_what_is_not_watched_is_forgotten() -> None:
    before = FreshnessState({"a": 1.0, "b": 2.0, "gone": 3.0}, frozenset({"a", "gone"}))
    found = judge_ages({"a": 60, "b": 60, "new": 60}, {"b": 500.0}, before, 500.0)
    assert found.state == FreshnessState({"a": 1.0, "b": 2.0, "new": 500.0}, frozenset({"a"}))
    assert (found.overdue, found.recovered, set(found.looks)) == ((), (), {"b"})


@pytest.mark.parametrize(
    "stored", [{"since": 3}, {"since": {"a": "x"}}, {"overdue": 1}, {"overdue": ["a"], "since": []}]
)
def test_what_another_version_stored_begins_anew(stored: dict[str, object]) -> None:
    assert FreshnessState.from_dict(stored) == FreshnessState()


@given(st.lists(st.tuples(st.floats(0, 1000), st.none() | st.floats(0, 2000)), max_size=30))
def test_overdue_and_recovered_take_turns(looks: list[tuple[float, float | None]]) -> None:
    state, now, is_overdue = FreshnessState(), 0.0, False
    for passed, last_load in looks:
        now += passed
        found = judge_ages({"a": 300}, {"a": last_load}, state, now)
        assert not (found.overdue and found.recovered)
        assert bool(found.overdue) <= (not is_overdue)
        assert bool(found.recovered) <= is_overdue
        is_overdue = is_overdue != bool(found.overdue or found.recovered)
        assert is_overdue == (not found.looks["a"].is_fresh) == ("a" in found.state.overdue)
        state = found.state


def test_what_is_fresh_rests_until_it_may_be_overdue() -> None:
    rota = Rota()
    assert rota.take(["a", "b", "c", "d"], 0, most=3) == ["a", "b", "c"]
    rota.rest(AgeLook(60, 0, 0, 20), "a", most_seconds=600)
    rota.rest(AgeLook(86_400, 0, 0, 20), "b", most_seconds=600)
    rota.rest(AgeLook(60, 0, 0, 80), "c", most_seconds=600)
    assert rota.take(["a", "b", "c"], 59, most=9) == []
    assert rota.take(["a", "b", "c"], 60, most=9) == ["a"]
    # One that is overdue is looked at each time; those that wait longest come first.
    assert rota.take(["a", "b", "c", "d"], 620, most=9) == ["d", "a", "c", "b"]
