"""What ``dg scaffold defs`` writes for each component: a file that passes the checks once its names are the user's."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import dagster as dg
from pydantic import BaseModel, Field

#: Kinds of databases that are a file or a directory, and so have no host.
_FILES = ("sqlite", "duckdb", "files")

_ParamsT = TypeVar("_ParamsT", bound=BaseModel)


class _Params(BaseModel):
    """No parameter but the path."""


class ConnectionParams(BaseModel):
    """What a connection is made of."""

    db_type: str = Field(default="postgresql", description="The kind of database: postgresql, sqlite, ...")


class DatasetParams(BaseModel):
    """What a dataset is made of."""

    connection: str = Field(default="shop", description="The connection where it is.")
    table: str = Field(default="customer", description="The table that it names.")


class MappingParams(BaseModel):
    """What a mapping is made of."""

    source_connection: str = Field(default="shop", description="The connection to read from.")
    source_table: str = Field(default="customer", description="The table to read.")
    target_connection: str = Field(default="warehouse", description="The connection to load into.")
    target_table: str = Field(default="customer", description="The table to load.")


class PipelineParams(BaseModel):
    """What a pipeline is made of."""

    mapping: str = Field(default="customers", description="The mapping that its first node runs.")


class ReplicationParams(BaseModel):
    """What a replication is made of."""

    source_connection: str = Field(default="shop", description="The PostgreSQL connection that is followed.")
    target_connection: str = Field(default="warehouse", description="The connection that follows.")
    table: str = Field(default="public.*", description="The tables that are followed, by name or pattern.")


class ScheduleParams(BaseModel):
    """What a schedule is made of."""

    mapping: str = Field(default="customers", description="The mapping that it runs.")
    cron_expression: str = Field(default="0 2 * * *", description="When it runs.")


class SensorParams(BaseModel):
    """What a sensor is made of."""

    mapping: str = Field(default="customers", description="The mapping that it starts.")
    connection: str = Field(default="shop", description="The connection where it looks.")
    table: str = Field(default="customer", description="The table that it watches.")


class RecordScaffolder(dg.Scaffolder[_ParamsT], ABC, Generic[_ParamsT]):
    """Writes a component's file with the attributes of an example; the record has the name of the directory."""

    params: ClassVar[type[BaseModel]] = _Params

    @classmethod
    def get_scaffold_params(cls) -> type[_ParamsT]:
        """The options of the command."""
        return cls.params  # type: ignore[return-value]  # a class variable cannot be of the class's own type variable

    def scaffold(self, request: dg.ScaffoldRequest[_ParamsT]) -> None:
        """Write the file."""
        name = record_name(request.target_path)
        dg.scaffold_component(request, {"name": name, **self.attributes(name, request.params)})

    @abstractmethod
    def attributes(self, name: str, params: _ParamsT) -> dict[str, Any]:
        """The attributes but the name."""


def record_name(target: Path) -> str:
    """The name of a record, by the directory of its component."""
    directory = target.parent if target.suffix in (".yaml", ".yml") else target
    return re.sub(r"\W+", "_", directory.name).strip("_") or "example"


class ConnectionScaffolder(RecordScaffolder[ConnectionParams]):
    """A connection; its password is read from the environment."""

    params = ConnectionParams

    def attributes(self, name: str, params: ConnectionParams) -> dict[str, Any]:
        """Where it leads: to a server on this machine, or to a file of the project."""
        if params.db_type in _FILES:
            place = f"data/{name}" + ("" if params.db_type == "files" else f".{params.db_type}")
            return {"db_type": params.db_type, "database": "{{ context.project_root }}/" + place}
        return {
            "db_type": params.db_type,
            "host": "localhost",
            "database": name,
            "username": "etl",
            "password": {"env": f"{re.sub(r'[^A-Z0-9]+', '_', name.upper())}_PASSWORD"},
        }


class SchemaScaffolder(RecordScaffolder[_Params]):
    """A schema of two columns."""

    def attributes(self, name: str, params: _Params) -> dict[str, Any]:
        """Its columns and its key."""
        return {
            "columns": [
                {"name": "id", "data_type": "bigint", "nullable": False},
                {"name": "name", "data_type": "string"},
            ],
            "primary_key": ["id"],
        }


class DatasetScaffolder(RecordScaffolder[DatasetParams]):
    """A table by name."""

    params = DatasetParams

    def attributes(self, name: str, params: DatasetParams) -> dict[str, Any]:
        """Where it is."""
        return params.model_dump()


class MappingScaffolder(RecordScaffolder[MappingParams]):
    """A mapping that mirrors a table."""

    params = MappingParams

    def attributes(self, name: str, params: MappingParams) -> dict[str, Any]:
        """Both ends."""
        return params.model_dump()


class PipelineScaffolder(RecordScaffolder[PipelineParams]):
    """A pipeline of one node."""

    params = PipelineParams

    def attributes(self, name: str, params: PipelineParams) -> dict[str, Any]:
        """Its node."""
        return {"nodes": [{"node_id": params.mapping, "config": {"mapping": params.mapping}}]}


class ReplicationScaffolder(RecordScaffolder[ReplicationParams]):
    """A replication that mirrors tables, once somebody starts it."""

    params = ReplicationParams

    def attributes(self, name: str, params: ReplicationParams) -> dict[str, Any]:
        """Both ends, and what is followed."""
        return {**params.model_dump(exclude={"table"}), "tables": [params.table], "enabled": False}


class ScheduleScaffolder(RecordScaffolder[ScheduleParams]):
    """A schedule over one mapping."""

    params = ScheduleParams

    def attributes(self, name: str, params: ScheduleParams) -> dict[str, Any]:
        """When it runs what."""
        return {**params.model_dump(), "timezone": "UTC"}


class SensorScaffolder(RecordScaffolder[SensorParams]):
    """A sensor of a table."""

    params = SensorParams

    def attributes(self, name: str, params: SensorParams) -> dict[str, Any]:
        """Where it looks, and what it starts."""
        return {"type": "source_changed", **params.model_dump()}


_RECORDS = """\
# Records as `synqx apply` reads them, as many as you like. Passwords are references: {env: NAME} or {file: PATH}.
#
# kind: connection
# name: shop
# db_type: postgresql
# host: localhost
# database: shop
# username: etl
# password: {env: SHOP_PASSWORD}
# ---
# kind: mapping
# ...
"""


class CatalogScaffolder(dg.Scaffolder[BaseModel]):
    """A catalog of one file, ``records.yaml``, beside the component's own."""

    def scaffold(self, request: dg.ScaffoldRequest[BaseModel]) -> None:
        """Write both files."""
        dg.scaffold_component(request, {"files": ["records.yaml"]})
        directory = request.target_path.parent if request.append else request.target_path
        records = directory / "records.yaml"
        if not records.exists():
            records.write_text(_RECORDS, encoding="utf-8")
