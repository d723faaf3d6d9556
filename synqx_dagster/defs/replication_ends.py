"""Connectors for who looks at a replication, or does something with it, outside of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.catalog.table_keys import TableKey, TableKeys
from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.defs.access import CatalogAccess, needs_vault, require_unsealed
from synqx_dagster.defs.pipeline_translator import PipelineTranslator
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Replication, TableName
from synqx_dagster.pipelines.graph import loads_of


@contextmanager
def open_ends(
    catalog: CatalogAccess, snapshot: CatalogSnapshot, replication: Replication
) -> Iterator[tuple[Replication, Connector, Connector]]:
    """The replication with the connectors of its source and its target, which are closed at the end.

    Raises:
        NotFoundError: A connection is missing.
        SealedError: A secret is needed, and the vault is sealed.
    """
    ends = [snapshot.get_connection(name) for name in (replication.source_connection, replication.target_connection)]
    require_unsealed(catalog, secrets_needed=any(map(needs_vault, ends)))
    resources = [ConnectionResource(connection, lambda: catalog) for connection in ends]
    try:
        yield replication, resources[0].connector, resources[1].connector
    finally:
        for resource in resources:
            resource.close()


def find_loads(snapshot: CatalogSnapshot, connection: str) -> Callable[[TableName], str | None]:
    """What loads a table of a connection beside replications, in words; the snapshot must be whole."""
    keys = TableKeys(snapshot)
    loads: dict[TableKey, str] = {}
    for name, mapping in snapshot.mappings.items():
        if mapping.target_connection == connection:
            loads[keys.key_of(connection, mapping.target)] = f"the mapping {name!r}"
    pipelines = PipelineTranslator(Translator(snapshot))
    for pipeline in snapshot.pipelines.values():
        # What cannot be built loads nothing.
        with suppress(SynqxError):
            nodes = () if pipeline.runs_mappings_only else loads_of(pipelines.graph(pipeline))
            for node in nodes:
                if node.table is not None and node.connection == connection:
                    loads.setdefault(keys.key_of(connection, node.table), f"the pipeline {pipeline.name!r}")
    return lambda table: loads.get(keys.key_of(connection, table))
