"""Whether the server is well."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from synqx_dagster.api.access import Public
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.errors import NotInitialisedError, SealedError, SynqxError

#: At the root, where load balancers look.
health_router = APIRouter(tags=["status"])
router = APIRouter(tags=["status"])

CatalogState = Literal["ready", "sealed", "not_initialised", "unreachable"]


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "unavailable"]
    version: str
    catalog: CatalogState = Field(description="`sealed`: records can be read, and nothing connects.")


def find_state(context: ApiContext) -> CatalogState:
    """What can be done with the catalog now; opens nothing but the catalog."""
    try:
        context.catalog.unseal()
    except NotInitialisedError:
        return "not_initialised"
    except SealedError:
        return "sealed"
    except SynqxError:
        return "unreachable"
    return "ready"


@health_router.get(
    "/health",
    response_model=Health,
    responses={503: {"model": Health, "description": "The catalog cannot be reached."}},
    summary="Whether the server is well",
    operation_id="health",
)
def health(context: Context, public: Annotated[None, Depends(Public())], response: Response) -> Health:
    state = find_state(context)
    if state == "unreachable":
        response.status_code = 503
    return _health_of(state)


@router.get("", include_in_schema=False, response_model=Health)
@router.get("/", response_model=Health, summary="Whether the server is well", operation_id="api_status")
def api_status(context: Context, public: Annotated[None, Depends(Public())]) -> Health:
    return _health_of(find_state(context))


def _health_of(state: CatalogState) -> Health:
    from synqx_dagster.api.app import product_version

    return Health(status="unavailable" if state == "unreachable" else "ok", version=product_version(), catalog=state)
