"""What the pages stand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from synqx_dagster.gateway.login_links import LoginLinks
from synqx_dagster.gateway.state import ServerState
from synqx_dagster.people.identity import Client

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.people.service import People


@dataclass(frozen=True)
class PagesContext:
    """The server as its pages see it.

    Attributes:
        catalog: Gives the open catalog; raises NotInitialisedError before there is one.
        people: Gives the people of the catalog; raises NotInitialisedError before there is one.
        state: Looks what state the server is in.
        links: One-time links of this process.
        trusted_origins: Origins beside the request's own host whose pages are ours.
        oidc_name: What the other way to log in is called; None where there is none.
    """

    catalog: Callable[[], Catalog]
    people: Callable[[], People]
    state: Callable[[], ServerState]
    links: LoginLinks = field(default_factory=LoginLinks)
    trusted_origins: tuple[str, ...] = ()
    oidc_name: str | None = None
    oidc_url: str = "/api/v1/auth/oidc/login"


def client_of(connection: HTTPConnection) -> Client:
    """Where a request comes from, as the middleware says."""
    client = (connection.scope.get("state") or {}).get("client")
    return client if isinstance(client, Client) else Client("")
