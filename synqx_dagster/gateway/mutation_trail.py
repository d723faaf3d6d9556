"""What callers change through Dagster, in the audit trail: before it is done, and again if it did not work.

Guarantee: a mutation whose entry cannot be written is not executed. Dagster's storage and the trail share no
transaction, so the entry comes first: the trail may hold what then failed, and says so in a second entry, but nothing
is done that it does not hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from synqx_dagster.audit.event import AuditEvent, Outcome
from synqx_dagster.errors import SynqxError
from synqx_dagster.gateway.dagster_permissions import mutation_needs
from synqx_dagster.gateway.operations import MutationField
from synqx_dagster.gateway.workspace import RequestSource

_log = logging.getLogger(__name__)

#: Of a name or id that comes from outside.
_LONGEST = 200

#: Arguments that name what a mutation is about, with the kind of thing.
_TARGETS: tuple[tuple[str, str], ...] = (
    ("runId", "run"),
    ("backfillId", "backfill"),
    ("repositoryLocationName", "code location"),
    ("locationName", "code location"),
    ("concurrencyKey", "pool"),
    ("partitionsDefName", "partitions"),
)
_SELECTORS: tuple[tuple[str, str, str], ...] = (
    ("scheduleSelector", "scheduleName", "schedule"),
    ("sensorSelector", "sensorName", "sensor"),
)


class Trail(Protocol):
    """Where entries go; `synqx_dagster.audit.trail.AuditTrail` is one."""

    def record(self, event: AuditEvent) -> object:
        """Append an entry, durably.

        Raises:
            SynqxError: It cannot be written.
        """
        ...


@dataclass(frozen=True)
class MutationTrail:
    """Writes entries about mutations. The trail is asked for each time: there is none before there is a catalog."""

    trail: Callable[[], Trail]

    def deny(self, caller: RequestSource, fields: Sequence[MutationField], detail: str) -> None:
        """Say what somebody tried and must not; a trail that cannot be written changes nothing about the denial."""
        for field in fields:
            self._say(_event(caller, field, "denied", detail=detail))

    def begin(self, caller: RequestSource, field: MutationField) -> None:
        """Say what is going to be done.

        Raises:
            SynqxError: The trail cannot be written, so it must not be done.
        """
        if (event := _event(caller, field, "allowed")) is not None:
            self.trail().record(event)

    def end(
        self, caller: RequestSource, field: MutationField, *, run_ids: Sequence[str], failure: str | None = None
    ) -> None:
        """Say what came of it: the runs that were queued, and what failed. It is done, so nothing is raised."""
        for run_id in run_ids:
            event = AuditEvent(**caller_fields(caller), action="run.queued", outcome="allowed")
            self._say(replace(event, target_kind="run", target=run_id, run_id=run_id))
        if failure is not None:
            self._say(_event(caller, field, "failed", detail=failure))

    def _say(self, event: AuditEvent | None) -> None:
        try:
            if event is not None:
                self.trail().record(event)
        except SynqxError:
            _log.exception("not in the audit trail: %s by %s", event and event.action, event and event.actor)


def _event(
    caller: RequestSource, field: MutationField, outcome: Outcome, *, detail: str | None = None
) -> AuditEvent | None:
    """The entry of a mutation; None for those that the trail does not keep."""
    _, action = mutation_needs(field.name)
    if action is None:
        return None
    kind, target = find_target(field.arguments)
    return AuditEvent(
        **caller_fields(caller),
        action=action,
        outcome=outcome,
        target_kind=kind,
        target=target,
        run_id=target if kind == "run" else None,
        detail=None if detail is None else _text(detail),
    )


def caller_fields(caller: RequestSource) -> dict[str, Any]:
    """Who did it and from where, as fields of an entry."""
    identity = caller.identity
    return {
        "actor": "nobody" if identity is None else identity.username,
        "actor_id": None if identity is None else str(identity.user_id),
        "method": "none" if identity is None else identity.method,
        "address": caller.client.address,
        "request_id": caller.client.request_id,
    }


def find_target(arguments: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Kind and name of what a mutation is about; names alone, never values such as a run's configuration."""
    for argument, kind in _TARGETS:
        if argument in arguments:
            return kind, _text(arguments[argument])
    for argument, name, kind in _SELECTORS:
        if argument in arguments:
            return kind, _text(_at(arguments, argument, name))
    if "runIds" in arguments:
        return "runs", _text(_joined(arguments["runIds"]))
    if "reexecutionParams" in arguments:
        return "run", _text(_at(arguments, "reexecutionParams", "parentRunId"))
    if "executionParams" in arguments:
        return "job", _job(arguments["executionParams"])
    if "executionParamsList" in arguments and isinstance(arguments["executionParamsList"], list):
        return "jobs", _text(_joined([_job(item) for item in arguments["executionParamsList"]]))
    if "backfillParams" in arguments:
        return "backfill of", _backfill(arguments["backfillParams"])
    if "assetPartitionRanges" in arguments and isinstance(arguments["assetPartitionRanges"], list):
        return "assets", _text(_joined([_asset(item) for item in arguments["assetPartitionRanges"]]))
    if "eventParams" in arguments:
        return "asset", _asset(arguments["eventParams"])
    return None, None


def _job(params: object) -> str | None:
    selector = _at(params, "selector")
    assets = _at(selector, "assetSelection")
    if isinstance(assets, list) and assets:
        return _text(_joined([_path(item) for item in assets]))
    return _text(_at(selector, "jobName") or _at(selector, "pipelineName"))


def _backfill(params: object) -> str | None:
    assets = _at(params, "assetSelection")
    if isinstance(assets, list) and assets:
        return _text(_joined([_path(item) for item in assets]))
    return _text(_at(params, "selector", "partitionSetName"))


def _asset(params: object) -> str | None:
    return _path(_at(params, "assetKey"))


def _path(key: object) -> str | None:
    path = _at(key, "path")
    return _text(_joined(path, "/")) if isinstance(path, list) else None


def _at(value: object, *names: str) -> Any:
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _joined(items: object, separator: str = ", ") -> str | None:
    if not isinstance(items, list):
        return None
    return separator.join(item for item in items if isinstance(item, str))


def _text(value: object) -> str | None:
    """A text of which a name is left; the trail itself replaces what a terminal would obey."""
    return value[:_LONGEST] if isinstance(value, str) else None
