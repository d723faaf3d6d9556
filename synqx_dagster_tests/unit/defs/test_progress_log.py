"""How often a long load writes into Dagster's log, and what."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from synqx_dagster.defs import assets as module
from synqx_dagster.defs.assets import ProgressLog, describe_progress
from synqx_dagster.transfer.result import Progress


def test_a_long_load_writes_soon_and_then_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    written: list[float] = []
    heard: list[Progress] = []
    context = SimpleNamespace(log=SimpleNamespace(info=lambda _: written.append(now[0])))
    log = ProgressLog(context, "customers", lambda _, progress: heard.append(progress))
    for half_seconds in range(2 * 3600):
        now[0] = half_seconds / 2
        log(Progress("copy", half_seconds, 0, now[0]))
    assert written[:7] == [10, 30, 70, 150, 310, 610, 910]
    assert {later - earlier for earlier, later in itertools.pairwise(written[5:])} == {300}
    assert len(heard) == 7200


def test_a_line_has_rows_bytes_speed_and_what_is_left() -> None:
    assert describe_progress(Progress("copy", 250_000, 20_000_000, 10.0, 1_000_000)) == (
        "copy: 250,000 of about 1,000,000 rows, 20.0 MB in 10 s, 25,000 rows/s, about 30 s left"
    )
    assert describe_progress(Progress("copy", 0, 20_000_000, 10.0, 1_000_000, 100_000_000)) == (
        "copy: 20.0 of about 100.0 MB in 10 s, about 40 s left"
    )
    assert describe_progress(Progress("publish", 0, 0, 12.0)) == "publish: 0.0 MB in 12 s"
