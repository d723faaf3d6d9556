"""Checks of what is declared, together with what the catalog already has; nothing is connected to.

Guarantee: what passes can be built into Dagster definitions: every reference leads somewhere, no two things share a
name or a table there, and nothing waits for itself.
"""

from __future__ import annotations

import keyword
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from synqx_dagster.catalog.check_graph import check_graph, loads_by_table
from synqx_dagster.catalog.check_pipelines import check_pipeline
from synqx_dagster.catalog.check_records import (
    check_connection,
    check_mapping_record,
    check_pools,
    check_schedule,
)
from synqx_dagster.catalog.check_replications import check_replication, check_shared_tables, check_slots
from synqx_dagster.catalog.check_sensors import check_alert, check_sensor, check_sensor_cycles
from synqx_dagster.catalog.documents import Definitions, UnreadRecords, cap_problems
from synqx_dagster.catalog.references import references_of
from synqx_dagster.catalog.snapshot import CatalogSnapshot, nearest, secrets_of
from synqx_dagster.catalog.union import RecordUnion
from synqx_dagster.catalog.yaml_tree import parse_path
from synqx_dagster.errors import Problem
from synqx_dagster.model import (
    RECORD_KINDS,
    Alert,
    Connection,
    FileSecret,
    LiteralSecret,
    Mapping,
    Record,
    RecordKind,
    Replication,
    Schedule,
    SealedSecret,
    Sensor,
    dagster_name,
)
from synqx_dagster.model.base import with_article
from synqx_dagster.model.connection import MONITORING
from synqx_dagster.model.pipeline import PIPELINES

#: Names that Dagster does not give to a job (dagster 1.13, `_core/definitions/utils.py`), and those that are taken.
_RESERVED_JOB_NAMES = {
    *keyword.kwlist,
    *("context", "conf", "config", "meta", "arg_dict", "dict", "input_arg_dict", "output_arg_dict"),
    *("int", "str", "float", "bool", "input", "output", "type"),
    "synqx_follow_catalog",
    "synqx_alerts",
    "synqx_purge_runs",
    "synqx_wal",
    "synqx_health",
    "synqx_run",
    "synqx_wal_guard",
    "synqx_freshness",
}


def check_definitions(definitions: Definitions, *, known: CatalogSnapshot | None, prune: bool = False) -> list[Problem]:
    """Everything that is wrong with what is declared.

    What a broken record would be needed for is not judged: nobody is told of a problem that only another one brings.

    Args:
        definitions: What is declared; its own problems are among those returned.
        known: The catalog that it will be applied to; None when there is none yet.
        prune: What is not declared will be removed, so a reference to it is a problem.

    Returns:
        The problems, each with its place, in the order of the files and of their lines; empty when all is well.
    """
    union = RecordUnion.of(definitions, known, prune=prune)
    problems = [*definitions.problems, *_check_duplicates(definitions), *_check_names(union)]
    missing, wrong = _check_references(union, prune=prune)
    problems.extend(wrong)
    problems.extend(_check_secrets(union))
    for connection in union.iter_new(Connection):
        problems.extend(check_connection(union, connection))
    for schedule in union.iter_new(Schedule):
        problems.extend(check_schedule(union, schedule))
    broken = _Broken(definitions.unread, missing, union.records)
    for replication in union.iter_new(Replication):
        if not broken.depends(replication):
            problems.extend(check_replication(union, replication))
    for sensor in union.iter_new(Sensor):
        if not broken.depends(sensor):
            problems.extend(check_sensor(union, sensor))
    for alert in union.iter_new(Alert):
        problems.extend(check_alert(union, alert))
    for mapping in union.records.mappings.values():
        if broken.holds(mapping):
            continue
        problems.extend(check_mapping_record(union, mapping, missing))
        if not broken.depends(mapping):
            problems.extend(check_pools(union, mapping))
    graphs = {}
    for pipeline in union.records.pipelines.values():
        if not broken.holds(pipeline) and not broken.depends(pipeline):
            graph, wrong_nodes = check_pipeline(union, pipeline)
            problems.extend(wrong_nodes)
            if graph is not None:
                graphs[pipeline.name] = graph
    whole = union.without(broken.find_jobs())
    problems.extend(check_graph(whole, graphs))
    replications = list(whole.records.replications.values())
    problems.extend(check_shared_tables(whole, replications, loads_by_table(whole, graphs)))
    problems.extend(check_slots(whole, replications))
    problems.extend(check_sensor_cycles(whole))
    return list(cap_problems(_in_order(problems)))


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    """By file and line; what is in no file comes last."""
    return sorted(
        problems,
        key=lambda problem: (
            not _file_of(problem),
            _file_of(problem),
            (problem.location.line if problem.location else None) or 0,
        ),
    )


