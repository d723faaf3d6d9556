"""One revision of the catalog as a Dagster repository that builds only what it is asked for.

A process that runs a job asks for that job, and pays for that job's records alone; a code server asks for
everything. A record that cannot be built is logged and left out; the others are there.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from synqx_dagster import model
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.alert_sensor import build_alert_sensor
from synqx_dagster.defs.executors import build_executor, refuse_unfit
from synqx_dagster.defs.freshness import find_watched
from synqx_dagster.defs.freshness_sensor import build_freshness_sensor
from synqx_dagster.defs.jobs import ASSET_JOB, JobBuilder, JobPlan, plan_pipeline, plan_schedule
from synqx_dagster.defs.lineage_cache import LineageCache, TraceLineage, trace_unconnected
from synqx_dagster.defs.monitor_assets import build_wal_checks, wal_specs, watched_connections
from synqx_dagster.defs.monitoring import build_monitor_sensors
from synqx_dagster.defs.ordering import order_steps
from synqx_dagster.defs.purging import build_purge_sensor
from synqx_dagster.defs.record_sensors import build_sensor, plan_sensor
from synqx_dagster.defs.replication_assets import table_specs
from synqx_dagster.defs.replication_guard import build_guard_sensor
from synqx_dagster.defs.replication_jobs import build_replication_job, replications_by_job
from synqx_dagster.defs.replication_sensors import build_replication_sensor
from synqx_dagster.defs.schedules import build_schedule
from synqx_dagster.defs.sensors import build_catalog_sensor
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import NotFoundError, SynqxError
from synqx_dagster.model import dagster_name
from synqx_dagster.model.connection import MONITORING
from synqx_dagster.model.pipeline import PIPELINES, find_cycle

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.settings import Settings

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

#: What a record that does not fit may raise while it is built; anything else is a bug and should be seen.
_BUILD_ERRORS = (SynqxError, dg.DagsterError)


@dataclass
class _Built:
    """Everything a code server shows."""

    jobs: dict[str, dg.JobDefinition] = field(default_factory=dict)
    schedules: list[dg.ScheduleDefinition] = field(default_factory=list)
    sensors: list[dg.SensorDefinition] = field(default_factory=list)
    assets: dict[dg.AssetKey, dg.AssetsDefinition] = field(default_factory=dict)
    resources: dict[str, dg.ResourceDefinition] = field(default_factory=dict)
    graph: AssetGraph | None = None


class CatalogRepositoryData(dg.RepositoryData):
    """The definitions of one revision; thread-safe.

    Args:
        revision: The revision; None when there is no catalog, and so nothing to define.
    """

    def __init__(self, settings: Settings, revision: int | None, get_catalog: Callable[[], Catalog]) -> None:
        self.revision = revision
        self._settings = settings
        self._get_catalog = get_catalog
        self._lock = threading.RLock()
        self._built: _Built | None = None
        self._jobs: dict[str, dg.JobDefinition] = {}
        self._problems: dict[str, str] = {}

    # --- what Dagster asks for --------------------------------------------------------------------------------

    def get_job_names(self) -> Sequence[str]:
        """Names of all jobs; builds none of them."""
        if self._built is not None:
            return list(self._built.jobs)
        has_assets = (
            self._snapshot.mappings
            or any(not item.runs_mappings_only for item in self._snapshot.pipelines.values())
            or watched_connections(self._snapshot)
        )
        return [*self._plans, *self._replications, *([ASSET_JOB] if has_assets else [])]

    def has_job(self, job_name: str) -> bool:
        """Whether there is a job of this name; builds none."""
        return job_name in self.get_job_names()

    def get_job(self, job_name: str) -> dg.JobDefinition:
        """One job; only this one is built, unless it is the job over all assets."""
        with self._lock:
            if self._built is not None or job_name == ASSET_JOB:
                return self._get_from(self._everything.jobs, job_name)
            if job_name not in self._jobs:
                snapshot = self._snapshot_for_job(job_name)
                replication = replications_by_job(snapshot).get(job_name)
                if replication is not None:
                    self._jobs[job_name] = self._replication_job(Translator(snapshot), replication)
                    return self._jobs[job_name]
                plan = self._get_from(self._plans_of(snapshot), job_name)
                self._jobs[job_name] = self._builder(snapshot).build(plan)
            return self._jobs[job_name]

    def get_ad_hoc_job(self, keys: Iterable[dg.AssetKey], checks: Iterable[dg.AssetCheckKey] = ()) -> dg.JobDefinition:
        """A job that can materialize these assets; over these alone while not everything is built."""
        with self._lock:
            if self._built is not None:
                return self.get_job(ASSET_JOB)
            wanted = {*keys, *(check.asset_key for check in checks)}
            if any(key.path[0] == MONITORING for key in wanted):
                return self.get_job(ASSET_JOB)
            builder = self._builder(self._snapshot_for_assets(wanted))
            mappings = self._mappings_by_key(builder)
            pipelines = self._pipelines_by_key(builder)
            return builder.build_ad_hoc(
                tuple(mappings[key] for key in wanted if key in mappings),
                tuple(dict.fromkeys(pipelines[key] for key in wanted if key in pipelines)),
            )

    def get_all_jobs(self) -> Sequence[dg.JobDefinition]:
        """Every job."""
        return list(self._everything.jobs.values())

    def get_all_schedules(self) -> Sequence[dg.ScheduleDefinition]:
        """Every schedule."""
        return self._everything.schedules

    def get_all_sensors(self) -> Sequence[dg.SensorDefinition]:
        """The sensor that follows the catalog, those of the catalog, and the one that sends alerts.

        Last the one that deletes old runs, if a setting asks for it.
        """
        purge = build_purge_sensor(self._settings)
        return [self._sensor, *self._everything.sensors, *([] if purge is None else [purge])]

    def get_top_level_resources(self) -> Mapping[str, dg.ResourceDefinition]:
        """The connections."""
        return self._everything.resources

    def get_env_vars_by_top_level_resource(self) -> Mapping[str, AbstractSet[str]]:
        """Nothing: which variables hold secrets is not Dagster's to know."""
        return {}

    def get_assets_defs_by_key(self) -> Mapping[dg.AssetKey, dg.AssetsDefinition]:
        """Mappings and the tables that they read."""
        return self._everything.assets

    @property
    def asset_graph(self) -> AssetGraph | None:
        """How the assets depend on each other; None where there are none."""
        return self._everything.graph

    # --- one job ----------------------------------------------------------------------------------------------

    @cached_property
    def _snapshot(self) -> CatalogSnapshot:
        if self.revision is None:
            return CatalogSnapshot(0)
        return self._get_catalog().snapshot(self.revision)

    def _snapshot_for_job(self, job_name: str) -> CatalogSnapshot:
        """Records enough for one job: a job mostly has its record's own name."""
        if self.revision is None or "_snapshot" in self.__dict__:
            return self._snapshot
        catalog = self._get_catalog()
        for kind in ("pipelines", "schedules", "sensors", "replications"):
            try:
                return catalog.snapshot_for(self.revision, **{kind: [job_name]})
            except NotFoundError:
                continue
        return self._snapshot

    def _snapshot_for_assets(self, keys: Iterable[dg.AssetKey]) -> CatalogSnapshot:
        """Records enough to load some assets."""
        if self.revision is None or "_snapshot" in self.__dict__:
            return self._snapshot
        paths = [key.path for key in keys]
        pipelines = {path[1] for path in paths if path[0] == PIPELINES and len(path) > 1}
        tables = {(path[0], path[-1]) for path in paths}
        return self._get_catalog().snapshot_for_loads(self.revision, tables, pipelines)

    @cached_property
    def _plans(self) -> dict[str, JobPlan]:
        return self._plans_of(self._snapshot)

    def _plans_of(self, snapshot: CatalogSnapshot) -> dict[str, JobPlan]:
        """Jobs by name; pipelines come first, and a schedule that has a pipeline's name runs the same or is refused."""
        plans = {plan.name: plan for plan in map(plan_pipeline, snapshot.pipelines.values())}
        for schedule in snapshot.schedules.values():
            with self._kept_apart(f"schedule {schedule.name}"):
                plan = plan_schedule(schedule, snapshot)
                taken = plans.setdefault(plan.name, plan)
                if (taken.mappings, taken.edges, taken.pipelines) != (plan.mappings, plan.edges, plan.pipelines):
                    raise dg.DagsterInvalidDefinitionError(f"another job has the name {plan.name}")
        for sensor in snapshot.sensors.values():
            made = plan_sensor(sensor)
            with self._kept_apart(f"sensor {sensor.name}"):
                if made is not None and plans.setdefault(made.name, made) is not made:
                    raise dg.DagsterInvalidDefinitionError(f"another job has the name {made.name}")
        return plans

    @cached_property
    def _replications(self) -> dict[str, model.Replication]:
        """Replications by their jobs, without those whose job would have another one's name."""
        found = {}
        for name, replication in replications_by_job(self._snapshot).items():
            with self._kept_apart(f"replication {replication.name}"):
                if name in self._plans:
                    raise dg.DagsterInvalidDefinitionError(f"another job has the name {name}")
                found[name] = replication
        return found

    def _replication_job(self, translator: Translator, replication: model.Replication) -> dg.JobDefinition:
        return build_replication_job(translator, replication, self._get_catalog)

    def _mappings_by_key(self, builder: JobBuilder) -> dict[dg.AssetKey, str]:
        names: dict[dg.AssetKey, str] = {}
        for name, mapping in builder.translator.snapshot.mappings.items():
            with self._kept_apart(f"mapping {name}"):
                names.setdefault(builder.translator.target_key(mapping), name)
        return names

    def _pipelines_by_key(self, builder: JobBuilder) -> dict[dg.AssetKey, str]:
        names: dict[dg.AssetKey, str] = {}
        for name, pipeline in builder.translator.snapshot.pipelines.items():
            with self._kept_apart(f"pipeline {name}"):
                names.update(dict.fromkeys(builder.step_keys(pipeline), name))
        return names

    def _builder(self, snapshot: CatalogSnapshot, trace: TraceLineage = trace_unconnected) -> JobBuilder:
        name = self._settings.executor
        refuse_unfit(name, self._settings, rows_cross_steps=False)
        executor = build_executor(name, self._settings)
        return JobBuilder(Translator(snapshot, trace), self._get_catalog, executor, self._settings)

    def _get_from(self, found: Mapping[str, _T], name: str) -> _T:
        if name not in found:
            reason = self._problems.get(f"job {name}")
            raise dg.DagsterInvariantViolationError(
                f"revision {self.revision} of the catalog has no job {name}" + (f": {reason}" if reason else "")
            )
        return found[name]

    # --- everything -------------------------------------------------------------------------------------------

    @property
    def _everything(self) -> _Built:
        with self._lock:
            if self._built is None:
                with _without_collector():
                    self._built = self._build()
            return self._built

    def _build(self) -> _Built:
        # Only here: to read the lineage of all mappings costs a single job more than to trace its own.
        lineages = LineageCache(self._settings.home)
        builder = self._builder(self._snapshot, lineages.trace)
        translator = builder.translator
        built = _Built(resources=builder.resources())
        mappings = self._usable_mappings(translator)
        lineages.save()
        for mapping in mappings:
            with self._kept_apart(f"mapping {mapping.name}"):
                asset = builder.asset(mapping)
                built.assets[asset.key] = asset
        for pipeline in self._snapshot.pipelines.values():
            with self._kept_apart(f"pipeline {pipeline.name}"):
                for step in builder.steps(pipeline):
                    built.assets[step.key] = step
        followed = self._followed_specs(translator, built.assets)
        specs = [*(spec for asset in built.assets.values() for spec in asset.specs), *followed]
        logs = wal_specs(self._snapshot)
        if specs or logs:
            definitions = dg.Definitions(
                assets=[*built.assets.values(), *followed, *translator.external_specs(specs), *logs],
                asset_checks=[
                    build_wal_checks(self._snapshot.get_connection(name), self._get_catalog)
                    for name in watched_connections(self._snapshot)
                ],
                resources=built.resources,
                executor=builder.executor,
            )
            repository = definitions.get_repository_def()
            # What replications write is nobody's to materialize; checks of a server's log can be run.
            if built.assets or logs:
                built.jobs[ASSET_JOB] = repository.get_job(ASSET_JOB)
                built.graph = built.jobs[ASSET_JOB].asset_layer.asset_graph.source_asset_graph
            built.assets = dict(repository.assets_defs_by_key)
        for plan in self._plans.values():
            with self._kept_apart(f"job {plan.name}"):
                built.jobs[plan.name] = self._jobs.get(plan.name) or builder.build(plan)
        for name, replication in self._replications.items():
            with self._kept_apart(f"replication {replication.name}"):
                built.jobs[name] = self._jobs.get(name) or self._replication_job(translator, replication)
                built.sensors.append(build_replication_sensor(replication, self._snapshot, self._get_catalog))
        for schedule in self._snapshot.schedules.values():
            with self._kept_apart(f"schedule {schedule.name}"):
                plan = plan_schedule(schedule, self._snapshot)
                if plan.name in built.jobs:
                    built.schedules.append(build_schedule(schedule, plan, self._snapshot, self._get_catalog))
        for sensor in self._snapshot.sensors.values():
            with self._kept_apart(f"sensor {sensor.name}"):
                job_name = dagster_name(sensor.pipeline or sensor.name)
                if job_name in built.jobs:
                    built.sensors.append(build_sensor(sensor, job_name, self._snapshot, self._get_catalog))
        if self._snapshot.replications or self._has_had_replications():
            built.sensors.append(build_guard_sensor(self._snapshot, self._get_catalog))
        built.sensors += build_monitor_sensors(self._snapshot, self._get_catalog)
        if watched := find_watched(specs):
            built.sensors.append(build_freshness_sensor(watched, self._snapshot, self._get_catalog))
        if self._snapshot.alerts:
            built.sensors.append(build_alert_sensor(self._snapshot, self._get_catalog))
        return built

    def _has_had_replications(self) -> bool:
        """Whether a slot may be left of a replication that was removed."""
        return self.revision is not None and bool(self._get_catalog().removed_names("replication"))

    def _followed_specs(
        self, translator: Translator, loaded: Mapping[dg.AssetKey, dg.AssetsDefinition]
    ) -> list[dg.AssetSpec]:
        """The tables that replications name, without those that something else loads."""
        found: dict[dg.AssetKey, dg.AssetSpec] = {}
        for replication in self._snapshot.replications.values():
            with self._kept_apart(f"replication {replication.name}"):
                for spec in table_specs(translator, replication):
                    if spec.key not in loaded:
                        found.setdefault(spec.key, spec)
        return list(found.values())

    def _usable_mappings(self, translator: Translator) -> list[model.Mapping]:
        """Mappings without those that would take the others down: second ones of a table, and cycles."""
        upstream: dict[dg.AssetKey, list[dg.AssetKey]] = {}
        by_key: dict[dg.AssetKey, model.Mapping] = {}
        for mapping in self._snapshot.mappings.values():
            with self._kept_apart(f"mapping {mapping.name}"):
                key = translator.target_key(mapping)
                if key in by_key:
                    raise dg.DagsterInvalidDefinitionError(
                        f"{key.to_user_string()} is loaded by {by_key[key].name} already"
                    )
                source = self._snapshot.get_connection(mapping.source_connection)
                upstream[key] = [
                    up for up in translator.upstream_keys(source, translator.lineage(mapping)) if up != key
                ]
                by_key[key] = mapping
        while cycle := find_cycle({_text(key): [_text(up) for up in ups] for key, ups in upstream.items()}):
            broken = next(key for key in upstream if _text(key) in cycle)
            path = " -> ".join(reversed(cycle))
            self._report(f"mapping {by_key[broken].name}", f"its tables form a cycle: {path}")
            del upstream[broken], by_key[broken]
        return list(by_key.values())

    @cached_property
    def _sensor(self) -> dg.SensorDefinition:
        built = self._everything
        del built  # what it could not build is in the problems now
        problems = [f"{what} could not be loaded: {why}" for what, why in self._problems.items()]
        return build_catalog_sensor(self.revision, problems, self._get_catalog)

    # --- records that do not fit --------------------------------------------------------------------------------

    @contextmanager
    def _kept_apart(self, what: str) -> Iterator[None]:
        """Keep a record that cannot be built from taking the others down."""
        try:
            yield
        except _BUILD_ERRORS as exc:
            self._report(what, str(exc))

    def _report(self, what: str, why: str) -> None:
        if what not in self._problems:
            logger.error("%s of revision %s could not be loaded: %s", what, self.revision, why)
        self._problems[what] = why


