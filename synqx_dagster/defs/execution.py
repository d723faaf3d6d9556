"""Running mappings, pipelines and schedules through Dagster in this process, for the command line.

It is one Dagster run on the persistent instance, of one revision, and shows in the web UI like any other.
"""

from __future__ import annotations

import difflib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import needs_vault, require_unsealed
from synqx_dagster.defs.assets import progress_listener
from synqx_dagster.defs.instance import end_dead_runs, open_instance, own_process_tag, sync_pool_limits
from synqx_dagster.defs.interruption import settle_interruption
from synqx_dagster.defs.jobs import JobBuilder, JobPlan, connections_of, partitions_of, plan_pipeline, plan_schedule
from synqx_dagster.defs.names import REVISION_TAG
from synqx_dagster.defs.partitions import slice_tags
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.runs import RunReport, read_report
from synqx_dagster.defs.translator import Translator
from synqx_dagster.defs.windows import window_tags
from synqx_dagster.errors import ConfigurationError, NotFoundError, SealedError, SynqxError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.facts import describe_source
from synqx_dagster.transfer.partition import unnamed_partitions
from synqx_dagster.transfer.result import Progress, ReadWindow
from synqx_dagster.transfer.window import check_asked, check_part

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.settings import Settings

logger = logging.getLogger(__name__)

#: The job of a run that mixes what has no job of its own.
MIXED_JOB = "synqx_run"

_KINDS = ("mapping", "pipeline", "schedule")


def run_targets(
    catalog: Catalog,
    names: Sequence[str],
    *,
    progress: Callable[[str, Progress], None] | None = None,
    on_planned: Callable[[int], None] | None = None,
    window: ReadWindow | None = None,
) -> RunReport:
    """Run mappings, pipelines and schedules of the latest revision as one Dagster run, here and now.

    Loads that failed are in the report; nothing is raised for them.

    Args:
        names: Records by name; ``kind:name`` where two kinds share one.
        progress: Called about twice a second with the name of a mapping and how far its load is.
        on_planned: Called once, before the first load, with the number of loads.
        window: What mappings with a cursor read; left out, they go on from their watermarks. And the partitions that
            are replaced, where there are any.

    Raises:
        NotFoundError: There is no such record; the hint gives the nearest name.
        ConfigurationError: A name is ambiguous, a mapping cannot read the window that is asked for, or Dagster's home
            cannot be used; no run was started.
        SealedError: A secret is needed, and the vault is sealed; no run was started.
    """
    snapshot, plan = _plan(catalog, names)
    mappings = [snapshot.get_mapping(name) for name in plan.mappings]
    window = window or ReadWindow()
    if partitions_of(plan, snapshot) is not None and window.partition is None:
        raise unnamed_partitions(repr(names[0]), names[0])
    for mapping in mappings:
        check_part(mapping, window)
    connections = connections_of(snapshot, plan.mappings, plan.pipelines)
    require_unsealed(catalog, secrets_needed=any(needs_vault(snapshot.get_connection(name)) for name in connections))
    if window.start is not None or window.end is not None:
        for mapping in mappings:
            _check_bounds(catalog, snapshot, mapping, window)
    translator = Translator(snapshot)
    keys = [translator.target_key(mapping) for mapping in mappings]
    builder = JobBuilder(translator, lambda: catalog, dg.in_process_executor)
    pipelines = [snapshot.get_pipeline(name) for name in plan.pipelines]
    loads = [mapping for pipeline in pipelines for mapping in builder.load_mappings(pipeline)]
    for pipeline in pipelines:
        for mapping in builder.incremental_mappings(pipeline) or builder.load_mappings(pipeline):
            check_part(mapping, window)
    is_job = plan.name != MIXED_JOB or bool(plan.edges) or bool(plan.pipelines)
    job = builder.build(plan) if is_job else builder.build_ad_hoc(plan.mappings)
    steps = sum(len(builder.step_keys(pipeline)) for pipeline in pipelines)
    with open_instance(catalog.settings, executes=True) as instance:
        end_dead_runs(instance)
        sync_pool_limits(instance, snapshot, is_whole=False)
        if on_planned is not None:
            on_planned(len(mappings) + steps)
        run_id = str(uuid.uuid4())
        was_interrupted = False
        try:
            with _listening(progress):
                job.execute_in_process(
                    instance=instance,
                    raise_on_error=False,
                    asset_selection=None if is_job else keys,
                    run_id=run_id,
                    tags={
                        REVISION_TAG: str(snapshot.revision),
                        **window_tags(window),
                        **({} if window.partition is None else slice_tags(window.partition)),
                        **own_process_tag(),
                    },
                    run_config=logger_config(catalog.settings),
                )
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            # While Dagster prepares a run, and after the run's end, nothing of Dagster's turns a signal into an event.
            if instance.get_run_by_id(run_id) is None:
                raise KeyboardInterrupt from None
            was_interrupted = True
        report = read_report(instance, run_id)
        if report.was_interrupted or (was_interrupted and not report.succeeded):
            report = settle_interruption(instance, report, translator, [*mappings, *loads], lambda: catalog)
        return report


