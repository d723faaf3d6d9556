"""Progress without a terminal: few lines, and none of them missing."""

from __future__ import annotations

import pytest

from synqx_dagster.cli import progress as module
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.progress import ProgressLines, describe_progress, make_progress_display
from synqx_dagster.transfer.result import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_short_load_has_a_line_for_its_start_and_its_commit(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with ProgressLines(Output()) as lines:
        for phase, rows in (("plan", 0), ("copy", 10), ("copy", 500), ("publish", 900), ("commit", 1000)):
            clock[0] += 0.1
            lines("customers", Progress(phase, rows, rows * 10, 0.5))
        lines("orders", Progress("plan", 0, 0, 0.0))

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "customers: plan",
        "customers: commit, 1,000 rows, 10.0 kB, 2,000 rows/s",
        "orders: plan",
    ]


def test_a_long_load_has_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with ProgressLines(Output()) as lines:
        for second in range(13):
            clock[0] = 100.0 + second
            lines("customers", Progress("copy", second * 100, 0, float(second), 1300))

    assert [line.split(", ")[1] for line in capsys.readouterr().err.splitlines()[1:]] == [
        "500 of 1,300 rows",
        "1,000 of 1,300 rows",
    ]


def test_without_a_terminal_no_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(make_progress_display(Output()), ProgressLines)


def test_what_is_not_known_is_left_out() -> None:
    assert describe_progress(Progress("copy", 0, 2_000_000, 2.0)) == "copy, 2.0 MB, 2.00 s"
    assert describe_progress(Progress("plan", 0, 0, 0.0)) == "plan"
