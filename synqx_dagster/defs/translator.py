"""What a mapping looks like as a Dagster asset: its key, metadata and lineage, all read off one snapshot."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import quote

import dagster as dg

from synqx_dagster import model
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.registry import capabilities_of, dialect_of
from synqx_dagster.defs.agent_links import AgentLinks, AgentMarks, marks_of
from synqx_dagster.defs.freshness import freshness_policy
from synqx_dagster.defs.lineage_cache import TraceLineage, trace_unconnected
from synqx_dagster.defs.names import (
    METADATA_PREFIX,
    dagster_kind,
    dagster_owner,
    is_dagster_tag,
    revision_metadata,
)
from synqx_dagster.defs.partitions import partitions_definition
from synqx_dagster.mapping.lineage import Lineage
from synqx_dagster.model import Column, Connection, Schema, TableName, dagster_name
from synqx_dagster.model.partitions import Partitions, TimePartitions

logger = logging.getLogger(__name__)


class Translator:
    """Translates the mappings of one snapshot.

    Args:
        trace: Traces the lineage of a mapping; `LineageCache.trace` remembers what it traced before.
    """

    def __init__(self, snapshot: CatalogSnapshot, trace: TraceLineage = trace_unconnected) -> None:
        self.snapshot = snapshot
        self._trace = trace
        self._default_schemas: dict[str, str | None] = {}
        self._lineages: dict[str, Lineage] = {}
        self._declared: dict[str, dg.TableSchema] = {}

    # --- keys -----------------------------------------------------------------------------------------------

    def asset_key(self, connection: Connection, table: TableName) -> dg.AssetKey:
        """Connection, schema, table; without the schema where the database has none.

        Raises:
            ConfigurationError, DriverMissingError: The kind of the connection is unknown here.
        """
        schema = table.schema or self._default_schema(connection)
        return dg.AssetKey([connection.name, *([schema] if schema else []), table.name])

    def target_key(self, mapping: model.Mapping) -> dg.AssetKey:
        """The asset that a mapping loads."""
        return self.asset_key(self.snapshot.get_connection(mapping.target_connection), mapping.target)

    def _default_schema(self, connection: Connection) -> str | None:
        if connection.name not in self._default_schemas:
            found = capabilities_of(connection.db_type, connection.options)
            self._default_schemas[connection.name] = found.default_schema
        return self._default_schemas[connection.name]

    # --- assets ---------------------------------------------------------------------------------------------

    def lineage(self, mapping: model.Mapping) -> Lineage:
        """Lineage as far as it is known without connecting."""
        if mapping.name not in self._lineages:
            source = self.snapshot.get_connection(mapping.source_connection)
            self._lineages[mapping.name] = self._trace(
                mapping, self.schema_of(mapping), dialect_of(source.db_type, source.options)
            )
        return self._lineages[mapping.name]

    def schema_of(self, mapping: model.Mapping) -> Schema | None:
        """The target schema of a mapping; None when it mirrors the source."""
        return None if mapping.target_schema is None else self.snapshot.get_schema(mapping.target_schema)

    def spec(self, mapping: model.Mapping) -> dg.AssetSpec:
        """The asset of a mapping.

        Raises:
            ConfigurationError: A record that it refers to is missing.
            DriverMissingError: The kind of a connection is unknown here.
        """
        source = self.snapshot.get_connection(mapping.source_connection)
        target = self.snapshot.get_connection(mapping.target_connection)
        key = self.asset_key(target, mapping.target)
        schema = self.schema_of(mapping)
        lineage = self.lineage(mapping)
        marks = self.marks(key, self.agents.of_mapping(mapping.name))
        return dg.AssetSpec(
            key,
            # A mapping that reads its own target depends on what it was, which Dagster has no edge for.
            deps=[self._dep(up, mapping.partitions) for up in self.upstream_keys(source, lineage) if up != key],
            description=mapping.description or (schema.description if schema else None),
            partitions_def=None if mapping.partitions is None else partitions_definition(mapping.partitions),
            group_name=dagster_name(mapping.group or mapping.target_connection),
            owners=list(dict.fromkeys([*(dagster_owner(owner) for owner in mapping.owners), *marks.owners])),
            tags={**marks.tags, **{name: value for name, value in mapping.tags.items() if is_dagster_tag(name, value)}},
            kinds={"synqx", dagster_kind(target.db_type)},
            metadata={**marks.metadata, **self._spec_metadata(mapping, source, target, key, schema, lineage)},
            freshness_policy=freshness_policy(mapping.freshness),
        )

    # --- agents ---------------------------------------------------------------------------------------------

    @cached_property
    def agents(self) -> AgentLinks:
        """The agents of the snapshot by what they link to."""
        return AgentLinks(self.snapshot)

    def marks(self, key: dg.AssetKey, agents: Iterable[model.Agent] = ()) -> AgentMarks:
        """What an asset carries of these agents, and of those that link to it as a dataset."""
        return marks_of([*agents, *self._agents_by_key.get(key, ())])

    @cached_property
    def _agents_by_key(self) -> dict[dg.AssetKey, list[model.Agent]]:
        found: dict[dg.AssetKey, list[model.Agent]] = {}
        for name in self.agents.dataset_names:
            dataset = self.snapshot.assets.get(name)
            connection = None if dataset is None else self.snapshot.connections.get(dataset.connection)
            if dataset is None or connection is None or dataset.table_name is None:
                continue
            found.setdefault(self.asset_key(connection, dataset.table_name), []).extend(self.agents.of_dataset(name))
        return found

    def _dep(self, key: dg.AssetKey, own: Partitions | None) -> dg.AssetDep:
        """A dependency: on the same partitions, on those of the same time, or on all that have nothing in common."""
        other = self._partitions.get(key)
        if own is None or other is None or own == other:
            return dg.AssetDep(key)
        if isinstance(own, TimePartitions) and isinstance(other, TimePartitions) and own.timezone == other.timezone:
            return dg.AssetDep(key)
        return dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping())

    @cached_property
    def _partitions(self) -> dict[dg.AssetKey, Partitions]:
        """The partitions of the tables that mappings load by some."""
        return {
            self.target_key(mapping): mapping.partitions
            for mapping in self.snapshot.mappings.values()
            if mapping.partitions is not None and mapping.target_connection in self.snapshot.connections
        }

    def _spec_metadata(
        self,
        mapping: model.Mapping,
        source: Connection,
        target: Connection,
        key: dg.AssetKey,
        schema: Schema | None,
        lineage: Lineage,
    ) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "dagster/table_name": qualified_name(target, key),
            "dagster/uri": connection_uri(target, key.path[1:]),
            f"{METADATA_PREFIX}mapping": mapping.name,
            f"{METADATA_PREFIX}source": f"{source.name}: {mapping.source_table or 'query'}",
            f"{METADATA_PREFIX}mode": mapping.mode,
            f"{METADATA_PREFIX}on_bad_row": mapping.on_bad_row,
            **revision_metadata(self.snapshot.revision),
        }
        if mapping.partition_column is not None:
            metadata["dagster/partition_expr"] = mapping.partition_column
        refused = {name: value for name, value in mapping.tags.items() if not is_dagster_tag(name, value)}
        if refused:
            metadata[f"{METADATA_PREFIX}tags"] = refused
        if mapping.source_query is not None:
            metadata[f"{METADATA_PREFIX}query"] = dg.MetadataValue.md(f"```sql\n{mapping.source_query}\n```")
        if schema is not None:
            if schema.name not in self._declared:
                self._declared[schema.name] = declared_columns(schema)
            metadata["dagster/column_schema"] = self._declared[schema.name]
        columns = self.column_lineage(source, lineage)
        if columns is not None:
            metadata["dagster/column_lineage"] = columns
        return metadata

    def upstream_keys(self, source: Connection, lineage: Lineage) -> list[dg.AssetKey]:
        """The source tables as assets, each once, in the lineage's order."""
        return list(dict.fromkeys(self.asset_key(source, table) for table in lineage.tables))

    def column_lineage(self, source: Connection, lineage: Lineage) -> dg.TableColumnLineage | None:
        """Column lineage as Dagster takes it; None when no column can be traced to a table."""
        traced = {table for origins in lineage.columns.values() for table, _ in origins if table is not None}
        keys = {table: self.asset_key(source, table) for table in traced}
        deps = {
            field: [
                dg.TableColumnDep(asset_key=keys[table], column_name=column)
                for table, column in origins
                if table is not None
            ]
            for field, origins in lineage.columns.items()
        }
        return dg.TableColumnLineage(deps_by_column=deps) if any(deps.values()) else None

    def external_specs(self, specs: Iterable[dg.AssetSpec]) -> list[dg.AssetSpec]:
        """The tables that these assets read and none of them loads, one group for each connection."""
        specs = list(specs)
        loaded = {spec.key for spec in specs}
        external: dict[dg.AssetKey, dg.AssetSpec] = {}
        for key in (dep.asset_key for spec in specs for dep in spec.deps):
            if key in loaded or key in external:
                continue
            connection = self.snapshot.get_connection(key.path[0])
            marks = self.marks(key)
            external[key] = dg.AssetSpec(
                key,
                group_name=dagster_name(connection.name),
                kinds={dagster_kind(connection.db_type)},
                description=f"A table of the connection {connection.name}",
                owners=list(marks.owners),
                tags=dict(marks.tags),
                metadata={
                    **marks.metadata,
                    "dagster/table_name": qualified_name(connection, key),
                    "dagster/uri": connection_uri(connection, key.path[1:]),
                },
            )
        return list(external.values())


