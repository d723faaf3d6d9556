"""The page of one's own account: who one is and may be, one's sessions, keys and password."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from synqx_dagster.errors import InvalidInputError, SynqxError
from synqx_dagster.gateway.cookies import delete_session_cookie
from synqx_dagster.gateway.guard import ask_for_login, forbid, identity_of
from synqx_dagster.gateway.origin import is_foreign
from synqx_dagster.gateway.pages.context import PagesContext, client_of
from synqx_dagster.gateway.pages.forms import UNREADABLE, read_form
from synqx_dagster.gateway.pages.rendering import initials, render_page, render_piece
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

#: What a permission lets people do, in their words.
ABILITIES: tuple[tuple[Permission, str], ...] = (
    (Permission.CATALOG_READ, "See definitions and lineage"),
    (Permission.RUNS_READ, "See runs, steps and logs"),
    (Permission.DATA_READ, "See rows: previews, quarantine"),
    (Permission.CONNECTIONS_TEST, "Test connections"),
    (Permission.RUNS_LAUNCH, "Start, cancel and repeat runs"),
    (Permission.SCHEDULES_SWITCH, "Switch schedules and sensors"),
    (Permission.CATALOG_WRITE, "Change definitions"),
    (Permission.INSTANCE_MANAGE, "Delete runs, reload code"),
    (Permission.PEOPLE_MANAGE, "Manage accounts"),
    (Permission.AUDIT_READ, "Read the audit trail"),
    (Permission.VAULT_MANAGE, "Seal the vault"),
)

#: What a key from this page may do; finer scopes are made over the API.
_KEY_SCOPES: dict[str, frozenset[Permission] | None] = {
    "read": frozenset({Permission.CATALOG_READ, Permission.RUNS_READ}),
    "run": frozenset({Permission.CATALOG_READ, Permission.RUNS_READ, Permission.RUNS_LAUNCH}),
    "all": None,
}
_NOTICES = {
    "session": "The session has ended.",
    "revoked": "The key is revoked.",
}
_MOST_DAYS = 1825
#: Each login by the form opens one, and a program may log in so for a day.
_SHOWN_SESSIONS = 50


@dataclass(frozen=True)
class ShownSession:
    """A row of the table of sessions."""

    id: UUID
    browser: str
    address: str
    last_seen: datetime
    expires: datetime
    current: bool


@dataclass(frozen=True)
class ShownKey:
    """A row of the table of keys."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    last_used: datetime | None
    expires: datetime | None


