"""What the steps of a pipeline look like as Dagster assets: keys, metadata and lineage, read off one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.registry import connector_types, dialect_of
from synqx_dagster.defs.freshness import freshness_policy
from synqx_dagster.defs.names import (
    METADATA_PREFIX,
    dagster_kind,
    dagster_owner,
    is_dagster_tag,
    op_name,
    revision_metadata,
)
from synqx_dagster.defs.partitions import partitions_definition
from synqx_dagster.defs.translator import Translator, connection_uri, declared_columns, loaded_columns, qualified_name
from synqx_dagster.errors import DriverMissingError
from synqx_dagster.mapping.lineage import Lineage, tables_of, trace_query
from synqx_dagster.model import Column, Pipeline, Schema, TableName, dagster_name
from synqx_dagster.model.pipeline import PIPELINES
from synqx_dagster.pipelines.building import build_graph
from synqx_dagster.pipelines.graph import Graph, Node, Step, extracts_of, loads_after
from synqx_dagster.pipelines.lineage import known_columns, trace_origins
from synqx_dagster.pipelines.operators.ends import IncrementalConfig, LoadConfig
from synqx_dagster.pipelines.operators.protocol import NodeColumns

_Deps = dict[str, tuple[tuple[dg.AssetKey, str], ...]]


class PipelineTranslator:
    """Translates the pipelines of one snapshot."""

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._graphs: dict[str, Graph] = {}
        self._columns: dict[str, Mapping[str, NodeColumns]] = {}
        self._db_types: frozenset[str] | None = None

    @property
    def snapshot(self) -> CatalogSnapshot:
        """The records."""
        return self._translator.snapshot

    def graph(self, pipeline: Pipeline) -> Graph:
        """The graph of a pipeline.

        Raises:
            ConfigurationError: It does not hold together any more.
        """
        if pipeline.name not in self._graphs:
            if self._db_types is None:
                self._db_types = frozenset(connector_types())
            self._graphs[pipeline.name] = build_graph(pipeline, self.snapshot.assets.get, self._db_types)
        return self._graphs[pipeline.name]

    # --- names ---------------------------------------------------------------------------------------------------

    def stored_key(self, pipeline: Pipeline, node_id: str) -> dg.AssetKey:
        """The asset of rows that a step stores."""
        return dg.AssetKey([PIPELINES, pipeline.name, node_id])

    def key(self, graph: Graph, step: Step) -> dg.AssetKey:
        """The asset of a step: the table that it loads, or its stored rows."""
        if not step.is_load:
            return self.stored_key(graph.pipeline, step.name)
        node = graph.nodes[step.name]
        assert node.table is not None
        return self._translator.asset_key(self.snapshot.get_connection(str(node.connection)), node.table)

    def op_of(self, graph: Graph, name: str) -> str:
        """The op of a step, by its end, or of a node that runs a mapping."""
        mapping = next((node.mapping_name for node in graph.pipeline.nodes if node.node_id == name), None)
        if mapping is not None:
            return op_name(self._translator.target_key(self.snapshot.get_mapping(mapping)).path)
        return op_name(self.key(graph, graph.step_of(name)).path)

    def connections_of(self, graph: Graph, step: Step) -> tuple[str, ...]:
        """The connections that a step opens."""
        names = [str(node.connection) for node in extracts_of(step, graph.nodes)]
        if step.is_load:
            names.append(str(graph.nodes[step.name].connection))
        for name in step.nodes:
            # Its watermark lies in the ledger of the table that its rows reach.
            if isinstance(graph.nodes[name].config, IncrementalConfig):
                names.extend(str(graph.nodes[load].connection) for load in loads_after(name, graph.nodes))
        return tuple(dict.fromkeys(names))

    def schema_of(self, graph: Graph, step: Step) -> Schema | None:
        """The schema record that a load keeps to."""
        name = graph.nodes[step.name].target_schema
        return None if name is None else self.snapshot.get_schema(name)

    # --- assets --------------------------------------------------------------------------------------------------

    def spec(self, graph: Graph, step: Step) -> dg.AssetSpec:
        """The asset of a step."""
        pipeline, key = graph.pipeline, self.key(graph, step)
        metadata: dict[str, Any] = {
            f"{METADATA_PREFIX}pipeline": pipeline.name,
            f"{METADATA_PREFIX}step_nodes": list(step.nodes),
            **revision_metadata(self.snapshot.revision),
        }
        kinds = {"synqx"}
        freshness = None
        description = graph.nodes[step.name].record.name or f"Node {step.name} of the pipeline {pipeline.name}"
        if step.is_load:
            connection = self.snapshot.get_connection(str(graph.nodes[step.name].connection))
            kinds.add(dagster_kind(connection.db_type))
            config = graph.nodes[step.name].config
            assert isinstance(config, LoadConfig)
            freshness = config.freshness or pipeline.freshness
            metadata["dagster/table_name"] = qualified_name(connection, key)
            metadata["dagster/uri"] = connection_uri(connection, key.path[1:])
            metadata[f"{METADATA_PREFIX}mode"] = config.mode
            if config.partition_column is not None:
                metadata["dagster/partition_expr"] = config.partition_column
            schema = self.schema_of(graph, step)
            if schema is not None:
                metadata["dagster/column_schema"] = declared_columns(schema)
        else:
            kinds.add("arrow")
            lineage = self.stored_lineage(graph, step, {})
            if lineage is not None:
                metadata["dagster/column_lineage"] = lineage
        # Rows between steps are the pipeline's own; a dataset is the table that is loaded.
        marks = self._translator.marks(key, self._translator.agents.of_pipeline(pipeline.name))
        owners = (*pipeline.owners, *(graph.nodes[step.name].dataset.owners if graph.nodes[step.name].dataset else ()))  # type: ignore[union-attr]
        return dg.AssetSpec(
            key,
            deps=[up for up in self.upstream_keys(graph, step) if up not in self._loaded_later(graph, step)],
            description=description,
            partitions_def=None if pipeline.partitions is None else partitions_definition(pipeline.partitions),
            group_name=dagster_name(pipeline.name),
            owners=list(dict.fromkeys([*(dagster_owner(owner) for owner in owners), *marks.owners])),
            tags={
                **marks.tags,
                **{name: value for name, value in pipeline.tags.items() if is_dagster_tag(name, value)},
            },
            kinds=kinds,
            metadata={**marks.metadata, **metadata},
            freshness_policy=freshness_policy(freshness),
        )

    def _loaded_later(self, graph: Graph, step: Step) -> set[dg.AssetKey]:
        """Tables that the rows of a step reach: whoever reads one of them reads what it was, which is no dependency."""
        names = {load for name in step.nodes for load in loads_after(name, graph.nodes)}
        return {self.key(graph, graph.step_of(name)) for name in names}

    def upstream_keys(self, graph: Graph, step: Step) -> list[dg.AssetKey]:
        """The tables and the stored rows that a step reads, each once."""
        keys: list[dg.AssetKey] = []
        for node in extracts_of(step, graph.nodes):
            connection = self.snapshot.get_connection(str(node.connection))
            keys.extend(self._translator.asset_key(connection, table) for table in self._tables(node))
        keys.extend(self.stored_key(graph.pipeline, name) for name in dict.fromkeys((*step.inputs, *step.carried)))
        return list(dict.fromkeys(keys))

    def _tables(self, node: Node) -> Sequence[TableName]:
        if node.table is not None:
            return (node.table,)
        return tables_of(node.query or "", self._dialect(node))

    def _dialect(self, node: Node) -> str:
        connection = self.snapshot.get_connection(str(node.connection))
        try:
            return dialect_of(connection.db_type, connection.options)
        except DriverMissingError:
            return ""

    # --- columns -------------------------------------------------------------------------------------------------

    def stored_columns(self, columns: Sequence[Column]) -> dg.TableSchema:
        """The columns of stored rows."""
        return loaded_columns(columns)

    def stored_lineage(
        self, graph: Graph, step: Step, source_columns: Mapping[str, tuple[str, ...]]
    ) -> dg.TableColumnLineage | None:
        """Column lineage of the rows at the end of a step.

        Args:
            source_columns: Columns of extracts and of stored rows by node, as far as they are known.
        """
        return _as_lineage(self._trace(graph, step, step.name, source_columns))

    def loaded_lineage(
        self, graph: Graph, step: Step, lineage: Lineage, source_columns: Mapping[str, tuple[str, ...]]
    ) -> dg.TableColumnLineage | None:
        """Column lineage of a loaded table: through the load's own mapping, then through the step's nodes."""
        (given,) = graph.nodes[step.name].inputs
        traced = self._trace(graph, step, given, source_columns)
        return _as_lineage(
            {
                field: tuple(dict.fromkeys(dep for _, column in origins for dep in traced.get(column, ())))
                for field, origins in lineage.columns.items()
            }
        )

    def _trace(self, graph: Graph, step: Step, node_id: str, source_columns: Mapping[str, tuple[str, ...]]) -> _Deps:
        # The step's own nodes, not all: each step of a long pipeline would go through every other one.
        nodes = {name: graph.nodes[name] for name in (*step.inputs, *step.nodes)}
        before = {name: found for name in step.inputs if (found := self._known(graph)[name]) is not None}
        columns = known_columns(nodes, {**before, **source_columns})
        origins = trace_origins(node_id, nodes, columns, sources=step.inputs)
        if origins is None:
            return {}
        return {
            column: tuple(dict.fromkeys(dep for origin in found for dep in self._deps(graph, *origin)))
            for column, found in origins.items()
        }

    def _known(self, graph: Graph) -> Mapping[str, NodeColumns]:
        """The columns of all nodes as far as the pipeline itself tells them."""
        name = graph.pipeline.name
        if name not in self._columns:
            self._columns[name] = known_columns(graph.nodes)
        return self._columns[name]

    def _deps(self, graph: Graph, node_id: str, column: str) -> Sequence[tuple[dg.AssetKey, str]]:
        """What a column of an extract, or of stored rows, is in terms of assets."""
        node = graph.nodes[node_id]
        if node.connection is None or node.inputs:
            return ((self.stored_key(graph.pipeline, node_id), column),)
        connection = self.snapshot.get_connection(node.connection)
        if node.table is not None:
            return ((self._translator.asset_key(connection, node.table), column),)
        traced = trace_query(node.query or "", self._dialect(node)).get(column, ())
        return [(self._translator.asset_key(connection, table), name) for table, name in traced if table is not None]


def _as_lineage(deps: _Deps) -> dg.TableColumnLineage | None:
    if not any(deps.values()):
        return None
    return dg.TableColumnLineage(
        {
            field: [dg.TableColumnDep(asset_key=key, column_name=column) for key, column in found]
            for field, found in deps.items()
        }
    )
