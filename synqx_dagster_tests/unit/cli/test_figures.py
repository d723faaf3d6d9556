"""Numbers and times as people read them."""

from __future__ import annotations

import datetime

import pytest

from synqx_dagster.cli.figures import (
    format_age,
    format_bytes,
    format_count,
    format_rate,
    format_seconds,
    format_time,
    plural,
)

NOW = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (10**18, "1,000.0 PB"),
    ],
)
def test_bytes(size: int | None, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0424, "0.042 s"),
        (1.234, "1.23 s"),
        (59.99, "59.99 s"),
        (59.999, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3 * 3600 + 7 * 60, "3 h 07 min"),
    ],
)
def test_seconds(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


def test_counts_and_rates() -> None:
    assert format_count(1234567) == "1,234,567"
    assert format_count(None) == "-"
    assert format_rate(1_000_000, 2.0) == "500,000"
    assert format_rate(0, 2.0) == format_rate(10, 0.0) == format_rate(None, None) == "-"
    assert plural(1, "mapping") == "1 mapping"
    assert plural(2000, "mapping") == "2,000 mappings"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s ago"), (59, "59 s ago"), (60, "1 minute ago"), (7200, "2 hours ago"), (86400 * 3, "3 days ago")],
)
def test_ages(seconds: int, text: str) -> None:
    assert format_age(NOW - datetime.timedelta(seconds=seconds), NOW) == text


def test_no_moment() -> None:
    assert format_age(None) == "never"
    assert format_time(None) == "-"
