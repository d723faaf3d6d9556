"""The law of figures that are put together: nothing is invented, and it does not matter in how many steps."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.catalog.figures import combine, encode_slots, floor_moment, iter_spans, rules_of
from synqx_dagster.catalog.monitor_tables import SERIES, wal_metrics

RULES = {"first_sum": "sum", "first_max": "max", "first_min": "min", "first_last": "last", "slots": "slots"}
_number = st.none() | st.integers(-(2**40), 2**40)


@st.composite
def slots(draw: st.DrawFn) -> str | None:
    if draw(st.booleans()):
        return None
    names = draw(st.lists(st.sampled_from("abc"), unique=True))
    found = []
    for name in names:
        lag = draw(st.none() | st.integers(0, 1000))
        found.append(
            {"name": name, "lag": lag, "lag_max": lag, "wal_status": draw(st.sampled_from(["lost", "reserved"]))}
        )
    return encode_slots(found)


@st.composite
def series(draw: st.DrawFn) -> list[dict[str, Any]]:
    moments = sorted(draw(st.lists(st.integers(0, 4000), min_size=1, max_size=25)))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        {
            "metric_id": number,
            "sampled_at": start + timedelta(seconds=seconds),
            "first_sum": draw(_number),
            "first_max": draw(_number),
            "first_min": draw(_number),
            "first_last": draw(_number),
            "slots": draw(slots()),
        }
        for number, seconds in enumerate(moments)
    ]


def thin(rows: list[dict[str, Any]], seconds: int) -> list[dict[str, Any]]:
    return [combine(span, RULES) for span in iter_spans(rows, seconds)]


@given(series())
def test_nothing_is_invented(rows: list[dict[str, Any]]) -> None:
    combined = combine(rows, RULES)
    assert combined["sampled_at"] == rows[-1]["sampled_at"]
    for name in ("first_max", "first_min", "first_last"):
        known = [row[name] for row in rows if row[name] is not None]
        assert combined[name] in known if known else combined[name] is None
    known = [row["first_sum"] for row in rows if row["first_sum"] is not None]
    assert combined["first_sum"] == (sum(known) if known else None)
    seen = [slot for row in rows if row["slots"] for slot in json.loads(row["slots"])]
    for slot in json.loads(combined["slots"] or "[]"):
        same = [item for item in seen if item["name"] == slot["name"]]
        assert {**slot, "lag_max": None} == {**same[-1], "lag_max": None}
        assert slot["lag_max"] == max((item["lag"] for item in same if item["lag"] is not None), default=None)
    assert {slot["name"] for slot in json.loads(combined["slots"] or "[]")} == {slot["name"] for slot in seen}


@given(series(), st.sampled_from([60, 300]))
def test_to_thin_again_changes_nothing(rows: list[dict[str, Any]], seconds: int) -> None:
    once = thin(rows, seconds)
    assert thin(once, seconds) == once


@given(series())
def test_steps_do_not_matter(rows: list[dict[str, Any]]) -> None:
    assert thin(thin(rows, 300), 3600) == thin(rows, 3600)


@given(series(), st.sampled_from([60, 300, 3600]))
def test_what_is_summed_stays_the_same(rows: list[dict[str, Any]], seconds: int) -> None:
    thinned = thin(rows, seconds)
    assert sum(row["first_sum"] or 0 for row in thinned) == sum(row["first_sum"] or 0 for row in rows)
    assert len({floor_moment(row["sampled_at"], seconds) for row in thinned}) == len(thinned)


@pytest.mark.parametrize(
    ("moment", "seconds", "floored"),
    [
        ("2026-01-01T12:34:56.789+00:00", 300, "2026-01-01T12:30:00+00:00"),
        ("2026-01-01T12:34:56.789+00:00", 3600, "2026-01-01T12:00:00+00:00"),
        ("1969-12-31T23:59:59.5+00:00", 60, "1969-12-31T23:59:00+00:00"),
        ("2026-01-01T12:00:00+00:00", 60, "2026-01-01T12:00:00+00:00"),
    ],
)
def test_spans_begin_where_clocks_have_them(moment: str, seconds: int, floored: str) -> None:
    assert floor_moment(datetime.fromisoformat(moment), seconds) == datetime.fromisoformat(floored)


def test_every_figure_has_a_rule() -> None:
    for table, names in SERIES.items():
        others = set(table.columns.keys()) - set(rules_of(table))
        assert others == {"metric_id", "sampled_at", "resolution_seconds", *names}
    assert set(rules_of(wal_metrics).values()) == {"sum", "last", "max", "min", "slots"}
