"""Connections: where data is, and how to reach it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from synqx_dagster.model.base import Record, RecordKind, Value
from synqx_dagster.model.secret import Secret

#: Driver options are plain values; what each connector allows it checks by name.
OptionValue = str | int | float | bool


class PoolSettings(Value):
    """How many sessions one process may hold at this connection."""

    size: int = Field(default=5, ge=1, le=100)
    max_overflow: int = Field(default=5, ge=0, le=100)
    timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    recycle_seconds: int = Field(default=1800, ge=-1)


class Connection(Record):
    """A database, or a directory of files, that SynqX reads from or writes to."""

    kind: ClassVar[RecordKind] = "connection"

    db_type: str = Field(min_length=1, max_length=64)
    host: str | None = Field(default=None, min_length=1, max_length=255)
    port: int | None = Field(default=None, ge=1, le=65535)
    database: str | None = Field(default=None, min_length=1, max_length=4096)
    username: str | None = Field(default=None, min_length=1, max_length=255)
    password: Secret | None = None
    options: dict[Annotated[str, Field(min_length=1, max_length=64)], OptionValue] = Field(default_factory=dict)
    pool: PoolSettings = Field(default_factory=PoolSettings)
    #: How many loads may use this connection at once, in all runs together; a Dagster pool limit.
    max_concurrent_loads: int | None = Field(default=None, ge=1)

    @field_validator("host", "database")
    @classmethod
    def _check_not_url(cls, text: str | None) -> str | None:
        # A password in a URL would be shown wherever the host is: only the password's own field is sealed.
        if text is not None and "://" in text:
            raise ValueError("this looks like a URL: write host, port, database, username and password in their fields")
        return text

    @field_validator("host")
    @classmethod
    def _check_host(cls, text: str | None) -> str | None:
        if text is not None and ("@" in text or any(character.isspace() for character in text)):
            raise ValueError("a host is a name, an address or a socket's directory, without user and password")
        return text
