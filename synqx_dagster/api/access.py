"""What a route needs of its caller, declared where the route is, so that a test can walk all routes and roles."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.problems import ApiError
from synqx_dagster.audit.actor import current_actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.errors import SynqxError
from synqx_dagster.people.identity import Client, Identity
from synqx_dagster.people.roles import Permission

#: What changes nothing (RFC 9110, 9.2.1).
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Public:
    """A dependency: anybody may call the route. Every route has either this or a `Requires`."""

    def __call__(self) -> None:
        """Nothing is needed."""


class Requires:
    """A dependency: the route needs a caller with a permission; gives the caller's identity."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    def __call__(self, request: Request) -> Identity:
        """The caller.

        Raises:
            ApiError: 401 without a valid login, 403 without the permission.
            NotInitialisedError: There is no catalog, so nobody could log in.
        """
        identity = find_identity(request)
        if identity is None and (error := find_identity_error(request)) is not None:
            raise error
        if identity is None:
            context: ApiContext = request.app.state.context
            _ = context.catalog
            raise ApiError(
                401,
                "Log in first",
                hint="POST /api/v1/auth/login, and send its access_token as `Authorization: Bearer ...`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not identity.may(self.permission):
            self._record_denial(request)
            needed, role = self.permission.value, identity.role.value
            raise ApiError(403, f"This needs the permission {needed}, which the role {role} or the key lacks")
        return identity

    def _record_denial(self, request: Request) -> None:
        if request.method in SAFE_METHODS:
            return  # who looks where they may not changes nothing, and web pages look a lot
        context: ApiContext = request.app.state.context
        event = AuditEvent(
            "access.denied",
            "denied",
            "",
            target_kind="route",
            target=f"{request.method} {request.url.path}",
            detail=f"needs {self.permission.value}",
        )
        AuditTrail(context.catalog).record(current_actor().signs(event))


def find_identity_error(request: Request) -> SynqxError | None:
    """Why nobody is logged in although the request has a credential: it is not valid, or the vault is sealed."""
    error: SynqxError | None = getattr(request.state, "identity_error", None)
    return error


def find_identity(request: Request) -> Identity | None:
    """Who calls; None where nobody is logged in. The middleware of `synqx_dagster.api.identify` found out."""
    identity: Identity | None = getattr(request.state, "identity", None)
    return identity


def client_of(request: Request) -> Client:
    """Where the request comes from."""
    client: Client = request.state.client
    return client


Caller = Annotated[Client, Depends(client_of)]
