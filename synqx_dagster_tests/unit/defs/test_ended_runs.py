"""Runs that have ended, each given once, however many there are and wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from synqx_dagster.defs import ended_runs
from synqx_dagster.defs.ended_runs import RunCursor, take_ended_runs
from synqx_dagster_tests.unit.defs.fakes import job_origin

SUCCESS = [dg.DagsterRunStatus.SUCCESS]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as opened:
        yield opened


def add(instance: dg.DagsterInstance, *, of_location: bool = False) -> str:
    """A run that ended now."""
    origin = job_origin("load") if of_location else None
    run = dg.DagsterRun(job_name="load", remote_job_origin=origin)
    instance.add_run(run)
    for event in ("PIPELINE_START", "PIPELINE_SUCCESS"):
        instance.run_storage.handle_run_event(run.run_id, dg.DagsterEvent(event, "load", message=""), datetime.now(UTC))
    return run.run_id


def ids(records: list[dg.RunRecord]) -> list[str]:
    return [record.dagster_run.run_id for record in records]


@pytest.mark.parametrize("page", [2, 3, 500])
def test_what_one_look_leaves_the_next_ones_find(
    instance: dg.DagsterInstance, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended_runs, "_PAGE_RUNS", page)
    cursor = RunCursor.begin(datetime.now(UTC))
    runs = [add(instance) for _ in range(7)]
    looks = []
    for _ in range(4):
        looks.append(ids(take_ended_runs(instance, cursor, SUCCESS, limit=3)))
        cursor = RunCursor.from_dict(cursor.to_dict())
    assert looks == [runs[:3], runs[3:6], runs[6:], []]


def test_runs_that_another_code_location_started_are_left_to_it(instance: dg.DagsterInstance) -> None:
    begun = datetime.now(UTC)
    own, theirs = add(instance), add(instance, of_location=True)

    def look(location: str | None) -> list[str]:
        return ids(take_ended_runs(instance, RunCursor.begin(begun), SUCCESS, location=location))

    assert look("elsewhere") == [own]
    assert look("synqx") == [own, theirs]
    assert look(None) == [own, theirs]
