"""Figures of a load that runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.transfer.result import Progress, ProgressMeter, Stopwatch

_counts = st.integers(min_value=0, max_value=10**12)


@given(_counts, _counts, st.none() | _counts, st.none() | _counts)
def test_a_load_is_never_said_to_be_done_before_it_is(
    rows: int, size: int, total_rows: int | None, total_bytes: int | None
) -> None:
    progress = Progress("copy", rows, size, 10.0, total_rows, total_bytes)
    assert progress.fraction is None or 0 < progress.fraction < 1
    assert progress.remaining_seconds is None or progress.remaining_seconds > 0


def test_rows_tell_more_than_bytes() -> None:
    assert Progress("copy", 50, 1, 1.0, total_rows=100, total_bytes=1000).fraction == 0.5
    assert Progress("copy", 0, 100, 1.0, total_rows=100, total_bytes=1000).fraction == 0.1
    assert Progress("copy", 50, 100, 1.0, total_bytes=1000).fraction is None


def test_what_is_left_takes_as_long_as_what_is_done() -> None:
    assert Progress("copy", 25, 0, 10.0, total_rows=100).remaining_seconds == pytest.approx(30)
    assert Progress("copy", 250, 0, 10.0, total_rows=100).remaining_seconds is None


def test_a_meter_passes_the_guesses_on() -> None:
    seen: list[Progress] = []
    meter = ProgressMeter(seen.append, Stopwatch())
    meter.total_rows, meter.total_bytes = 10, 100
    meter.enter("copy")
    assert (seen[-1].total_rows, seen[-1].total_bytes) == (10, 100)


def test_a_phase_is_split_into_its_parts() -> None:
    stopwatch = Stopwatch()
    for name in ("plan", "copy"):
        with stopwatch.phase(name):
            pass
    stopwatch.split("copy", {"read": 1.0, "write": 2.0})
    assert list(stopwatch.phase_seconds) == ["plan", "read", "write"]
