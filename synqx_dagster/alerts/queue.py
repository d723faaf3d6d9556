"""What is still to be told: a queue for each alert, with waits between attempts and a cap per hour.

Guarantee: pure, with the time given from outside; an event that was added once is not added again; what is not told
is counted, and said with the next message. Time is a Unix timestamp in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from synqx_dagster.alerts.messages import AlertEvent, Untold

#: Waits double from the first to the last.
FIRST_WAIT_SECONDS = 30.0
LAST_WAIT_SECONDS = 1800.0
#: An event is given up after so many attempts, some seven hours, or when it is so old.
MAX_ATTEMPTS = 20
MAX_AGE_SECONDS = 86_400.0
MAX_PENDING = 500

_HOUR_SECONDS = 3600.0
_KNOWN_EVENTS = 500


@dataclass
class Pending:
    """An event that waits to be told."""

    event: AlertEvent
    queued_at: float
    attempts: int = 0

    def is_hopeless(self, now: float) -> bool:
        """Whether it was tried often enough, or is too old."""
        return self.attempts >= MAX_ATTEMPTS or now - self.queued_at > MAX_AGE_SECONDS


@dataclass
class AlertQueue:
    """The queue of one alert, which has one channel: when that is down, all of it waits.

    Attributes:
        not_before: No attempt is made before.
        failures: Attempts that were begun since the last one that succeeded.
        sent_at: When messages of the last hour were sent.
        last_error: Why the last attempt failed; None when it did not.
    """

    pending: list[Pending] = field(default_factory=list)
    not_before: float = 0.0
    failures: int = 0
    sent_at: list[float] = field(default_factory=list)
    suppressed: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)
    known: list[str] = field(default_factory=list)
    last_error: str | None = None
    last_sent_at: float | None = None

    def add(self, event: AlertEvent, now: float) -> bool:
        """Queue an event; False when it was added before."""
        if event.event_id in self.known:
            return False
        self.known = [*self.known, event.event_id][-_KNOWN_EVENTS:]
        self.pending.append(Pending(event, now))
        while len(self.pending) > MAX_PENDING:
            self.given_up[self.pending.pop(0).event.event_type] += 1
        return True

    def next_due(self, now: float, max_per_hour: int) -> Pending | None:
        """The event to tell now; None when there is none, or none may be told yet.

        What is too old is given up, and what is beyond the cap is suppressed; both are counted.
        """
        while self.pending and self.pending[0].is_hopeless(now):
            self.given_up[self.pending.pop(0).event.event_type] += 1
        if now < self.not_before:
            return None
        self.sent_at = [moment for moment in self.sent_at if now - moment < _HOUR_SECONDS]
        if len(self.sent_at) >= max_per_hour:
            self.suppressed.update(item.event.event_type for item in self.pending)
            self.pending.clear()
        return self.pending[0] if self.pending else None

    def untold(self) -> Untold:
        """What was not told since the last message."""
        return Untold(dict(self.suppressed), dict(self.given_up))

    def begin(self, now: float) -> None:
        """The first event is about to be told: whoever stores this before does not try again at once after a crash."""
        self.failures += 1
        self.pending[0].attempts += 1
        self.not_before = now + min(FIRST_WAIT_SECONDS * 2 ** min(self.failures - 1, 16), LAST_WAIT_SECONDS)

    def take_back(self) -> None:
        """What was begun was no attempt: nothing was sent, and that was nobody's fault."""
        self.failures -= 1
        self.pending[0].attempts -= 1
        self.not_before = 0.0

    def succeeded(self, now: float) -> None:
        """The first event was told, and with it what was not."""
        self.pending.pop(0)
        self.sent_at.append(now)
        self.last_sent_at = now
        self.suppressed.clear()
        self.given_up.clear()
        self.failures, self.not_before, self.last_error = 0, 0.0, None

    def failed(self, error: str) -> None:
        """The first event, whose telling was begun, could not be told."""
        self.last_error = error
        if self.pending[0].attempts >= MAX_ATTEMPTS:
            self.given_up[self.pending.pop(0).event.event_type] += 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "pending": [
                {"event": item.event.to_dict(), "queued_at": item.queued_at, "attempts": item.attempts}
                for item in self.pending
            ],
            "not_before": self.not_before,
            "failures": self.failures,
            "sent_at": self.sent_at,
            "suppressed": dict(self.suppressed),
            "given_up": dict(self.given_up),
            "known": self.known,
            "last_error": self.last_error,
            "last_sent_at": self.last_sent_at,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlertQueue:
        """Read what `to_dict` gave."""
        pending = [
            Pending(AlertEvent.from_dict(item["event"]), float(item["queued_at"]), int(item["attempts"]))
            for item in values["pending"]
        ]
        return cls(
            pending=pending,
            not_before=float(values["not_before"]),
            failures=int(values["failures"]),
            sent_at=[float(moment) for moment in values["sent_at"]],
            suppressed=Counter(values["suppressed"]),
            given_up=Counter(values["given_up"]),
            known=list(values["known"]),
            last_error=values["last_error"],
            last_sent_at=values["last_sent_at"],
        )
