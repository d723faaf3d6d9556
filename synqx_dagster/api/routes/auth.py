"""Logging in and out, and the own account."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from synqx_dagster.api.access import Caller, Public, Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.people_models import (
    LoginInput,
    MeOutput,
    PasswordChangeInput,
    RefreshInput,
    RegisterInput,
    SessionOutput,
    TokenOutput,
    UserOutput,
)
from synqx_dagster.api.problems import problems_of
from synqx_dagster.people.accounts import NewUser
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission, Role
from synqx_dagster.people.service import TokenPair
from synqx_dagster.people.sessions import SessionSort

router = APIRouter(prefix="/auth", tags=["auth"])

Myself = Annotated[Identity, Depends(Requires(Permission.PROFILE))]


def _tokens(pair: TokenPair) -> TokenOutput:
    return TokenOutput(
        access_token=pair.access_token,
        expires_in=pair.expires_in_seconds,
        refresh_token=pair.refresh_token,
        refresh_expires_at=pair.refresh_expires_at,
    )


@router.post(
    "/register",
    status_code=201,
    dependencies=[Depends(Public())],
    responses=problems_of(403, 409, 422, 429, 501),
    summary="Make an account",
)
def register(body: RegisterInput, context: Context, client: Caller) -> UserOutput:
    """Make an account as a viewer, where SYNQX_REGISTRATION is open."""
    new = NewUser(body.username, Role.VIEWER, email=body.email, password=body.password)
    return UserOutput.of(context.people.register(new, client))


@router.post(
    "/login",
    dependencies=[Depends(Public())],
    responses=problems_of(401, 422, 429, 501, 503),
    summary="Log in by a password",
)
def login(body: LoginInput, context: Context, client: Caller) -> TokenOutput:
    """Get an access token of ten minutes, and a refresh token for the next one.

    The answer to an unknown user is the one to a wrong password, after the same time.
    """
    people = context.people
    found = people.login(body.username, body.password, client)
    return _tokens(people.issue_tokens(found.identity, client))


@router.post(
    "/refresh",
    dependencies=[Depends(Public())],
    responses=problems_of(401, 422, 429, 501, 503),
    summary="Exchange a refresh token",
)
def refresh(body: RefreshInput, context: Context, client: Caller) -> TokenOutput:
    """Get the next pair of tokens. A refresh token is good once; used again, its login ends."""
    return _tokens(context.people.refresh(body.refresh_token, client))


@router.get("/me", responses=problems_of(401, 403, 429, 501, 503), summary="Who I am")
def me(identity: Myself, context: Context) -> MeOutput:
    """The account of the caller, and what this login may."""
    user = UserOutput.of(context.people.accounts.get(identity.user_id))
    return MeOutput(**user.model_dump(), permissions=sorted(identity.permissions), method=identity.method)


@router.post("/logout", status_code=204, responses=problems_of(401, 403, 404, 429, 501, 503), summary="Log out")
def logout(identity: Myself, context: Context) -> None:
    """End the login that this request came with: a session, or a token with all that came of the same login."""
    context.people.logout(identity)


@router.post(
    "/password", status_code=204, responses=problems_of(401, 403, 422, 429, 501, 503), summary="Change my password"
)
def change_password(body: PasswordChangeInput, identity: Myself, context: Context, client: Caller) -> None:
    """Change the own password. Every login ends, this one as well; keys of services stay."""
    context.people.change_password(identity, body.current_password, body.new_password, client)


@router.get("/sessions", responses=problems_of(401, 403, 422, 429, 501, 503), summary="List my sessions")
def list_sessions(
    identity: Myself,
    context: Context,
    paging: PagingOf,
    address: Annotated[str | None, Query(max_length=64, description="Only those from this address.")] = None,
    sort: SessionSort = "last_seen_at",
    order: Literal["asc", "desc"] = "desc",
) -> Page[SessionOutput]:
    """The browsers in which the caller is logged in, the one used last first."""
    found, total = context.people.sessions.page(
        identity.user_id,
        skip=paging.skip,
        limit=paging.limit,
        address=address,
        sort=sort,
        descending=order == "desc",
    )
    items = [SessionOutput.of(item, identity.credential_id) for item in found]
    return Page(items=items, total=total, skip=paging.skip, limit=paging.limit)


@router.delete(
    "/sessions/{session_id}",
    status_code=204,
    responses=problems_of(401, 403, 404, 422, 429, 501, 503),
    summary="End a session of mine",
)
def revoke_session(session_id: UUID, identity: Myself, context: Context) -> None:
    """Log one browser out."""
    context.people.sessions.revoke(identity.user_id, session_id)
