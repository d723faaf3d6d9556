"""Accounts, for admins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.people_models import PasswordInput, UserChangeInput, UserInput, UserOutput
from synqx_dagster.api.problems import problems_of
from synqx_dagster.api.record_routes import IfMatch
from synqx_dagster.api.records import Precondition
from synqx_dagster.people.accounts import NewUser, User, UserChange, UserSort
from synqx_dagster.people.roles import Permission, Role

router = APIRouter(prefix="/users", tags=["users"], dependencies=[Depends(Requires(Permission.PEOPLE_MANAGE))])


@router.get("", responses=problems_of(401, 403, 422, 429, 501, 503), summary="List accounts")
def list_users(
    context: Context,
    paging: PagingOf,
    search: Annotated[str | None, Query(max_length=254)] = None,
    role: Role | None = None,
    sort: UserSort = "username",
    order: Literal["asc", "desc"] = "asc",
) -> Page[UserOutput]:
    """Accounts; `search` finds a part of a name or of an e-mail address. Who has never logged in is last."""
    found, total = context.people.accounts.page(
        skip=paging.skip, limit=paging.limit, search=search, role=role, sort=sort, descending=order == "desc"
    )
    items = [UserOutput.of(item) for item in found]
    return Page(items=items, total=total, skip=paging.skip, limit=paging.limit)


@router.post("", status_code=201, responses=problems_of(401, 403, 409, 422, 429, 501, 503), summary="Make an account")
def create_user(body: UserInput, context: Context, response: Response) -> UserOutput:
    """Make an account."""
    new = NewUser(body.username, body.role, body.email, frozenset(body.teams), body.password)
    made = context.people.accounts.create(new)
    response.headers["Location"] = f"/api/v1/users/{made.user_id}"
    return _answer(made, response)


@router.get("/{user_id}", responses=problems_of(401, 403, 404, 422, 429, 501, 503), summary="Show an account")
def get_user(user_id: UUID, context: Context, response: Response) -> UserOutput:
    """One account."""
    return _answer(context.people.accounts.get(user_id), response)


@router.patch(
    "/{user_id}",
    responses=problems_of(401, 403, 404, 409, 412, 422, 429, 501, 503),
    summary="Change role, teams or whether an account is disabled",
)
def update_user(
    user_id: UUID, body: UserChangeInput, context: Context, response: Response, if_match: IfMatch = None
) -> UserOutput:
    """What is left out stays. It counts from the next request on; who is disabled is logged out everywhere."""
    teams = None if body.teams is None else frozenset(body.teams)
    change = UserChange(body.role, teams, body.disabled)
    return _answer(context.people.accounts.update(user_id, change, check=_expecting(if_match)), response)


@router.post(
    "/{user_id}/password",
    status_code=204,
    responses=problems_of(401, 403, 404, 422, 429, 501, 503),
    summary="Give an account a new password",
)
def set_password(user_id: UUID, body: PasswordInput, context: Context) -> None:
    """Give an account a new password, and end all of its logins."""
    context.people.accounts.set_password(user_id, body.password)


@router.delete(
    "/{user_id}",
    status_code=204,
    responses=problems_of(401, 403, 404, 409, 412, 422, 429, 501, 503),
    summary="Disable an account",
)
def disable_user(user_id: UUID, context: Context, if_match: IfMatch = None) -> None:
    """Disable an account. It is never removed: the history and the trail name it. Idempotent."""
    context.people.accounts.update(user_id, UserChange(disabled=True), check=_expecting(if_match))


def _answer(user: User, response: Response) -> UserOutput:
    response.headers["ETag"] = f'"{user.etag}"'
    return UserOutput.of(user)


def _expecting(if_match: str | None) -> Callable[[User], None]:
    """Refuses an account that is not of a version that `If-Match` allows."""
    precondition = Precondition.parse(if_match)

    return lambda before: precondition.require(
        before.etag, f"The account {before.username!r} was changed by somebody else"
    )
