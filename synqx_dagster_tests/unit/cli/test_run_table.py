"""What is drawn of a run: figures that fit the terminal, and failures with their name once."""

from __future__ import annotations

from typing import Any

import pytest

from synqx_dagster.cli.output import Output
from synqx_dagster.cli.run import describe_failure, draw_run

LARGE: dict[str, Any] = {
    "name": "customer_orders_history",
    "asset_key": "warehouse/analytics/customer_orders_history",
    "lane": "passthrough",
    "mode": "scd2",
    "rows_in": 123_456_789,
    "rows_out": 123_456_788,
    "rows_inserted": 100_200_300,
    "rows_updated": 4_500_600,
    "rows_deleted": 7_008,
    "rows_quarantined": 1,
    "bytes": 123_456_789_012,
    "seconds": 1234.5,
    "checks": {"contract": False, "row_count": True},
}


def drawn(capsys: pytest.CaptureFixture[str], *assets: dict[str, Any]) -> list[str]:
    document = {"run_id": "r", "revision": 1, "status": "SUCCESS", "assets": list(assets), "failures": []}
    draw_run(Output(), document)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [80, 120, 180])
def test_what_became_of_the_targets_rows_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = drawn(capsys, LARGE, {**LARGE, "name": "plain", "mode": "replace", "rows_inserted": 987})
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("inserted", "updated", "deleted", "100,200,300", "4,500,600", "7,008"):
        assert word in text
    assert "987" not in text, "of a replace the rows out say it"


def test_where_rows_out_say_it_all_there_is_no_such_column(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("replace", "append", None):
        assert "inserted" not in "\n".join(drawn(capsys, {**LARGE, "mode": mode}))


@pytest.mark.parametrize(
    ("checks", "quarantined", "said"),
    [
        ({"contract": True, "row_count": True}, 0, "2 ok"),
        ({"contract": False, "row_count": True, "unique_keys": True}, 1234, "2 ok, contract: 1,234 quarantined"),
        ({"contract": False, "content": False, "row_count": True}, 2, "1 ok, contract: 2 quarantined, failed: content"),
        ({"contract": False}, 0, "failed: contract"),
        ({}, 0, "-"),
    ],
)
def test_rows_that_are_set_aside_as_asked_are_no_failure(
    capsys: pytest.CaptureFixture[str], checks: dict[str, bool], quarantined: int, said: str
) -> None:
    lines = drawn(capsys, {**LARGE, "checks": checks, "rows_quarantined": quarantined})
    assert any(line.endswith(f"  {said}") for line in lines), lines


def test_a_failure_is_named_once_and_what_to_do_is_indented() -> None:
    assert describe_failure("x", "mapping 'x': merge needs a key\nset key") == (
        "mapping 'x': merge needs a key\n  set key"
    )
    assert describe_failure("x", "no route\x1b\ntry again") == "x: no route\\x1b\n  try again"
    assert describe_failure("x", "mapping 'xy' is meant") == "x: mapping 'xy' is meant"
