"""People: one value through which a server and the command line ask who somebody is, and let them in or not.

Guarantee: what became of an account or of a credential counts from the next request on, in every process. What lets
somebody in or shuts them out is in the audit trail within the same transaction, or does not happen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import Connection

from synqx_dagster.audit.actor import Actor, acting_as, current_actor
from synqx_dagster.audit.event import AuditEvent, Outcome
from synqx_dagster.audit.trail import append, lock_end
from synqx_dagster.catalog.people_tables import token_family, user, user_team
from synqx_dagster.errors import AccessError, InvalidInputError, LoginFailedError, Problem, SourceLocation
from synqx_dagster.people import external, passwords
from synqx_dagster.people.accounts import Accounts, NewUser, User, find_user, joined_user, key_of
from synqx_dagster.people.api_keys import ApiKeys
from synqx_dagster.people.external import ExternalIdentity
from synqx_dagster.people.identity import Client, Identity
from synqx_dagster.people.opaque import API_KEY_PREFIX, csrf_token_of
from synqx_dagster.people.refresh import Refreshed, RefreshTokens
from synqx_dagster.people.roles import Role
from synqx_dagster.people.sessions import BrowserSession, Sessions
from synqx_dagster.people.throttle import Throttle
from synqx_dagster.people.tokens import LIFETIME, AccessTokens

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

__all__ = ["BrowserSession", "Login", "People", "TokenPair", "actor_of"]


@dataclass(frozen=True)
class Login:
    """Somebody who has just proved who they are; `People.open_session` or `People.issue_tokens` come next."""

    identity: Identity
    user: User


@dataclass(frozen=True)
class TokenPair:
    """An access token, and what to exchange for the next pair. Lifetimes in seconds."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in_seconds: int
    refresh_expires_at: datetime


def actor_of(identity: Identity | None, client: Client) -> Actor:
    """Who acts, as the trail has it."""
    if identity is None:
        return Actor("anonymous", None, "none", client.address, client.request_id)
    return Actor(identity.username, str(identity.user_id), identity.method, client.address, client.request_id)


