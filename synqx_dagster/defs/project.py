"""The components of one Dagster project as one set of records, and what each of them becomes in Dagster.

Guarantee: what is built passed the checks of `synqx check`, over all components together; problems in any of them are
reported at once, each with its file and line. There is no catalog, so there are no revisions and there is no vault:
the files are the version, and a secret is a reference that is resolved where a connection is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar
from weakref import ReferenceType, WeakKeyDictionary, ref

import dagster as dg
from dagster.components import ComponentTypeSpec

from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.snapshot import CatalogSnapshot, secrets_of
from synqx_dagster.defs.attributes import merge_definitions, refuse_unkept
from synqx_dagster.defs.freshness import find_watched
from synqx_dagster.defs.freshness_sensor import build_project_sensor
from synqx_dagster.defs.jobs import JobBuilder, JobPlan, connections_of, plan_pipeline, plan_schedule
from synqx_dagster.defs.names import resource_key
from synqx_dagster.defs.record_sensors import build_sensor, plan_sensor
from synqx_dagster.defs.replication_acts import build_act_jobs
from synqx_dagster.defs.replication_assets import table_specs
from synqx_dagster.defs.replication_jobs import build_replication_job
from synqx_dagster.defs.replication_sensors import build_replication_sensor
from synqx_dagster.defs.resources import build_resource
from synqx_dagster.defs.schedules import build_schedule
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import ConfigurationError, InvalidInputError
from synqx_dagster.model import (
    Connection,
    EnvSecret,
    FileSecret,
    Mapping,
    Pipeline,
    Record,
    RecordKind,
    Replication,
    Schedule,
    Sensor,
    dagster_name,
)
from synqx_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from dagster.components.core.component_tree_state import ComponentTreeStateTracker


class DeclaringComponent(dg.Component, dg.Resolvable):
    """A component that declares records of its project."""

    produces: ClassVar[tuple[str, ...]] = ()

    def __init__(self, declared: Definitions) -> None:
        self._declared = declared

    @property
    def declared(self) -> Definitions:
        """Its records, and what is wrong with them: nothing is refused before the project is put together."""
        return self._declared

    @classmethod
    def get_spec(cls) -> ComponentTypeSpec:
        """How Dagster lists the component."""
        return ComponentTypeSpec(tags=["synqx", "etl"], produces=cls.produces)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """What the records become in Dagster.

        Raises:
            InvalidInputError: Something is wrong with the components of the project; has every problem.
        """
        return open_project(self, context).build(self.declared.records)


class ProjectAccess:
    """What a run asks of its catalog (`CatalogAccess`), answered without one."""

    vault: None = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def resolve_secret(self, record: Record, field: str) -> str | None:
        """The text of a record's secret field; None when it is not set.

        Raises:
            ConfigurationError: The environment variable or the file is missing.
        """
        from synqx_dagster.catalog.secrets import read_env_secret, read_file_secret

        place = f"{record.kind} {record.name!r}, {field}"
        match secrets_of(record).get(field):
            case None:
                return None
            case EnvSecret() as secret:
                return read_env_secret(secret, place)
            case FileSecret() as secret:
                return read_file_secret(secret, place)
            case _:
                raise ConfigurationError(
                    f"{place}: there is no vault here that holds it", hint="write {env: NAME} or {file: PATH}"
                )

    def find_version(self, kind: RecordKind, name: str, revision: int) -> int:
        """0: the files are under the project's own version control."""
        return 0


@lru_cache(maxsize=8)
def access_of(project_root: Path) -> ProjectAccess:
    """The access of a project; its settings are read once per process, from the environment and its ``.env``."""
    # No catalog: what is said of one, or taken for granted, says nothing of where a step may run.
    return ProjectAccess(replace(load_settings(directory=project_root), catalog_url=""))


