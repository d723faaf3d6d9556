"""Plan and apply: how declared records become a new revision.

Guarantee: an apply is one transaction and one revision, or nothing. It is refused when somebody else was first, and
it writes no revision when nothing changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pydantic import SecretStr

from synqx_dagster.catalog import agent_rows, revisions, search_index
from synqx_dagster.catalog.changes import Change, ChangePlan, FieldChange, compare_records
from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.references import references_of
from synqx_dagster.catalog.revisions import RecordKey
from synqx_dagster.catalog.snapshot import AnySecret, not_found, secrets_of, with_secrets
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import ConfigurationError, InUseError, InvalidInputError
from synqx_dagster.model import RECORD_KINDS, LiteralSecret, Record, SealedSecret

__all__ = [
    "Change",
    "ChangePlan",
    "Commit",
    "FieldChange",
    "apply_changes",
    "diff_revisions",
    "plan_changes",
    "plan_removal",
    "plan_rollback",
    "rollback",
]


#: So many users of a record are named where it is not removed because of them.
_MOST_USERS = 10


# --- planning ---------------------------------------------------------------------------------------------------


def plan_changes(catalog: Catalog, definitions: Definitions, *, prune: bool = False) -> ChangePlan:
    """Compare what is declared with the latest revision; changes nothing.

    A record is declared whole: a field that is left out gets its default. A literal secret that equals the stored
    value is no change.

    Args:
        catalog: The catalog.
        definitions: What is declared.
        prune: Remove the records that are not declared.

    Raises:
        InvalidInputError: What is declared, together with what stays in the catalog, has problems.
        SealedError: A literal must be compared with a stored secret, and the vault is sealed.
    """
    known = catalog.latest_snapshot()
    problems = check_definitions(definitions, known=known, prune=prune)
    if problems:
        raise InvalidInputError(problems)
    changes: list[Change] = []
    for record in definitions.records:
        before = known.find(record.kind, record.name)
        after, changed_secrets = _keep_secrets(catalog, before, record)
        change = compare_records(before, after, changed_secrets)
        if change is not None:
            changes.append(change)
    if prune:
        declared = {(record.kind, record.name) for record in definitions.records}
        changes.extend(
            Change("removed", record.kind, record.name)
            for record in known.iter_records()
            if (record.kind, record.name) not in declared
        )
    return ChangePlan(known.revision, _sorted(changes))


def plan_removal(catalog: Catalog, keys: Collection[RecordKey]) -> ChangePlan:
    """What has to change so that some records are no more; changes nothing.

    Raises:
        NotFoundError: There is no such record.
        InUseError: Others, which are not among them, refer to one of them; says which.
    """
    known = catalog.latest_snapshot()
    going = set(keys)
    for kind, name in going:
        if known.find(kind, name) is None:
            raise not_found(kind, name, known.of_kind(kind), revision=known.revision)
    users: dict[RecordKey, dict[RecordKey, None]] = {}
    for record in known.iter_records():
        if (record.kind, record.name) not in going:
            for kind, name, _ in references_of(record):
                if (kind, name) in going:
                    users.setdefault((kind, name), {})[record.kind, record.name] = None
    if users:
        raise InUseError("; ".join(_describe_users(key, list(found)) for key, found in sorted(users.items())))
    return ChangePlan(known.revision, _sorted(Change("removed", kind, name) for kind, name in going))


def _describe_users(key: RecordKey, found: list[RecordKey]) -> str:
    shown = [f"the {kind} {name!r}" for kind, name in found[:_MOST_USERS]]
    if len(found) > _MOST_USERS:
        shown.append(f"{len(found) - _MOST_USERS} more")
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    return f"The {key[0]} {key[1]!r} is used by {listed}"


def plan_rollback(catalog: Catalog, revision: int) -> ChangePlan:
    """What has to change so that the catalog is again what it was; changes nothing.

    Sealed secrets go back to the versions of that time.

    Raises:
        NotFoundError: There is no such revision.
    """
    base_revision = catalog.latest_revision()
    return ChangePlan(base_revision, diff_revisions(catalog, base_revision, revision))


def diff_revisions(catalog: Catalog, before: int, after: int) -> tuple[Change, ...]:
    """What makes one revision of another; 0 is the empty catalog.

    Raises:
        NotFoundError: There is no such revision.
    """
    known, wanted = catalog.snapshot(before), catalog.snapshot(after)
    changes: list[Change] = []
    for record in wanted.iter_records():
        earlier = known.find(record.kind, record.name)
        change = compare_records(earlier, record, _moved_secrets(earlier, record))
        if change is not None:
            changes.append(change)
    changes.extend(
        Change("removed", record.kind, record.name)
        for record in known.iter_records()
        if wanted.find(record.kind, record.name) is None
    )
    return _sorted(changes)


def _sorted(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: (RECORD_KINDS.index(change.kind), change.name)))


def _keep_secrets(catalog: Catalog, before: Record | None, record: Record) -> tuple[Record, frozenset[str]]:
    """The record with what the vault already has, and the secret fields whose value will be another one."""
    stored = secrets_of(before) if before is not None else {}
    kept: dict[str, AnySecret] = {}
    changed: set[str] = set()
    for field, secret in secrets_of(record).items():
        earlier = stored.get(field)
        if isinstance(secret, SealedSecret) and isinstance(earlier, SealedSecret):
            kept[field] = earlier
        elif isinstance(secret, LiteralSecret) and isinstance(earlier, SealedSecret):
            assert before is not None
            if catalog.resolve_secret(before, field) == secret.value.get_secret_value():
                kept[field] = earlier
            else:
                changed.add(field)
    return with_secrets(record, kept), frozenset(changed)


def _moved_secrets(before: Record | None, after: Record) -> frozenset[str]:
    """Sealed secrets of which another version counts."""
    if before is None:
        return frozenset()
    stored, wanted = secrets_of(before), secrets_of(after)
    return frozenset(
        field
        for field, secret in wanted.items()
        if isinstance(secret, SealedSecret) and isinstance(stored.get(field), SealedSecret) and stored[field] != secret
    )


# --- applying ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commit:
    """A revision that is about to be committed: for `Catalog.within_commit`."""

    number: int
    plan: ChangePlan
    author: str
    reason: str | None


def apply_changes(catalog: Catalog, plan: ChangePlan, *, author: str, reason: str | None) -> int:
    """Write a plan as one new revision.

    Args:
        catalog: The catalog that the plan was made for.
        plan: What to do.
        author: Who does it; up to 256 characters.
        reason: Why; up to 10,000 characters.

    Returns:
        Number of the new revision; the plan's own base when it is empty.

    Raises:
        ConflictError: Another revision was written since the plan was made; nothing was changed.
        SealedError: A literal secret must be sealed, and the vault is sealed; nothing was changed.
    """
    from synqx_dagster.catalog import secrets

    revisions.check_author(author, reason)
    if plan.is_empty:
        return plan.base_revision
    records = [change.record for change in plan.changes if change.record is not None]
    literals = [
        (record, field, secret.value)
        for record in records
        for field, secret in secrets_of(record).items()
        if isinstance(secret, LiteralSecret)
    ]
    # Before the transaction: to unseal takes a while, and may write to the vault's state.
    vault = catalog.unseal() if literals else None
    drafts = search_index.draft_documents(records)
    with catalog.write() as connection:
        revisions.lock_catalog(connection)
        revisions.check_base(connection, plan.base_revision)
        record_ids = revisions.ensure_record_ids(connection, ((item.kind, item.name) for item in plan.changes))
        sealed: dict[tuple[str, str], dict[str, SealedSecret]] = {}
        if vault is not None:
            secrets.hold_vault_state(connection)
        for record, field, value in literals:
            assert vault is not None
            record_id = record_ids[record.kind, record.name]
            version = secrets.next_version(connection, record_id, field)
            address = secrets.secret_address(record_id, field, version)
            envelope = vault.seal_secret(address, _text_of(value, record, field))
            secrets.insert_envelope(connection, address, envelope)
            sealed.setdefault((record.kind, record.name), {})[field] = SealedSecret(version=version)
        by_action: dict[str, list[Record]] = {"created": [], "changed": []}
        for change in plan.changes:
            if change.record is not None:
                fields = sealed.get((change.kind, change.name), {})
                by_action[change.action].append(with_secrets(change.record, fields))
        number = revisions.write_revision(
            connection,
            base_revision=plan.base_revision,
            changes=revisions.RevisionChanges(
                created=by_action["created"],
                changed=by_action["changed"],
                removed=[(item.kind, item.name) for item in plan.changes if item.action == "removed"],
            ),
            record_ids=record_ids,
            author=author,
            reason=reason,
        )
        agent_rows.keep_agents(
            connection, (record_ids[item.kind, item.name] for item in plan.changes if item.kind == "agent")
        )
        search_index.follow_revision(
            connection, base_revision=plan.base_revision, revision=number, drafts=drafts, record_ids=record_ids
        )
        for callback in tuple(catalog.within_commit):
            callback(connection, Commit(number, plan, author, reason))
    catalog.announce(number)
    return number


def _text_of(value: SecretStr, record: Record, field: str) -> str:
    text = value.get_secret_value()
    if not text:
        raise ConfigurationError(f"The {field} of the {record.kind} {record.name!r} is empty")
    return text


def rollback(catalog: Catalog, revision: int, *, author: str, reason: str | None) -> int:
    """Apply an old revision as a new one, with the versions that its secrets had; history stays.

    Returns:
        Number of the new revision; of the latest when nothing differs.

    Raises:
        NotFoundError: There is no such revision.
        ConflictError: Another revision was written meanwhile; nothing was changed.
    """
    plan = plan_rollback(catalog, revision)
    return apply_changes(catalog, plan, author=author, reason=reason or f"roll back to revision {revision}")
