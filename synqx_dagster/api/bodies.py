"""The body of a request as plain values; `StrictBodyMiddleware` has read it before."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Depends, Request

from synqx_dagster.api.problems import ApiError


async def read_json(request: Request) -> Any:
    """The body's value.

    Raises:
        ApiError: 422 where there is no body, 400 where it is not JSON.
    """
    body = await request.body()
    if not body:
        raise ApiError(422, "The request needs a body", hint="send JSON with `Content-Type: application/json`")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not JSON") from None


async def read_object(request: Request) -> dict[str, Any]:
    """The body's object.

    Raises:
        ApiError: 422 where it is none; else as `read_json`.
    """
    value = await read_json(request)
    if not isinstance(value, dict):
        raise ApiError(422, "The body must be an object: keys with values")
    return value


JsonObject = Annotated[dict[str, Any], Depends(read_object)]
JsonBody = Annotated[Any, Depends(read_json)]
