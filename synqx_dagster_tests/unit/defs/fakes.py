"""Records and a catalog without a database, for the tests of the definitions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from synqx_dagster import model
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.errors import NotFoundError, SealedError
from synqx_dagster.model import Record
from synqx_dagster.settings import Settings, load_settings


def connection(name: str, db_type: str = "postgresql", **fields: Any) -> model.Connection:
    """A connection to a server, or to a file where the kind is one."""
    if db_type in ("sqlite", "duckdb"):
        return model.Connection(name=name, db_type=db_type, **{"database": f"/data/{name}.db", **fields})
    defaults = {"host": "db.example", "port": 5432, "database": name, "username": "etl", "password": {"env": "SECRET"}}
    return model.Connection(name=name, db_type=db_type, **{**defaults, **fields})


def schema(name: str = "customer", key: Iterable[str] = ("id",)) -> model.Schema:
    """A schema of two columns."""
    return model.Schema(
        name=name,
        columns=[{"name": "id", "data_type": "integer"}, {"name": "name", "data_type": "string"}],
        primary_key=tuple(key),
    )


def mapping(name: str, **fields: Any) -> model.Mapping:
    """A mapping from ``shop`` to ``warehouse``; its tables have its name unless they are given."""
    defaults: dict[str, Any] = {"source_connection": "shop", "target_connection": "warehouse", "target_table": name}
    if "source_query" not in fields:
        defaults["source_table"] = f"src_{name}"
    return model.Mapping(name=name, **{**defaults, **fields})


def pipeline(name: str, *mappings: str, edges: Iterable[tuple[str, str]] = ()) -> model.Pipeline:
    """A pipeline whose nodes have the names of their mappings."""
    return model.Pipeline(
        name=name,
        nodes=[{"node_id": item, "config": {"mapping": item}} for item in mappings],
        edges=[{"from_node_id": first, "to_node_id": second} for first, second in edges],
    )


def snapshot_of(*records: Record, revision: int = 1) -> CatalogSnapshot:
    """A snapshot of these records and of the two connections that `mapping` names."""
    return CatalogSnapshot.from_records(revision, [connection("shop"), connection("warehouse"), *records])


def repository_origin() -> RemoteRepositoryOrigin:
    """Where Dagster's webserver and daemon believe the definitions to come from."""
    return RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("synqx"), "__repository__")


def job_origin(name: str) -> RemoteJobOrigin:
    """Where the job of a run in the queue comes from."""
    return RemoteJobOrigin(repository_origin(), name)


@dataclass
class FakeVault:
    """A vault that opens, or does not, as a test says."""

    is_initialised: bool = True
    is_unsealed: bool = False
    sealed_by_operator: bool = False
    opens: bool = True
    attempts: int = 0

    def status(self) -> SimpleNamespace:
        """Its state, as far as the definitions read it."""
        return SimpleNamespace(
            initialised=self.is_initialised, unsealed=self.is_unsealed, sealed_by_operator=self.sealed_by_operator
        )

    def unseal_from_settings(self, settings: Settings) -> None:
        """Open, or raise as a real one does."""
        self.attempts += 1
        if not self.opens:
            raise SealedError
        self.is_unsealed = True


@dataclass
class FakeCatalog:
    """A catalog that holds one snapshot for each revision and counts how it is read."""

    snapshots: dict[int, CatalogSnapshot]
    vault: FakeVault = field(default_factory=FakeVault)
    settings: Settings = field(default_factory=lambda: load_settings({}))
    reads: list[str] = field(default_factory=list)
    catalog_id: str = "fake"

    def latest_revision(self) -> int:
        """The highest number there is."""
        self.reads.append("latest")
        return max(self.snapshots, default=0)

    def snapshot(self, revision: int | None = None) -> CatalogSnapshot:
        """The whole of a revision."""
        self.reads.append("snapshot")
        return self.snapshots[self.latest_revision() if revision is None else revision]

    def snapshot_for(self, revision: int, **names: Iterable[str]) -> CatalogSnapshot:
        """The named records and what they refer to, by way of a real snapshot's getters."""
        self.reads.append("snapshot_for")
        whole = self.snapshots[revision]
        records: list[Record] = []
        schedules = [whole.get_schedule(name) for name in names.get("schedules", ())]
        pipeline_names = [*names.get("pipelines", ()), *(p for item in schedules for p in item.pipeline_names)]
        pipelines = [whole.get_pipeline(name) for name in pipeline_names]
        sensors = [whole.get_sensor(name) for name in names.get("sensors", ())]
        replications = [whole.get_replication(name) for name in names.get("replications", ())]
        wanted = [name for item in (*schedules, *pipelines, *sensors) for name in item.mapping_names]
        mappings = [whole.get_mapping(name) for name in wanted]
        for one in replications:
            records += [whole.get_connection(one.source_connection), whole.get_connection(one.target_connection)]
        for item in mappings:
            records += [whole.get_connection(item.source_connection), whole.get_connection(item.target_connection)]
            records += [whole.get_schema(item.target_schema)] if item.target_schema else []
        named = {record.name for record in records}
        for pipeline in pipelines:
            used = {node.connection_name for node in pipeline.nodes if node.connection_name is not None}
            records += [whole.get_connection(name) for name in sorted(used - named)]
            named |= used
        found = [*records, *mappings, *pipelines, *replications, *schedules, *sensors]
        return CatalogSnapshot.from_records(revision, found)

    def removed_names(self, kind: str) -> list[str]:
        """Nothing was ever removed."""
        return []

    def snapshot_for_loads(self, revision: int, *_: object) -> CatalogSnapshot:
        """Everything, in which what loads a table is, too."""
        self.reads.append("snapshot_for_loads")
        return self.snapshots[revision]

    def resolve_secret(self, connection: model.Connection, secret_field: str) -> str | None:
        """Only a load asks for it."""
        self.reads.append("secret")
        if connection.password is None:
            raise NotFoundError(f"{secret_field} is not set")
        return "geheim"
