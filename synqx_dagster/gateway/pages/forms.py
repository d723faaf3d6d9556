"""What a form of our own pages sends: read strictly, and never more than a form needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from synqx_dagster.gateway.cookies import keeps_secure_cookies
from synqx_dagster.gateway.origin import is_foreign

UNREADABLE = "This is not what the form sends."
FOREIGN = "Another site's page has sent this. Open this page, and send the form from here."

_MAXIMUM_BYTES = 16 * 1024
_MAXIMUM_FIELDS = 20
_LONGEST_PATH = 2000


@dataclass(frozen=True)
class RefusedForm:
    """Why a form is not taken; without words where the page itself says it, with what it warns of."""

    status: int
    words: str | None = None


async def read_own_form(request: Request, trusted_origins: tuple[str, ...]) -> Mapping[str, str] | RefusedForm:
    """The fields of a form that holds a password: sent by our own page, over what nobody else reads."""
    if not keeps_secure_cookies(request):
        return RefusedForm(400)
    if is_foreign(request, trusted=trusted_origins):
        # Else a page could log its visitor in as somebody who then reads what the visitor does, or have it guess.
        return RefusedForm(403, FOREIGN)
    form = await read_form(request)
    return RefusedForm(400, UNREADABLE) if form is None else form


async def read_form(request: Request) -> Mapping[str, str] | None:
    """The fields of a form; None for what no browser sends from our pages. The last of two of a name counts."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAXIMUM_BYTES:
            return None
    try:
        pairs = parse_qsl(
            bytes(body).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MAXIMUM_FIELDS,
        )
    except ValueError:
        return None
    return None if any("\0" in value for _, value in pairs) else dict(pairs)


def safe_next(text: str | None) -> str:
    """Where to go after the login: a path of this server, whatever the request says.

    Browsers take ``//host``, ``/\\host`` and names with a tab in them for other sites.
    """
    if not text or len(text) > _LONGEST_PATH or not text.startswith("/") or text.startswith(("//", "/\\")):
        return "/"
    if any(not 32 < ord(character) < 127 or character == "\\" for character in text):
        return "/"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    if parts.scheme or parts.netloc or parts.path.rstrip("/") in ("/login", "/logout"):
        return "/"
    return text