def qualified_name(connection: Connection, key: dg.AssetKey) -> str:
    """``database.schema.table`` as far as the connection has them; a file is not part of it."""
    is_server = connection.host is not None and connection.database is not None
    return ".".join([*([str(connection.database)] if is_server else []), *key.path[1:]])


def connection_uri(connection: Connection, path: Sequence[str]) -> str:
    """Where a table lies: scheme, host, port, database and path; never a user, a password or an option."""
    parts = [quote(part, safe="") for part in path]
    if connection.host is None:
        database = quote(connection.database or "", safe="/:")
        return f"{connection.db_type}:{database}#{'/'.join(parts)}"
    host = f"[{connection.host}]" if ":" in connection.host else quote(connection.host, safe="/.-_")
    port = f":{connection.port}" if connection.port is not None else ""
    if connection.database:
        parts.insert(0, quote(connection.database, safe=""))
    return f"{connection.db_type}://{host}{port}/{'/'.join(parts)}"


def declared_columns(schema: Schema) -> dg.TableSchema:
    """A target schema as Dagster shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.data_type),
                description=column.description,
                constraints=dg.TableColumnConstraints(
                    nullable=schema.is_nullable(column), unique=schema.primary_key == (column.name,)
                ),
            )
            for column in schema.columns
        ]
    )


def loaded_columns(columns: Sequence[Column]) -> dg.TableSchema:
    """The target's columns after a load, in the database's own spelling where it is known."""
    keyed = [column for column in columns if column.key_position is not None]
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.native_type or str(column.data_type),
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=keyed == [column]),
            )
            for column in columns
        ]
    )
