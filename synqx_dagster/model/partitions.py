"""Partitions: the parts of a table that are loaded, and loaded again, each by itself."""

from __future__ import annotations

import datetime
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synqx_dagster.model.base import Value
from synqx_dagster.model.schedule import check_timezone

#: What Dagster does not take in a key: it writes ranges with dots.
_RANGE_DOTS = "..."
_SHOWN = 10


def _read_day(value: Any) -> Any:
    """Keep a moment or a number from being read as a day."""
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    if isinstance(value, str):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError("must be a day, such as 2024-01-31")


Day = Annotated[datetime.date, BeforeValidator(_read_day)]


def _read_key(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


PartitionKey = Annotated[str, BeforeValidator(_read_key), Field(min_length=1, max_length=256)]


class TimePartitions(Value):
    """One partition for each hour, day or month; one begins when its time is over.

    Attributes:
        start: The day on which the first one begins, at midnight.
        end: The day at whose midnight the last one ends; left out, there are more and more.
        timezone: Whose midnights and months they are.
        partitions_per_run: How many one run of a backfill replaces at most; left out, all that are asked for.
    """

    type: Literal["hourly", "daily", "monthly"]
    start: Day
    end: Day | None = None
    timezone: str = "UTC"
    partitions_per_run: int | None = Field(default=None, ge=1)

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        return check_timezone(name)

    @model_validator(mode="after")
    def _check_bounds(self) -> TimePartitions:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end ({self.end}) must be after start ({self.start})")
        if self.type == "monthly":
            for name, day in (("start", self.start), ("end", self.end)):
                if day is not None and day.day != 1:
                    raise ValueError(f"{name} ({day}) must be the first day of a month, where monthly partitions begin")
        return self

    def __str__(self) -> str:
        until = "" if self.end is None else f" to {self.end}"
        return f"{self.type} from {self.start}{until} ({self.timezone})"


class StaticPartitions(Value):
    """One partition for each of these values."""

    type: Literal["static"]
    values: tuple[PartitionKey, ...] = Field(min_length=1, max_length=25_000)
    partitions_per_run: int | None = Field(default=None, ge=1)

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        seen: set[str] = set()
        for value in values:
            if value in seen:
                raise ValueError(f"{value!r} stands there twice")
            seen.add(value)
            if value != value.strip() or _RANGE_DOTS in value or any(map(_is_control, value)):
                raise ValueError(f"{value!r} cannot name a partition: no '...', control characters or outer blanks")
        return values

    def __str__(self) -> str:
        shown = ", ".join(self.values[:_SHOWN])
        return f"{len(self.values):,}: {shown}" + (", ..." if len(self.values) > _SHOWN else "")


Partitions = Annotated[TimePartitions | StaticPartitions, Field(discriminator="type")]


def find_difference(partitions: Mapping[str, TimePartitions | StaticPartitions | None]) -> tuple[str, str] | None:
    """Two of what runs together, by name, that have different partitions; None where all have the same, or none."""
    having = {name: found for name, found in partitions.items() if found is not None}
    first = next(iter(having), "")
    return next(((first, name) for name, found in having.items() if found != having[first]), None)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")