def _file_of(problem: Problem) -> str:
    return (problem.location.file if problem.location else None) or ""


#: What a record is called by.
_Key = tuple[RecordKind, str]


@dataclass(frozen=True)
class _Broken:
    """Which records cannot be judged: those that could not be read, and those that refer to one of them."""

    unread: UnreadRecords
    missing: frozenset[_Key]
    records: CatalogSnapshot

    def holds(self, record: Record) -> bool:
        """Whether what is declared under a record's name could not be read; the catalog's old one is not meant."""
        return (record.kind, record.name) in self.unread.named

    def depends(self, record: Record) -> bool:
        """Whether a record refers to one that is not there, or could not be read, itself or through a dataset."""
        return any(
            (kind, name) in self.missing
            or (kind, name) in self.unread.named
            # A node takes its connection and its schema from the dataset.
            or (kind == "asset" and self.depends(self.records.assets[name]))
            for kind, name, _ in references_of(record)
        )

    def find_jobs(self) -> set[_Key]:
        """Mappings that could not be read, and what else makes a job with a part that is so or is not there.

        Of a mapping without one of its connections its tables are known all the same.
        """
        found: set[_Key] = set()
        for record in (
            *self.records.mappings.values(),
            *self.records.pipelines.values(),
            *self.records.schedules.values(),
            *self.records.sensors.values(),
            *self.records.replications.values(),
        ):
            refers = not isinstance(record, Mapping) and (
                self.depends(record) or any((kind, name) in found for kind, name, _ in references_of(record))
            )
            if refers or self.holds(record):
                found.add((record.kind, record.name))
        return found


def _check_duplicates(definitions: Definitions) -> Iterator[Problem]:
    first: dict[tuple[RecordKind, str], int] = {}
    for index, record in enumerate(definitions.records):
        earlier = first.setdefault((record.kind, record.name), index)
        if earlier != index:
            yield Problem(
                f"there are two {record.kind}s {record.name!r}",
                definitions.locate_at(index, ("name",)),
                f"the other one is in {definitions.locate_at(earlier)}",
            )


def _check_names(union: RecordUnion) -> Iterator[Problem]:
    """Names that are different here and the same in Dagster; the jobs of pipelines and schedules share theirs."""
    for kind in RECORD_KINDS:
        yield from _check_collisions(union, union.records.of_kind(kind).values())
    pipelines = {dagster_name(name): name for name in union.records.pipelines}
    for schedule in union.records.schedules.values():
        pipeline = pipelines.get(dagster_name(schedule.name))
        runs_it = schedule.pipeline_names == (pipeline,) and not schedule.mapping_names
        if pipeline is not None and not runs_it:
            yield union.problem(
                schedule,
                ("name",),
                f"the pipeline {pipeline!r} makes a job of this name, too",
                "give the schedule another name, or let it run this pipeline and nothing else",
            )
    yield from _check_sensor_names(union)
    yield from _check_replication_names(union)
    made = [
        *union.records.pipelines.values(),
        *union.records.replications.values(),
        *union.records.schedules.values(),
        *union.records.sensors.values(),
    ]
    for record in made:
        name = dagster_name(record.name)
        if name in _RESERVED_JOB_NAMES or name.startswith("__"):
            yield union.problem(record, ("name",), f"{record.name!r} is reserved: Dagster allows no job of this name")
    if union.records.pipelines and PIPELINES in union.records.connections:
        yield union.problem(
            union.records.connections[PIPELINES],
            ("name",),
            f"{PIPELINES!r} is no name for a connection beside pipelines",
            "the assets of rows that pipelines store have keys that begin with it",
        )
    watched = any(item.monitor is not None and item.monitor.wal for item in union.records.connections.values())
    if watched and MONITORING in union.records.connections:
        yield union.problem(
            union.records.connections[MONITORING],
            ("name",),
            f"{MONITORING!r} is no name for a connection beside watched ones",
            "the assets that show what is watched have keys that begin with it",
        )


