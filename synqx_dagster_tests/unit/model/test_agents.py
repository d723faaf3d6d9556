"""Agents as records: what may be declared, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest

from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.model import Agent


def build(**values: Any) -> Agent:
    record = build_record("agent", {"name": "churn_guard", **values})
    assert isinstance(record, Agent)
    return record


def refusals(**values: Any) -> str:
    with pytest.raises(InvalidRecordError) as caught:
        build(**values)
    return "; ".join(f"{'.'.join(map(str, problem.path))}: {problem.message}" for problem in caught.value.problems)


def test_one_text_stands_for_a_list_of_one() -> None:
    assert build(goals="keep customers", inputs=["orders", "calls"]) == build(
        goals=["keep customers"], inputs=["orders", "calls"]
    )


def test_a_kpi_is_entered_or_measured() -> None:
    entered, measured = build(
        kpis=[{"name": "mood", "target": "green", "current": "amber"}, {"name": "ok", "metric": "success_rate"}]
    ).kpis
    assert (entered.current, entered.metric) == ("amber", None)
    assert (measured.current, measured.metric, measured.window_days) == (None, "success_rate", 30)
    assert "leave current out" in refusals(kpis=[{"name": "ok", "metric": "success_rate", "current": 1.0}])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stat": "active"}, "stat: unknown key"),
        ({"goals": {"a": "b"}}, "goals: must be a list"),
        ({"goals": [1]}, "goals.0: must be text"),
        ({"goals": [""]}, "goals.0: must not be empty"),
        ({"goals": ["x"] * 51}, "goals"),
        ({"kpis": [{"name": "k", "metric": "speed"}]}, "kpis.0.metric: must be 'success_rate'"),
        ({"kpis": [{"name": "k", "target": True}]}, "kpis.0.target: must be a number or text"),
        ({"kpis": [{"name": "k", "window_days": 0}]}, "kpis.0.window_days"),
        ({"kpis": [{"name": "k"}, {"name": "k"}]}, "kpis: 'k' is listed twice"),
        ({"tools": [{"name": "t"}, {"name": "t"}]}, "tools: 't' is listed twice"),
        ({"mappings": ["m", "m"]}, "mappings: 'm' is listed twice"),
        ({"view_count": 3}, "view_count: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(values: dict[str, Any], said: str) -> None:
    assert said in refusals(**values)


def test_a_number_that_is_none_is_refused() -> None:
    assert "kpis.0.target" in refusals(kpis=[{"name": "k", "target": float("inf")}])
