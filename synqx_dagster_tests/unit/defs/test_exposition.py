"""The text that Prometheus reads, read back by its own client."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from synqx_dagster.defs.exposition import Metric, Sample, render_metrics

#: The client splits a text at all that Python takes for the end of a line, Prometheus at "\n" alone.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Zl", "Zp", "Cc"]) | st.just("\n"))


def test_the_text_is_what_the_format_says() -> None:
    metrics = [
        Metric(
            "synqx_runs", 'Runs \\ of "all" kinds\nand more', (Sample(3, {"job": 'a"b\\c\nd', "status": "SUCCESS"}),)
        ),
        Metric("synqx_nothing", "Left out.", ()),
        Metric("synqx_queued_runs", "Waiting.", (Sample(0.25, {}),)),
    ]
    assert render_metrics(metrics) == (
        '# HELP synqx_runs Runs \\\\ of "all" kinds\\nand more\n'
        "# TYPE synqx_runs gauge\n"
        'synqx_runs{job="a\\"b\\\\c\\nd",status="SUCCESS"} 3\n'
        "# HELP synqx_queued_runs Waiting.\n"
        "# TYPE synqx_queued_runs gauge\n"
        "synqx_queued_runs 0.25\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-2.0, "-2"), (1e15, "1000000000000000"), (0.1, "0.1"), (math.inf, "+Inf"), (-math.inf, "-Inf")],
)
def test_numbers(value: float, text: str) -> None:
    assert render_metrics([Metric("m", "h", (Sample(value, {}),))]).splitlines()[-1] == f"m {text}"
    assert render_metrics([Metric("m", "h", (Sample(math.nan, {}),))]).splitlines()[-1] == "m NaN"


@given(TEXT, TEXT, st.floats(allow_nan=False))
def test_whatever_a_label_holds_is_read_back(job: str, other: str, value: float) -> None:
    metric = Metric("synqx_runs", "Runs.", (Sample(value, {"job": job, "other": other}),))

    (family,) = text_string_to_metric_families(render_metrics([metric]))

    (sample,) = family.samples
    assert (family.name, family.type) == ("synqx_runs", "gauge")
    assert (sample.labels, sample.value) == ({"job": job, "other": other}, value)


def test_half_a_character_does_not_stop_the_rest() -> None:
    text = render_metrics([Metric("m", "h", (Sample(1, {"job": "a\ud800"}),))])
    assert text.encode("utf-8").endswith(b'm{job="a?"} 1\n')
