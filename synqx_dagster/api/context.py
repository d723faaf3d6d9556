"""What routes stand on: one value for the process, reached through the app's state."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from pydantic import SecretStr

from synqx_dagster.api.agent_views import AgentFigures
from synqx_dagster.api.records import RecordService
from synqx_dagster.api.reloading import Reloader
from synqx_dagster.audit import recording
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.instance import AnyInstance, SharedInstance
from synqx_dagster.defs.lineage import LineageReader
from synqx_dagster.errors import ConflictError
from synqx_dagster.people.accounts import NewUser, check_new_user
from synqx_dagster.people.oidc import OidcProvider
from synqx_dagster.people.service import People
from synqx_dagster.settings import Settings

if TYPE_CHECKING:
    from synqx_dagster.api.run_control import RunControl


class ApiContext:
    """The process's catalog, opened when it is first asked for, and what starts runs.

    A server starts without a catalog too, and answers 501 until there is one.

    Attributes:
        setup_token: Who makes the catalog over HTTP must know it; the server prints it when there is none yet, so that
            nobody else takes a fresh server over.
    """

    def __init__(self, settings: Settings, runs: RunControl | None = None) -> None:
        self.settings = settings
        self.runs = runs
        self.lineage = LineageReader()
        self.figures = AgentFigures()
        self._instance = SharedInstance(settings)
        self.setup_token = secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._records: RecordService | None = None
        self._reloader = Reloader(settings)
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
                catalog.after_commit.append(self._reloader.announce)
                self._catalog = catalog
            return self._catalog

    @property
    def instance(self) -> AnyInstance:
        """Dagster's storage, to be read.

        Raises:
            ConfigurationError: Dagster's home cannot be used.
        """
        return self._instance.get()

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

    @property
    def records(self) -> RecordService:
        """Reads and writes records of the open catalog.

        Raises:
            NotInitialisedError: There is none yet.
        """
        catalog = self.catalog
        with self._lock:
            if self._records is None:
                self._records = RecordService(catalog)
            return self._records

    def initialise(self, master_password: SecretStr, first_user: NewUser | None = None) -> None:
        """Make the catalog, its vault, Dagster's storage and maybe the first account, and open them.

        Raises:
            ConflictError: They are there already.
            InvalidInputError: The account cannot be one; nothing was made.
            ConfigurationError: The catalog's place or the password is not usable.
        """
        from synqx_dagster.defs.instance import prepare_instance

        if first_user is not None:
            check_new_user(first_user)

        with self._lock:
            made = Catalog.initialise(self.settings)
            recording.install(made)
            try:
                if made.vault.is_initialised:
                    raise ConflictError("The catalog and its vault are there already")
                key_file = self.settings.key_file
                made.vault.initialise(password=master_password, key_file=key_file)
            finally:
                made.close()
        prepare_instance(self.settings)
        self.catalog.vault.unseal(password=master_password)
        if first_user is not None:
            self.people.accounts.create(first_user, only_first=True)

    def close(self) -> None:
        """Close what was opened."""
        self._instance.close()
        self._reloader.close()
        with self._lock:
            if self._catalog is not None:
                self._catalog.close()
                self._catalog = self._records = self._people = None


def context_of(request: Request) -> ApiContext:
    """The context of the app that answers."""
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(context_of)]
