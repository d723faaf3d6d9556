"""What a route needs of its caller, declared where the route is, so that a test can walk all routes and roles."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from synqx_dagster.api.problems import ApiError
from synqx_dagster.people.identity import Client, Identity
from synqx_dagster.people.roles import Permission


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
        """
        identity = find_identity(request)
        if identity is None:
            raise ApiError(
                401,
                "Log in first",
                hint="POST /api/v1/auth/login, and send its access_token as `Authorization: Bearer ...`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not identity.may(self.permission):
            raise ApiError(
                403,
                f"This needs the permission {self.permission.value}, which the role {identity.role.value} or the key lacks",
            )
        return identity


def find_identity(request: Request) -> Identity | None:
    """Who calls; None where nobody is logged in. The middleware of `synqx_dagster.api.identify` found out."""
    identity: Identity | None = getattr(request.state, "identity", None)
    return identity


def client_of(request: Request) -> Client:
    """Where the request comes from."""
    client: Client = request.state.client
    return client


Caller = Annotated[Client, Depends(client_of)]