class AccountPages:
    """The endpoints. All of them are for sessions alone: programs have the API for the same."""

    def __init__(self, context: PagesContext) -> None:
        self._context = context

    async def show(self, request: Request) -> Response:
        """``GET /account``."""
        identity = identity_of(request)
        if identity is None:
            return ask_for_login(request)
        notice = _NOTICES.get(request.query_params.get("done", ""))
        return await run_in_threadpool(self._page, request, identity, notice=notice)

    async def change_password(self, request: Request) -> Response:
        """``POST /account/password``: ends every login, this one too."""

        def change(identity: Identity, form: Any) -> Response:
            if form.get("new") != form.get("again"):
                return self._page(request, identity, error="The new password is not the same twice.", status=422)
            people = self._context.people()
            current, new = SecretStr(form.get("current", "")), SecretStr(form.get("new", ""))
            people.change_password(identity, current, new, client_of(request))
            response = RedirectResponse("/login?done=password", status_code=303)
            delete_session_cookie(response)
            return response

        return await self._act(request, change)

    async def end_session(self, request: Request) -> Response:
        """``POST /account/sessions/{id}/end``."""

        def end(identity: Identity, form: Any) -> Response:
            self._context.people().sessions.revoke(identity.user_id, _uuid(request))
            return RedirectResponse("/account?done=session", status_code=303)

        return await self._act(request, end)

    async def create_key(self, request: Request) -> Response:
        """``POST /account/keys``: the one time that the key is shown."""

        def create(identity: Identity, form: Any) -> Response:
            scopes = _KEY_SCOPES.get(form.get("scopes", ""), frozenset())
            days = form.get("days", "")
            if re.fullmatch(r"[0-9]{1,4}", days) is None or not 1 <= int(days) <= _MOST_DAYS:
                message = f"A key lasts 1 to {_MOST_DAYS} days."
                return self._page(request, identity, error=message, status=422)
            wanted = identity.permissions if scopes is None else scopes & identity.permissions
            expires_at = datetime.now(UTC) + timedelta(days=int(days))
            made = self._context.people().keys.create(identity, form.get("name", ""), wanted, expires_at)
            return self._page(request, identity, new_key=made.key, new_key_name=made.info.name, status=201)

        return await self._act(request, create)

    async def revoke_key(self, request: Request) -> Response:
        """``POST /account/keys/{id}/revoke``."""

        def revoke(identity: Identity, form: Any) -> Response:
            self._context.people().keys.revoke(identity.user_id, _uuid(request))
            return RedirectResponse("/account?done=revoked", status_code=303)

        return await self._act(request, revoke)

    # --- private ---------------------------------------------------------------------------------------------------

    async def _act(self, request: Request, act: Callable[[Identity, Any], Response]) -> Response:
        identity = identity_of(request)
        if identity is None:
            return ask_for_login(request)
        if identity.method != "session" or is_foreign(request, trusted=self._context.trusted_origins):
            return forbid(request, identity, Permission.PROFILE)
        form = await read_form(request)
        if form is None:
            return await run_in_threadpool(self._page, request, identity, error=UNREADABLE, status=400)

        def attempt() -> Response:
            try:
                return act(identity, form)
            except InvalidInputError as exc:
                words = " ".join(f"{problem.message.capitalize()}." for problem in exc.problems)
                return self._page(request, identity, error=words or exc.message, status=422)
            except SynqxError as exc:
                return self._page(request, identity, error=f"{exc.message}.", status=409)

        return await run_in_threadpool(attempt)

    def _page(
        self,
        request: Request,
        identity: Identity,
        *,
        error: str | None = None,
        notice: str | None = None,
        new_key: str | None = None,
        new_key_name: str | None = None,
        status: int = 200,
    ) -> Response:
        people = self._context.people()
        user = people.accounts.get(identity.user_id)
        by_browser = identity.method == "session"
        sessions, total_sessions = self._sessions(identity) if by_browser else ([], 0)
        return render_page(
            request,
            "account.html",
            status=status,
            identity=identity,
            initials=initials(identity.username),
            teams=sorted(identity.teams),
            abilities=[(permission, text, identity.may(permission)) for permission, text in ABILITIES],
            sessions=sessions if by_browser else None,
            more_sessions=total_sessions - len(sessions),
            keys=self._keys(identity) if by_browser else None,
            can_change_password=by_browser and user.has_password,
            warning=self._context.state().warning,
            error=error,
            notice=notice,
            new_key=new_key,
            new_key_name=new_key_name,
        )

    def _sessions(self, identity: Identity) -> tuple[list[ShownSession], int]:
        found, total = self._context.people().sessions.page(identity.user_id, limit=_SHOWN_SESSIONS)
        shown = [
            ShownSession(
                item.session_id,
                describe_browser(item.user_agent),
                item.address,
                item.last_seen_at,
                item.expires_at,
                str(item.session_id) == identity.credential_id,
            )
            for item in found
        ]
        return shown, total

    def _keys(self, identity: Identity) -> list[ShownKey]:
        # All of them: nobody has more than a page.
        found, _ = self._context.people().keys.page(identity.user_id)
        return [
            ShownKey(item.key_id, item.name, item.prefix, sorted(item.scopes), item.last_used_at, item.expires_at)
            for item in found
        ]


def account_menu(context: PagesContext) -> Callable[[Request, str], str]:
    """What Dagster's page shows of whoever is logged in: a button in its corner, that needs no script."""

    def render(request: Request, nonce: str) -> str:
        identity = identity_of(request)
        if identity is None:
            return ""
        values = {
            "identity": identity,
            "initials": initials(identity.username),
            "nonce": nonce,
            "warning": context.state().warning,
        }
        return render_piece("menu.html", values)

    return render


def describe_browser(user_agent: str) -> str:
    """A browser and its system, as people know them; the last of the names that a browser gives itself is its own."""
    browser = next(
        (
            name
            for mark, name in (
                ("Edg/", "Edge"),
                ("OPR/", "Opera"),
                ("Firefox/", "Firefox"),
                ("Chrome/", "Chrome"),
                ("Safari/", "Safari"),
            )
            if mark in user_agent
        ),
        "",
    )
    system = next(
        (
            name
            for mark, name in (
                ("Windows", "Windows"),
                ("Android", "Android"),
                ("iPhone", "iPhone"),
                ("iPad", "iPad"),
                ("Mac OS X", "macOS"),
                ("Linux", "Linux"),
            )
            if mark in user_agent
        ),
        "",
    )
    if not browser:
        return user_agent[:40] or "unknown"
    return f"{browser} on {system}" if system else browser


def _uuid(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        # It names nothing, as one of somebody else's does.
        return UUID(int=0)
