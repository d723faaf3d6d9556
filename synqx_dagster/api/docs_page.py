"""The page at ``/docs`` that shows the OpenAPI document; it needs nothing from elsewhere.

FastAPI's own page takes its scripts from another host: it stays empty where there is no way out, and else that host
runs code beside the session of whoever looks at it.
"""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_ASSETS = "/docs/assets"

_OPTIONS = {
    # A token that somebody pastes is gone with the page.
    "persistAuthorization": False,
    "displayRequestDuration": True,
    "docExpansion": "none",
    "filter": True,
    # What it would ask, with the document, at a host of its makers.
    "validatorUrl": None,
}

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def add_docs_page(app: FastAPI, openapi_url: str) -> None:
    """Serve the page and its files; the application is made without FastAPI's own."""
    page = get_swagger_ui_html(
        openapi_url=openapi_url,
        title=f"{app.title} API",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon-32x32.png",
        swagger_ui_parameters=_OPTIONS,
    )
    text = bytes(page.body).decode()
    headers = {"Content-Security-Policy": _policy_of(text)}
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]), name="docs_assets")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(text, headers=headers)


def _policy_of(page: str) -> str:
    """Only the page's own script may stand in it, by its hash; what is fetched is of this server."""
    digests = [hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
