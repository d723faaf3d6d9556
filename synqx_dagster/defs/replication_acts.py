"""What people do with a replication where there is no `synqx replications`: jobs that copy it anew, or drop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.defs.access import CatalogAccess
from synqx_dagster.defs.failures import translate_error
from synqx_dagster.defs.names import op_name, resource_key
from synqx_dagster.defs.resources import build_resource
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Replication, dagster_name
from synqx_dagster.replication.operations import drop, resync

_TABLES = {
    "tables": dg.Field(
        [str], default_value=[], description="Source tables that are copied anew; left out: all of the replication."
    )
}


def build_act_jobs(
    snapshot: CatalogSnapshot, replication: Replication, get_catalog: Callable[[], CatalogAccess]
) -> list[dg.JobDefinition]:
    """The jobs ``<name>_resync`` and ``<name>_drop``.

    Raises:
        NotFoundError: A connection is missing.
    """
    ends = (resource_key(replication.source_connection), resource_key(replication.target_connection))
    resources = {
        resource_key(name): build_resource(snapshot.get_connection(name), get_catalog)
        for name in (replication.source_connection, replication.target_connection)
    }

    @dg.op(
        name=op_name(("resync", replication.name)),
        description="Have tables copied anew by the next run",
        config_schema=_TABLES,
        required_resource_keys=set(resources),
        out=dg.Out(dg.Nothing),
    )
    def resync_op(context) -> None:  # type: ignore[no-untyped-def]  # Dagster would resolve the annotation
        with _translated(replication):
            source, target = _connectors(context, ends)
            marked = resync(replication, source, target, context.op_config["tables"])
        context.log.info(f"copied anew by the next run: {', '.join(map(str, marked)) or 'nothing'}")

    @dg.op(
        name=op_name(("drop", replication.name)),
        description="Drop slot and publication at the source, and forget how far the target is",
        required_resource_keys=set(resources),
        out=dg.Out(dg.Nothing),
    )
    def drop_op(context) -> None:  # type: ignore[no-untyped-def]
        with _translated(replication):
            source, target = _connectors(context, ends)
            dropped = drop(replication, source, target)
        for line in dropped.lines:
            context.log.info(line)

    return [
        _job(f"{dagster_name(replication.name)}_resync", resync_op, resources),
        _job(f"{dagster_name(replication.name)}_drop", drop_op, resources),
    ]


def _job(name: str, op: dg.OpDefinition, resources: dict[str, dg.ResourceDefinition]) -> dg.JobDefinition:
    @dg.graph(name=name, description=op.description)
    def act_graph() -> None:
        op()

    return act_graph.to_job(name=name, resource_defs=resources, executor_def=dg.in_process_executor)


def _connectors(context: dg.OpExecutionContext, ends: tuple[str, str]) -> tuple[Connector, Connector]:
    source, target = (getattr(context.resources, key).connector for key in ends)
    return source, target


@contextmanager
def _translated(replication: Replication) -> Iterator[None]:
    try:
        yield
    except SynqxError as exc:
        raise translate_error(exc, mapping_name=replication.name, retry_number=0, max_retries=0) from None
