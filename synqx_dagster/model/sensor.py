"""Sensors: what starts mappings and pipelines when something has happened, instead of by the clock."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Name, Record, RecordKind
from synqx_dagster.model.table import TableName

SensorType = Literal["source_changed", "new_file", "pipeline_succeeded"]

#: The fields that each type takes, and which of them it must have.
_FIELDS: dict[SensorType, tuple[frozenset[str], frozenset[str]]] = {
    "source_changed": (frozenset({"connection", "table", "column"}), frozenset({"connection", "table"})),
    "new_file": (frozenset({"connection", "directory", "pattern", "stable_seconds"}), frozenset({"connection"})),
    "pipeline_succeeded": (frozenset({"after_pipeline"}), frozenset({"after_pipeline"})),
}


class Sensor(Record):
    """A look at a source, a directory or another pipeline; it becomes a Dagster sensor of the same name.

    A sensor that runs mappings makes a job of its own name; one that runs a pipeline starts the pipeline's job.
    """

    kind: ClassVar[RecordKind] = "sensor"

    type: SensorType
    mapping: Name | tuple[Name, ...] | None = None
    pipeline: Name | None = None
    #: How often it looks, at most.
    interval_seconds: int = Field(default=60, ge=5, le=86_400)
    enabled: bool = True

    #: ``source_changed`` and ``new_file``: where it looks.
    connection: Name | None = None
    table: str | None = Field(default=None, min_length=1, max_length=512)
    #: Its greatest value tells a change; left out: PostgreSQL's own count of changed rows.
    column: str | None = Field(default=None, min_length=1, max_length=256)
    #: Below the connection's directory or bucket; left out: that itself.
    directory: str | None = Field(default=None, min_length=1, max_length=1024)
    #: A file's name, with ``*``, ``?`` and ``[...]``.
    pattern: str | None = Field(default=None, min_length=1, max_length=256)
    #: How long a file must have stayed the same before it is taken; 30 where it is left out.
    stable_seconds: int | None = Field(default=None, ge=0, le=86_400)
    after_pipeline: Name | None = None

    @field_validator("table")
    @classmethod
    def _check_table(cls, text: str | None) -> str | None:
        if text is not None:
            TableName.parse(text)
        return text

    @model_validator(mode="after")
    def _check_fields(self) -> Sensor:
        if bool(self.mapping_names) == (self.pipeline is not None):
            raise ValueError("give mapping or pipeline, one of the two: what the sensor runs")
        allowed, required = _FIELDS[self.type]
        for name in sorted(set().union(*(fields for fields, _ in _FIELDS.values()))):
            if getattr(self, name) is not None and name not in allowed:
                raise ValueError(f"{name} is not for the type {self.type}")
        for name in sorted(required):
            if getattr(self, name) is None:
                raise ValueError(f"the type {self.type} needs {name}")
        return self

    @property
    def mapping_names(self) -> tuple[str, ...]:
        """The mappings that it runs, in one job."""
        return (self.mapping,) if isinstance(self.mapping, str) else tuple(self.mapping or ())

    @property
    def source(self) -> TableName | None:
        """The table that it watches."""
        return TableName.parse(self.table) if self.table is not None else None