class People:
    """The people of one catalog. Safe to share between threads.

    Attributes:
        accounts: Who there is.
        keys: Keys of services.
        sessions: Logins of browsers.
        throttle: Limits on attempts and requests.
    """

    def __init__(self, catalog: Catalog, throttle: Throttle | None = None) -> None:
        settings = catalog.settings.server
        self._catalog = catalog
        self._settings = settings
        self.accounts = Accounts(catalog)
        self.keys = ApiKeys(catalog)
        self.sessions = Sessions(catalog, lifetime=settings.session_lifetime, idle=settings.session_idle)
        self.throttle = throttle or Throttle(settings)
        self.access_tokens = AccessTokens(catalog)
        self.refresh_tokens = RefreshTokens(catalog, lifetime=settings.refresh_lifetime)

    @property
    def public_url(self) -> str | None:
        """How browsers reach the server, where a setting says so."""
        return self._settings.public_url

    # --- who is it ----------------------------------------------------------------------------------------------

    def identify_bearer(self, token: str) -> Identity | None:
        """Who sends an access token or a key of a service; None where it is neither, or counts no more.

        Raises:
            SealedError: It is an access token, and the vault is sealed; sessions and keys go on.
        """
        if token.startswith(API_KEY_PREFIX):
            return self.keys.identify(token)
        claims = self.access_tokens.verify(token)
        if claims is None:
            return None
        query = (
            sa.select(user, user_team.c.team)
            .join_from(token_family, user, token_family.c.user_id == user.c.user_id)
            .outerjoin(user_team, user_team.c.user_id == user.c.user_id)
            .where(
                token_family.c.family_id == str(claims.family_id),
                token_family.c.revoked_at.is_(None),
                user.c.user_id == str(claims.user_id),
                user.c.disabled.is_(False),
            )
        )
        with self._catalog.read() as connection:
            found = joined_user(connection.execute(query).all())
        return None if found is None else found.identity("token", credential_id=str(claims.family_id))

    def identify_session(self, token: str) -> Identity | None:
        """Whose cookie it is; None where it is nobody's, or counts no more."""
        return self.sessions.identify(token)

    # --- logging in -----------------------------------------------------------------------------------------------

    def login(self, username_or_email: str, password: SecretStr, client: Client) -> Login:
        """Let somebody in by a password.

        An unknown user, a wrong password and a disabled account get the same answer after the same time; the trail
        says which it was. A hash of another system, or of older parameters, becomes one of ours.

        Raises:
            LoginFailedError: Any of these.
            TooManyAttemptsError: Too many attempts for this name, or from this address; these are not in the trail.
        """
        name = key_of(username_or_email)
        self.throttle.count_login(name, client.address)
        row = self._find_login(name) if _may_be_stored(name) else None
        stored: str | None = None if row is None else row.password_hash
        fits = passwords.verify_password(password, stored)
        upgraded = passwords.hash_password(password) if fits and stored and passwords.needs_rehash(stored) else None
        with self._catalog.write() as connection:
            lock_end(connection)
            # Again, now that nobody can change it: the password took a while.
            found = None if row is None else find_user(connection, user.c.user_id == row.user_id)
            reason = _why_not(found, has_hash=stored is not None, fits=fits)
            if reason is None and found is not None and row is not None:
                moved = found.password_changed_at != row.password_changed_at
                reason = "the password was changed meanwhile" if moved else None
            if reason is not None:
                name_given = _shortened(username_or_email) if found is None else found.username
                self._record_login(connection, name_given, found, client, "failed", detail=reason)
            else:
                assert found is not None
                self._note_login(connection, found)
                if upgraded is not None:
                    # Where another login was first with that, its hash stays.
                    connection.execute(
                        sa.update(user)
                        .where(user.c.user_id == str(found.user_id), user.c.password_hash == stored)
                        .values(password_hash=upgraded)
                    )
                self._record_login(connection, found.username, found, client, "allowed", detail="by password")
        if reason is not None or found is None:
            raise LoginFailedError
        self.throttle.forget_login(name)
        return Login(found.identity("session"), found)

    def _find_login(self, name: str) -> Any:
        query = (
            sa.select(user.c.user_id, user.c.password_hash, user.c.password_changed_at)
            .where(sa.or_(user.c.username_key == name, user.c.email_key == name))
            .order_by(sa.case((user.c.username_key == name, 0), else_=1))
            .limit(1)
        )
        with self._catalog.read() as connection:
            return connection.execute(query).first()

    def _note_login(self, connection: Connection, found: User) -> None:
        connection.execute(
            sa.update(user).where(user.c.user_id == str(found.user_id)).values(last_login_at=datetime.now(UTC))
        )

    def _record_login(
        self,
        connection: Connection,
        name: str,
        found: User | None,
        client: Client,
        outcome: Outcome,
        *,
        detail: str,
    ) -> None:
        actor = Actor(name, None if found is None else str(found.user_id), "none", client.address, client.request_id)
        event = AuditEvent(
            "user.login",
            outcome,
            "",
            target_kind="user",
            target=found.username if found is not None else None,
            detail=detail,
        )
        append(connection, actor.signs(event))

    def enter(self, user_id: UUID, client: Client, *, detail: str) -> Login:
        """Let somebody in whom another one vouches for: an OpenID provider, or a one-time link.

        Raises:
            LoginFailedError: The account is disabled, or gone.
        """
        with self._catalog.write() as connection:
            lock_end(connection)
            found = find_user(connection, user.c.user_id == str(user_id))
            if found is not None and not found.disabled:
                self._note_login(connection, found)
                self._record_login(connection, found.username, found, client, "allowed", detail=detail)
            elif found is not None:
                self._record_login(connection, found.username, found, client, "failed", detail=f"disabled, {detail}")
        if found is None or found.disabled:
            raise LoginFailedError("This account cannot log in")
        return Login(found.identity("session"), found)

    def login_external(self, who: ExternalIdentity, client: Client) -> Login:
        """Let somebody in whom the OpenID provider vouches for; an account is found or made for them.

        Raises:
            LoginFailedError: There is no account for them, or it is disabled; the trail says why.
        """
        create_role = self._settings.oidc and self._settings.oidc.create_role
        role = Role(create_role) if create_role else None
        user_id = external.find_or_make_account(self._catalog, who, client, create_role=role)
        return self.enter(user_id, client, detail=f"by {who.issuer}")

    def register(self, new: NewUser, client: Client) -> User:
        """Make an account for somebody who asks for one; always as a viewer, without teams.

        Raises:
            AccessError: Registration is closed.
            InvalidInputError: It cannot be an account.
            ConflictError: The name or the address is taken.
        """
        if not self._settings.registration_open:
            raise AccessError("Registration is closed", hint="ask an admin for an account")
        # An account costs a hash and a row, so they are counted as logins are.
        self.throttle.count_login(f"register:{key_of(new.username)}", client.address)
        wanted = NewUser(new.username, Role.VIEWER, email=new.email, password=new.password, email_confirmed=False)
        with acting_as(Actor(new.username, None, "none", client.address, client.request_id)):
            return self.accounts.create(wanted, action="user.register")

    # --- sessions and tokens ----------------------------------------------------------------------------------------

    def open_session(self, identity: Identity, client: Client) -> BrowserSession:
        """A session for a browser of somebody who has logged in."""
        return self.sessions.open(identity.user_id, client)

    def close_session(self, token: str) -> None:
        """Log a browser out."""
        self.sessions.close(token)

    def check_csrf(self, token: str, csrf_token: str) -> bool:
        """Whether a page of this session sent a request."""
        return self.sessions.check_csrf(token, csrf_token)

    def csrf_token(self, token: str) -> str:
        """What the pages of a session must send with each change."""
        return csrf_token_of(token)

    def issue_tokens(self, identity: Identity, client: Client) -> TokenPair:
        """An access and a refresh token for somebody who has logged in.

        Raises:
            SealedError: The vault is sealed.
        """
        # First, because a sealed vault must not leave a login that nobody can use.
        self.access_tokens.keys.active()
        return self._pair(self.refresh_tokens.begin(identity.user_id, client))

    def refresh(self, token: str, client: Client) -> TokenPair:
        """The next pair for a refresh token.

        Raises:
            LoginFailedError: It is none, was used, or its login has ended.
            SealedError: The vault is sealed; the token stays good.
        """
        self.access_tokens.keys.active()
        return self._pair(self.refresh_tokens.exchange(token, client))

    def _pair(self, refreshed: Refreshed) -> TokenPair:
        access = self.access_tokens.issue(refreshed.user_id, refreshed.family_id)
        return TokenPair(access, refreshed.token, int(LIFETIME.total_seconds()), refreshed.expires_at)

    def logout(self, identity: Identity) -> None:
        """End the login that somebody uses: a session, or a token with all of its family. A key is revoked instead.

        Raises:
            AccessError: It is a key of a service.
        """
        if identity.credential_id is None or identity.method not in ("session", "token"):
            raise AccessError("A key does not log out", hint="revoke it: DELETE /api/v1/api-keys/{id}")
        if identity.method == "session":
            self.sessions.revoke(identity.user_id, UUID(identity.credential_id))
            return
        self.refresh_tokens.end(UUID(identity.credential_id), current_actor())

    # --- the own password ---------------------------------------------------------------------------------------------

    def change_password(self, identity: Identity, current: SecretStr, new: SecretStr, client: Client) -> None:
        """Change the own password; every login ends, this one as well. Keys of services stay.

        Raises:
            AccessError: By a key of a service.
            TooManyAttemptsError: As `login`.
            InvalidInputError: The current password is wrong, or the new one is not taken.
        """
        if identity.method == "api_key":
            raise AccessError("A key cannot change a password", hint="log in, and change it then")
        self.throttle.count_login(key_of(identity.username), client.address)
        with self._catalog.read() as connection:
            query = sa.select(user.c.password_hash).where(user.c.user_id == str(identity.user_id))
            stored = connection.execute(query).scalar()
        if not passwords.verify_password(current, stored):
            with self._catalog.write() as connection:
                event = AuditEvent(
                    "user.set_password",
                    "failed",
                    "",
                    target_kind="user",
                    target=identity.username,
                    detail="the current password is wrong",
                )
                append(connection, current_actor().signs(event))
            problem = Problem("the current password is wrong", SourceLocation(field="current_password"))
            raise InvalidInputError([problem], message="The password was not changed")
        self.accounts.set_password(identity.user_id, new)
        self.throttle.forget_login(key_of(identity.username))


def _may_be_stored(name: str) -> bool:
    # PostgreSQL takes neither; nobody has such a name.
    return len(name) <= 512 and not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in name)


def _shortened(name: str) -> str:
    """What the trail keeps of a name that nobody has: it may be a password, in the wrong field."""
    return f"{name[:2]}…"


def _why_not(found: User | None, *, has_hash: bool, fits: bool) -> str | None:
    """Why somebody is not let in, for the trail; None where nothing speaks against it."""
    if found is None:
        return "there is no such user"
    if not has_hash:
        return "the account has no password"
    if not fits:
        return "wrong password"
    return "the account is disabled" if found.disabled else None
