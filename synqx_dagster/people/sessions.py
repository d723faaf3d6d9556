"""Logins of browsers: a random cookie, of which the hash is kept, with two ends: so long in all, and so long unused."""

from __future__ import annotations

import hmac
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.audit.actor import current_actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import append, lock_end
from synqx_dagster.catalog.people_tables import session, user, user_team
from synqx_dagster.errors import NotFoundError, RetryableError
from synqx_dagster.people.accounts import joined_user
from synqx_dagster.people.identity import Client, Identity
from synqx_dagster.people.opaque import SESSION_PREFIX, csrf_token_of, digest, is_token, new_token

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: When a session was last used is written this often, and not with each request.
_TOUCH_EVERY = timedelta(minutes=1)
_KEEP_ENDED = timedelta(days=30)

#: What sessions are listed by.
SessionSort = Literal["last_seen_at", "created_at", "expires_at"]


@dataclass(frozen=True)
class BrowserSession:
    """A new session: the token is the cookie's value, the CSRF token goes into pages."""

    token: str = field(repr=False)
    csrf_token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True)
class SessionInfo:
    """A session as its owner sees it."""

    session_id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str
    user_agent: str


class Sessions:
    """The sessions of one catalog.

    Args:
        catalog: Where they are kept.
        lifetime: So long one lasts.
        idle: So long it lasts unused.
    """

    def __init__(self, catalog: Catalog, *, lifetime: timedelta, idle: timedelta) -> None:
        self._catalog = catalog
        self._lifetime = lifetime
        self._idle = idle

    def open(self, user_id: UUID, client: Client) -> BrowserSession:
        """A new session; the login itself is in the trail already."""
        now = datetime.now(UTC)
        token, expires_at = new_token(SESSION_PREFIX), now + self._lifetime
        with self._catalog.write() as connection:
            # A table must not grow with each login.
            connection.execute(
                sa.delete(session).where(session.c.user_id == str(user_id), session.c.expires_at < now - _KEEP_ENDED)
            )
            connection.execute(
                sa.insert(session),
                {
                    "session_id": str(uuid.uuid4()),
                    "token_hash": digest(token),
                    "user_id": str(user_id),
                    "created_at": now,
                    "last_seen_at": now,
                    "expires_at": expires_at,
                    "address": client.address[:64],
                    "user_agent": client.user_agent[:256],
                },
            )
        return BrowserSession(token, csrf_token_of(token), expires_at)

    def identify(self, token: str) -> Identity | None:
        """Whose session it is; None where it is none, or has ended, or its user is disabled."""
        if not is_token(token, SESSION_PREFIX):
            return None
        now = datetime.now(UTC)
        query = (
            sa.select(user, user_team.c.team, session.c.session_id, session.c.last_seen_at)
            .join_from(session, user, session.c.user_id == user.c.user_id)
            .outerjoin(user_team, user_team.c.user_id == user.c.user_id)
            .where(
                session.c.token_hash == digest(token),
                session.c.revoked_at.is_(None),
                session.c.expires_at > now,
                session.c.last_seen_at > now - self._idle,
                user.c.disabled.is_(False),
            )
        )
        with self._catalog.read() as connection:
            rows = connection.execute(query).all()
        found = joined_user(rows)
        if found is None:
            return None
        if now - rows[0].last_seen_at > _TOUCH_EVERY:
            self._touch(rows[0].session_id, now)
        return found.identity("session", credential_id=rows[0].session_id)

    def find_expiry(self, token: str) -> datetime | None:
        """When a session ends at the latest; None where it is none, or has ended."""
        query = sa.select(session.c.expires_at).where(
            session.c.token_hash == digest(token),
            session.c.revoked_at.is_(None),
            session.c.expires_at > datetime.now(UTC),
        )
        with self._catalog.read() as connection:
            found: datetime | None = connection.execute(query).scalar()
        return found

    def _touch(self, session_id: str, now: datetime) -> None:
        try:
            with self._catalog.write() as connection:
                connection.execute(
                    sa.update(session).where(session.c.session_id == session_id).values(last_seen_at=now)
                )
        except RetryableError:
            return  # somebody writes for long; the next request says it

    def page(
        self,
        user_id: UUID,
        *,
        skip: int = 0,
        limit: int = 50,
        address: str | None = None,
        sort: SessionSort = "last_seen_at",
        descending: bool = True,
    ) -> tuple[list[SessionInfo], int]:
        """Sessions of a user that have not ended, the one used last first, and how many there are in all.

        Args:
            address: Only those that were opened from this address.
        """
        now = datetime.now(UTC)
        conditions: list[sa.ColumnElement[bool]] = [
            session.c.user_id == str(user_id),
            session.c.revoked_at.is_(None),
            session.c.expires_at > now,
            session.c.last_seen_at > now - self._idle,
        ]
        if address is not None:
            conditions.append(session.c.address == address)
        column = session.c[sort]
        # Sessions of one moment keep their order, so that no page has what another one has.
        order = (column.desc() if descending else column.asc(), session.c.session_id)
        query = sa.select(session).where(*conditions).order_by(*order).offset(skip).limit(limit)
        with self._catalog.read() as connection:
            rows = connection.execute(query).all()
            total = connection.execute(sa.select(sa.func.count()).select_from(session).where(*conditions)).scalar_one()
        found = [
            SessionInfo(
                UUID(row.session_id), row.created_at, row.last_seen_at, row.expires_at, row.address, row.user_agent
            )
            for row in rows
        ]
        return found, int(total)

    def close(self, token: str) -> None:
        """End the session of a cookie; one that is none is no error."""
        self._end(session.c.token_hash == digest(token), action="user.logout")

    def revoke(self, user_id: UUID, session_id: UUID) -> None:
        """End one of a user's sessions.

        Raises:
            NotFoundError: The user has no such session, or it has ended.
        """
        mine = sa.and_(session.c.session_id == str(session_id), session.c.user_id == str(user_id))
        if not self._end(mine, action="session.revoke"):
            raise NotFoundError(f"There is no session {session_id}")

    def _end(self, which: sa.ColumnElement[bool], *, action: str) -> bool:
        now = datetime.now(UTC)
        with self._catalog.write() as connection:
            lock_end(connection)
            row = _find_open(connection, which, now)
            if row is None:
                return False
            connection.execute(sa.update(session).where(session.c.session_id == row[0]).values(revoked_at=now))
            event = AuditEvent(action, "allowed", "", target_kind="session", target=row[0])
            append(connection, current_actor().signs(event))
        return True

    @staticmethod
    def check_csrf(token: str, csrf_token: str) -> bool:
        """Whether a page of this session sent a request."""
        return hmac.compare_digest(csrf_token_of(token).encode(), csrf_token.encode("utf-8", "surrogatepass"))


def _find_open(connection: Connection, which: sa.ColumnElement[bool], now: datetime) -> tuple[str] | None:
    query = sa.select(session.c.session_id).where(which, session.c.revoked_at.is_(None), session.c.expires_at > now)
    row = connection.execute(query).first()
    return None if row is None else (str(row[0]),)