def _check_sensor_names(union: RecordUnion) -> Iterator[Problem]:
    """Dagster keeps what a schedule and a sensor of one name did in one place; and a sensor may make a job."""
    schedules = {dagster_name(name): name for name in union.records.schedules}
    pipelines = {dagster_name(name): name for name in union.records.pipelines}
    for sensor in union.records.sensors.values():
        name = dagster_name(sensor.name)
        if name in schedules:
            message = f"the schedule {schedules[name]!r} has this name in Dagster, too"
        elif name in pipelines and sensor.mapping_names:
            message = f"the pipeline {pipelines[name]!r} makes a job of this name, too"
        else:
            continue
        yield union.problem(sensor, ("name",), message, "give the sensor another name")


def _check_replication_names(union: RecordUnion) -> Iterator[Problem]:
    """A replication makes a job and a sensor of its name."""
    others = {
        dagster_name(record.name): record
        for record in (
            *union.records.pipelines.values(),
            *union.records.schedules.values(),
            *union.records.sensors.values(),
        )
    }
    for replication in union.records.replications.values():
        other = others.get(dagster_name(replication.name))
        if other is not None:
            yield union.problem(
                replication,
                ("name",),
                f"the {other.kind} {other.name!r} has this name in Dagster, too",
                "give the replication another name: it makes a job and a sensor of its own",
            )


def _check_collisions(union: RecordUnion, records: Iterable[Record]) -> Iterator[Problem]:
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_name[dagster_name(record.name)].append(record)
    for name, sharing in by_name.items():
        for record in sharing[1:]:
            yield union.problem(
                record,
                ("name",),
                f"{record.name!r} and {sharing[0].name!r} have one name in Dagster: {name}",
                "let them differ in more than blanks and punctuation",
            )


# --- references ---------------------------------------------------------------------------------------------------


def _check_references(union: RecordUnion, *, prune: bool) -> tuple[frozenset[_Key], list[Problem]]:
    """What is referred to and is not there, and the problems; none where it may be what could not be read."""
    missing: set[_Key] = set()
    problems: list[Problem] = []
    names = {kind: union.records.of_kind(kind) for kind in RECORD_KINDS}
    for record in union.records.iter_records():
        for kind, name, path in references_of(record):
            if name in names[kind]:
                continue
            missing.add((kind, name))
            if union.definitions.unread.may_hold(kind, name):
                continue
            removed = prune and union.known is not None and union.known.find(kind, name) is not None
            near = nearest(name, names[kind])
            hint = f"did you mean {near!r}?" if near else f"declare {with_article(kind)} of this name"
            if removed:
                hint = "it is in the catalog and would be removed: declare it, or apply without pruning"
            problems.append(union.problem(record, path, f"there is no {kind} {name!r}", hint))
    return frozenset(missing), problems


# --- secrets ------------------------------------------------------------------------------------------------------


def _check_secrets(union: RecordUnion) -> Iterator[Problem]:
    for record in union.definitions.records:
        for field, secret in secrets_of(record).items():
            path = parse_path(field)
            match secret:
                case SealedSecret():
                    if not _is_sealed(union.known, record, field):
                        yield union.problem(
                            record,
                            path,
                            "the catalog has no sealed value to keep",
                            "give {env: NAME}, {file: PATH}, or the value itself",
                        )
                case FileSecret() if not secret.file.startswith(("/", "~")):
                    yield union.problem(
                        record,
                        (*path, "file"),
                        "the file of a secret needs an absolute path",
                        "the process that connects may run in another directory",
                    )
                case LiteralSecret() if not secret.value.get_secret_value():
                    yield union.problem(record, path, "must not be empty", "leave it out if there is none")


def _is_sealed(known: CatalogSnapshot | None, record: Record, field: str) -> bool:
    before = known.find(record.kind, record.name) if known is not None else None
    return before is not None and isinstance(secrets_of(before).get(field), SealedSecret)
