"""Keys of services: each is its owner's, shown once, and does no more than its owner may."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.people_models import ApiKeyInput, ApiKeyOutput, NewApiKeyOutput
from synqx_dagster.api.problems import problems_of
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(prefix="/api-keys", tags=["api-keys"])

Myself = Annotated[Identity, Depends(Requires(Permission.PROFILE))]


@router.get("", responses=problems_of(401, 403, 429, 501, 503), summary="List my keys")
def list_keys(identity: Myself, context: Context) -> list[ApiKeyOutput]:
    """The caller's keys that are not revoked, the newest first; without the keys themselves."""
    return [ApiKeyOutput.of(item) for item in context.people.keys.list(identity.user_id)]


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
