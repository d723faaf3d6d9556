"""What records of the catalog are called in Dagster: the assets that they load, and the jobs that run them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.pipeline_translator import PipelineTranslator
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import dagster_name


def key_of_mapping(catalog: Catalog, name: str) -> tuple[str, ...]:
    """The key of the asset that a mapping of the latest revision loads.

    Raises:
        NotFoundError: There is no such mapping.
        DriverMissingError: The kind of its target is unknown here.
    """
    snapshot = catalog.snapshot_for(mappings=[name])
    return tuple(Translator(snapshot).target_key(snapshot.get_mapping(name)).path)


def job_of_pipeline(name: str) -> str:
    """The job of a pipeline."""
    return dagster_name(name)


class RecordTargets:
    """The assets of records of one snapshot. What cannot be built has none."""

    def __init__(self, snapshot: CatalogSnapshot) -> None:
        self._snapshot = snapshot
        self._translator = Translator(snapshot)
        self._pipelines = PipelineTranslator(self._translator)

    def loaded_by_mappings(self, names: Iterable[str]) -> list[dg.AssetKey]:
        """The tables that mappings load."""
        keys = []
        for name in names:
            with suppress(SynqxError):
                keys.append(self._translator.target_key(self._snapshot.get_mapping(name)))
        return keys

    def loaded_by_pipelines(self, names: Iterable[str]) -> list[dg.AssetKey]:
        """The tables that pipelines load, by nodes of their own and by mappings."""
        keys: list[dg.AssetKey] = []
        for name in names:
            with suppress(SynqxError):
                pipeline = self._snapshot.get_pipeline(name)
                keys += self.loaded_by_mappings(pipeline.mapping_names)
                if not pipeline.runs_mappings_only:
                    graph = self._pipelines.graph(pipeline)
                    keys += [self._pipelines.key(graph, step) for step in graph.steps if step.is_load]
        return keys

    def of_datasets(self, names: Iterable[str]) -> list[dg.AssetKey]:
        """The tables that datasets stand for; a query stands for none."""
        keys = []
        for name in names:
            with suppress(SynqxError):
                dataset = self._snapshot.get_asset(name)
                if dataset.table_name is not None:
                    connection = self._snapshot.get_connection(dataset.connection)
                    keys.append(self._translator.asset_key(connection, dataset.table_name))
        return keys
