"""The routes of the pages."""

from __future__ import annotations

from starlette.routing import Route, Router

from synqx_dagster.gateway.pages.account import AccountPages
from synqx_dagster.gateway.pages.context import PagesContext
from synqx_dagster.gateway.pages.login import LoginPages
from synqx_dagster.gateway.pages.rendering import static_file
from synqx_dagster.gateway.pages.unlock import UnlockPages

#: What belongs to the pages, by the first part of a path; the rest is the API's and Dagster's.
PAGES = frozenset({"login", "logout", "unlock", "account", "_synqx"})


def create_pages(context: PagesContext) -> Router:
    """The pages as an ASGI application."""
    login, unlock, account = LoginPages(context), UnlockPages(context), AccountPages(context)
    return Router(
        [
            Route("/login", login.show, methods=["GET"]),
            Route("/login", login.submit, methods=["POST"]),
            Route("/logout", login.confirm_leaving, methods=["GET"]),
            Route("/logout", login.leave, methods=["POST"]),
            Route("/unlock", unlock.show, methods=["GET"]),
            Route("/unlock", unlock.submit, methods=["POST"]),
            Route("/account", account.show, methods=["GET"]),
            Route("/account/password", account.change_password, methods=["POST"]),
            Route("/account/sessions/{id}/end", account.end_session, methods=["POST"]),
            Route("/account/keys", account.create_key, methods=["POST"]),
            Route("/account/keys/{id}/revoke", account.revoke_key, methods=["POST"]),
            Route("/_synqx/{name}", static_file, methods=["GET"]),
        ]
    )
