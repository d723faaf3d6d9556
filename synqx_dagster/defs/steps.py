"""The steps of pipelines as assets: a load is the asset of its table, and stored rows are one of the pipeline's own."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from synqx_dagster.defs.access import CatalogAccess, needs_vault, require_unsealed
from synqx_dagster.defs.assets import (
    ProgressLog,
    build_op,
    describe_result,
    load_pool,
    progress_listener,
    result_metadata,
)
from synqx_dagster.defs.attempts import LOAD_ID_METADATA, find_load_id
from synqx_dagster.defs.checks import check_results, check_specs
from synqx_dagster.defs.failures import translate_error
from synqx_dagster.defs.names import (
    METADATA_PREFIX,
    NODES_METADATA,
    REVISION_TAG,
    resource_key,
    revision_metadata,
    revision_tags,
)
from synqx_dagster.defs.partitions import find_slice
from synqx_dagster.defs.pipeline_translator import PipelineTranslator
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.windows import read_window
from synqx_dagster.errors import NotFoundError, RetryableError, SynqxError
from synqx_dagster.pipelines.graph import Graph, Step
from synqx_dagster.pipelines.loading import load_mapping, step_name
from synqx_dagster.pipelines.report import NodeReport
from synqx_dagster.transfer.partition import unnamed_partitions

if TYPE_CHECKING:
    from synqx_dagster.pipelines.exchange import Exchange, Watermarks
    from synqx_dagster.pipelines.run import StepRequest, StoredInput
    from synqx_dagster.pipelines.stream import StepStream
    from synqx_dagster.transfer.result import PartitionSlice

logger = logging.getLogger(__name__)

STORED_METADATA = f"{METADATA_PREFIX}stored_by_run"
VERSION_METADATA = f"{METADATA_PREFIX}pipeline_version"

#: Rows of a run that never succeeded are kept for so long, so that it may go on from where it failed.
_KEPT_SECONDS = 7 * 86_400

_PARENT_RUN_TAG = "dagster/parent_run_id"
_MAX_ANCESTORS = 100


def build_step(
    translator: PipelineTranslator, graph: Graph, step: Step, get_catalog: Callable[[], CatalogAccess]
) -> dg.AssetsDefinition:
    """The asset of a step.

    Raises:
        ConfigurationError: A record that it refers to is missing.
        DriverMissingError: The kind of a connection is unknown here.
    """
    spec = translator.spec(graph, step)
    mapping = load_mapping(graph, graph.nodes[step.name]) if step.is_load else None
    checks = () if mapping is None else tuple(check_specs(mapping, translator.schema_of(graph, step), spec.key))
    runner = _StepRunner(translator, graph, step, spec.key, checks, get_catalog)
    does = "Load" if step.is_load else "Store the rows of"
    return build_op(
        spec,
        runner.run,
        description=f"{does} {step.name} of the pipeline {graph.pipeline.name}",
        after=[translator.op_of(graph, name) for name in step.after],
        checks=checks,
        connections=translator.connections_of(graph, step),
        pool=load_pool(mapping, spec.key) if mapping is not None else None,
        partitions=graph.pipeline.partitions,
    )


@dataclass(frozen=True)
class _StepRunner:
    """What the op of one step does."""

    translator: PipelineTranslator
    graph: Graph
    step: Step
    key: dg.AssetKey
    checks: tuple[dg.AssetCheckSpec, ...]
    get_catalog: Callable[[], CatalogAccess]

    def run(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        """Run the step.

        Raises:
            dagster.Failure: It failed for good.
            dagster.RetryRequested: It may succeed later, and its nodes allow another attempt.
        """
        retries = max(self.graph.nodes[name].record.retries for name in self.step.nodes)
        reports: list[NodeReport] = []
        try:
            return self._run(context, reports)
        except SynqxError as exc:
            translated = translate_error(
                exc, mapping_name=self._name, retry_number=context.retry_number, max_retries=retries
            )
            if isinstance(translated, dg.Failure) and reports:
                nodes = {NODES_METADATA: dg.MetadataValue.json([report.to_dict() for report in reports])}
                translated = dg.Failure(
                    translated.description, metadata={**translated.metadata, **nodes}, allow_retries=False
                )
            if isinstance(exc, RetryableError) and isinstance(translated, dg.RetryRequested):
                context.log.warning(f"{exc}; attempt {context.retry_number + 2} of {retries + 1} follows")
            # The cause is told in full by the description; its frames say nothing to who reads the log.
            raise translated from None

    @property
    def _name(self) -> str:
        """What reports call the step: as its load is called as a mapping."""
        return step_name(self.graph.pipeline.name, self.step.name)

    def _run(self, context: dg.AssetExecutionContext, reports: list[NodeReport]) -> dg.MaterializeResult[None]:
        catalog = self.get_catalog()
        revision = self.translator.snapshot.revision
        tags = revision_tags(revision)
        if tags and REVISION_TAG not in context.run.tags:
            context.instance.add_run_tags(context.run.run_id, tags)
        version = catalog.find_version("pipeline", self.graph.pipeline.name, revision)
        self._require_unsealed(catalog)
        with _importable(catalog.settings.code_directory):
            request = self._request(context, catalog, reports)
            result = self._load(context, request) if self.step.is_load else self._store(context, request)
        metadata = {**(result.metadata or {}), **({VERSION_METADATA: version} if version else {})}
        return result._replace(metadata=metadata)

    def _require_unsealed(self, catalog: CatalogAccess) -> None:
        snapshot = self.translator.snapshot
        names = self.translator.connections_of(self.graph, self.step)
        require_unsealed(catalog, secrets_needed=any(needs_vault(snapshot.get_connection(name)) for name in names))

    def _request(
        self, context: dg.AssetExecutionContext, catalog: CatalogAccess, reports: list[NodeReport]
    ) -> StepRequest:
        from synqx_dagster.pipelines.exchange import Exchange
        from synqx_dagster.pipelines.run import StepRequest

        def take(found: tuple[NodeReport, ...]) -> None:
            reports[:] = found
            for report in found:
                context.log.info(describe_node(report))

        load_id = find_load_id(context.instance, context.run, self.key)
        if load_id != context.run.run_id:
            context.log.info(f"this run is another attempt at the step that run {load_id} began")
        exchange = Exchange(catalog.settings.exchange)
        connectors = {}
        for name in self.translator.connections_of(self.graph, self.step):
            resource = getattr(context.resources, resource_key(name))
            if not isinstance(resource, ConnectionResource):
                raise TypeError(f"the resource {resource_key(name)} is not a connection")
            connectors[name] = resource.connector
        return StepRequest(
            graph=self.graph,
            step=self.step,
            connectors=connectors,
            schemas=self.translator.snapshot.schemas,
            exchange=exchange,
            inputs={
                name: self._find_input(context, exchange, name)
                for name in dict.fromkeys((*self.step.inputs, *self.step.carried))
            },
            run_id=context.run.run_id,
            load_id=load_id,
            memory_bytes=self.graph.pipeline.memory_bytes,
            spill=catalog.settings.home / "spill",
            window=replace(read_window(context.run.tags), partition=self._find_slice(context)),
            progress=ProgressLog(context, self._name, progress_listener.get()),
            on_reports=take,
        )

    def _find_slice(self, context: dg.AssetExecutionContext) -> PartitionSlice | None:
        pipeline = self.graph.pipeline
        found = find_slice(context, pipeline.partitions)
        if found is None and pipeline.partitions is not None:
            raise unnamed_partitions(f"pipeline {pipeline.name!r}", pipeline.name)
        return found

    def _path(self, run_id: str, name: str) -> tuple[str, ...]:
        return (self.graph.pipeline.name, run_id, name)

    def _find_input(self, context: dg.AssetExecutionContext, exchange: Exchange, name: str) -> StoredInput:
        """What a step before has stored: in this run, in one that this one goes on from, or at last in the latest."""
        from synqx_dagster.pipelines.run import StoredInput

        for run_id in _iter_ancestors(context.instance, context.run):
            path = self._path(run_id, name)
            if (dataset := exchange.find(path)) is not None:
                return StoredInput(path, dataset)
        if self.graph.pipeline.partitions is not None:
            # The latest rows may be those of other partitions.
            raise NotFoundError(
                f"this run has not stored the rows of {name!r}",
                hint="run the whole pipeline: stored rows are of the partitions of their run",
            )
        latest = _stored_by(context.instance, self.translator.stored_key(self.graph.pipeline, name))
        if latest is not None:
            path = self._path(latest, name)
            if (dataset := exchange.find(path)) is not None:
                context.log.info(f"the rows of {name} are those that run {latest} stored")
                return StoredInput(path, dataset)
            if latest == context.run.run_id:
                raise NotFoundError(
                    f"the rows that {name!r} has stored in this run are not to be seen in {exchange.location} here",
                    hint="steps on other machines need an exchange that all of them reach: set SYNQX_EXCHANGE",
                )
        raise NotFoundError(
            f"the rows that {name!r} stored are not there any more",
            hint="run the whole pipeline; stored rows are kept until a later run has stored its own",
        )

    # --- loads ---------------------------------------------------------------------------------------------------

    def _load(self, context: dg.AssetExecutionContext, request: StepRequest) -> dg.MaterializeResult[None]:
        from synqx_dagster.pipelines.run import run_load_step

        result = run_load_step(request)
        mapping = load_mapping(self.graph, self.graph.nodes[self.step.name])
        context.log.info(describe_result(self.step.name, result.load))
        lineage = self.translator.loaded_lineage(self.graph, self.step, result.load.lineage, result.source_columns)
        metadata = {
            **result_metadata(result.load, mapping, self.translator.snapshot.revision),
            **self._shared_metadata(result.nodes),
            LOAD_ID_METADATA: request.load_id,
        }
        if lineage is not None:
            metadata["dagster/column_lineage"] = lineage
        return dg.MaterializeResult(
            asset_key=self.key, metadata=metadata, check_results=check_results(self.checks, result.load.checks)
        )

    def _shared_metadata(self, nodes: tuple[NodeReport, ...]) -> dict[str, Any]:
        return {
            f"{METADATA_PREFIX}pipeline": self.graph.pipeline.name,
            NODES_METADATA: dg.MetadataValue.json([report.to_dict() for report in nodes]),
        }

    # --- stored rows ---------------------------------------------------------------------------------------------

    def _store(self, context: dg.AssetExecutionContext, request: StepRequest) -> dg.MaterializeResult[None]:
        from synqx_dagster.pipelines.run import open_stored_step

        with open_stored_step(request) as (stream, watermarks):
            dataset = self._write(request, stream, watermarks)
            reports = tuple(stream.reports.values())
            source_columns = stream.source_columns
        stored = [step.name for step in self.graph.steps if not step.is_load]
        if self.step.name == stored[-1]:
            # Once in a run: it asks for the latest rows of every other step.
            self._remove_old(context, request.exchange)
        lineage = self.translator.stored_lineage(self.graph, self.step, source_columns)
        metadata: dict[str, Any] = {
            **self._shared_metadata(reports),
            f"{METADATA_PREFIX}rows_in": sum(report.rows_in or 0 for report in reports if not self._reads(report)),
            f"{METADATA_PREFIX}rows_out": dataset.rows,
            f"{METADATA_PREFIX}bytes": dataset.bytes,
            **revision_metadata(self.translator.snapshot.revision),
            STORED_METADATA: request.run_id,
            "dagster/row_count": dataset.rows,
            "dagster/column_schema": self.translator.stored_columns(dataset.columns),
        }
        if lineage is not None:
            metadata["dagster/column_lineage"] = lineage
        return dg.MaterializeResult(asset_key=self.key, metadata=metadata)

    def _reads(self, report: NodeReport) -> bool:
        """Whether a node of this step reads another one of it."""
        return any(name in self.step.nodes for name in self.graph.nodes[report.node_id].inputs)

    def _write(self, request: StepRequest, stream: StepStream, watermarks: Watermarks | None) -> Any:
        path = self._path(request.run_id, self.step.name)
        return request.exchange.write(path, stream, watermarks, request.made_of)

    def _latest_of_others(self, instance: dg.DagsterInstance) -> list[str]:
        names = [step.name for step in self.graph.steps if not step.is_load and step.name != self.step.name]
        records = instance.get_asset_records([self.translator.stored_key(self.graph.pipeline, name) for name in names])
        found = (_run_of(record.asset_entry.last_materialization) for record in records)
        return [run_id for run_id in found if run_id is not None]

    def _remove_old(self, context: dg.AssetExecutionContext, exchange: Exchange) -> None:
        """Remove what earlier runs of the pipeline have stored, unless somebody may still ask for it.

        That is: a run that is under way, one that may be gone on with, and the latest rows of another node, which a run
        of a part of the pipeline reads.
        """
        keep = {*_iter_ancestors(context.instance, context.run), *self._latest_of_others(context.instance)}
        for run_id, changed in exchange.list((self.graph.pipeline.name,)):
            if run_id in keep:
                continue
            record = context.instance.get_run_record_by_id(run_id)
            run = None if record is None else record.dagster_run
            # An object store has no times of folders.
            ended = changed if record is None else record.end_time
            is_old = ended is not None and time.time() - ended > _KEPT_SECONDS
            if run is None or run.is_success or (run.is_finished and is_old):
                try:
                    exchange.remove((self.graph.pipeline.name, run_id))
                except RetryableError as exc:
                    logger.warning("rows of run %s are left where they are: %s", run_id, exc)


def _stored_by(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The run that has stored the latest rows of an asset."""
    return _run_of(instance.get_latest_materialization_event(key))