@dataclass(frozen=True)
class Project:
    """The records of a project, and what builds them."""

    builder: JobBuilder
    _resources: dict[str, dg.ResourceDefinition] = field(default_factory=dict)

    @classmethod
    def of(cls, declared: Sequence[Definitions], project_root: Path) -> Project:
        """The project that its components declare together.

        Raises:
            InvalidInputError: Something is wrong with them; has every problem of every component.
            ConfigurationError: The settings cannot be read.
        """
        definitions = refuse_unkept(merge_definitions(declared))
        problems = check_definitions(definitions, known=None)
        if problems:
            count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
            raise InvalidInputError(problems, f"{count} in the SynqX components of this project")
        snapshot = CatalogSnapshot.from_records(0, definitions.records)
        # No executor: a job's steps run as the project runs those of its other jobs.
        settings = access_of(project_root).settings
        return cls(JobBuilder(Translator(snapshot), lambda: access_of(project_root), None, settings))

    @property
    def snapshot(self) -> CatalogSnapshot:
        """The records."""
        return self.builder.translator.snapshot

    def build(self, records: Sequence[Record]) -> dg.Definitions:
        """What some of the records become in Dagster.

        Tables that are read and that nothing here loads are left to Dagster, which knows whether another part of the
        project makes them.
        """
        assets: list[dg.AssetsDefinition | dg.AssetSpec] = []
        jobs: list[dg.JobDefinition] = []
        plans: list[JobPlan] = []
        connections: list[str] = []
        schedules: list[dg.ScheduleDefinition] = []
        sensors: list[dg.SensorDefinition] = []
        for record in records:
            match record:
                case Connection():
                    connections.append(record.name)
                case Mapping():
                    assets.append(self.builder.asset(record))
                    connections += connections_of(self.snapshot, [record.name], [])
                case Pipeline():
                    assets += self.builder.steps(record)
                    plans.append(plan_pipeline(record))
                    connections += connections_of(self.snapshot, record.mapping_names, [record.name])
                case Schedule():
                    plan = plan_schedule(record, self.snapshot)
                    # A schedule that has a pipeline's name runs the pipeline's job.
                    if plan.name not in self._pipeline_jobs:
                        plans.append(plan)
                    schedules.append(build_schedule(record, plan, self.snapshot, self.builder.get_catalog))
                case Sensor():
                    made = plan_sensor(record)
                    plans += [] if made is None else [made]
                    job_name = dagster_name(record.pipeline or record.name)
                    sensors.append(build_sensor(record, job_name, self.snapshot, self.builder.get_catalog))
                case Replication():
                    translator, get_catalog = self.builder.translator, self.builder.get_catalog
                    assets += table_specs(translator, record)
                    jobs.append(build_replication_job(translator, record, get_catalog))
                    jobs += build_act_jobs(self.snapshot, record, get_catalog)
                    sensors.append(build_replication_sensor(record, self.snapshot, get_catalog))
                    connections += (record.source_connection, record.target_connection)
        loaded = [spec for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs]
        if watched := find_watched(loaded):
            sensors.append(build_project_sensor(watched))
        return dg.Definitions(
            assets=assets,
            jobs=[*(self.builder.build(plan) for plan in plans), *jobs],
            schedules=schedules,
            sensors=sensors,
            resources={resource_key(name): self._resource(name) for name in connections},
        )

    @property
    def _pipeline_jobs(self) -> set[str]:
        return {dagster_name(name) for name in self.snapshot.pipelines}

    def _resource(self, name: str) -> dg.ResourceDefinition:
        """The resource of a connection, one object for the whole project: Dagster merges no two of one key."""
        if name not in self._resources:
            connection = self.snapshot.get_connection(name)
            self._resources[name] = build_resource(connection, self.builder.get_catalog)
        return self._resources[name]


@dataclass(frozen=True)
class _Opened:
    """A project that was put together, and what it was put together for."""

    #: Dagster makes another context when it reloads a part of the tree. Weak, because it leads to the key of `_opened`.
    context: ReferenceType[object]
    components: Sequence[DeclaringComponent]
    project: Project


_opened: WeakKeyDictionary[ComponentTreeStateTracker, _Opened] = WeakKeyDictionary()


def open_project(component: DeclaringComponent, context: dg.ComponentLoadContext) -> Project:
    """The project that a component stands in, put together once for all of its components.

    A component that is built by itself, in a test or without a project, is a project of its own.

    Raises:
        InvalidInputError, ConfigurationError: As `Project.of`.
    """
    tree = context.component_tree
    module: object = tree.defs_module
    if not isinstance(module, ModuleType):
        return _project_of([component], context)
    key, current = tree.state_tracker, tree.decl_load_context
    opened = _opened.get(key)
    if opened is None or opened.context() is not current:
        components = tree.get_all_components(DeclaringComponent)
        opened = _Opened(ref(current), components, _project_of(components, context))
        _opened[key] = opened
    if any(other is component for other in opened.components):
        return opened.project
    # Dagster does not list a component that Python code returns without saying of which class it is.
    return _project_of([*opened.components, component], context)


def _project_of(components: Sequence[DeclaringComponent], context: dg.ComponentLoadContext) -> Project:
    return Project.of([item.declared for item in components], context.project_root)
