"""What browsers are told while there is no catalog to log in by."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from synqx_dagster.gateway.pages.rendering import render_page


def not_ready(request: Request, status: str) -> Response:
    """What a browser gets before there is a catalog, or while it cannot be read (then ``status`` is unavailable)."""
    if status == "unavailable":
        return render_page(
            request,
            "message.html",
            status=503,
            heading="The catalog cannot be reached",
            paragraphs=["The server runs, but its catalog cannot be opened. Its log says why; try again in a moment."],
            commands=(),
            link=None,
            fine=None,
        )
    return render_page(
        request,
        "message.html",
        status=503,
        heading="Not set up yet",
        paragraphs=[
            "This server has no catalog yet. On its machine, in its directory and with its environment, run:",
            "It makes the catalog, its vault and the first user. Or send the setup token that the server printed "
            "when it started to POST /api/v1/system/init. Then load this page again.",
        ],
        commands=("synqx init --admin NAME",),
        link=None,
        fine=None,
    )
