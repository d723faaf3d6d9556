"""Logging in and out with a browser: the page, the form, one-time links, and what is told before anybody can."""

from __future__ import annotations

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from synqx_dagster.errors import LoginFailedError, NotFoundError, SynqxError, TooManyAttemptsError
from synqx_dagster.gateway.cookies import (
    delete_session_cookie,
    keeps_secure_cookies,
    session_token,
    set_session_cookie,
)
from synqx_dagster.gateway.guard import identity_of
from synqx_dagster.gateway.origin import is_foreign
from synqx_dagster.gateway.pages.context import PagesContext, client_of
from synqx_dagster.gateway.pages.forms import FOREIGN, RefusedForm, read_own_form, safe_next
from synqx_dagster.gateway.pages.not_ready import not_ready
from synqx_dagster.gateway.pages.rendering import render_page
from synqx_dagster.people.identity import Client
from synqx_dagster.people.service import Login

#: The same words for every reason: who there is, a stranger does not learn.
WRONG = "The user name or the password is wrong."
SPENT_LINK = "This link was used already, is too old, or is for a browser on the server's own machine."

_NOTICES = {
    "password": "Your password is changed. Log in with the new one.",
    "logout": "You are logged out.",
    "unlocked": "The vault is unsealed.",
}

NOBODY = "Nobody has an account yet. On the server's machine, `synqx users add NAME --role admin` makes the first one."

INSECURE = (
    "Browsers keep a login only over HTTPS, or on the machine that the server runs on. Reach this server through a "
    "proxy with TLS, or from its own machine as http://127.0.0.1 (an SSH tunnel will do)."
)


class LoginPages:
    """The endpoints."""

    def __init__(self, context: PagesContext) -> None:
        self._context = context

    async def show(self, request: Request) -> Response:
        """``GET /login``: the form; with a link's token, the login itself."""
        state = await run_in_threadpool(self._context.state)
        if state.status in ("not_initialised", "unavailable"):
            return not_ready(request, state.status)
        there = safe_next(request.query_params.get("next"))
        if (token := request.query_params.get("token")) is not None:
            return await self._follow_link(request, token, there)
        if identity_of(request) is not None:
            return RedirectResponse(there, status_code=303)
        notice = _NOTICES.get(request.query_params.get("done", ""))
        return await run_in_threadpool(self._form, request, there, notice=notice)

    async def submit(self, request: Request) -> Response:
        """``POST /login``: user name and password."""
        state = await run_in_threadpool(self._context.state)
        if state.status in ("not_initialised", "unavailable"):
            return not_ready(request, state.status)
        form = await read_own_form(request, self._context.trusted_origins)
        if isinstance(form, RefusedForm):
            return await run_in_threadpool(self._form, request, "/", error=form.words, status=form.status)
        there, username = safe_next(form.get("next")), form.get("username", "")
        try:
            login = await run_in_threadpool(
                self._context.people().login, username, SecretStr(form.get("password", "")), client_of(request)
            )
        except LoginFailedError:
            return await run_in_threadpool(self._form, request, there, username=username, error=WRONG, status=401)
        except TooManyAttemptsError as exc:
            wait = exc.context.get("retry_after_seconds")
            words = (
                f"Too many attempts. Try again in {wait:.0f} seconds." if isinstance(wait, int | float) else exc.message
            )
            return await run_in_threadpool(self._form, request, there, username=username, error=words, status=429)
        except SynqxError as exc:
            return await run_in_threadpool(
                self._form, request, there, username=username, error=f"Nobody can log in now: {exc.message}", status=503
            )
        return await self._enter(request, login, there)

    async def leave(self, request: Request) -> Response:
        """``POST /logout``: end the session."""
        if is_foreign(request, trusted=self._context.trusted_origins):
            return await run_in_threadpool(self._form, request, "/", error=FOREIGN, status=403)
        token = session_token(request)
        if token is not None:
            await run_in_threadpool(self._context.people().close_session, token)
        response = RedirectResponse("/login?done=logout", status_code=303)
        delete_session_cookie(response)
        # What the browser has kept of pages goes with the session.
        response.headers["Clear-Site-Data"] = '"cache"'
        return response

    async def confirm_leaving(self, request: Request) -> Response:
        """``GET /logout``, which people type: it leads to the button, because a mere link must not log out."""
        return RedirectResponse("/account" if identity_of(request) is not None else "/login", status_code=303)

    # --- private ---------------------------------------------------------------------------------------------------

    async def _follow_link(self, request: Request, token: str, there: str) -> Response:
        client = client_of(request)
        username = self._context.links.redeem(token, client.address)
        if username is None:
            return await run_in_threadpool(self._form, request, there, error=SPENT_LINK, status=403)
        try:
            login = await run_in_threadpool(self._enter_by_link, username, client)
        except (LoginFailedError, NotFoundError):
            return await run_in_threadpool(self._form, request, there, error=SPENT_LINK, status=403)
        return await self._enter(request, login, there)

    def _enter_by_link(self, username: str, client: Client) -> Login:
        people = self._context.people()
        return people.enter(people.accounts.get_by_name(username).user_id, client, detail="by a one-time link")

    async def _enter(self, request: Request, login: Login, there: str) -> Response:
        people = self._context.people()
        # An older session of this browser ends: the new one must not be one that somebody else has set.
        if (old := session_token(request)) is not None:
            await run_in_threadpool(people.close_session, old)
        session = await run_in_threadpool(people.open_session, login.identity, client_of(request))
        response = RedirectResponse(there, status_code=303)
        set_session_cookie(response, session.token, session.expires_at)
        response.headers["Cache-Control"] = "no-store"
        # The address that led here may hold a link's token.
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def _form(
        self,
        request: Request,
        there: str,
        *,
        username: str = "",
        error: str | None = None,
        notice: str | None = None,
        status: int = 200,
    ) -> Response:
        secure = keeps_secure_cookies(request)
        state = self._context.state()
        return render_page(
            request,
            "login.html",
            status=status,
            next=there,
            username=username[:320],
            error=error,
            notice=notice,
            warning=None if secure else INSECURE,
            sealed=state.notice,
            hint=NOBODY if self._context.people().accounts.is_empty() else None,
            oidc_name=self._context.oidc_name,
            oidc_url=self._context.oidc_url,
        )
