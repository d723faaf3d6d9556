"""Mappings as assets: the op runs the load, reports its progress, and hands its figures to Dagster."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from synqx_dagster import model
from synqx_dagster.defs.access import CatalogAccess, needs_vault, require_unsealed
from synqx_dagster.defs.attempts import LOAD_ID_METADATA, find_load_id
from synqx_dagster.defs.checks import check_results, check_specs
from synqx_dagster.defs.content import compare_after_load
from synqx_dagster.defs.failures import translate_error
from synqx_dagster.defs.names import (
    METADATA_PREFIX,
    REVISION_TAG,
    op_name,
    resource_key,
    revision_metadata,
    revision_tags,
    table_pool,
)
from synqx_dagster.defs.ordering import RESULT, after_step
from synqx_dagster.defs.partitions import backfill_policy, find_slice
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.translator import Translator, loaded_columns
from synqx_dagster.defs.windows import read_window
from synqx_dagster.errors import RetryableError, SynqxError
from synqx_dagster.model.partitions import Partitions
from synqx_dagster.transfer.result import LoadRequest, LoadResult, Progress

#: Hears of progress in the process that runs a job by itself (`synqx run`), by the mapping's name.
progress_listener: ContextVar[Callable[[str, Progress], None] | None] = ContextVar("progress_listener", default=None)

#: The event log keeps every line for ever, so a long load writes one soon, and then less and less often.
FIRST_LOG_SECONDS = 10.0
LONGEST_LOG_SECONDS = 300.0

# Each one made resolves its type anew, so a thousand mappings share these.
_UPSTREAM = dg.In(dg.Nothing)
_RESULT = dg.Out(dg.Nothing)
_CHECK_OUT = dg.Out(dg.Nothing, is_required=False)

# Dagster reads an op's signature a dozen times; given, it is not worked out a dozen times for each mapping.
_SIGNATURE = inspect.Signature([inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)])


def build_asset(
    translator: Translator,
    mapping: model.Mapping,
    get_catalog: Callable[[], CatalogAccess],
    *,
    after: Sequence[dg.AssetKey] = (),
) -> dg.AssetsDefinition:
    """The asset of a mapping.

    Args:
        after: Assets that must be loaded first though no data may come from them (the edges of a pipeline). They
            become inputs of the op alone, which `order_steps` connects in a job: they are no lineage.

    Raises:
        ConfigurationError: A record that it refers to is missing.
        DriverMissingError: The kind of a connection is unknown here.
    """
    spec = translator.spec(mapping)
    checks = check_specs(mapping, translator.schema_of(mapping), spec.key)
    load = _Load(translator, mapping, spec.key, tuple(checks), get_catalog)
    known = {spec.key, *(dep.asset_key for dep in spec.deps)}
    return build_op(
        spec,
        load.run,
        description=f"Load {mapping.target_table} by the mapping {mapping.name}",
        after=[op_name(key.path) for key in dict.fromkeys(after) if key not in known],
        checks=checks,
        connections=(mapping.source_connection, mapping.target_connection),
        pool=load_pool(mapping, spec.key),
        partitions=mapping.partitions,
    )


def load_pool(mapping: model.Mapping, key: dg.AssetKey) -> str:
    """The pool that a load waits in: its target connection's, or one of the table for a load of partitions.

    Two loads of one table would fence each other out, and partitions are there to be loaded one after the other.
    """
    return resource_key(mapping.target_connection) if mapping.partitions is None else table_pool(key)


def build_op(
    spec: dg.AssetSpec,
    run: Callable[[dg.AssetExecutionContext], dg.MaterializeResult[None]],
    *,
    description: str,
    after: Sequence[str],
    checks: Sequence[dg.AssetCheckSpec],
    connections: Iterable[str],
    pool: str | None,
    partitions: Partitions | None = None,
) -> dg.AssetsDefinition:
    """An asset and the op that makes it.

    Args:
        after: Ops that must have ended first, beside those that make what the asset depends on.
        connections: Those that the op uses.
    """

    def execute(context):  # type: ignore[no-untyped-def]  # Dagster would resolve the annotations of each op
        # What is returned must hold a result of every check, what is yielded need not.
        yield run(context)

    execute.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
    upstream = {f"upstream_{number}": dep.asset_key for number, dep in enumerate(spec.deps)}
    # `multi_asset` makes the same object in twice the time, which a catalog of a thousand mappings feels.
    op = dg.op(
        name=op_name(spec.key.path),
        description=description,
        ins={
            **dict.fromkeys(upstream, _UPSTREAM),
            **{f"after_{number}": after_step(name) for number, name in enumerate(after)},
        },
        out={RESULT: _RESULT, **{f"check_{check.name}": _CHECK_OUT for check in checks}},
        required_resource_keys={resource_key(name) for name in connections},
        pool=pool,
    )(execute)
    return dg.AssetsDefinition(
        node_def=op,
        keys_by_input_name=upstream,
        keys_by_output_name={RESULT: spec.key},
        specs=[spec],
        check_specs_by_output_name={f"check_{check.name}": check for check in checks},
        backfill_policy=None if partitions is None else backfill_policy(partitions),
    )


@dataclass(frozen=True)
class _Load:
    """What the op of one mapping does."""

    translator: Translator
    mapping: model.Mapping
    key: dg.AssetKey
    checks: tuple[dg.AssetCheckSpec, ...]
    get_catalog: Callable[[], CatalogAccess]

    def run(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        """Run the load.

        Raises:
            dagster.Failure: It failed for good.
            dagster.RetryRequested: It may succeed later, and the mapping allows another attempt.
        """
        try:
            return self._load(context)
        except SynqxError as exc:
            retry_number = context.retry_number
            translated = translate_error(
                exc,
                mapping_name=self.mapping.name,
                retry_number=retry_number,
                max_retries=self.mapping.max_retries,
            )
            if isinstance(exc, RetryableError) and isinstance(translated, dg.RetryRequested):
                context.log.warning(f"{exc}; attempt {retry_number + 2} of {self.mapping.max_retries + 1} follows")
            # The cause is told in full by the description; its frames say nothing to who reads the log.
            raise translated from None

    def _load(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from synqx_dagster.transfer.load import run_load

        self._tag_run(context)
        self._require_unsealed()
        load_id = find_load_id(context.instance, context.run, self.key)
        if load_id != context.run.run_id:
            context.log.info(f"this run is another attempt at the load that run {load_id} began")
        request = LoadRequest(
            mapping=self.mapping,
            schema=self.translator.schema_of(self.mapping),
            source=self._connection(context, self.mapping.source_connection).connector,
            target=self._connection(context, self.mapping.target_connection).connector,
            run_id=context.run.run_id,
            load_id=load_id,
            progress=ProgressLog(context, self.mapping.name, progress_listener.get()),
            window=replace(read_window(context.run.tags), partition=find_slice(context, self.mapping.partitions)),
        )
        result = run_load(request)
        context.log.info(describe_result(self.mapping.name, result))
        outcomes = result.checks
        if self.mapping.verify == "after_load":
            outcomes = (*outcomes, compare_after_load(request))
        part = request.window.partition
        of_one = {"dagster/partition_row_count": result.rows_out} if part is not None and part.count == 1 else {}
        return dg.MaterializeResult(
            asset_key=self.key,
            metadata={**self._metadata(result), **of_one, LOAD_ID_METADATA: load_id},
            check_results=check_results(self.checks, outcomes),
        )

    def _tag_run(self, context: dg.AssetExecutionContext) -> None:
        """Say on the run which revision it is of; runs of jobs say so from the start, ad-hoc runs from here on."""
        tags = revision_tags(self.translator.snapshot.revision)
        if tags and REVISION_TAG not in context.run.tags:
            context.instance.add_run_tags(context.run.run_id, tags)

    def _require_unsealed(self) -> None:
        snapshot = self.translator.snapshot
        names = (self.mapping.source_connection, self.mapping.target_connection)
        needed = any(needs_vault(snapshot.get_connection(name)) for name in names)
        require_unsealed(self.get_catalog(), secrets_needed=needed)

    @staticmethod
    def _connection(context: dg.AssetExecutionContext, name: str) -> ConnectionResource:
        resource = getattr(context.resources, resource_key(name))
        if not isinstance(resource, ConnectionResource):
            raise TypeError(f"the resource {resource_key(name)} is not a connection")
        return resource

    def _metadata(self, result: LoadResult) -> dict[str, Any]:
        metadata = result_metadata(result, self.mapping, self.translator.snapshot.revision)
        source = self.translator.snapshot.get_connection(self.mapping.source_connection)
        lineage = self.translator.column_lineage(source, result.lineage)
        if lineage is not None:
            metadata["dagster/column_lineage"] = lineage
        return metadata


def result_metadata(result: LoadResult, mapping: model.Mapping, revision: int) -> dict[str, Any]:
    """The figures of a load as a materialization has them; its lineage is the caller's to add."""
    figures: dict[str, Any] = {
        "lane": result.lane,
        "lane_reason": result.lane_reason,
        "rows_in": result.rows_in,
        "rows_out": result.rows_out,
        "rows_inserted": result.rows_inserted,
        "rows_updated": result.rows_updated,
        "rows_deleted": result.rows_deleted,
        "rows_quarantined": result.rows_quarantined,
        "rows_quarantined_before": result.rows_quarantined_before,
        "mode": mapping.mode,
        "parallelism": result.parallelism,
        "bytes": result.bytes,
        "seconds": round(result.seconds, 3),
        "phase_seconds": {name: round(seconds, 3) for name, seconds in result.phase_seconds.items()},
        "rows_per_second": round(result.rows_in / result.seconds) if result.seconds else 0,
        "peak_memory_bytes": result.peak_memory_bytes,
        "epoch": result.epoch,
        "already_committed": result.already_committed,
        "mapping": mapping.name,
    }
    for name in ("checksum", "watermark_before", "watermark_after", "window"):
        if (value := getattr(result, name)) is not None:
            figures[name] = value
    if result.schema_changes:
        figures["schema_changes"] = list(result.schema_changes)
    metadata: dict[str, Any] = {f"{METADATA_PREFIX}{name}": value for name, value in figures.items()}
    metadata.update(revision_metadata(revision))
    metadata["dagster/row_count"] = result.target_row_count
    metadata["dagster/column_schema"] = loaded_columns(result.columns)
    return metadata