def logger_config(settings: Settings) -> dict[str, Any]:
    """Whoever watches a command sees its progress, not Dagster's events; a machine is to have these."""
    if settings.log_format == "json":
        return {}
    return {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _check_bounds(catalog: Catalog, snapshot: CatalogSnapshot, mapping: Mapping, window: ReadWindow) -> None:
    """Compare the bounds with the cursor column's type, which the source alone knows.

    A source that cannot be asked now is the run's matter: it says why, and tries again where that may help. So is a
    table that an earlier load of the same run is going to make.

    Raises:
        ConfigurationError: They are no values of the column, or no row can lie between them.
    """
    if mapping.cursor is None:
        return
    resource = ConnectionResource(snapshot.get_connection(mapping.source_connection), lambda: catalog)
    try:
        source = resource.connector
        with source.read() as read:
            check_asked(mapping, mapping.cursor, window, describe_source(mapping, source, read))
    except (ConfigurationError, SealedError):
        raise
    except SynqxError as error:
        logger.info("%s: the window is not checked before the run: %s", mapping.name, type(error).__name__)
    finally:
        resource.close()


def _plan(catalog: Catalog, names: Sequence[str]) -> tuple[CatalogSnapshot, JobPlan]:
    """What the names run, and the records that this needs: few of a large catalog."""
    if not names:
        raise ConfigurationError("nothing to run", hint="name mappings, pipelines or schedules")
    # A name may itself hold a colon.
    snapshot = catalog.snapshot_to_run({*names, *(text.partition(":")[2] for text in names)})
    try:
        return snapshot, plan_targets(snapshot, names)
    except NotFoundError:
        # The nearest name is among all of them.
        snapshot = catalog.snapshot()
        return snapshot, plan_targets(snapshot, names)


def plan_targets(snapshot: CatalogSnapshot, names: Sequence[str]) -> JobPlan:
    """What these names run together. One pipeline or schedule keeps its job's name.

    Raises:
        NotFoundError, ConfigurationError: As `run_targets`.
    """
    plans = [_plan_target(snapshot, name) for name in dict.fromkeys(names)]
    if len(plans) == 1:
        return plans[0]
    return reduce(JobPlan.joined, plans, JobPlan(MIXED_JOB, ()))


def _plan_target(snapshot: CatalogSnapshot, text: str) -> JobPlan:
    kind, separator, name = text.partition(":")
    if separator and kind in _KINDS:
        kinds: Iterable[str] = (kind,)
    else:
        name, kinds = text, _KINDS
    found = {
        candidate: record
        for candidate, records in (
            ("mapping", snapshot.mappings),
            ("pipeline", snapshot.pipelines),
            ("schedule", snapshot.schedules),
        )
        if candidate in kinds and (record := records.get(name)) is not None
    }
    if len(found) > 1:
        raise ConfigurationError(
            f"{name!r} is the name of a {' and of a '.join(found)}", hint=f"write {next(iter(found))}:{name}"
        )
    if "mapping" in found:
        return JobPlan(MIXED_JOB, (name,))
    if "pipeline" in found:
        return plan_pipeline(snapshot.get_pipeline(name))
    if "schedule" in found:
        return plan_schedule(snapshot.get_schedule(name), snapshot)
    raise _not_found(snapshot, name)


def _not_found(snapshot: CatalogSnapshot, name: str) -> NotFoundError:
    known = [*snapshot.mappings, *snapshot.pipelines, *snapshot.schedules]
    near = difflib.get_close_matches(name, known, n=1)
    return NotFoundError(
        f"there is no mapping, pipeline or schedule {name!r} in revision {snapshot.revision}",
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


@contextmanager
def _listening(progress: Callable[[str, Progress], None] | None) -> Iterator[None]:
    token = progress_listener.set(progress)
    try:
        yield
    finally:
        progress_listener.reset(token)
