"""The records that users declare, as frozen values without any input or output."""

from synqx_dagster.model.agent import Agent
from synqx_dagster.model.alert import Alert
from synqx_dagster.model.base import RECORD_KINDS, Record, RecordKind, Value, dagster_name
from synqx_dagster.model.connection import Connection, PoolSettings, SshTunnel, TlsSettings
from synqx_dagster.model.dataset import Dataset
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster.model.mapping import ColumnMapping, Mapping
from synqx_dagster.model.pipeline import Pipeline, PipelineNode
from synqx_dagster.model.replication import ReplicatedTable, Replication
from synqx_dagster.model.schedule import Schedule
from synqx_dagster.model.schema import Schema, SchemaColumn
from synqx_dagster.model.secret import EnvSecret, FileSecret, LiteralSecret, SealedSecret, Secret
from synqx_dagster.model.sensor import Sensor
from synqx_dagster.model.table import Column, TableName, primary_key_of
from synqx_dagster.model.types import DataType

RECORD_TYPES: dict[RecordKind, type[Record]] = {
    record_type.kind: record_type
    for record_type in (Connection, Schema, Dataset, Mapping, Pipeline, Replication, Schedule, Sensor, Alert, Agent)
}

__all__ = [
    "RECORD_KINDS",
    "RECORD_TYPES",
    "Agent",
    "Alert",
    "Column",
    "ColumnMapping",
    "Connection",
    "DataType",
    "Dataset",
    "EnvSecret",
    "FileSecret",
    "HostPolicy",
    "LiteralSecret",
    "Mapping",
    "Pipeline",
    "PipelineNode",
    "PoolSettings",
    "Record",
    "RecordKind",
    "ReplicatedTable",
    "Replication",
    "Schedule",
    "Schema",
    "SchemaColumn",
    "SealedSecret",
    "Secret",
    "Sensor",
    "SshTunnel",
    "TableName",
    "TlsSettings",
    "Value",
    "dagster_name",
    "primary_key_of",
]
