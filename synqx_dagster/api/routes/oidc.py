"""Logins of browsers by an OpenID provider: there, and back with a session."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse

from synqx_dagster.api.access import Caller, Public
from synqx_dagster.api.context import Context
from synqx_dagster.api.identify import SESSION_COOKIE
from synqx_dagster.api.problems import ApiError, problems_of
from synqx_dagster.errors import LoginFailedError
from synqx_dagster.people.oidc import OidcAttempt, OidcProvider, refusal_of

router = APIRouter(prefix="/auth/oidc", tags=["auth"])

#: Keeps an attempt in the browser that began it; nobody else's login can be finished there.
ATTEMPT_COOKIE = "__Host-synqx_oidc"
_ATTEMPT_SECONDS = 600
_LOGIN = "/api/v1/auth/oidc/login"
_CALLBACK = "/api/v1/auth/oidc/callback"
#: Where browsers come along: `synqx serve` answers them with pages, also when something is wrong.
BROWSER_PATHS = frozenset({_LOGIN, _CALLBACK})
_LOCAL_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]{0,1000}")


def _provider(context: Context) -> OidcProvider:
    if context.oidc is None:
        raise ApiError(404, "There is no OpenID provider", hint="set SYNQX_OIDC_ISSUER and SYNQX_OIDC_CLIENT_ID")
    return context.oidc


Provider = Annotated[OidcProvider, Depends(_provider)]


def _redirect_uri(request: Request, context: Context) -> str:
    public_url = context.settings.server.public_url
    return f"{public_url or str(request.base_url).rstrip('/')}{_CALLBACK}"


@router.get(
    "/login",
    status_code=303,
    response_class=RedirectResponse,
    dependencies=[Depends(Public())],
    responses=problems_of(404, 422, 429, 501, 502),
    summary="Begin a login by the OpenID provider",
)
def begin(
    request: Request,
    provider: Provider,
    context: Context,
    next_path: Annotated[str, Query(alias="next", max_length=1000, description="Where to go afterwards.")] = "/",
) -> RedirectResponse:
    """Send the browser to the provider."""
    attempt = provider.begin(_redirect_uri(request, context))
    answer = RedirectResponse(attempt.url, status_code=303, headers={"Cache-Control": "no-store"})
    path = base64.urlsafe_b64encode((next_path if _LOCAL_PATH.fullmatch(next_path) else "/").encode()).decode()
    value = ".".join((attempt.state, attempt.nonce, attempt.code_verifier, path))
    answer.set_cookie(
        ATTEMPT_COOKIE, value, max_age=_ATTEMPT_SECONDS, path="/", secure=True, httponly=True, samesite="lax"
    )
    return answer


@router.get(
    "/callback",
    status_code=303,
    response_class=RedirectResponse,
    dependencies=[Depends(Public())],
    responses=problems_of(401, 404, 422, 429, 501, 502),
    summary="Finish a login by the OpenID provider",
)
def finish(
    request: Request,
    provider: Provider,
    context: Context,
    client: Caller,
    state: Annotated[str, Query(max_length=512)] = "",
    code: Annotated[str, Query(max_length=4096)] = "",
    error: Annotated[str, Query(max_length=512, description="Why the provider lets nobody in.")] = "",
) -> RedirectResponse:
    """Open a session for whom the provider vouches, and send the browser where it wanted to go."""
    attempt, path = read_attempt(request.cookies.get(ATTEMPT_COOKIE, ""))
    attempt.check_state(state)
    if error or not code:
        raise refusal_of(error)
    who = provider.finish(attempt, _redirect_uri(request, context), state=state, code=code)
    people = context.people
    opened = people.open_session(people.login_external(who, client).identity, client)
    answer = RedirectResponse(path, status_code=303, headers={"Cache-Control": "no-store"})
    answer.delete_cookie(ATTEMPT_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    seconds = max(0, int((opened.expires_at - datetime.now(UTC)).total_seconds()))
    answer.set_cookie(
        SESSION_COOKIE, opened.token, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax"
    )
    return answer


def read_attempt(value: str) -> tuple[OidcAttempt, str]:
    """What the browser has kept of the login that it began, and where it wanted to go.

    Raises:
        LoginFailedError: It has kept none.
    """
    parts = value.split(".")
    if len(parts) != 4 or not all(parts):
        raise LoginFailedError("This browser has begun no login, or too long ago", hint="log in again")
    state, nonce, verifier, encoded = parts
    try:
        path = base64.urlsafe_b64decode(encoded).decode("ascii")
    except ValueError:
        path = "/"
    return OidcAttempt("", state, nonce, verifier), path if _LOCAL_PATH.fullmatch(path) else "/"
