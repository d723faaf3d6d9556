"""Records as answers show them: their own fields, what the catalog knows of them, ids beside names, and no secret."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from pydantic import BaseModel, Field

from synqx_dagster.api.references import ReferenceIds
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.catalog.snapshot import secrets_of, with_secrets
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.model import (
    Alert,
    Connection,
    Dataset,
    Mapping,
    Pipeline,
    PipelineNode,
    Record,
    Replication,
    Schedule,
    Schema,
    SealedSecret,
    Sensor,
)

ViewT = TypeVar("ViewT", bound="Facts")


class Facts(BaseModel):
    """What the catalog knows of a record."""

    id: int = Field(description="Stable, also when the record is removed and made again.")
    etag: str = Field(description="The version of the record; send it in quotes as If-Match.")
    revision: int = Field(description="The catalog's revision that made the record what it is.")
    version: int = Field(description="How many versions of the record there have been, this one included.")
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


class ConnectionView(Connection, Facts):
    """A connection, and how its last test went."""

    last_tested_at: datetime | None = None
    last_test_status: str | None = Field(default=None, description="`ok` or `failed`.")
    server_version: str | None = Field(default=None, description="What the last test found.")


class SchemaView(Schema, Facts):
    """A target schema."""


class AssetView(Dataset, Facts):
    """A dataset."""

    connection_id: int
    target_schema_id: int | None = None


class MappingView(Mapping, Facts):
    """A mapping."""

    source_connection_id: int
    target_connection_id: int
    target_schema_id: int | None = None


class NodeView(PipelineNode):
    """A node of a pipeline."""

    source_asset_id: int | None = None
    destination_asset_id: int | None = None


class PipelineView(Pipeline, Facts):
    """A pipeline, and the schedule that belongs to it."""

    nodes: tuple[NodeView, ...]
    schedule_cron: str | None = None
    schedule_enabled: bool | None = None
    schedule_timezone: str | None = None
    schedule: str | None = Field(default=None, description="The name of the schedule.")


class ReplicationView(Replication, Facts):
    """A replication, and how its runs do."""

    source_connection_id: int
    target_connection_id: int
    last_run_at: datetime | None = None
    last_run_id: str | None = None
    last_run_status: str | None = None
    last_tick_at: datetime | None = None
    last_tick_status: str | None = None
    last_tick_reason: str | None = Field(default=None, description="What the last look at the slot said.")


class ScheduleView(Schedule, Facts):
    """A schedule, and how it does."""

    mapping_ids: list[int] = Field(default_factory=list)
    pipeline_ids: list[int] = Field(default_factory=list)
    last_run_at: datetime | None = None
    last_run_id: str | None = None
    last_run_status: str | None = None
    next_run_at: datetime | None = Field(default=None, description="None where it is disabled.")


class SensorView(Sensor, Facts):
    """A sensor, and how it does."""

    mapping_ids: list[int] = Field(default_factory=list)
    pipeline_id: int | None = None
    after_pipeline_id: int | None = None
    connection_id: int | None = None
    last_run_at: datetime | None = None
    last_run_id: str | None = None
    last_run_status: str | None = None
    last_tick_at: datetime | None = None
    last_tick_status: str | None = None
    last_tick_reason: str | None = None


class AlertView(Alert, Facts):
    """An alert."""

    pipeline_ids: list[int] = Field(default_factory=list)
    mapping_ids: list[int] = Field(default_factory=list)
    schedule_ids: list[int] = Field(default_factory=list)
    connection_ids: list[int] = Field(default_factory=list)


def show_records(
    catalog: Catalog, stored: Sequence[StoredRecord], view: type[ViewT], more: Sequence[dict[str, Any]] = ()
) -> list[ViewT]:
    """Records as a view shows them.

    Args:
        stored: The records.
        view: The view of their kind.
        more: What else is known of each of them, in the same order.
    """
    ids = ReferenceIds(catalog, [item.record for item in stored])
    shown: list[ViewT] = []
    for index, item in enumerate(stored):
        fields = {**_fields_of(_without_versions(item.record)), **ids.fields_of(item.record), **_facts_of(item)}
        if isinstance(item.record, Pipeline):
            fields["nodes"] = tuple(
                NodeView.model_construct(**_fields_of(node), **ids.node_fields_of(node)) for node in item.record.nodes
            )
        if more:
            fields |= more[index]
        # The values were checked when they were written; a list of many need not check them once more.
        shown.append(cast("ViewT", view.model_construct(**fields)))
    return shown


def _fields_of(value: BaseModel) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).model_fields}


def _facts_of(stored: StoredRecord) -> dict[str, Any]:
    return {
        "id": stored.number,
        "etag": stored.etag,
        "revision": stored.revision,
        "version": stored.version,
        "created_at": stored.created_at,
        "created_by": stored.created_by,
        "updated_at": stored.updated_at,
        "updated_by": stored.updated_by,
    }


def _without_versions(record: Record) -> Record:
    """The record with sealed secrets as requests may send them back."""
    sealed = {path: SealedSecret() for path, secret in secrets_of(record).items() if isinstance(secret, SealedSecret)}
    return with_secrets(record, sealed)
