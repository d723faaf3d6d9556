"""The lineage of a whole revision as plain values: which asset is made of which, and which column of which columns.

It is read off the records, without Dagster's definitions and without connecting; records that cannot be built are
left out, as a code server leaves them out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import dagster as dg

from synqx_dagster import model
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.lineage_cache import TraceLineage, trace_unconnected
from synqx_dagster.defs.pipeline_translator import PipelineTranslator
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import SynqxError
from synqx_dagster.mapping.lineage import trace_lineage
from synqx_dagster.model import Column, DataType
from synqx_dagster.pipelines.graph import Graph, Step
from synqx_dagster.pipelines.lineage import known_columns
from synqx_dagster.pipelines.loading import ROWS, load_mapping

logger = logging.getLogger(__name__)

#: What makes an asset: a mapping or a pipeline that loads it, a pipeline that stores its rows, or nothing here.
AssetMaker = Literal["mapping", "pipeline", "stored", "source"]

#: A column of an asset, by the asset's key.
ColumnOf = tuple[str, str]


@dataclass(frozen=True)
class LineageAsset:
    """An asset by its Dagster key, and what makes it; ``record`` is the mapping or the pipeline."""

    path: tuple[str, ...]
    maker: AssetMaker
    record: str | None = None

    @property
    def key(self) -> str:
        """The key as one text."""
        return dg.AssetKey(self.path).to_user_string()


@dataclass
class LineageGraph:
    """The assets of one revision.

    Attributes:
        assets: By key (``connection/schema/table``).
        upstream: What each asset is made of, without itself.
        downstream: What is made of each asset, without itself.
        columns: What each column of an asset is made of, as far as the records tell.
        names: Keys by the names of datasets, and of mappings, which come second where both have one.
    """

    revision: int
    assets: dict[str, LineageAsset] = field(default_factory=dict)
    upstream: dict[str, tuple[str, ...]] = field(default_factory=dict)
    downstream: dict[str, tuple[str, ...]] = field(default_factory=dict)
    columns: dict[str, Mapping[str, tuple[ColumnOf, ...]]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def build_graph_of_lineage(snapshot: CatalogSnapshot, trace: TraceLineage = trace_unconnected) -> LineageGraph:
    """The lineage of a snapshot.

    Args:
        trace: Traces the lineage of a mapping; `LineageCache.trace` remembers what it traced before.
    """
    builder = _Builder(snapshot, trace)
    for mapping in snapshot.mappings.values():
        with _kept_apart(mapping):
            builder.add_mapping(mapping)
    for pipeline in snapshot.pipelines.values():
        if not pipeline.runs_mappings_only:
            with _kept_apart(pipeline):
                builder.add_pipeline(pipeline)
    for dataset in snapshot.assets.values():
        with _kept_apart(dataset):
            builder.add_dataset(dataset)
    return builder.finish()


def columns_of(lineage: dg.TableColumnLineage | None) -> dict[str, tuple[ColumnOf, ...]]:
    """Column lineage as Dagster has it, by keys as text; empty where there is none."""
    if lineage is None:
        return {}
    return {
        name: tuple(dict.fromkeys((dep.asset_key.to_user_string(), dep.column_name) for dep in deps))
        for name, deps in lineage.deps_by_column.items()
    }


class _Builder:
    def __init__(self, snapshot: CatalogSnapshot, trace: TraceLineage) -> None:
        self._snapshot = snapshot
        self._translator = Translator(snapshot, trace)
        self._pipelines = PipelineTranslator(self._translator)
        self._graph = LineageGraph(snapshot.revision)

    def add_mapping(self, mapping: model.Mapping) -> None:
        key = self._translator.target_key(mapping)
        source = self._snapshot.get_connection(mapping.source_connection)
        lineage = self._translator.lineage(mapping)
        self._add(
            LineageAsset(tuple(key.path), "mapping", mapping.name),
            self._translator.upstream_keys(source, lineage),
            self._translator.column_lineage(source, lineage),
        )
        self._graph.names.setdefault(mapping.name, key.to_user_string())

    def add_pipeline(self, pipeline: model.Pipeline) -> None:
        graph = self._pipelines.graph(pipeline)
        for step in graph.steps:
            key = self._pipelines.key(graph, step)
            columns = (
                self._loaded_columns(graph, step) if step.is_load else self._pipelines.stored_lineage(graph, step, {})
            )
            maker: AssetMaker = "pipeline" if step.is_load else "stored"
            self._add(
                LineageAsset(tuple(key.path), maker, pipeline.name),
                self._pipelines.upstream_keys(graph, step),
                columns,
            )

    def _loaded_columns(self, graph: Graph, step: Step) -> dg.TableColumnLineage | None:
        """Column lineage of a load as far as the pipeline itself tells the columns that reach it."""
        node = graph.nodes[step.name]
        (given,) = node.inputs
        known = known_columns(graph.nodes)[given]
        if known is None:
            return None
        mapping = load_mapping(graph, node)
        columns = [Column(name, DataType("string")) for name in known]
        lineage = trace_lineage(
            mapping,
            self._pipelines.schema_of(graph, step),
            columns,
            dialect="duckdb",
            tables={model.TableName(ROWS): list(known)},
        )
        return self._pipelines.loaded_lineage(graph, step, lineage, {})

    def add_dataset(self, dataset: model.Dataset) -> None:
        if dataset.table_name is None:
            return
        key = self._translator.asset_key(self._snapshot.get_connection(dataset.connection), dataset.table_name)
        # Before mappings of the same name: the dataset is the asset.
        self._graph.names[dataset.name] = key.to_user_string()
        self._add_source(key)

    def _add_source(self, key: dg.AssetKey) -> None:
        self._graph.assets.setdefault(key.to_user_string(), LineageAsset(tuple(key.path), "source"))

    def _add(self, asset: LineageAsset, upstream: list[dg.AssetKey], columns: dg.TableColumnLineage | None) -> None:
        key = asset.key
        self._graph.assets[key] = asset
        for up in upstream:
            self._add_source(up)
        # The checks refuse two records that load one table; of what is there all the same, all counts.
        others = (*self._graph.upstream.get(key, ()), *(up.to_user_string() for up in upstream))
        self._graph.upstream[key] = tuple(dict.fromkeys(other for other in others if other != key))
        self._graph.columns[key] = {**self._graph.columns.get(key, {}), **columns_of(columns)}

    def finish(self) -> LineageGraph:
        downstream: dict[str, list[str]] = {}
        for key, ups in self._graph.upstream.items():
            for up in ups:
                downstream.setdefault(up, []).append(key)
        self._graph.downstream = {key: tuple(dict.fromkeys(downs)) for key, downs in downstream.items()}
        return self._graph


@contextmanager
def _kept_apart(record: model.Record) -> Iterator[None]:
    """Keep a record that cannot be built from taking the others down."""
    try:
        yield
    except (SynqxError, dg.DagsterError) as exc:
        logger.warning("the lineage of %s %s is left out: %s", record.kind, record.name, exc)