class ProgressLog:
    """Passes progress to the run's log at a falling rate, and to this process's listener.

    A load of a day writes some three hundred lines.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        mapping_name: str,
        listener: Callable[[str, Progress], None] | None,
    ) -> None:
        self._log = context.log
        self._name = mapping_name
        self._listener = listener
        self._interval = FIRST_LOG_SECONDS
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if self._listener is not None:
            self._listener(self._name, progress)
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            self._interval = min(2 * self._interval, LONGEST_LOG_SECONDS)
            self._log.info(f"{self._name}: {describe_progress(progress)}")


def describe_progress(progress: Progress) -> str:
    """How far a load is, in one line; what is not known is left out."""
    parts = []
    if progress.rows:
        total = f" of about {progress.total_rows:,}" if progress.total_rows else ""
        parts.append(f"{progress.rows:,}{total} rows")
    total_bytes = f" of about {progress.total_bytes / 1e6:,.1f}" if progress.total_bytes and not progress.rows else ""
    parts.append(f"{progress.bytes / 1e6:,.1f}{total_bytes} MB in {progress.seconds:,.0f} s")
    if progress.rows and progress.seconds:
        parts.append(f"{progress.rows / progress.seconds:,.0f} rows/s")
    if (remaining := progress.remaining_seconds) is not None and progress.phase == "copy":
        parts.append(f"about {remaining:,.0f} s left")
    return f"{progress.phase}: {', '.join(parts)}"


def describe_result(mapping_name: str, result: LoadResult) -> str:
    """A load in one line."""
    if result.already_committed:
        return f"{mapping_name}: an earlier attempt at this load had committed; nothing was loaded again"
    quarantined = f", {result.rows_quarantined:,} in quarantine" if result.rows_quarantined else ""
    rows = f"{result.rows_out:,} row{'' if result.rows_out == 1 else 's'}"
    return (
        f"{mapping_name}: {rows}{quarantined} by the {result.lane} lane"
        f" in {result.seconds:,.2f} s ({result.lane_reason})"
    )
