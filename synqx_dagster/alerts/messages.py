"""What an alert says: an event as plain values, and the same as JSON, as Slack's text and as a mail.

Guarantee: pure; the same event gives the same bytes. What is said comes from names, counts and the messages of
SynqX's own errors, none of which holds a cell value or a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from synqx_dagster.model.alert import AlertEventType

#: Longer texts are cut: Slack refuses more than 40,000 characters, and nobody reads them.
_MAX_TEXT = 1000
_MAX_ITEMS = 20

_TITLES: Mapping[str, str] = {
    "run_failure": "failed",
    "recovery": "recovered",
    "quarantine_threshold": "set rows aside",
    "missed_schedule": "missed a tick",
    "connection_down": "is down",
    "connection_up": "is up again",
    "wal_threshold": "has log that needs a look",
    "wal_recovery": "has its log in order again",
    "replication_trouble": "needs to be seen to",
    "replication_recovery": "is in order again",
    "freshness_overdue": "is overdue",
    "freshness_recovery": "is fresh again",
    "test": "test",
}


@dataclass(frozen=True)
class Trouble:
    """One thing that went wrong: of which mapping or step, and what. ``error`` is a class of SynqX's errors."""

    name: str
    message: str
    error: str | None = None


@dataclass(frozen=True)
class AlertEvent:
    """Something that people want to know of.

    Attributes:
        event_id: The same for the same event, however often it is found or sent.
        event_type: One of `AlertEventType`, or ``test``.
        occurred_at: ISO 8601 in UTC.
        subject: The job, mapping, load of a pipeline, schedule, connection or replication that it is about.
        troubles: The first twenty, with messages of at most 1,000 characters: events are kept until they are told.
        more_troubles: How many there were beyond those.
        quarantine: Rows that were set aside, by mapping.
        due_at: ``missed_schedule``: the times that were missed, the first ones.
    """

    event_id: str
    event_type: AlertEventType | str
    occurred_at: str
    subject: str
    summary: str
    run_id: str | None = None
    job_name: str | None = None
    revision: int | None = None
    pipelines: tuple[str, ...] = ()
    mappings: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    quarantine: Mapping[str, int] = field(default_factory=dict)
    due_at: tuple[str, ...] = ()
    more_troubles: int = 0
    connections: tuple[str, ...] = ()
    replications: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shown = tuple(replace(trouble, message=_cut(trouble.message)) for trouble in self.troubles[:_MAX_ITEMS])
        object.__setattr__(self, "more_troubles", self.more_troubles + len(self.troubles) - len(shown))
        object.__setattr__(self, "troubles", shown)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlertEvent:
        """Read what `to_dict` gave."""
        lists = {name: tuple(values[name]) for name in ("pipelines", "mappings", "schedules", "due_at")}
        # Events that wait since before there were those of connections, or of replications, do not have it.
        lists |= {name: tuple(values.get(name, ())) for name in ("connections", "replications")}
        troubles = tuple(Trouble(**item) for item in values["troubles"])
        return cls(**{**values, **lists, "troubles": troubles, "quarantine": dict(values["quarantine"])})


@dataclass(frozen=True)
class Untold:
    """What was not told since the last message, by the type of event: for the cap, and because nobody answered."""

    suppressed: Mapping[str, int] = field(default_factory=dict)
    given_up: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """In words; empty when everything was told."""
        return [
            f"{_count(counts)} {reason}"
            for counts, reason in (
                (self.suppressed, "not sent since the last message: more than max_per_hour"),
                (self.given_up, "could not be delivered since the last message, and were given up"),
            )
            if counts
        ]


def _count(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))


def payload_of(alert_name: str, event: AlertEvent, untold: Untold) -> dict[str, Any]:
    """The JSON document of a webhook."""
    return {
        "alert": alert_name,
        "event": event.event_type,
        **{name: value for name, value in event.to_dict().items() if name != "event_type"},
        "suppressed": dict(untold.suppressed),
        "given_up": dict(untold.given_up),
    }


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """The bytes that are sent and signed."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":")).encode("ascii")


def sign(key: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA-256 over the timestamp, a dot and the body, in hex."""
    return hmac.new(key.encode("utf-8"), timestamp.encode("ascii") + b"." + body, hashlib.sha256).hexdigest()


def title_of(event: AlertEvent) -> str:
    """One line."""
    return _one_line(f"[SynqX] {event.subject} {_TITLES.get(event.event_type, event.event_type)}")


def text_of(alert_name: str, event: AlertEvent, untold: Untold) -> str:
    """A few lines of plain text."""
    lines = [event.summary]
    lines += [f"- {trouble.name}: {trouble.message}" for trouble in event.troubles]
    if event.more_troubles:
        lines.append(f"- and {event.more_troubles} more")
    lines += [f"- {name}: {rows} rows in quarantine" for name, rows in list(event.quarantine.items())[:_MAX_ITEMS]]
    lines += [f"- due at {moment}" for moment in event.due_at]
    lines += untold.lines()
    if event.run_id is not None:
        lines.append(f"run {event.run_id}: `synqx logs {event.run_id[:8]}`")
    lines.append(f"alert {alert_name}, {event.occurred_at}")
    return "\n".join(lines)


def slack_payload_of(alert_name: str, event: AlertEvent, untold: Untold) -> dict[str, Any]:
    """The JSON document of an incoming webhook of Slack; nothing in it is markup."""
    text = f"*{_escape_slack(title_of(event))}*\n{_escape_slack(text_of(alert_name, event, untold))}"
    return {"text": text}


def _escape_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def mail_of(
    alert_name: str, event: AlertEvent, untold: Untold, *, sender: str, recipients: tuple[str, ...]
) -> EmailMessage:
    """A mail in plain text. Its Message-ID is the event's own, so that a mail that comes twice is known as one."""
    message = EmailMessage(policy=SMTP)
    message["Subject"] = title_of(event)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    digest = hashlib.sha256(f"{alert_name}\n{event.event_id}".encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{digest}@synqx.invalid>"
    message["X-SynqX-Event-Id"] = _one_line(event.event_id)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text_of(alert_name, event, untold))
    return message


def _one_line(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())[:200]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
