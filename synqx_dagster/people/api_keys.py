"""Keys of services: shown once, kept as a hash, good for some of what their owner may do, and for a time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import sqlalchemy as sa

from synqx_dagster.audit.actor import current_actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import append, lock_end
from synqx_dagster.catalog.people_tables import api_key, user, user_team
from synqx_dagster.errors import (
    AccessError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    Problem,
    RetryableError,
    SourceLocation,
)
from synqx_dagster.people.accounts import joined_user
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.opaque import API_KEY_PREFIX, digest, is_token, new_token
from synqx_dagster.people.roles import Permission

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

_SHOWN_CHARACTERS = len(API_KEY_PREFIX) + 6
_TOUCH_EVERY = timedelta(minutes=1)
_MAX_NAME_CHARACTERS = 128
#: So many a user has at most.
MAX_KEYS = 100
_MAX_LIFETIME = timedelta(days=366 * 5)

#: What keys are listed by.
ApiKeySort = Literal["created_at", "name", "expires_at", "last_used_at"]


@dataclass(frozen=True)
class ApiKeyInfo:
    """A key as its owner sees it: everything but the key."""

    key_id: UUID
    user_id: UUID
    name: str
    prefix: str
    scopes: frozenset[Permission]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class NewApiKey:
    """A key that was just made, with the one copy of it."""

    info: ApiKeyInfo
    key: str = field(repr=False)


class ApiKeys:
    """The keys of one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def create(
        self, identity: Identity, name: str, scopes: Collection[Permission], expires_at: datetime | None
    ) -> NewApiKey:
        """Make a key.

        Args:
            identity: Whose key; it may never do more than they may.
            name: What it is for.
            scopes: What it may do.
            expires_at: Until when; None for as long as nobody revokes it.

        Raises:
            AccessError: A key makes no keys; nobody gives what they do not have.
            InvalidInputError: The name, a scope or the time cannot be meant.
            ConflictError: The user has a hundred of them.
        """
        if identity.method == "api_key":
            raise AccessError("A key cannot make another key", hint="log in, and make it then")
        now = datetime.now(UTC)
        _check(name, scopes, expires_at, now)
        beyond = sorted(set(scopes) - identity.permissions)
        if beyond:
            raise AccessError(f"You may not {beyond[0]} yourself, and so no key of yours may")
        key = new_token(API_KEY_PREFIX)
        info = ApiKeyInfo(
            uuid.uuid4(),
            identity.user_id,
            name.strip(),
            key[:_SHOWN_CHARACTERS],
            frozenset(scopes),
            now,
            expires_at,
            None,
            None,
        )
        with self._catalog.write() as connection:
            lock_end(connection)
            count = sa.select(sa.func.count()).select_from(api_key)
            mine = api_key.c.user_id == str(identity.user_id)
            if connection.execute(count.where(mine, api_key.c.revoked_at.is_(None))).scalar_one() >= MAX_KEYS:
                raise ConflictError(f"You have {MAX_KEYS} keys", hint="revoke those that nobody uses")
            connection.execute(
                sa.insert(api_key),
                {
                    "key_id": str(info.key_id),
                    "key_hash": digest(key),
                    "user_id": str(info.user_id),
                    "name": info.name,
                    "prefix": info.prefix,
                    "scopes": json.dumps(sorted(info.scopes)),
                    "created_at": now,
                    "expires_at": expires_at,
                },
            )
            event = AuditEvent(
                "api_key.create",
                "allowed",
                "",
                target_kind="api_key",
                target=str(info.key_id),
                detail=f"{info.prefix}..., {info.name}: {', '.join(sorted(info.scopes))}",
            )
            append(connection, current_actor().signs(event))
        return NewApiKey(info, key)

    def identify(self, key: str) -> Identity | None:
        """Whose key it is; None where it is none, or revoked, or expired, or its owner is disabled."""
        if not is_token(key, API_KEY_PREFIX):
            return None
        now = datetime.now(UTC)
        query = (
            sa.select(user, user_team.c.team, api_key.c.key_id, api_key.c.scopes, api_key.c.last_used_at)
            .join_from(api_key, user, api_key.c.user_id == user.c.user_id)
            .outerjoin(user_team, user_team.c.user_id == user.c.user_id)
            .where(
                api_key.c.key_hash == digest(key),
                api_key.c.revoked_at.is_(None),
                sa.or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > now),
                user.c.disabled.is_(False),
            )
        )
        with self._catalog.read() as connection:
            rows = connection.execute(query).all()
        found = joined_user(rows)
        if found is None:
            return None
        row = rows[0]
        if row.last_used_at is None or now - row.last_used_at > _TOUCH_EVERY:
            self._touch(row.key_id, now)
        return found.identity("api_key", credential_id=row.key_id, scopes=_scopes_of(row.scopes))

    def _touch(self, key_id: str, now: datetime) -> None:
        try:
            with self._catalog.write() as connection:
                connection.execute(sa.update(api_key).where(api_key.c.key_id == key_id).values(last_used_at=now))
        except RetryableError:
            return  # somebody writes for long; the next request says it

    def page(
        self,
        user_id: UUID,
        *,
        skip: int = 0,
        limit: int = MAX_KEYS,
        name_contains: str | None = None,
        expired: bool | None = None,
        sort: ApiKeySort = "created_at",
        descending: bool = True,
    ) -> tuple[list[ApiKeyInfo], int]:
        """Keys of a user that are not revoked, the newest first, and how many there are in all.

        Args:
            name_contains: A part of the name; upper and lower case are the same.
            expired: Only keys that are, or are not; None for both.
        """
        conditions: list[sa.ColumnElement[bool]] = [api_key.c.user_id == str(user_id), api_key.c.revoked_at.is_(None)]
        if name_contains:
            conditions.append(api_key.c.name.icontains(name_contains, autoescape=True))
        if expired is not None:
            is_over = sa.and_(api_key.c.expires_at.is_not(None), api_key.c.expires_at <= datetime.now(UTC))
            conditions.append(is_over if expired else sa.not_(is_over))
        column = api_key.c[sort]
        # Whatever a database makes of NULL, what has no moment is last; and keys of one moment keep their order.
        order = (column.is_(None), column.desc() if descending else column.asc(), api_key.c.key_id)
        query = sa.select(api_key).where(*conditions).order_by(*order).offset(skip).limit(limit)
        with self._catalog.read() as connection:
            found = [_info(row) for row in connection.execute(query)]
            total = connection.execute(sa.select(sa.func.count()).select_from(api_key).where(*conditions)).scalar_one()
        return found, int(total)

    def revoke(self, user_id: UUID, key_id: UUID) -> None:
        """End one of a user's keys.

        Raises:
            NotFoundError: The user has no such key, or it is revoked.
        """
        mine = (api_key.c.key_id == str(key_id), api_key.c.user_id == str(user_id), api_key.c.revoked_at.is_(None))
        with self._catalog.write() as connection:
            lock_end(connection)
            row = connection.execute(sa.select(api_key).where(*mine)).first()
            if row is None:
                raise NotFoundError(f"There is no key {key_id}")
            connection.execute(sa.update(api_key).where(*mine).values(revoked_at=datetime.now(UTC)))
            event = AuditEvent(
                "api_key.revoke",
                "allowed",
                "",
                target_kind="api_key",
                target=str(key_id),
                detail=f"{row.prefix}..., {row.name}",
            )
            append(connection, current_actor().signs(event))


def _check(name: str, scopes: Collection[Permission], expires_at: datetime | None, now: datetime) -> None:
    problems = []
    if not 1 <= len(name.strip()) <= _MAX_NAME_CHARACTERS or not name.isprintable():
        problems.append(("name", f"a key's name has 1 to {_MAX_NAME_CHARACTERS} printable characters"))
    if not scopes:
        problems.append(("scopes", "a key without a scope could do nothing"))
    if expires_at is not None and not now < expires_at <= now + _MAX_LIFETIME:
        problems.append(("expires_at", f"a key expires in the future, within {_MAX_LIFETIME.days} days"))
    if problems:
        raise InvalidInputError([Problem(text, SourceLocation(field=field)) for field, text in problems])


def _scopes_of(text: str) -> frozenset[Permission]:
    # A scope of a version that had more of them gives nothing.
    known = {item.value for item in Permission}
    return frozenset(Permission(item) for item in json.loads(text) if item in known)


def _info(row: Any) -> ApiKeyInfo:
    return ApiKeyInfo(
        UUID(row.key_id),
        UUID(row.user_id),
        row.name,
        row.prefix,
        _scopes_of(row.scopes),
        row.created_at,
        row.expires_at,
        row.last_used_at,
        row.revoked_at,
    )
