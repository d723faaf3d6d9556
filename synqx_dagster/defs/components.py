"""Dagster components: records in the files of an existing Dagster project, without a catalog.

Each is the record of its kind, with the same fields and the same checks; what a component refers to by name may be
any other component of the project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel

from synqx_dagster.catalog.documents import Definitions, scan_documents
from synqx_dagster.defs.attributes import Attributes, Parts, read_attributes
from synqx_dagster.defs.project import DeclaringComponent
from synqx_dagster.defs.scaffolding import (
    CatalogScaffolder,
    ConnectionScaffolder,
    DatasetScaffolder,
    MappingScaffolder,
    PipelineScaffolder,
    ReplicationScaffolder,
    ScheduleScaffolder,
    SchemaScaffolder,
    SensorScaffolder,
)
from synqx_dagster.model import Record, RecordKind

__all__ = [
    "CatalogComponent",
    "ConnectionComponent",
    "DatasetComponent",
    "MappingComponent",
    "PipelineComponent",
    "ReplicationComponent",
    "ScheduleComponent",
    "SchemaComponent",
    "SensorComponent",
]


class RecordComponent(DeclaringComponent):
    """A component that is one record, and may hold further ones that it refers to.

    Args:
        records: The records, where it is made in Python.
    """

    kind: ClassVar[RecordKind]
    #: Fields that hold further records, and of which kind.
    parts: ClassVar[Parts] = {}
    _attributes: ClassVar[type[Attributes]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._attributes = Attributes.of(cls.kind, cls.parts)

    def __init__(self, *records: Record, declared: Definitions | None = None) -> None:
        super().__init__(Definitions(records) if declared is None else declared)

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The attributes as they are written; they are judged together with those of the other components."""
        return cls._attributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Any:
        """The component of a file. No attributes at all are none of the fields, too."""
        return super().load(cls._attributes({}) if attributes is None else attributes, context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        """The component of its attributes."""
        assert isinstance(model, Attributes)
        return cls(declared=read_attributes(model, context))


@dg.scaffold_with(ConnectionScaffolder)
class ConnectionComponent(RecordComponent):
    """A database, or a directory of files, that SynqX reads from or writes to.

    It becomes the resource and the pool ``conn_<name>``. Its secrets are ``{env: NAME}`` or ``{file: PATH}``.
    """

    kind = "connection"
    produces = ("resource",)


@dg.scaffold_with(SchemaScaffolder)
class SchemaComponent(RecordComponent):
    """The columns, types and key that a target table promises; mappings name it as their ``target_schema``."""

    kind = "schema"


@dg.scaffold_with(DatasetScaffolder)
class DatasetComponent(RecordComponent):
    """A name for a table, a query or a file at a connection, by which pipelines read and load it."""

    kind = "asset"
    parts: ClassVar[Parts] = {"connections": "connection", "schemas": "schema"}


@dg.scaffold_with(MappingScaffolder)
class MappingComponent(RecordComponent):
    """A load of one target table from one source table or query: an asset with checks and column lineage.

    ``connections`` and ``schemas`` may hold what it refers to, where that has no component of its own.
    """

    kind = "mapping"
    parts: ClassVar[Parts] = {"connections": "connection", "schemas": "schema"}
    produces = ("asset", "asset_check")


@dg.scaffold_with(PipelineScaffolder)
class PipelineComponent(RecordComponent):
    """A graph of nodes that extract, transform, validate and load, or run mappings: a job.

    ``connections``, ``schemas``, ``assets`` and ``mappings`` may hold what it refers to.
    """

    kind = "pipeline"
    parts: ClassVar[Parts] = {
        "connections": "connection",
        "schemas": "schema",
        "assets": "asset",
        "mappings": "mapping",
    }
    produces = ("job", "asset", "asset_check")


@dg.scaffold_with(ScheduleScaffolder)
class ScheduleComponent(RecordComponent):
    """A cron rule with a time zone over mappings and pipelines: a schedule and its job."""

    kind = "schedule"
    produces = ("schedule", "job")


@dg.scaffold_with(SensorScaffolder)
class SensorComponent(RecordComponent):
    """What starts mappings or a pipeline when a table has changed, a file is new, or a pipeline has succeeded."""

    kind = "sensor"
    produces = ("sensor", "job")


@dg.scaffold_with(ReplicationScaffolder)
class ReplicationComponent(RecordComponent):
    """Tables that follow those of a PostgreSQL database as they change: a job, the sensor that starts it, and assets.

    ``connections`` may hold what it refers to. Run its job ``<name>_drop`` before the component is taken out: the
    source keeps its log for the slot.
    """

    kind = "replication"
    parts: ClassVar[Parts] = {"connections": "connection"}
    produces = ("job", "sensor", "asset")


class CatalogAttributes(dg.Model):
    """Where the records of a `CatalogComponent` are written."""

    #: YAML files as `synqx apply` reads them, and directories of these; relative to the component's own file.
    files: list[str]


@dg.scaffold_with(CatalogScaffolder)
class CatalogComponent(DeclaringComponent):
    """All records of YAML files, or of a directory of these, as `synqx apply` reads them."""

    produces = ("asset", "asset_check", "job", "schedule", "sensor", "resource")

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The attributes."""
        return CatalogAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Any:
        """The component of a file. No attributes at all are none of the fields, too."""
        return super().load(CatalogAttributes.model_validate({}) if attributes is None else attributes, context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        """The component of its attributes: reads the files."""
        assert isinstance(model, CatalogAttributes)
        names: Sequence[str] = [str(context.resolve_value(name)) for name in model.files]
        return cls(scan_documents([context.resolve_source_relative_path(name) for name in names]))
