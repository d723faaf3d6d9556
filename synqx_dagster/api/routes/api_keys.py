"""Keys of services: each is its owner's, shown once, and does no more than its owner may."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.people_models import ApiKeyInput, ApiKeyOutput, NewApiKeyOutput
from synqx_dagster.api.problems import problems_of
from synqx_dagster.people.api_keys import ApiKeySort
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(prefix="/api-keys", tags=["api-keys"])

Myself = Annotated[Identity, Depends(Requires(Permission.PROFILE))]


@router.get("", responses=problems_of(401, 403, 422, 429, 501, 503), summary="List my keys")
def list_keys(
    identity: Myself,
    context: Context,
    paging: PagingOf,
    name: Annotated[str | None, Query(max_length=128, description="What the name contains.")] = None,
    expired: Annotated[bool | None, Query(description="Only keys whose time is over, or is not.")] = None,
    sort: ApiKeySort = "created_at",
    order: Literal["asc", "desc"] = "desc",
) -> Page[ApiKeyOutput]:
    """The caller's keys that are not revoked, the newest first; without the keys themselves.

    Those that never expire, or were never used, are last when sorted by that.
    """
    found, total = context.people.keys.page(
        identity.user_id,
        skip=paging.skip,
        limit=paging.limit,
        name_contains=name,
        expired=expired,
        sort=sort,
        descending=order == "desc",
    )
    items = [ApiKeyOutput.of(item) for item in found]
    return Page(items=items, total=total, skip=paging.skip, limit=paging.limit)


@router.post("", status_code=201, responses=problems_of(401, 403, 409, 422, 429, 501, 503), summary="Make a key")
def create_key(body: ApiKeyInput, identity: Myself, context: Context) -> NewApiKeyOutput:
    """Make a key. It is in this answer and nowhere else; send it as `Authorization: Bearer` or `X-API-Key`."""
    made = context.people.keys.create(identity, body.name, frozenset(body.scopes), body.expires_at)
    return NewApiKeyOutput(**ApiKeyOutput.of(made.info).model_dump(), key=made.key)


@router.delete(
    "/{key_id}", status_code=204, responses=problems_of(401, 403, 404, 422, 429, 501, 503), summary="Revoke a key"
)
def revoke_key(key_id: UUID, identity: Myself, context: Context) -> None:
    """Revoke one of the caller's keys; it counts no more from the next request on."""
    context.people.keys.revoke(identity.user_id, key_id)