class CatalogRepository(dg.RepositoryDefinition):
    """A repository over `CatalogRepositoryData` that also builds an ad-hoc run's job from its own assets alone."""

    def __init__(self, name: str, *, repository_data: CatalogRepositoryData, **rest: Any) -> None:
        super().__init__(name, repository_data=repository_data, **rest)
        self.data = repository_data

    @property
    def asset_graph(self) -> AssetGraph:
        """How the assets depend on each other: the graph that was made for the job over all of them."""
        # Dagster would make it a second time, at a tenth of the whole load.
        graph = self.data.asset_graph
        return super().asset_graph if graph is None else graph

    def get_maybe_subset_job_def(
        self,
        job_name: str,
        op_selection: Iterable[str] | None = None,
        asset_selection: AbstractSet[dg.AssetKey] | None = None,
        asset_check_selection: AbstractSet[dg.AssetCheckKey] | None = None,
    ) -> dg.JobDefinition:
        """The job a run executes, restricted to its selection."""
        if job_name != ASSET_JOB or not (asset_selection or asset_check_selection):
            job = self.get_job(job_name)
        else:
            job = self.data.get_ad_hoc_job(asset_selection or (), asset_check_selection or ())
        subset = job.get_subset(
            op_selection=op_selection,
            asset_selection=asset_selection,
            asset_check_selection=asset_check_selection,
        )
        # Dagster makes the job of a selection anew from its assets, which do not know the edges of a pipeline.
        return order_steps(subset) if asset_selection or asset_check_selection else subset

    def replace_repository_load_data(
        self, reconstruction_metadata: Mapping[str, str], defs_state_info: Any
    ) -> CatalogRepository:
        """The same repository with what a run's process needs to find this revision again."""
        replaced = super().replace_repository_load_data(reconstruction_metadata, defs_state_info)
        if replaced is self:
            return self
        return CatalogRepository(
            self.name,
            repository_data=self.data,
            description=self.description,
            metadata=self.metadata,
            repository_load_data=replaced.repository_load_data,
        )


def _text(key: dg.AssetKey) -> str:
    return key.to_user_string()


@contextmanager
def _without_collector() -> Iterator[None]:
    """Building a thousand assets allocates millions of objects that all stay; collecting between them finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Away from the young, which the first collection would walk through, to the old.
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()
