"""Pages from templates: escaped, without a script, and with the policy that lets a browser hold them to that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from synqx_dagster.gateway.headers import PAGE_POLICY

_PACKAGE = "synqx_dagster.gateway.pages"

#: What the pages load: name -> media type.
STATIC = {"pages.css": "text/css; charset=utf-8", "mark.svg": "image/svg+xml"}


def render_page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of our own; never kept by a cache, because it says who is logged in."""
    text = environment().get_template(template).render(
        version=static_version(), host=request.headers.get("host", ""), **values
    )  # fmt: skip
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(text, status_code=status, headers=headers)


def render_piece(template: str, values: Mapping[str, Any]) -> str:
    """A piece of a page that somebody else serves."""
    return environment().get_template(template).render(**values)


def static_file(request: Request) -> Response:
    """A file that the pages load; for everybody, because the login page does."""
    name = request.path_params["name"]
    if name not in STATIC:
        return Response(status_code=404)
    headers = {
        "Cache-Control": "public, max-age=3600",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    return Response(_read_static(name), media_type=STATIC[name], headers=headers)


@cache
def static_version() -> str:
    """Changes when a file does, so that no browser shows a page with the styles of another version."""
    return hashlib.sha256(b"".join(_read_static(name) for name in STATIC)).hexdigest()[:12]


@cache
def _read_static(name: str) -> bytes:
    return (files(_PACKAGE) / "static" / name).read_bytes()


@cache
def environment() -> Environment:
    """The templates. Every value is escaped, and one that is missing is an error."""
    found = Environment(
        loader=PackageLoader(_PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["moment"] = moment
    return found


def moment(value: datetime) -> str:
    """A time as people read it; the page has no script that could know the reader's zone."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def initials(name: str) -> str:
    """One or two letters for a name."""
    words = [word for word in name.replace("@", " ").replace(".", " ").replace("-", " ").split() if word]
    return "".join(word[0] for word in words[:2]).upper() or "?"
