"""What happened between two looks: never negative, never of two servers at once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.monitor.wal import Archiver, Checkpoints
from synqx_dagster.monitor.wal_change import WalChange, WalMark, compare
from synqx_dagster_tests.unit.monitor.looks import MOMENT, make_look

BEFORE = WalMark.of(make_look())

_counts = st.none() | st.integers(0, 2**62)
_marks = st.builds(
    WalMark,
    server_seconds=st.floats(0, 4e9, allow_nan=False),
    started_at=st.sampled_from(["a", "b"]),
    system_identifier=st.sampled_from([None, "7", "8"]),
    timeline=st.sampled_from([None, "00000001", "00000002"]),
    is_standby=st.booleans(),
    wal_lsn=_counts,
    checkpoints=_counts,
    checkpoints_requested=_counts,
    checkpoints_reset_at=st.sampled_from([None, "a", "b"]),
    archive_failures=_counts,
    archiver_reset_at=st.sampled_from([None, "a", "b"]),
)


@given(_marks, _marks)
def test_nothing_is_ever_negative(before: WalMark, after: WalMark) -> None:
    change = compare(before, after)
    figures = (change.wal_bytes, change.checkpoints, change.checkpoints_requested, change.archive_failures)
    assert all(figure is None or figure >= 0 for figure in figures)
    assert (change.wal_bytes is None) == (change.seconds is None)
    assert change.seconds is None or change.seconds > 0
    if before.system_identifier != after.system_identifier:
        assert change == WalChange(restarted=True)


@given(_marks)
def test_a_mark_is_stored_and_read_back(mark: WalMark) -> None:
    assert WalMark.from_dict(json.loads(json.dumps(mark.to_dict()))) == mark


def test_what_was_written_is_counted() -> None:
    change = compare(BEFORE, replace(BEFORE, wal_lsn=5000, server_seconds=BEFORE.server_seconds + 10))
    assert change.wal_bytes == 4000
    assert change.wal_bytes_per_second == 400
    assert not change.restarted


def test_the_first_look_knows_nothing() -> None:
    assert compare(None, BEFORE) == WalChange()


@pytest.mark.parametrize(
    "values",
    [
        {"wal_lsn": 999},  # a copy that was restored
        {"timeline": "00000002"},  # a standby that was promoted
        {"is_standby": True},
        {"wal_lsn": None},
        {"server_seconds": BEFORE.server_seconds - 60},  # a clock that was set back
        {"server_seconds": BEFORE.server_seconds},
    ],
)
def test_what_cannot_be_compared_is_not_known(values: dict[str, object]) -> None:
    after = replace(BEFORE, **{"wal_lsn": 5000, "server_seconds": BEFORE.server_seconds + 10, **values})  # type: ignore[arg-type] # as named
    assert compare(BEFORE, after).wal_bytes is None


def test_the_log_goes_on_over_a_restart_and_lost_counters_do_not() -> None:
    look = make_look(
        started_at=MOMENT,
        wal_lsn=5000,
        server_seconds=MOMENT.timestamp() + 10,
        checkpoints=Checkpoints(1, 0, 0, 0, 0, MOMENT + timedelta(seconds=1)),
        archiver=Archiver(0, 3, None, None, None, None, MOMENT + timedelta(seconds=1)),
    )
    change = compare(BEFORE, WalMark.of(look))
    assert change.restarted
    assert change.wal_bytes == 4000
    assert (change.checkpoints, change.archive_failures) == (None, None)
