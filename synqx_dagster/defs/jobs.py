"""Pipelines and schedules as jobs; each is built by itself, from the mappings it runs and nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.assets import build_asset
from synqx_dagster.defs.names import REVISION_TAG, resource_key
from synqx_dagster.defs.ordering import order_steps
from synqx_dagster.defs.resources import build_resource
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model import Mapping, Pipeline, Schedule, dagster_name

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: Dagster's name for the job that materializes whatever assets somebody selects.
ASSET_JOB = "__ASSET_JOB"

_EXECUTORS = {"in_process": "dagster:in_process_executor", "multiprocess": "dagster:multiprocess_executor"}


@dataclass(frozen=True)
class JobPlan:
    """What a job runs: mappings by name, and pairs of which the second waits for the first."""

    name: str
    mappings: tuple[str, ...]
    edges: tuple[tuple[str, str], ...] = ()
    description: str | None = None

    def joined(self, other: JobPlan) -> JobPlan:
        """This job with the mappings and edges of another one added."""
        return JobPlan(
            self.name,
            tuple(dict.fromkeys((*self.mappings, *other.mappings))),
            tuple(dict.fromkeys((*self.edges, *other.edges))),
            self.description,
        )


def plan_pipeline(pipeline: Pipeline) -> JobPlan:
    """The job of a pipeline."""
    return JobPlan(dagster_name(pipeline.name), pipeline.mapping_names, pipeline.mapping_edges, pipeline.description)


def plan_schedule(schedule: Schedule, snapshot: CatalogSnapshot) -> JobPlan:
    """The job of a schedule: its mappings and those of its pipelines, in one run.

    Raises:
        NotFoundError: It names a pipeline that is not there.
    """
    plan = JobPlan(dagster_name(schedule.name), schedule.mapping_names, description=schedule.description)
    for name in schedule.pipeline_names:
        plan = plan.joined(plan_pipeline(snapshot.get_pipeline(name)))
    return plan


def build_executor(name: str) -> dg.ExecutorDefinition:
    """The executor of a setting: ``in_process``, ``multiprocess``, or ``module:attribute``.

    Raises:
        ConfigurationError: There is no such executor.
    """
    module_name, separator, attribute = _EXECUTORS.get(name, name).partition(":")
    try:
        executor = getattr(importlib.import_module(module_name), attribute) if separator else None
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(f"the executor {name!r} cannot be imported: {exc}") from exc
    if not isinstance(executor, dg.ExecutorDefinition):
        raise ConfigurationError(
            f"{name!r} is not an executor", hint=f"write {', '.join(_EXECUTORS)}, or module:attribute"
        )
    return executor


@dataclass(frozen=True)
class JobBuilder:
    """Builds jobs over the mappings of one snapshot."""

    translator: Translator
    get_catalog: Callable[[], Catalog]
    executor: dg.ExecutorDefinition
    _assets: dict[str, dg.AssetsDefinition] = field(default_factory=dict, init=False)

    def asset(self, mapping: Mapping) -> dg.AssetsDefinition:
        """The asset of a mapping, which jobs without edges to it share.

        Raises:
            ConfigurationError, DriverMissingError: As `build_asset`.
        """
        if mapping.name not in self._assets:
            self._assets[mapping.name] = build_asset(self.translator, mapping, self.get_catalog)
        return self._assets[mapping.name]

    def build(self, plan: JobPlan) -> dg.JobDefinition:
        """The job of a plan.

        Edges order the steps of this job alone: two pipelines may order the same mappings differently, and an edge
        says nothing of where data comes from, so it is no dependency of an asset.

        Raises:
            ConfigurationError: A record that it needs is missing.
            DriverMissingError: The kind of a connection is unknown here.
            dagster.DagsterError: Edges and data together form a cycle.
        """
        snapshot = self.translator.snapshot
        mappings = {name: snapshot.get_mapping(name) for name in plan.mappings}
        keys = {name: self.translator.target_key(mapping) for name, mapping in mappings.items()}
        after: dict[str, list[dg.AssetKey]] = {}
        for first, second in plan.edges:
            after.setdefault(second, []).append(keys[first])
        assets = [
            build_asset(self.translator, mapping, self.get_catalog, after=after[name])
            if name in after
            else self.asset(mapping)
            for name, mapping in mappings.items()
        ]
        definitions = dg.Definitions(
            assets=assets,
            resources=self.resources(mappings),
            executor=self.executor,
            jobs=[
                dg.define_asset_job(
                    plan.name,
                    selection=list(keys.values()),
                    description=plan.description,
                    run_tags={REVISION_TAG: str(snapshot.revision)},
                )
            ],
        )
        return order_steps(definitions.resolve_job_def(plan.name))

    def build_ad_hoc(self, mapping_names: tuple[str, ...]) -> dg.JobDefinition:
        """The job under which selected assets are materialized, over these mappings only."""
        snapshot = self.translator.snapshot
        mappings = {name: snapshot.get_mapping(name) for name in mapping_names}
        assets = [self.asset(mapping) for mapping in mappings.values()]
        definitions = dg.Definitions(assets=assets, resources=self.resources(mappings), executor=self.executor)
        return definitions.resolve_job_def(ASSET_JOB)

    def resources(self, mappings: Iterable[str] | None = None) -> dict[str, dg.ResourceDefinition]:
        """Resources of the connections that these mappings use; of every connection when left out."""
        snapshot = self.translator.snapshot
        names = (
            list(snapshot.connections)
            if mappings is None
            else [
                connection
                for name in mappings
                for connection in (
                    snapshot.get_mapping(name).source_connection,
                    snapshot.get_mapping(name).target_connection,
                )
            ]
        )
        return {
            resource_key(name): build_resource(snapshot.get_connection(name), self.get_catalog)
            for name in dict.fromkeys(names)
        }
