"""Who does something, and from where: what every request, command and entry of the audit trail is attributed to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from synqx_dagster.people.roles import Permission, Role

#: How somebody proved who they are; ``local``: a command on this machine, by the operating system's user.
AuthMethod = Literal["session", "token", "api_key", "local"]


@dataclass(frozen=True)
class Client:
    """Where a request comes from. ``request_id`` is in every answer, log line and entry of the trail."""

    address: str
    user_agent: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class Identity:
    """Somebody who is logged in.

    Attributes:
        permissions: Those of the role; for the key of a service only its scopes among them.
        teams: Owner teams; a record that has owners is written by them and by admins alone.
        credential_id: Which session or key it is; None for an access token.
    """

    user_id: UUID
    username: str
    role: Role
    permissions: frozenset[Permission]
    method: AuthMethod
    teams: frozenset[str] = frozenset()
    email: str | None = None
    credential_id: str | None = field(default=None, repr=False)

    def may(self, permission: Permission) -> bool:
        """Whether this is permitted."""
        return permission in self.permissions

    def owns(self, owners: tuple[str, ...]) -> bool:
        """Whether a record with these owners may be written: it has none, or one of them is this person or a team.

        Owners are written as Dagster has them: ``team:NAME``, or an e-mail address.
        """
        if not owners or self.role is Role.ADMIN:
            return True
        mine = {f"team:{team}" for team in self.teams} | {self.email, self.username}
        return any(owner in mine for owner in owners)
