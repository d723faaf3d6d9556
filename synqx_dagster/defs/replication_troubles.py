"""Tells of a replication that a table has stopped, that its slot is lost, or what the WAL guard has found: each once.

Guarantee: a trouble is one change in the catalog, and so is that none is left, whoever looks and however often. What
cannot be seen at the moment has neither begun nor ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from synqx_dagster.catalog.metrics import Advance, MetricsHistory, MonitorEvent, Step, replication_subject
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import find_seal_reason, needs_vault
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.errors import SealedError
from synqx_dagster.model import Replication
from synqx_dagster.replication.status import look
from synqx_dagster.replication.troubles import find_troubles

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: The key of what the guard says of a slot; all others come from the replication's two ends.
_GUARD, _ACTED = "guard", "guard acted"


@dataclass(frozen=True)
class Finding:
    """What was seen of one replication.

    Attributes:
        guard: What the guard says of its slot; empty where all is well, None where the source could not be asked.
        troubles: By key; None where one of its ends could not be asked.
        has_acted: The guard has done something about it, or tried to.
    """

    guard: str | None = None
    troubles: Mapping[str, str] | None = None
    has_acted: bool = False


def look_for_troubles(
    replication: Replication, snapshot: CatalogSnapshot, catalog: Catalog, *, is_running: Callable[[], bool]
) -> dict[str, str] | None:
    """Ask source and target; None of a target that is a file which a run may need at any moment.

    Args:
        is_running: Whether a run goes on.

    Raises:
        SealedError: A password is in the vault.
        SynqxError: One of them does not answer.
    """
    ends = [snapshot.get_connection(name) for name in (replication.source_connection, replication.target_connection)]
    if (reason := find_seal_reason(catalog, secrets_needed=any(map(needs_vault, ends)))) is not None:
        raise SealedError(reason)
    resources = [ConnectionResource(connection, lambda: catalog) for connection in ends]
    try:
        if not resources[1].connector.capabilities.pools_sessions and is_running():
            return None
        return find_troubles(look(replication, resources[0].connector, resources[1].connector))
    finally:
        for resource in resources:
            resource.close()


def store_findings(
    catalog: Catalog, snapshot: CatalogSnapshot, findings: Mapping[str, Finding], now: datetime | None = None
) -> list[MonitorEvent]:
    """Store what was seen of replications, by name; gives what has changed."""
    history, moment = MetricsHistory(catalog), now or datetime.now(UTC)
    subjects = {replication_subject(name): name for name in findings if name in snapshot.replications}
    known = {one.subject: one.state for one in history.read_states(subjects)}
    steps: dict[str, Step] = {}
    for subject, name in subjects.items():
        step = partial(advance_troubles, snapshot.replications[name], findings[name], moment)
        before = known.get(subject)
        # Decided again under the lock; a look that finds everything as it was writes nothing.
        if step(before).state != (before or {"troubles": {}}):
            steps[subject] = step
    return history.advance(steps)


def advance_troubles(
    replication: Replication, finding: Finding, now: datetime, before: Mapping[str, Any] | None
) -> Advance:
    """What is known from now on, and what has changed. Pure."""
    known = _read(before)
    after: dict[str, str] = {}
    for key, text in known.items():
        if (finding.guard if key in (_GUARD, _ACTED) else finding.troubles) is None:
            after[key] = text
    if finding.guard:
        after[_ACTED if finding.has_acted else _GUARD] = finding.guard
    after.update(finding.troubles or {})
    # What the guard warned of is told again once it acts, and not when it only warns again.
    told = known.keys() | ({_GUARD} if _ACTED in known else set())
    new = [text for key, text in after.items() if key not in told]
    body = {"replication": replication.name, "target_connection": replication.target_connection}
    events = []
    if new:
        said = {"summary": f"replication {replication.name}: {new[0]}", "details": new if len(new) > 1 else []}
        events.append(MonitorEvent("replication_trouble", replication.source_connection, now, {**body, **said}))
    elif known and not after:
        said = {"summary": f"replication {replication.name} is in order again"}
        events.append(MonitorEvent("replication_recovery", replication.source_connection, now, {**body, **said}))
    return Advance({"troubles": after}, events=events)


def _read(before: Mapping[str, Any] | None) -> dict[str, str]:
    """The troubles that were stored; none where another version of SynqX wrote them."""
    found = (before or {}).get("troubles", {})
    return {str(key): str(text) for key, text in found.items()} if isinstance(found, dict) else {}
