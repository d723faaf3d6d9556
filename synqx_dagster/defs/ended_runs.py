"""Runs that have ended since the last look, each of them once, from Dagster's run storage.

Guarantee: a run is given once for as long as what was seen is kept, whatever order its ending was stored in; one
that ended before the first look is not given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

#: A run may be stored a little later than the time that it carries.
_OVERLAP = timedelta(seconds=60)
#: How many ids are kept, so that a run that is touched again (by tags) is not taken for a new one.
_KEPT_IDS = 2000
_PAGE_RUNS = 500
#: What one look takes, so that it ends in time after a long absence.
MAX_RUNS = 200


@dataclass
class RunCursor:
    """How far runs have been seen.

    Attributes:
        begun_at: The first look.
        updated_at: The newest change of a run that was seen.
        seen: Ids of runs that were given, the oldest first.
    """

    begun_at: datetime
    updated_at: datetime
    seen: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, now: datetime) -> RunCursor:
        """A cursor that has seen everything up to now."""
        return cls(now, now)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "begun_at": self.begun_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "seen": self.seen[-_KEPT_IDS:],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunCursor:
        """Read what `to_dict` gave."""
        begun, updated = (datetime.fromisoformat(values[name]) for name in ("begun_at", "updated_at"))
        return cls(begun, updated, list(values["seen"]))


def take_ended_runs(
    instance: dg.DagsterInstance,
    cursor: RunCursor,
    statuses: Collection[dg.DagsterRunStatus],
    job_names: Collection[str] | None = None,
    *,
    location: str | None = None,
    limit: int = MAX_RUNS,
) -> list[dg.RunRecord]:
    """Runs that ended since the cursor was moved, in the order of their ending; moves the cursor.

    Args:
        job_names: Only of these jobs; left out: of all.
        location: Only those that no other code location has started.
        limit: After so many the cursor stays where it is, and the next look finds the others.
    """
    found: dict[str, dg.RunRecord] = {}
    seen = set(cursor.seen)
    after = cursor.updated_at - _OVERLAP
    newest = cursor.updated_at
    while len(found) < limit:
        page = instance.get_run_records(
            filters=dg.RunsFilter(statuses=list(statuses), updated_after=after.astimezone(UTC)),
            limit=_PAGE_RUNS,
            order_by="update_timestamp",
            ascending=True,
        )
        for record in page:
            updated = record.update_timestamp.astimezone(UTC)
            newest = max(newest, updated)
            run_id = record.dagster_run.run_id
            ended = record.end_time or updated.timestamp()
            if run_id in seen or ended < cursor.begun_at.timestamp():
                continue
            if not belongs_to(record.dagster_run, location):
                continue
            if job_names is None or record.dagster_run.job_name in job_names:
                found[run_id] = record
                if len(found) == limit:
                    break
        if len(page) < _PAGE_RUNS:
            break
        # The last moment again: the page may have ended among several runs of it.
        last = page[-1].update_timestamp.astimezone(UTC) - timedelta(microseconds=1)
        if last <= after:
            break
        after = last
    cursor.updated_at = newest
    cursor.seen = [*cursor.seen, *found][-_KEPT_IDS:]
    return sorted(found.values(), key=lambda record: record.end_time or record.update_timestamp.timestamp())


def belongs_to(run: dg.DagsterRun, location: str | None) -> bool:
    """Whether a run is one of a code location; one that a command ran in its own process is everybody's."""
    origin = run.remote_job_origin
    if location is None or origin is None:
        return True
    return origin.repository_origin.code_location_origin.location_name == location
