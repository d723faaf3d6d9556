"""Progress without a terminal: few lines, and none of them missing."""

from __future__ import annotations

import pytest

from synqx_dagster.cli import progress as module
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.progress import ProgressBars, ProgressLines, describe_progress, make_progress_display
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
    assert describe_progress(Progress("copy", 0, 2_000_000, 2.0)) == "copy, 2.0 MB, 1.0 MB/s, 2.00 s"
    assert describe_progress(Progress("plan", 0, 0, 0.0)) == "plan"
    assert describe_progress(Progress("commit", 1, 0, 0.5)) == "commit, 1 row, 2 rows/s"


def test_what_is_left_is_told_by_rows_or_else_by_bytes() -> None:
    by_rows = Progress("copy", 250_000, 20_000_000, 10.0, total_rows=1_000_000, total_bytes=10)
    assert describe_progress(by_rows) == (
        "copy, 250,000 of 1,000,000 rows, 20.0 MB, 25,000 rows/s, 10.00 s, ETA 30.00 s"
    )
    by_bytes = Progress("copy", 0, 20_000_000, 10.0, total_rows=1_000_000, total_bytes=100_000_000)
    assert describe_progress(by_bytes) == "copy, 20.0 MB of about 100.0 MB, 2.0 MB/s, 10.00 s, ETA 40.00 s"


@pytest.mark.parametrize("phase", ["publish", "commit"])
def test_a_guess_is_not_shown_beside_what_is_known(phase: str) -> None:
    assert describe_progress(Progress(phase, 500, 0, 0.5, total_rows=700)) == f"{phase}, 500 rows, 1,000 rows/s"


def test_more_rows_than_were_guessed_have_no_time_left() -> None:
    assert "ETA" not in describe_progress(Progress("copy", 900, 0, 9.0, total_rows=700))


def test_a_hundred_loads_take_two_lines_of_the_terminal() -> None:
    bars = ProgressBars(Output())
    bars.expect(100)
    for number in range(100):
        for phase, rows in (("plan", 0), ("copy", 500), ("commit", 1000)):
            bars(f"table_{number}", Progress(phase, rows, rows, 0.1, 1000))
    summary, running = bars._bars.tasks
    assert summary.description == "100 loads"
    assert summary.completed == 99
    assert summary.fields["figures"] == "99 of 100 done, 99,000 rows"
    assert running.description == "table_99"
    assert running.finished


def test_one_load_has_no_summary() -> None:
    bars = ProgressBars(Output())
    bars.expect(1)
    bars("customers", Progress("copy", 250, 0, 1.0, 1000))
    (bar,) = bars._bars.tasks
    assert bar.percentage == 25


def test_a_load_that_failed_is_done_and_its_rows_do_not_count() -> None:
    bars = ProgressBars(Output())
    bars.expect(2)
    bars("customers", Progress("copy", 250, 0, 1.0, 1000))
    bars("orders", Progress("plan", 0, 0, 0.0))
    assert bars._bars.tasks[0].fields["figures"] == "1 of 2 done"
