"""Pipelines as records, with the schedule that belongs to each: `schedule_cron` makes, changes and removes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter

from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.record_bodies import BodyDocument, RecordBody
from synqx_dagster.api.record_routes import RecordRoutes, add_record_routes
from synqx_dagster.api.record_views import PipelineView
from synqx_dagster.api.records import Edit
from synqx_dagster.api.references import Incoming
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.catalog.revisions import RecordKey
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import Record, Schedule

router = APIRouter(tags=["pipelines"])

#: Fields of a request about the schedule, by the fields of the schedule.
_SCHEDULE_FIELDS = {
    "cron_expression": "schedule_cron",
    "enabled": "schedule_enabled",
    "timezone": "schedule_timezone",
}
_SETTINGS = ("executor", "max_concurrent_runs", "memory_limit", "partitions", "freshness")


def find_own_schedule(snapshot: CatalogSnapshot, pipeline: str) -> Schedule | None:
    """The schedule that a pipeline is started and paused by: that of its name, else the only one that runs just it."""
    named = snapshot.schedules.get(pipeline)
    if named is not None and _runs_only(named, pipeline):
        return named
    found = [schedule for schedule in snapshot.schedules.values() if _runs_only(schedule, pipeline)]
    return found[0] if len(found) == 1 else None


def _runs_only(schedule: Schedule, pipeline: str) -> bool:
    return schedule.pipeline_names == (pipeline,) and not schedule.mapping_names


def unfold_version(values: dict[str, Any], before: Record | None) -> Mapping[str, str]:
    """Put nodes, edges and settings of `initial_version` where the record has them; gives where they stood.

    Raises:
        InvalidInputError: It is no object, or says what the pipeline says, too.
    """
    version = values.pop("initial_version", None)
    if version is None:
        return {}
    if not isinstance(version, dict):
        raise _problem("initial_version", "must be keys with values")
    settings = version.get("config_snapshot") or {}
    if not isinstance(settings, dict):
        raise _problem("initial_version.config_snapshot", "must be keys with values")
    moved: dict[str, str] = {}
    for place, given, known in (
        ("initial_version", {name: item for name, item in version.items() if name != "config_snapshot"}, _GRAPH),
        ("initial_version.config_snapshot", settings, _SETTINGS),
    ):
        for name, value in given.items():
            if name not in known:
                raise _problem(f"{place}.{name}", f"unknown key {name!r}", f"known keys: {', '.join(known)}")
            if name in values and values[name] != value:
                raise _problem(f"{place}.{name}", "stands in the pipeline itself, too, and is another")
            values[name] = value
            moved[name] = f"{place}.{name}"
    return moved


_GRAPH = ("nodes", "edges")


def _problem(path: str, message: str, hint: str | None = None) -> InvalidInputError:
    return InvalidInputError([Problem(message, SourceLocation(field=path), hint)])


def take_schedule(values: dict[str, Any]) -> Callable[[CatalogSnapshot, Record], Edit] | None:
    """Take the fields about the schedule out of a request; gives what they change beside the pipeline."""
    values.pop("schedule", None)  # An answer that is sent back has its name.
    given = {name: values.pop(field_name) for name, field_name in _SCHEDULE_FIELDS.items() if field_name in values}
    if not given:
        return None
    document = BodyDocument.of(
        values, Incoming({}, {(name,): (field_name,) for name, field_name in _SCHEDULE_FIELDS.items()})
    )

    def change(snapshot: CatalogSnapshot, record: Record) -> Edit:
        own = find_own_schedule(snapshot, record.name)
        if given.get("cron_expression", own) is None:
            if given.get("enabled"):
                raise _problem("schedule_cron", "is missing: when the pipeline runs", 'such as "0 2 * * *"')
            return Edit(removed=(("schedule", own.name),) if own is not None else ())
        changes = {name: value for name, value in given.items() if value is not None}
        before = own.model_dump(mode="json") if own is not None else _new_schedule(record)
        schedule = RecordBody({}, document).build("schedule", {**before, **changes})
        return Edit((schedule,), (document,))

    return change


def _new_schedule(record: Record) -> dict[str, Any]:
    return {"name": record.name, "pipeline": record.name, "owners": list(record.owners)}


def remove_schedule(snapshot: CatalogSnapshot, name: str) -> tuple[RecordKey, ...]:
    """The schedule of a pipeline's name goes with the pipeline."""
    own = find_own_schedule(snapshot, name)
    return (("schedule", own.name),) if own is not None and own.name == name else ()


def own_schedules(context: ApiContext, stored: Sequence[StoredRecord]) -> Sequence[dict[str, Any]]:
    """The schedules of pipelines, as answers have them."""
    snapshot = context.catalog.latest_snapshot()
    by_pipeline: dict[str, list[Schedule]] = {}
    for schedule in snapshot.schedules.values():
        for name in schedule.pipeline_names:
            if _runs_only(schedule, name):
                by_pipeline.setdefault(name, []).append(schedule)
    found = []
    for item in stored:
        own = by_pipeline.get(item.record.name, [])
        named = [schedule for schedule in own if schedule.name == item.record.name] or own
        fields: dict[str, Any] = {}
        if len(named) == 1:
            fields = {place: getattr(named[0], name) for name, place in _SCHEDULE_FIELDS.items()}
            fields["schedule"] = named[0].name
        found.append(fields)
    return found


add_record_routes(
    router,
    RecordRoutes(
        "pipeline",
        "pipelines",
        PipelineView,
        filters=("executor",),
        more=own_schedules,
        prepare=unfold_version,
        also=take_schedule,
        with_it=remove_schedule,
    ),
)
