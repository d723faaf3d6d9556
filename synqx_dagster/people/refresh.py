"""Refresh tokens: opaque, good for one use, and all of one login stand and fall together.

Guarantee: of two uses of one token exactly one gets the next. A use that comes later than `GRACE` after the first is
taken for theft, and ends the login with all of its tokens; one that comes within it is only refused, because a
client that sends a request twice is no thief.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.audit.actor import Actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import append, lock_end
from synqx_dagster.catalog.people_tables import refresh_token, token_family, user
from synqx_dagster.errors import LoginFailedError
from synqx_dagster.people.identity import Client
from synqx_dagster.people.opaque import REFRESH_PREFIX, digest, is_token, new_token

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

GRACE = timedelta(seconds=10)


@dataclass(frozen=True)
class Refreshed:
    """What a refresh token was exchanged for: the next one, of the same login."""

    user_id: UUID
    family_id: UUID
    expires_at: datetime
    token: str = field(repr=False)


class RefreshTokens:
    """The refresh tokens of one catalog.

    Args:
        catalog: Where they are kept, by their hashes.
        lifetime: So long a login can be renewed, however often it is.
    """

    def __init__(self, catalog: Catalog, *, lifetime: timedelta) -> None:
        self._catalog = catalog
        self._lifetime = lifetime

    def begin(self, user_id: UUID, client: Client) -> Refreshed:
        """The first token of a new login."""
        now = datetime.now(UTC)
        family_id, token, expires_at = uuid.uuid4(), new_token(REFRESH_PREFIX), now + self._lifetime
        with self._catalog.write() as connection:
            _purge(connection, user_id, now)
            connection.execute(
                sa.insert(token_family),
                {
                    "family_id": str(family_id),
                    "user_id": str(user_id),
                    "created_at": now,
                    "expires_at": expires_at,
                    "address": client.address[:64],
                    "user_agent": client.user_agent[:256],
                },
            )
            _insert(connection, family_id, token, now)
        return Refreshed(user_id, family_id, expires_at, token)

    def exchange(self, token: str, client: Client) -> Refreshed:
        """The next token for one that was not used yet.

        Raises:
            LoginFailedError: It is none, was used, or its login has ended; log in again.
        """
        if not is_token(token, REFRESH_PREFIX):
            raise _refused()
        now = datetime.now(UTC)
        with self._catalog.write() as connection:
            row = _find(connection, digest(token))
            if row is None or row.revoked_at is not None or row.expires_at <= now or row.disabled:
                raise _refused()
            used = connection.execute(
                sa.update(refresh_token)
                .where(refresh_token.c.token_hash == digest(token), refresh_token.c.used_at.is_(None))
                .values(used_at=now)
            )
            if used.rowcount == 1:
                following = new_token(REFRESH_PREFIX)
                _insert(connection, UUID(row.family_id), following, now)
                return Refreshed(UUID(row.user_id), UUID(row.family_id), row.expires_at, following)
        self._refuse_used(token, client)
        raise _refused()

    def _refuse_used(self, token: str, client: Client) -> None:
        with self._catalog.write() as connection:
            # The end of the trail first, as everywhere where a login is ended.
            lock_end(connection)
            row = _find(connection, digest(token))
            now = datetime.now(UTC)
            if row is None or row.revoked_at is not None or row.used_at is None or now - row.used_at <= GRACE:
                return
            end_family(connection, UUID(row.family_id))
            actor = Actor(row.username, row.user_id, "none", client.address, client.request_id)
            event = AuditEvent(
                "token.reuse",
                "denied",
                "",
                target_kind="login",
                target=row.family_id,
                detail="a refresh token was used again; the login has ended with all of its tokens",
            )
            append(connection, actor.signs(event))

    def end(self, family_id: UUID, actor: Actor) -> None:
        """End a login: its access tokens and its refresh token count no more."""
        with self._catalog.write() as connection:
            lock_end(connection)
            end_family(connection, family_id)
            event = AuditEvent("user.logout", "allowed", "", target_kind="login", target=str(family_id))
            append(connection, actor.signs(event))


def end_family(connection: Connection, family_id: UUID) -> None:
    """End a login within a transaction that holds the end of the trail."""
    connection.execute(
        sa.update(token_family)
        .where(token_family.c.family_id == str(family_id), token_family.c.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
    )


def _purge(connection: Connection, user_id: UUID, now: datetime) -> None:
    """Remove what a user's logins of long ago have left: a table must not grow with each login."""
    query = sa.select(token_family.c.family_id).where(
        token_family.c.user_id == str(user_id), token_family.c.expires_at < now - timedelta(days=1)
    )
    if old := connection.execute(query).scalars().all():
        connection.execute(sa.delete(refresh_token).where(refresh_token.c.family_id.in_(old)))
        connection.execute(sa.delete(token_family).where(token_family.c.family_id.in_(old)))


def _insert(connection: Connection, family_id: UUID, token: str, now: datetime) -> None:
    connection.execute(
        sa.insert(refresh_token), {"token_hash": digest(token), "family_id": str(family_id), "created_at": now}
    )


def _find(connection: Connection, token_hash: str) -> Any:
    query = (
        sa.select(
            refresh_token.c.family_id,
            refresh_token.c.used_at,
            token_family.c.user_id,
            token_family.c.expires_at,
            token_family.c.revoked_at,
            user.c.username,
            user.c.disabled,
        )
        .join_from(refresh_token, token_family, refresh_token.c.family_id == token_family.c.family_id)
        .join(user, token_family.c.user_id == user.c.user_id)
        .where(refresh_token.c.token_hash == token_hash)
    )
    return connection.execute(query).first()


def _refused() -> LoginFailedError:
    return LoginFailedError("The refresh token is not valid, or was used before", hint="log in again")
