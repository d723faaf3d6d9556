"""Schedules that were due and did not run, as events of alerts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus

from synqx_dagster.alerts.messages import AlertEvent, Trouble
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.defs.switches import find_states
from synqx_dagster.defs.ticks import PAUSED, has_run, iter_due, read_ticks
from synqx_dagster.model import Schedule, dagster_name

#: After a pause of this instance, schedules first get the time to make up for what they missed.
_AWAY_SECONDS = 300.0
_SETTLE_SECONDS = 120.0

_MAX_TICKS = 100
_SHOWN_TIMES = 5


@dataclass
class TickMemory:
    """How far ticks were judged, over restarts.

    Attributes:
        checked: By schedule and its rule: until when (a Unix time) it was looked at. Another rule begins anew, for it
            was not due before there was such a rule.
        settle_until: Ticks are not judged before.
    """

    checked: dict[str, float] = field(default_factory=dict)
    settle_until: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"checked": self.checked, "settle_until": self.settle_until}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TickMemory:
        """Read what `to_dict` gave."""
        checked = {str(key): float(moment) for key, moment in values["checked"].items()}
        return cls(checked, float(values["settle_until"]))


def take_missed(
    instance: dg.DagsterInstance,
    snapshot: CatalogSnapshot,
    memory: TickMemory,
    now: datetime,
    *,
    last_look: float,
    oldest: float,
    location: str | None,
) -> Iterator[AlertEvent]:
    """Schedules that missed ticks since `memory` was moved, one event for each; moves it.

    Args:
        last_look: When that was, as a Unix time; 0 for never.
        oldest: What was due before this (a Unix time) is no news.
        location: The code location of this catalog.
    """
    if last_look and now.timestamp() - last_look > _AWAY_SECONDS:
        memory.settle_until = now.timestamp() + _SETTLE_SECONDS
    if now.timestamp() < memory.settle_until:
        return
    states = find_states(instance, marker=SENSOR_NAME, location=location)
    checked: dict[str, float] = {}
    for schedule in snapshot.schedules.values():
        rule = json.dumps([schedule.name, schedule.cron_expression, schedule.timezone])
        end = now.timestamp() - schedule.grace_seconds
        state = states.get((InstigatorType.SCHEDULE, dagster_name(schedule.name)))
        if not schedule.enabled or state is None:
            checked[rule] = now.timestamp()
            continue
        data: Any = state.instigator_data
        begin = max(memory.checked.get(rule, now.timestamp()), data.start_timestamp or 0.0, oldest)
        checked[rule] = max(begin, end)
        event = _find_event(instance, schedule, state, now, begin=begin, end=end, location=location)
        if event is not None:
            yield event
    memory.checked = checked


def _find_event(
    instance: dg.DagsterInstance,
    schedule: Schedule,
    state: InstigatorState,
    now: datetime,
    *,
    begin: float,
    end: float,
    location: str | None,
) -> AlertEvent | None:
    due = [moment for moment in iter_due(schedule, begin, end) if not schedule.is_paused(moment)][-_MAX_TICKS:]
    if not due:
        return None
    # A second earlier, for what is asked for is later than it.
    found = read_ticks(instance, state, after=due[0].timestamp() - 1, limit=10 * _MAX_TICKS)
    ticks = {tick.timestamp: tick for tick in found}
    missed: list[str] = []
    reasons: list[str] = []
    for moment in due:
        tick = ticks.get(moment.timestamp())
        if _was_meant(tick) or has_run(instance, schedule, moment, location):
            continue
        missed.append(datetime.fromtimestamp(moment.timestamp(), UTC).isoformat())
        if tick is not None:
            reasons.append(_reason_of(tick))
    if not missed:
        return None
    return AlertEvent(
        f"missed_schedule:{schedule.name}:{missed[0]}",
        "missed_schedule",
        now.astimezone(UTC).isoformat(),
        subject=schedule.name,
        summary=f"the schedule {schedule.name} did not run {len(missed)} "
        f"{'time' if len(missed) == 1 else 'times'} that it was due",
        pipelines=schedule.pipeline_names,
        mappings=schedule.mapping_names,
        schedules=(schedule.name,),
        troubles=tuple(Trouble(schedule.name, reason) for reason in dict.fromkeys(reasons)),
        due_at=tuple(missed[:_SHOWN_TIMES]),
    )


def _was_meant(tick: InstigatorTick | None) -> bool:
    """Whether a tick ended as somebody wanted: it ran, or a pause that is over by now skipped it."""
    if tick is None:
        return False
    return tick.status == TickStatus.SUCCESS or (
        tick.status == TickStatus.SKIPPED and (tick.skip_reason or "").startswith(PAUSED)
    )


def _reason_of(tick: InstigatorTick) -> str:
    if tick.status == TickStatus.STARTED:
        return "the tick did not come to an end"
    return tick.skip_reason or "the tick failed; see the schedule's page"
