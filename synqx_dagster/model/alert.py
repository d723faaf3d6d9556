"""Alerts: who is told what went wrong, and how."""

from __future__ import annotations

import re
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Name, Record, RecordKind, Value
from synqx_dagster.model.host_policy import is_local
from synqx_dagster.model.secret import LiteralSecret, Secret

AlertEventType = Literal[
    "run_failure",
    "recovery",
    "quarantine_threshold",
    "missed_schedule",
    "connection_down",
    "connection_up",
    "wal_threshold",
    "wal_recovery",
    "replication_trouble",
    "replication_recovery",
    "freshness_overdue",
    "freshness_recovery",
]

MailTls = Literal["starttls", "implicit", "none"]

_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


def find_url_problem(url: str) -> str | None:
    """Why a webhook cannot be called at a URL, without repeating it; None when it can.

    Plain HTTP is for this machine alone: what an alert says, and the URL itself, would be read on the way.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in ("https", "http") or not host:
        return "it must begin with https://"
    if parts.username is not None or parts.password is not None:
        return "it must not hold a user name or a password"
    if any(character <= " " or character == "\x7f" for character in url) or not url.isascii():
        return "it has characters that a URL does not have"
    if parts.scheme == "http" and not is_local(host):
        return "it must begin with https://; plain http is for this machine only"
    return None


class WebhookChannel(Value):
    """A URL that is called with a JSON document."""

    #: The URL is a secret: whoever has it can write there.
    url: Secret
    #: Signs what is sent (HMAC-SHA-256), so that the receiver knows who sent it.
    signing_key: Secret | None = None
    #: Authorities to trust; left out: the system's.
    ca_file: str | None = Field(default=None, min_length=1)

    @field_validator("url")
    @classmethod
    def _check_url(cls, secret: Secret) -> Secret:
        if isinstance(secret, LiteralSecret) and (problem := find_url_problem(secret.value.get_secret_value())):
            raise ValueError(problem)
        return secret


class SlackChannel(Value):
    """An incoming webhook of Slack, or of what takes the same (Mattermost, Rocket.Chat)."""

    url: Secret
    ca_file: str | None = Field(default=None, min_length=1)

    @field_validator("url")
    @classmethod
    def _check_url(cls, secret: Secret) -> Secret:
        if isinstance(secret, LiteralSecret) and (problem := find_url_problem(secret.value.get_secret_value())):
            raise ValueError(problem)
        return secret


class EmailChannel(Value):
    """A mail server and the people it reaches."""

    host: str = Field(min_length=1, max_length=255)
    port: int = Field(default=587, ge=1, le=65_535)
    #: ``none`` is for a mail server on this machine.
    tls: MailTls = "starttls"
    username: str | None = Field(default=None, min_length=1, max_length=256)
    password: Secret | None = None
    sender: str = Field(max_length=254)
    recipients: tuple[str, ...] = Field(min_length=1, max_length=50)
    ca_file: str | None = Field(default=None, min_length=1)

    @field_validator("sender")
    @classmethod
    def _check_sender(cls, address: str) -> str:
        return _check_mailbox(address)

    @field_validator("recipients")
    @classmethod
    def _check_recipients(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_check_mailbox(address) for address in addresses)

    @model_validator(mode="after")
    def _check_login(self) -> EmailChannel:
        if (self.username is None) != (self.password is None):
            raise ValueError("give username and password, or neither")
        if self.tls == "none" and not is_local(self.host):
            raise ValueError("tls: none is for a mail server on this machine only")
        return self


def _check_mailbox(address: str) -> str:
    if not _MAILBOX.fullmatch(address):
        raise ValueError("must be a mail address, such as on-call@example.com")
    return address


class Alert(Record):
    """Events of pipelines, mappings, schedules, connections and replications, and the one channel that tells them."""

    kind: ClassVar[RecordKind] = "alert"

    events: tuple[AlertEventType, ...] = Field(min_length=1, max_length=12)
    #: What it is about; with all five left out: everything.
    pipelines: tuple[Name, ...] = ()
    mappings: tuple[Name, ...] = ()
    schedules: tuple[Name, ...] = ()
    connections: tuple[Name, ...] = ()
    replications: tuple[Name, ...] = ()
    #: ``quarantine_threshold``: a load that sets aside so many rows, or more.
    quarantine_rows: int = Field(default=1, ge=1)
    #: More messages than this in one hour are counted, and not sent.
    max_per_hour: int = Field(default=20, ge=1, le=1000)
    enabled: bool = True

    webhook: WebhookChannel | None = None
    slack: SlackChannel | None = None
    email: EmailChannel | None = None

    @model_validator(mode="after")
    def _check_channel(self) -> Alert:
        if sum(channel is not None for channel in (self.webhook, self.slack, self.email)) != 1:
            raise ValueError("give webhook, slack or email, one of the three: how the alert is told")
        return self

    @property
    def covers_everything(self) -> bool:
        """Whether no pipeline, mapping, schedule, connection or replication is named."""
        return not (self.pipelines or self.mappings or self.schedules or self.connections or self.replications)

    def covers(
        self,
        *,
        pipelines: frozenset[str] = frozenset(),
        mappings: frozenset[str] = frozenset(),
        schedules: frozenset[str] = frozenset(),
        connections: frozenset[str] = frozenset(),
        replications: frozenset[str] = frozenset(),
    ) -> bool:
        """Whether it is about something that has to do with these."""
        if self.covers_everything:
            return True
        return not (
            pipelines.isdisjoint(self.pipelines)
            and mappings.isdisjoint(self.mappings)
            and schedules.isdisjoint(self.schedules)
            and connections.isdisjoint(self.connections)
            and replications.isdisjoint(self.replications)
        )
