"""Who somebody is here whom an OpenID provider vouches for: by the provider's id, or the first time by an address."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.audit.actor import Actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import append, lock_end
from synqx_dagster.catalog.people_tables import external_login, user
from synqx_dagster.errors import InvalidInputError, LoginFailedError
from synqx_dagster.people.accounts import NewUser, User, check_new_user, find_user, insert_user, key_of
from synqx_dagster.people.identity import Client
from synqx_dagster.people.roles import Role

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog


@dataclass(frozen=True)
class ExternalIdentity:
    """What a provider says of somebody.

    Attributes:
        issuer: The provider.
        subject: Its id for them, never given to another.
        email: An address that it has verified; None where it has none, or says nothing of its being verified.
    """

    issuer: str
    subject: str
    email: str | None


def find_or_make_account(catalog: Catalog, who: ExternalIdentity, client: Client, *, create_role: Role | None) -> UUID:
    """The account of somebody whom a provider vouches for; linked or made the first time.

    An account is linked by its address only where an admin, an import or a provider gave it that: else one could
    register with the address of somebody else, and wait for them.

    Raises:
        LoginFailedError: There is none for them.
    """
    with catalog.write() as connection:
        lock_end(connection)
        known = connection.execute(
            sa.select(external_login.c.user_id).where(
                external_login.c.issuer == who.issuer, external_login.c.subject == who.subject
            )
        ).scalar()
        if known is not None:
            return UUID(known)
        found, action, reason = _find_or_make(connection, who, create_role)
        actor = Actor(
            found.username if found else who.email or who.subject,
            str(found.user_id) if found else None,
            "none",
            client.address,
            client.request_id,
        )
        target = found.username if found else None
        if found is not None:
            connection.execute(
                sa.insert(external_login),
                {
                    "issuer": who.issuer,
                    "subject": who.subject,
                    "user_id": str(found.user_id),
                    "created_at": datetime.now(UTC),
                },
            )
        event = AuditEvent(
            action, "failed" if found is None else "allowed", "", target_kind="user", target=target, detail=reason
        )
        append(connection, actor.signs(event))
    if found is None:
        raise LoginFailedError("There is no account for this login", hint="ask an admin for one")
    return found.user_id


def _find_or_make(
    connection: Connection, who: ExternalIdentity, create_role: Role | None
) -> tuple[User | None, str, str]:
    """The account, what the trail calls the act, and its words."""
    if who.email is None:
        return None, "user.login", f"{who.issuer} has no verified e-mail address of them"
    found = find_user(connection, user.c.email_key == key_of(who.email), user.c.email_confirmed.is_(True))
    if found is not None:
        return found, "user.link_provider", f"to {who.issuer}"
    if find_user(connection, sa.or_(user.c.email_key == key_of(who.email), user.c.username_key == key_of(who.email))):
        return None, "user.login", "somebody registered with their e-mail address, which nobody has confirmed"
    if create_role is None:
        return None, "user.login", f"{who.issuer} vouches for them, and there is no account with their address"
    new = NewUser(who.email, create_role, email=who.email)
    try:
        check_new_user(new)
    except InvalidInputError:
        return None, "user.login", "their e-mail address cannot be a user name"
    return insert_user(connection, new, None), "user.create", f"role {create_role.value}, by {who.issuer}"
