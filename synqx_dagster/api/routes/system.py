"""The catalog and its vault: made once, unlocked and sealed by people who may."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from synqx_dagster.api.access import Caller, Public, Requires
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.problems import MEDIA_TYPE, ApiError, ProblemDetails, problems_of, request_id_of
from synqx_dagster.api.routes.status import find_state
from synqx_dagster.audit.recording import unlock_vault
from synqx_dagster.people.accounts import NewUser
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission, Role

router = APIRouter(prefix="/system", tags=["system"])

Nobody = Annotated[None, Depends(Public())]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class FirstUser(_Body):
    """The first account, an admin's."""

    username: str = Field(max_length=64)
    password: SecretStr = Field(max_length=1024)
    email: str | None = Field(default=None, max_length=254)


class InitRequest(_Body):
    """What makes the catalog."""

    setup_token: SecretStr = Field(max_length=256, description="What the server printed when it found no catalog.")
    master_password: SecretStr = Field(min_length=1, max_length=1024, description="Opens the vault from now on.")
    admin: FirstUser | None = Field(default=None, description="The first account; else `synqx users add` makes it.")


class UnlockRequest(_Body):
    """What opens the vault."""

    master_password: SecretStr = Field(min_length=1, max_length=1024)


class SystemState(BaseModel):
    """The catalog and its vault."""

    status: Literal["ready"] = "ready"
    initialised: bool = True
    sealed: bool = False
    revision: int = Field(description="Number of the catalog's latest revision.")


class SystemProblem(ProblemDetails):
    """Why the catalog cannot be used, and its state in two words."""

    initialised: bool
    sealed: bool


def _problem_answer(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/SystemProblem"}
    return {"model": SystemProblem, "description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


@router.post(
    "/init",
    status_code=201,
    response_model=SystemState,
    responses=problems_of(409),
    summary="Make the catalog and its vault",
    operation_id="init_system",
)
def init_system(context: Context, body: InitRequest, public: Nobody) -> SystemState:
    """Needs the token that the server printed: whoever reads its output may have a fresh server, and nobody else."""
    token, given = context.setup_token.encode(), body.setup_token.get_secret_value().encode()
    if not hmac.compare_digest(token, given):
        raise ApiError(
            403, "The setup token is wrong", hint="the server prints it at its start, while it has no catalog"
        )
    admin = body.admin
    first_user = (
        NewUser(admin.username, Role.ADMIN, admin.email, password=admin.password) if admin is not None else None
    )
    context.initialise(body.master_password, first_user)
    return _state_of(context)


@router.post("/unlock", response_model=SystemState, summary="Unseal the vault", operation_id="unlock_system")
def unlock_system(context: Context, body: UnlockRequest, client: Caller, public: Nobody) -> SystemState:
    """Whoever has the master password may. Wrong ones are counted, and the next is tried later and later."""
    context.people.throttle.count_unlock(client.address)
    unlock_vault(context.catalog, password=body.master_password)
    return _state_of(context)


@router.post("/seal", status_code=204, summary="Seal the vault for every process", operation_id="seal_system")
def seal_system(
    context: Context, client: Caller, identity: Annotated[Identity, Depends(Requires(Permission.VAULT_MANAGE))]
) -> None:
    """Nothing connects with a password from now on, until somebody unlocks."""
    context.catalog.vault.seal()


@router.get(
    "/status",
    response_model=SystemState,
    responses={
        501: _problem_answer("There is no catalog yet"),
        503: _problem_answer("The vault is sealed, or the catalog cannot be reached"),
    },
    summary="Whether the catalog can be used",
    operation_id="system_status",
)
def system_status(context: Context, request: Request, public: Nobody) -> Any:
    state = find_state(context)
    if state == "ready":
        return _state_of(context)
    request_id = request_id_of(request)
    if state == "not_initialised":
        return _problem(501, "There is no catalog yet", "POST /api/v1/system/init, or `synqx init`", request_id)
    if state == "sealed":
        return _problem(503, "The vault is sealed", "POST /api/v1/system/unlock, or `synqx unlock`", request_id)
    return _problem(503, "The catalog cannot be reached", None, request_id)


def _problem(status: int, detail: str, hint: str | None, request_id: str | None) -> Response:
    problem = SystemProblem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        hint=hint,
        request_id=request_id,
        initialised=status != 501,
        sealed=status != 501,
    )
    return JSONResponse(problem.model_dump(exclude_none=True), status_code=status, media_type=MEDIA_TYPE)


def _state_of(context: ApiContext) -> SystemState:
    return SystemState(revision=context.catalog.latest_revision())