def _run_of(event: dg.EventLogEntry | None) -> str | None:
    latest = event.asset_materialization if event is not None else None
    found = latest.metadata.get(STORED_METADATA) if latest is not None else None
    return None if found is None else str(found.value)


def describe_node(report: NodeReport) -> str:
    """What a node did, in one line."""
    rows_in = "?" if report.rows_in is None else f"{report.rows_in:,}"
    rows_out = "?" if report.rows_out is None else f"{report.rows_out:,}"
    bad = f", {report.rows_quarantined:,} set aside" if report.rows_quarantined else ""
    failed = " FAILED" if report.error is not None else ""
    return (
        f"node {report.node_id} ({report.operator}){failed}: {rows_in} rows in, {rows_out} out{bad},"
        f" {report.seconds:,.2f} s"
    )


def _iter_ancestors(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[str]:
    """The run, then those that it is another attempt at."""
    seen: list[str] = []
    current: dg.DagsterRun | None = run
    while current is not None and current.run_id not in seen and len(seen) < _MAX_ANCESTORS:
        seen.append(current.run_id)
        yield current.run_id
        parent = current.tags.get(_PARENT_RUN_TAG)
        current = instance.get_run_by_id(parent) if parent else None


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Let the modules of a directory be imported; it stays so, because other steps need them as well."""
    text = str(directory)
    if text not in sys.path:
        # Last: a module of the project that is called like a library must not take its place.
        sys.path.append(text)
    yield
