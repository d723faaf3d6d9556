"""Pipelines and schedules as jobs; each is built by itself, from the mappings it runs and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import CatalogAccess
from synqx_dagster.defs.assets import build_asset
from synqx_dagster.defs.executors import build_executor, refuse_unfit
from synqx_dagster.defs.names import METADATA_PREFIX, PIPELINE_TAG, resource_key, revision_tags
from synqx_dagster.defs.ordering import order_steps
from synqx_dagster.defs.pipeline_translator import PipelineTranslator
from synqx_dagster.defs.resources import build_resource
from synqx_dagster.defs.steps import build_step
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model import Mapping, Pipeline, Schedule, dagster_name
from synqx_dagster.model.partitions import Partitions, find_difference
from synqx_dagster.pipelines.graph import loads_after, loads_of
from synqx_dagster.pipelines.loading import load_mapping, source_mapping
from synqx_dagster.pipelines.operators.ends import IncrementalConfig, LoadConfig

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings

#: Dagster's name for the job that materializes whatever assets somebody selects.
ASSET_JOB = "__ASSET_JOB"


@dataclass(frozen=True)
class JobPlan:
    """What a job runs: mappings by name, and pairs of which the second waits for the first."""

    name: str
    mappings: tuple[str, ...]
    edges: tuple[tuple[str, str], ...] = ()
    description: str | None = None
    #: Pipelines whose steps run, beside the mappings that their nodes name.
    pipelines: tuple[str, ...] = ()

    def joined(self, other: JobPlan) -> JobPlan:
        """This job with the mappings and edges of another one added."""
        return JobPlan(
            self.name,
            tuple(dict.fromkeys((*self.mappings, *other.mappings))),
            tuple(dict.fromkeys((*self.edges, *other.edges))),
            self.description,
            tuple(dict.fromkeys((*self.pipelines, *other.pipelines))),
        )


def plan_pipeline(pipeline: Pipeline) -> JobPlan:
    """The job of a pipeline."""
    return JobPlan(
        dagster_name(pipeline.name),
        pipeline.mapping_names,
        pipeline.mapping_edges,
        pipeline.description,
        (pipeline.name,),
    )


def plan_schedule(schedule: Schedule, snapshot: CatalogSnapshot) -> JobPlan:
    """The job of a schedule: its mappings and those of its pipelines, in one run.

    Raises:
        NotFoundError: It names a pipeline that is not there.
    """
    plan = JobPlan(dagster_name(schedule.name), schedule.mapping_names, description=schedule.description)
    for name in schedule.pipeline_names:
        plan = plan.joined(plan_pipeline(snapshot.get_pipeline(name)))
    return plan


def partitions_of(plan: JobPlan, snapshot: CatalogSnapshot) -> Partitions | None:
    """The partitions that a job runs by; None where nothing that it runs has any.

    Raises:
        NotFoundError: It names a record that is not there.
        ConfigurationError: Two records have different ones, of which one run could not say which it replaces.
    """
    found: dict[str, Partitions | None] = {
        f"mapping {name!r}": snapshot.get_mapping(name).partitions for name in plan.mappings
    }
    found |= {f"pipeline {name!r}": snapshot.get_pipeline(name).partitions for name in plan.pipelines}
    if (different := find_difference(found)) is not None:
        raise ConfigurationError(
            f"{plan.name}: {different[0]} and {different[1]} have different partitions, and one run replaces the same"
            " of all",
            hint="give them the same `partitions`, or run them apart",
        )
    return next((one for one in found.values() if one is not None), None)


@dataclass(frozen=True)
class JobBuilder:
    """Builds jobs over the mappings of one snapshot."""

    translator: Translator
    get_catalog: Callable[[], CatalogAccess]
    #: Runs the steps of jobs that ask for no other one; None: whatever the code location has.
    executor: dg.ExecutorDefinition | None
    #: What names the executor; None when whoever builds runs the job in this process, whatever a pipeline asks for.
    settings: Settings | None = None
    _assets: dict[str, dg.AssetsDefinition] = field(default_factory=dict, init=False)
    _steps: dict[str, list[dg.AssetsDefinition]] = field(default_factory=dict, init=False)
    _pipelines: PipelineTranslator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pipelines", PipelineTranslator(self.translator))

    def asset(self, mapping: Mapping) -> dg.AssetsDefinition:
        """The asset of a mapping, which jobs without edges to it share.

        Raises:
            ConfigurationError, DriverMissingError: As `build_asset`.
        """
        if mapping.name not in self._assets:
            self._assets[mapping.name] = build_asset(self.translator, mapping, self.get_catalog)
        return self._assets[mapping.name]

    def steps(self, pipeline: Pipeline) -> list[dg.AssetsDefinition]:
        """The assets of a pipeline's steps; none for one that runs mappings only.

        Raises:
            ConfigurationError, DriverMissingError: As `build_step`.
        """
        if pipeline.name not in self._steps:
            made = []
            if not pipeline.runs_mappings_only:
                graph = self._pipelines.graph(pipeline)
                made = [build_step(self._pipelines, graph, step, self.get_catalog) for step in graph.steps]
            self._steps[pipeline.name] = made
        return self._steps[pipeline.name]

    def step_keys(self, pipeline: Pipeline) -> list[dg.AssetKey]:
        """The assets of a pipeline's steps by their keys alone, which builds none."""
        if pipeline.runs_mappings_only:
            return []
        graph = self._pipelines.graph(pipeline)
        return [self._pipelines.key(graph, step) for step in graph.steps]

    def load_mappings(self, pipeline: Pipeline) -> list[Mapping]:
        """What the load nodes of a pipeline amount to as mappings."""
        if pipeline.runs_mappings_only:
            return []
        graph = self._pipelines.graph(pipeline)
        return [load_mapping(graph, node) for node in loads_of(graph)]

    def incremental_mappings(self, pipeline: Pipeline) -> list[Mapping]:
        """What the incremental extracts of a pipeline amount to as mappings, with the mode of the load they reach."""
        if pipeline.runs_mappings_only:
            return []
        nodes = self._pipelines.graph(pipeline).nodes
        found = []
        for node in nodes.values():
            if isinstance(node.config, IncrementalConfig):
                load = nodes[loads_after(node.node_id, nodes)[0]].config
                assert isinstance(load, LoadConfig)
                found.append(source_mapping(node, node.config, node.config.cursor, load.mode))
        return found

    def build(self, plan: JobPlan) -> dg.JobDefinition:
        """The job of a plan.

        Edges order the steps of this job alone: two pipelines may order the same mappings differently, and an edge
        says nothing of where data comes from, so it is no dependency of an asset.

        Raises:
            ConfigurationError: A record that it needs is missing, or its executor cannot be used with these settings.
            DriverMissingError: The kind of a connection is unknown here.
            dagster.DagsterError: Edges and data together form a cycle.
        """
        snapshot = self.translator.snapshot
        mappings = {name: snapshot.get_mapping(name) for name in plan.mappings}
        keys = {name: self.translator.target_key(mapping) for name, mapping in mappings.items()}
        pipelines = [snapshot.get_pipeline(name) for name in plan.pipelines]
        after: dict[str, list[dg.AssetKey]] = {}
        for first, second in plan.edges:
            after.setdefault(second, []).append(keys[first])
        for pipeline in pipelines:
            for key, mapping_name in self._steps_before_mappings(pipeline):
                after.setdefault(mapping_name, []).append(key)
        steps = [step for pipeline in pipelines for step in self.steps(pipeline)]
        assets = [
            build_asset(self.translator, mapping, self.get_catalog, after=after[name])
            if name in after
            else self.asset(mapping)
            for name, mapping in mappings.items()
        ]
        definitions = dg.Definitions(
            assets=[*assets, *steps],
            resources=self.resources(mappings, plan.pipelines),
            executor=self._executor_of(pipelines),
            jobs=[
                dg.define_asset_job(
                    plan.name,
                    selection=[*keys.values(), *(step.key for step in steps)],
                    description=plan.description,
                    run_tags={
                        **revision_tags(snapshot.revision),
                        **self._pipeline_tag(plan),
                        **_limits(pipelines),
                    },
                )
            ],
        )
        return order_steps(definitions.resolve_job_def(plan.name))

    def _pipeline_tag(self, plan: JobPlan) -> dict[str, str]:
        """The pipeline whose job this is, under its own name; nothing for a schedule's job."""
        names = [name for name in self.translator.snapshot.pipelines if dagster_name(name) == plan.name]
        return {PIPELINE_TAG: names[0]} if names else {}

    def _steps_before_mappings(self, pipeline: Pipeline) -> Iterator[tuple[dg.AssetKey, str]]:
        """Steps and the mappings that edges make wait for them."""
        if pipeline.runs_mappings_only:
            return
        graph = self._pipelines.graph(pipeline)
        mapping_of = {node.node_id: node.mapping_name for node in pipeline.nodes}
        for edge in pipeline.edges:
            name = mapping_of[edge.to_node_id]
            if name is not None and mapping_of[edge.from_node_id] is None:
                yield self._pipelines.key(graph, graph.step_of(edge.from_node_id)), name

    def _executor_of(self, pipelines: list[Pipeline]) -> dg.ExecutorDefinition | None:
        """The executor that a pipeline asks for, if it runs alone; refused where its steps would miss each other."""
        if self.settings is None:
            return self.executor
        asked = pipelines[0].executor if len(pipelines) == 1 else None
        if asked is None and self.executor is None:
            return None
        crosses = any(self._crosses_steps(pipeline) for pipeline in pipelines)
        refuse_unfit(asked or self.settings.executor, self.settings, rows_cross_steps=crosses)
        return self.executor if asked is None else build_executor(asked, self.settings)

    def _crosses_steps(self, pipeline: Pipeline) -> bool:
        """Whether a step of a pipeline reads what another one stored."""
        if pipeline.runs_mappings_only:
            return False
        return any(step.inputs or step.carried for step in self._pipelines.graph(pipeline).steps)

    def build_ad_hoc(self, mapping_names: tuple[str, ...], pipeline_names: tuple[str, ...] = ()) -> dg.JobDefinition:
        """The job under which selected assets are materialized, over these mappings and pipelines only.

        Raises:
            ConfigurationError, DriverMissingError: As `build`.
        """
        snapshot = self.translator.snapshot
        mappings = {name: snapshot.get_mapping(name) for name in mapping_names}
        assets = [self.asset(mapping) for mapping in mappings.values()]
        for name in pipeline_names:
            assets.extend(self.steps(snapshot.get_pipeline(name)))
        if self.settings is not None:
            crosses = any(self._crosses_steps(snapshot.get_pipeline(name)) for name in pipeline_names)
            refuse_unfit(self.settings.executor, self.settings, rows_cross_steps=crosses)
        definitions = dg.Definitions(
            assets=assets, resources=self.resources(mappings, pipeline_names), executor=self.executor
        )
        return definitions.resolve_job_def(ASSET_JOB)

    def resources(
        self, mappings: Iterable[str] | None = None, pipelines: Iterable[str] = ()
    ) -> dict[str, dg.ResourceDefinition]:
        """Resources of the connections that these mappings and pipelines use; of every connection when left out."""
        snapshot = self.translator.snapshot
        names = list(snapshot.connections) if mappings is None else connections_of(snapshot, mappings, pipelines)
        return {
            resource_key(name): build_resource(snapshot.get_connection(name), self.get_catalog)
            for name in dict.fromkeys(names)
        }


def connections_of(snapshot: CatalogSnapshot, mappings: Iterable[str], pipelines: Iterable[str]) -> tuple[str, ...]:
    """The connections that mappings, and the nodes of pipelines, use.

    Raises:
        NotFoundError: A record that is named is missing.
    """
    names: list[str] = []
    for name in mappings:
        mapping = snapshot.get_mapping(name)
        names += [mapping.source_connection, mapping.target_connection]
    for name in pipelines:
        pipeline = snapshot.get_pipeline(name)
        names += [node.connection_name for node in pipeline.nodes if node.connection_name is not None]
        names += [snapshot.get_asset(asset).connection for asset in pipeline.asset_names]
    return tuple(dict.fromkeys(names))


def _limits(pipelines: list[Pipeline]) -> dict[str, str]:
    """Tags by which the run queue lets so many runs of a pipeline go on at the same time; see ``dagster.yaml``."""
    limits: dict[str, str] = {}
    for pipeline in pipelines:
        if pipeline.max_concurrent_runs is not None:
            limits.setdefault(f"{METADATA_PREFIX}at_most_{pipeline.max_concurrent_runs}", dagster_name(pipeline.name))
    return limits
