"""What routes stand on: one value for the process, reached through the app's state."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from synqx_dagster.audit import recording
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.people.oidc import OidcProvider
from synqx_dagster.people.service import People
from synqx_dagster.settings import Settings

if TYPE_CHECKING:
    from synqx_dagster.api.run_control import RunControl


class ApiContext:
    """The process's catalog, opened when it is first asked for, and what starts runs.

    A server starts without a catalog too, and answers 501 until there is one.
    """

    def __init__(self, settings: Settings, runs: RunControl | None = None) -> None:
        self.settings = settings
        self.runs = runs
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._people: People | None = None
        oidc = settings.server.oidc
        self.oidc = OidcProvider(oidc) if oidc is not None else None

    @property
    def catalog(self) -> Catalog:
        """The open catalog.

        Raises:
            NotInitialisedError: There is none yet.
        """
        with self._lock:
            if self._catalog is None:
                catalog = Catalog.open(self.settings)
                recording.install(catalog)
                self._catalog = catalog
            return self._catalog

    @property
    def people(self) -> People:
        """The people of the catalog.

        Raises:
            NotInitialisedError: There is no catalog yet.
        """
        catalog = self.catalog
        with self._lock:
            if self._people is None:
                self._people = People(catalog)
            return self._people

    def close(self) -> None:
        """Close what was opened."""
        with self._lock:
            if self._catalog is not None:
                self._catalog.close()
                self._catalog = self._people = None


def context_of(request: Request) -> ApiContext:
    """The context of the app that answers."""
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(context_of)]
