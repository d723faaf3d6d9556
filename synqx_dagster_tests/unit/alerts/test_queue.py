"""What waits to be told: once, in order, with waits, within the cap, and counted where it is not told."""

from __future__ import annotations

import json

from synqx_dagster.alerts.messages import AlertEvent, Trouble
from synqx_dagster.alerts.queue import (
    LAST_WAIT_SECONDS,
    MAX_AGE_SECONDS,
    MAX_ATTEMPTS,
    MAX_PENDING,
    AlertQueue,
)


def event(number: int, event_type: str = "run_failure") -> AlertEvent:
    return AlertEvent(f"{event_type}:{number}", event_type, "2026-01-01T00:00:00+00:00", "nightly", "nightly failed")


def test_an_event_is_told_once_and_in_order() -> None:
    queue = AlertQueue()
    assert queue.add(event(1), 0)
    assert queue.add(event(2), 0)
    assert not queue.add(event(1), 0)
    told = []
    while (item := queue.next_due(1, 20)) is not None:
        told.append(item.event.event_id)
        queue.succeeded(1)
    assert told == ["run_failure:1", "run_failure:2"]
    assert not queue.add(event(2), 2)


def test_after_a_failure_all_of_it_waits_and_longer_each_time() -> None:
    queue = AlertQueue()
    queue.add(event(1), 0)
    now, waits = 0.0, []
    for _ in range(10):
        assert queue.next_due(now, 20) is not None
        queue.begin(now)
        queue.failed("it refused the connection")
        assert queue.next_due(queue.not_before - 0.1, 20) is None
        waits.append(queue.not_before - now)
        now = queue.not_before
    assert waits[:3] == [30, 60, 120]
    assert max(waits) == LAST_WAIT_SECONDS
    assert queue.last_error == "it refused the connection"
    queue.succeeded(now)
    assert (queue.failures, queue.not_before, queue.last_error) == (0, 0.0, None)


def test_an_attempt_whose_end_nobody_noted_is_not_made_again_at_once() -> None:
    queue = AlertQueue()
    queue.add(event(1), 0)
    queue.begin(0)
    after_a_crash = AlertQueue.from_dict(json.loads(json.dumps(queue.to_dict())))
    assert after_a_crash.next_due(29, 20) is None
    item = after_a_crash.next_due(30, 20)
    assert item is not None
    assert item.attempts == 1


def test_what_nobody_takes_is_given_up_counted_and_said() -> None:
    queue = AlertQueue()
    queue.add(event(1), 0)
    queue.add(event(2, "recovery"), 0)
    now = 0.0
    for _ in range(MAX_ATTEMPTS):
        queue.begin(now)
        queue.failed("no")
        now = queue.not_before
    assert [item.event.event_id for item in queue.pending] == ["recovery:2"]
    assert queue.untold().given_up == {"run_failure": 1}
    assert "1 run_failure could not be delivered" in queue.untold().lines()[0]
    queue.succeeded(now)
    assert queue.untold().lines() == []


def test_what_is_too_old_is_given_up() -> None:
    queue = AlertQueue()
    queue.add(event(1), 0)
    queue.add(event(2), MAX_AGE_SECONDS)
    item = queue.next_due(MAX_AGE_SECONDS + 1, 20)
    assert item is not None
    assert item.event.event_id == "run_failure:2"
    assert queue.untold().given_up == {"run_failure": 1}


def test_beyond_the_cap_events_are_counted_and_said_with_the_next_message() -> None:
    queue = AlertQueue()
    for number in range(5):
        queue.add(event(number), 0)
    for _ in range(2):
        assert queue.next_due(10, 2) is not None
        queue.succeeded(10)
    assert queue.next_due(11, 2) is None
    assert queue.untold().suppressed == {"run_failure": 3}
    queue.add(event(9), 3000)
    assert queue.next_due(3000, 2) is None
    queue.add(event(10), 3700)
    assert queue.next_due(3700, 2) is not None
    assert queue.untold().suppressed == {"run_failure": 4}
    queue.succeeded(3700)
    assert queue.untold().suppressed == {}


def test_a_flood_has_a_bound() -> None:
    queue = AlertQueue()
    for number in range(MAX_PENDING + 3):
        queue.add(event(number), 0)
    assert len(queue.pending) == MAX_PENDING
    assert queue.untold().given_up == {"run_failure": 3}


def test_a_restart_changes_nothing() -> None:
    queue = AlertQueue()
    full = AlertEvent(
        "x",
        "run_failure",
        "2026-01-01T00:00:00+00:00",
        "nightly",
        "failed",
        mappings=("a",),
        troubles=(Trouble("a", "why", "BadRowsError"),),
        quarantine={"a": 3},
        due_at=("2026-01-01T00:00:00+00:00",),
    )
    queue.add(full, 0)
    queue.add(event(1), 0)
    queue.begin(0)
    queue.failed("no")
    queue.suppressed.update(["recovery"])
    again = AlertQueue.from_dict(json.loads(json.dumps(queue.to_dict())))
    assert again == queue
    assert again.pending[0].event == full
