"""Problem answers (RFC 9457): what every error of SynqX is over HTTP.

Guarantee: no answer holds a traceback, a cell value or a secret; an unknown exception is a 500 that names the
request's id and nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from synqx_dagster.errors import (
    AccessError,
    ConfigurationError,
    ConflictError,
    DataError,
    InUseError,
    InvalidInputError,
    LoginFailedError,
    NotFoundError,
    NotInitialisedError,
    NotPermittedError,
    PlanError,
    Problem,
    RetryableError,
    SealedError,
    SlotLostError,
    SynqxError,
    TooManyAttemptsError,
    UnlockDelayedError,
    WrongPasswordError,
)

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: The first that an error is an instance of.
_STATUSES: tuple[tuple[type[SynqxError], int], ...] = (
    (NotInitialisedError, 501),
    (LoginFailedError, 401),
    (AccessError, 403),
    (TooManyAttemptsError, 429),
    (UnlockDelayedError, 429),
    (WrongPasswordError, 403),
    (SealedError, 503),
    (NotFoundError, 404),
    (ConflictError, 409),
    (InUseError, 409),
    (PlanError, 409),
    (SlotLostError, 409),
    (InvalidInputError, 422),
    (ConfigurationError, 422),
    (NotPermittedError, 409),
    (DataError, 409),
    (RetryableError, 502),
)


class FieldProblem(BaseModel):
    """One thing that is wrong with the request: where, what, and what to do."""

    path: str = Field(description="Dotted path of the field; empty for the whole document.")
    message: str
    hint: str | None = None


class ProblemDetails(BaseModel):
    """A problem answer, RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    hint: str | None = None
    instance: str | None = Field(default=None, description="The path that was asked for.")
    request_id: str | None = None
    errors: list[FieldProblem] = Field(default_factory=list)


class ApiError(Exception):
    """An error that only HTTP knows, such as a failed precondition."""

    def __init__(
        self, status: int, detail: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})
        super().__init__(detail)


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's `responses` says of the problems that it may answer with."""
    return {
        status: {
            "model": ProblemDetails,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for status in statuses
    }


def status_of(error: SynqxError) -> int:
    """The HTTP status of an error of SynqX."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def problem_response(
    request_id: str | None,
    path: str,
    status: int,
    detail: str,
    *,
    hint: str | None = None,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem answer."""
    document = ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        hint=hint,
        instance=path or None,
        request_id=request_id,
        errors=list(errors),
    )
    return JSONResponse(
        document.model_dump(exclude_none=True), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def field_problems(problems: Sequence[Problem]) -> list[FieldProblem]:
    """Problems of definitions, by the path of their field."""
    return [
        FieldProblem(
            path=(problem.location.field or "") if problem.location else "", message=problem.message, hint=problem.hint
        )
        for problem in problems
    ]


def install_handlers(app: FastAPI) -> None:
    """Answer every exception of a route with a problem."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(SynqxError, _synqx_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unknown_error)


def _answer(request: Request, status: int, detail: str, **more: Any) -> JSONResponse:
    return problem_response(request_id_of(request), request.url.path, status, detail, **more)


def request_id_of(request: Request) -> str | None:
    """The id that the request got when it came in."""
    return getattr(request.state, "request_id", None)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answer(request, error.status, error.detail, hint=error.hint, headers=error.headers)


async def _synqx_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SynqxError)
    status = status_of(error)
    errors = field_problems(error.problems) if isinstance(error, InvalidInputError) else []
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s %s: %s", request.method, request.url.path, type(error).__name__, exc_info=error)
    return _answer(request, status, error.message, hint=error.hint, errors=errors, headers=headers_of(error))


def headers_of(error: SynqxError) -> dict[str, str]:
    """When to try again, and how to log in, as HTTP says them (RFC 9110, 10.2.3 and 11.6.1)."""
    if isinstance(error, LoginFailedError):
        return {"WWW-Authenticate": "Bearer"}
    wait = error.context.get("retry_after_seconds")
    return {"Retry-After": str(max(1, math.ceil(wait)))} if isinstance(wait, int | float) else {}


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The message names the field and what it must be; the input, which may be a secret, is left out.
    errors = [
        FieldProblem(path=".".join(str(part) for part in item["loc"][1:]), message=str(item["msg"]))
        for item in error.errors()
    ]
    return _answer(request, 422, "The request has problems", errors=errors)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), headers=error.headers)


async def _unknown_error(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(request, 500, "The server failed; its log has more under the request's id")
