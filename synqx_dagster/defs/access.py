"""How Dagster's processes reach the catalog and its vault: once per process, and sealed means sealed."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from synqx_dagster.errors import ConfigurationError, SealedError
from synqx_dagster.model import Record, RecordKind, SealedSecret

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.settings import Settings
    from synqx_dagster.vault import Vault


class CatalogAccess(Protocol):
    """What a run asks of the catalog that its definitions come from, beside the definitions.

    `Catalog` answers from its database, and `ProjectAccess` for a project whose definitions are files.
    """

    @property
    def settings(self) -> Settings:
        """The settings of this process."""

    @property
    def vault(self) -> Vault | None:
        """The vault; None where nothing can be sealed."""

    def resolve_secret(self, record: Record, field: str) -> str | None:
        """The text of a record's secret field; None when it is not set. Raises as `Catalog.resolve_secret`."""

    def find_version(self, kind: RecordKind, name: str, revision: int) -> int:
        """Which version of a record a revision has; 0 where versions are not counted."""


@lru_cache(maxsize=8)
def open_catalog(settings: Settings) -> Catalog:
    """The catalog of these settings; one object per process, so that the vault is unsealed once.

    Raises:
        NotInitialisedError, CatalogVersionError, ConfigurationError: As `Catalog.open`; failures are not kept.
    """
    from synqx_dagster.catalog.store import Catalog

    return Catalog.open(settings)


def needs_vault(record: Record) -> bool:
    """Whether a record's use takes a secret out of the vault; a reference to a variable or a file does not."""
    from synqx_dagster.catalog.snapshot import secrets_of

    return any(isinstance(secret, SealedSecret) for secret in secrets_of(record).values())


def require_unsealed(catalog: CatalogAccess, *, secrets_needed: bool) -> None:
    """Unseal the vault for this process if that is needed.

    A vault that an operator sealed stops everything; one that merely nobody opened stops only what needs a
    secret from it.

    Raises:
        SealedError: Work must not start; says why.
        ConfigurationError: What should open the vault cannot be used.
    """
    vault = catalog.vault
    if vault is None:
        return
    status = vault.status()
    if not status.initialised:
        return
    if status.sealed_by_operator:
        raise SealedError("an operator sealed the vault", hint="run `synqx unlock`")
    if secrets_needed and not status.unsealed:
        vault.unseal_from_settings(catalog.settings)


def find_seal_reason(catalog: CatalogAccess, *, secrets_needed: bool) -> str | None:
    """Why work must not start now; None when it may.

    A vault that cannot be opened as this process is set up (its key file is not there) is as good as a sealed one:
    what waits for it goes on when that is put right.
    """
    try:
        require_unsealed(catalog, secrets_needed=secrets_needed)
    except (SealedError, ConfigurationError) as exc:
        return str(exc)
    return None
