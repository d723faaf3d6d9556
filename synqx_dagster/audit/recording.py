"""What the catalog itself does, entered into the trail within its own transactions: revisions, and acts on the vault.

Guarantee: once `install` was called, no revision and no change of the vault's keys, seal or failures is durable
without its entries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from synqx_dagster.audit import trail
from synqx_dagster.audit.actor import Actor, current_actor, find_actor
from synqx_dagster.audit.event import AuditEvent, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr
    from sqlalchemy.engine import Connection

    from synqx_dagster.catalog.apply import Commit
    from synqx_dagster.catalog.changes import Change
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.vault import VaultState

_VERBS = {"created": "create", "changed": "update", "removed": "delete"}


def install(catalog: Catalog) -> None:
    """Let a catalog enter its revisions and the vault's acts. Idempotent."""
    if _enter_commit not in catalog.within_commit:
        catalog.within_commit.append(_enter_commit)
        catalog.within_vault_save.append(_enter_vault_act)


def record_act(catalog: Catalog, action: str, *, kind: str, name: str, detail: str | None = None) -> None:
    """Enter what is about to be done with a record and is no write of the catalog, as the act of who acts here."""
    event = AuditEvent(action, "allowed", "", target_kind=kind, target=name, detail=detail)
    trail.AuditTrail(catalog).record(current_actor().signs(event))


def unlock_vault(
    catalog: Catalog,
    *,
    password: SecretStr | None = None,
    key_file: Path | None = None,
    recovery: SecretStr | None = None,
) -> None:
    """Unlock the vault as the act of who acts here; where that cannot be entered, the vault stays sealed.

    What changes the vault's state enters itself, and to unlock where nobody had sealed changes none.

    Raises:
        SynqxError: As `Vault.unlock`.
    """
    event = AuditEvent("vault.unlock", "allowed", "", target_kind="vault")
    catalog.vault.unlock(
        password=password,
        key_file=key_file,
        recovery=recovery,
        before_opening=lambda: trail.AuditTrail(catalog).record(current_actor().signs(event)),
    )


def _enter_commit(connection: Connection, commit: Commit) -> None:
    actor = find_actor()
    detail = None
    if actor is None or actor.method == "local":
        # A command may name an author; who gave the command is told where that is somebody else.
        detail = f"{commit.author} was named by {actor.name}" if actor and actor.name != commit.author else None
        actor = Actor(commit.author, method="local")
    events = [replace(actor.signs(event), detail=detail) for event in commit_events(commit)]
    trail.append_all(connection, events)


def commit_events(commit: Commit) -> list[AuditEvent]:
    """One event for each record that a revision changes."""
    return [_change_event(change, commit.number) for change in commit.plan.changes]


def _change_event(change: Change, revision: int) -> AuditEvent:
    return AuditEvent(
        action=f"{change.kind}.{_VERBS[change.action]}",
        outcome="allowed",
        actor="",
        target_kind=change.kind,
        target=change.name,
        fields=tuple(item.path for item in change.fields),
        revision=revision,
    )


def _enter_vault_act(connection: Connection, before: VaultState | None, after: VaultState) -> None:
    if events := vault_events(before, after):
        trail.append_all(connection, [current_actor().signs(event) for event in events])


def vault_events(before: VaultState | None, after: VaultState) -> list[AuditEvent]:
    """What happened to a vault between two of its states. Pure."""
    if before is None:
        return [_vault_event("vault.initialise", detail=", ".join(slot.kind for slot in after.keyslots))]
    found = []
    if after.sealed_by_operator != before.sealed_by_operator:
        found.append(_vault_event("vault.seal" if after.sealed_by_operator else "vault.lift_seal"))
    if after.failures > before.failures:
        found.append(_vault_event("vault.unlock", "failed", detail="a wrong password or recovery passphrase"))
    old = {slot.id: slot for slot in before.keyslots}
    new = {slot.id: slot for slot in after.keyslots}
    found += [
        _vault_event("vault.remove_keyslot", target=slot_id, detail=slot.kind)
        for slot_id, slot in old.items()
        if slot_id not in new
    ]
    found += [
        _vault_event("vault.add_keyslot", target=slot_id, detail=slot.kind)
        for slot_id, slot in new.items()
        if slot_id not in old
    ]
    if after.active_generation != before.active_generation:
        found.append(_vault_event("vault.rotate", detail=f"to generation {after.active_generation}"))
    return found


def _vault_event(
    action: str, outcome: Outcome = "allowed", *, target: str | None = None, detail: str | None = None
) -> AuditEvent:
    return AuditEvent(action, outcome, "", target_kind="keyslot" if target else "vault", target=target, detail=detail)
