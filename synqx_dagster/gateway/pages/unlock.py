"""Unsealing the vault with a browser: for whoever has its master password, logged in or not, as over the API.

The password opens every secret, so it is taken where a login's is: over TLS or on the machine itself, and from our own
page alone. Wrong ones are counted by the vault for all processes together, and attempts for each address.
"""

from __future__ import annotations

import math
from urllib.parse import quote

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from synqx_dagster.api.problems import headers_of, status_of
from synqx_dagster.audit.recording import unlock_vault
from synqx_dagster.errors import SynqxError, TooManyAttemptsError, UnlockDelayedError, WrongPasswordError
from synqx_dagster.gateway.cookies import keeps_secure_cookies
from synqx_dagster.gateway.guard import identity_of
from synqx_dagster.gateway.pages.context import PagesContext, client_of
from synqx_dagster.gateway.pages.forms import UNREADABLE, RefusedForm, read_own_form, safe_next
from synqx_dagster.gateway.pages.not_ready import not_ready
from synqx_dagster.gateway.pages.rendering import render_page

_INSECURE = (
    "The master password is not taken over plain HTTP, where others can read it. Reach this server through a proxy "
    "with TLS, or unlock on its own machine."
)


class UnlockPages:
    """The endpoints."""

    def __init__(self, context: PagesContext) -> None:
        self._context = context

    async def show(self, request: Request) -> Response:
        """``GET /unlock``: the form while the vault is sealed; else back to where one came from."""
        state = await run_in_threadpool(self._context.state)
        if state.status in ("not_initialised", "unavailable"):
            return not_ready(request, state.status)
        there = safe_next(request.query_params.get("next"))
        if state.status == "ready":
            return RedirectResponse(there, status_code=303)
        return await run_in_threadpool(self._form, request, there)

    async def submit(self, request: Request) -> Response:
        """``POST /unlock``: the master password."""
        state = await run_in_threadpool(self._context.state)
        if state.status in ("not_initialised", "unavailable"):
            return not_ready(request, state.status)
        form = await read_own_form(request, self._context.trusted_origins)
        if not isinstance(form, RefusedForm) and not form.get("password"):
            form = RefusedForm(400, UNREADABLE)
        if isinstance(form, RefusedForm):
            return await run_in_threadpool(self._form, request, "/", error=form.words, status=form.status)
        there = safe_next(form.get("next"))
        if state.status == "sealed":
            try:
                await run_in_threadpool(self._unlock, request, SecretStr(form["password"]))
            except SynqxError as exc:
                return await run_in_threadpool(self._refusal, request, there, exc)
        if identity_of(request) is None:
            there = f"/login?next={quote(there, safe='/')}&done=unlocked"
        return RedirectResponse(there, status_code=303, headers={"Cache-Control": "no-store"})

    # --- private ---------------------------------------------------------------------------------------------------

    def _unlock(self, request: Request, password: SecretStr) -> None:
        self._context.people().throttle.count_unlock(client_of(request).address)
        unlock_vault(self._context.catalog(), password=password)

    def _refusal(self, request: Request, there: str, error: SynqxError) -> Response:
        wait = error.context.get("retry_after_seconds")
        if isinstance(error, UnlockDelayedError | TooManyAttemptsError) and isinstance(wait, int | float):
            words = f"Too many wrong passwords. The next one is tried in {math.ceil(wait)} seconds."
        elif isinstance(error, WrongPasswordError):
            words = f"{error.message.removesuffix('.')}."
        else:
            to_do = f" What to do: {error.hint}." if error.hint else ""
            words = f"The vault was not unsealed: {error.message.removesuffix('.')}.{to_do}"
        answer = self._form(request, there, error=words, status=status_of(error))
        answer.headers.update(headers_of(error))
        return answer

    def _form(self, request: Request, there: str, *, error: str | None = None, status: int = 200) -> Response:
        is_known = identity_of(request) is not None
        kinds = {slot.kind for slot in self._context.catalog().vault.status().keyslots}
        return render_page(
            request,
            "unlock.html",
            status=status,
            next=there,
            reason=self._context.state().reason if is_known else None,
            error=error,
            warning=None if keeps_secure_cookies(request) else _INSECURE,
            takes_password="password" in kinds,
            back=there if is_known else None,
        )
