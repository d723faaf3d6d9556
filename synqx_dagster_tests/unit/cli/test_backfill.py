"""What a backfill that ended early says is left."""

from __future__ import annotations

import pytest

from synqx_dagster.cli.backfill import not_loaded
from synqx_dagster.defs.runs import Interruption, RunReport
from synqx_dagster.transfer.result import PartitionSlice

SLICES = [PartitionSlice(key, key, 1) for key in ("a", "b", "c")]


def report(status: str, interruption: Interruption | None = None) -> RunReport:
    return RunReport("run", status, 1, (), (), interruption)


@pytest.mark.parametrize(
    ("reports", "left"),
    [
        ([report("SUCCESS")] * 3, ""),
        ([report("SUCCESS"), report("FAILURE")], "bc"),
        ([report("FAILURE", Interruption((), ("sales",)))], "abc"),
        ([report("FAILURE", Interruption(("sales",), ()))], "bc"),
        ([report("SUCCESS"), report("FAILURE", Interruption(("sales",), ("other",)))], "bc"),
        ([report("SUCCESS")] * 2 + [report("CANCELED", Interruption(("sales",), ()))], ""),
    ],
)
def test_what_has_not_been_loaded_is_left(reports: list[RunReport], left: str) -> None:
    assert "".join(part.first for part in not_loaded(SLICES, reports)) == left
