"""Schedules: when mappings and pipelines run."""

from __future__ import annotations

import contextlib
import zoneinfo
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Name, Record, RecordKind

#: What becomes of ticks that the daemon was not there for: nothing, one run for the last, or one run for each.
CatchUp = Literal["none", "last", "all"]


class Schedule(Record):
    """A cron rule over mappings and pipelines; it becomes a job and a Dagster schedule of the same name."""

    kind: ClassVar[RecordKind] = "schedule"

    mapping: Name | tuple[Name, ...] | None = None
    pipeline: Name | tuple[Name, ...] | None = None
    cron_expression: str = Field(min_length=1, max_length=256)
    timezone: str = "UTC"
    enabled: bool = True
    #: Ticks before this moment (ISO 8601 with a time zone) are skipped, though the schedule is enabled.
    paused_until: str | None = Field(default=None, max_length=64)
    catch_up: CatchUp = "last"
    #: With ``catch_up: all``: how many missed ticks are made up for at most, the latest ones.
    catch_up_limit: int = Field(default=10, ge=1, le=100)
    #: How late a tick may begin before it counts as missed.
    grace_seconds: int = Field(default=300, ge=60, le=86_400)

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        return check_timezone(name)

    @field_validator("paused_until")
    @classmethod
    def _check_paused_until(cls, text: str | None) -> str | None:
        if text is not None:
            parse_moment(text)
        return text

    @model_validator(mode="after")
    def _check_targets(self) -> Schedule:
        if not self.mapping_names and not self.pipeline_names:
            raise ValueError("give mapping or pipeline: what the schedule runs")
        return self

    @property
    def mapping_names(self) -> tuple[str, ...]:
        """The mappings that are scheduled by name."""
        return (self.mapping,) if isinstance(self.mapping, str) else tuple(self.mapping or ())

    @property
    def pipeline_names(self) -> tuple[str, ...]:
        """The pipelines that are scheduled by name."""
        return (self.pipeline,) if isinstance(self.pipeline, str) else tuple(self.pipeline or ())

    def is_paused(self, now: datetime) -> bool:
        """Whether ticks at an (aware) moment are skipped."""
        return self.paused_until is not None and now < parse_moment(self.paused_until)


def check_timezone(name: str) -> str:
    """The name of a time zone.

    Raises:
        ValueError: The IANA database has none of this name.
    """
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"{name!r} is not a time zone of the IANA database, such as Europe/Berlin") from exc
    return name


def parse_moment(text: str) -> datetime:
    """An aware moment from ISO 8601.

    Raises:
        ValueError: It is none, or has no time zone.
    """
    moment: datetime | None = None
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise ValueError("must be a moment with a time zone, such as 2030-01-31T08:00:00+01:00")
    return moment
