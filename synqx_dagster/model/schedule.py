"""Schedules: when mappings and pipelines run."""

from __future__ import annotations

import zoneinfo
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Name, Record, RecordKind


class Schedule(Record):
    """A cron rule over mappings and pipelines; it becomes a job and a Dagster schedule of the same name."""

    kind: ClassVar[RecordKind] = "schedule"

    mapping: Name | tuple[Name, ...] | None = None
    pipeline: Name | tuple[Name, ...] | None = None
    cron_expression: str = Field(min_length=1, max_length=256)
    timezone: str = "UTC"
    enabled: bool = True

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ValueError(f"{name!r} is not a time zone of the IANA database, such as Europe/Berlin") from exc
        return name

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
