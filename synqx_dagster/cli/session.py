"""What a command stands on: the settings of this directory, and the catalog that they name."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from synqx_dagster.errors import SealedError, WrongPasswordError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.settings import Settings
    from synqx_dagster.vault import Vault


def load_process_settings() -> Settings:
    """Read the settings and make this process and its children agree with them.

    Variables of ``.env`` become environment variables where they are unset, as they do in Dagster's own processes, so
    that ``{env: NAME}`` secrets mean the same everywhere; ``DAGSTER_HOME`` is set when it was not.

    Raises:
        ConfigurationError: ``.env`` cannot be read.
    """
    from synqx_dagster.settings import load_settings

    warnings.simplefilter("ignore")  # libraries warn their authors; what users must know is said by errors
    settings = load_settings()
    _export_env_file(Path.cwd() / ".env")
    os.environ["SYNQX_HOME"] = str(settings.home)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    return settings


def _export_env_file(path: Path) -> None:
    if not path.is_file():
        return
    from dotenv import dotenv_values

    for name, value in dotenv_values(path).items():
        if value is not None:
            os.environ.setdefault(name, value)


def open_catalog() -> Catalog:
    """Open the catalog that the settings name; what is done to it is in the trail, and code servers here follow it.

    Raises:
        NotInitialisedError: There is none yet.
        ConfigurationError: It cannot be reached, or was written by a newer version.
    """
    from synqx_dagster.catalog.store import Catalog

    settings = load_process_settings()
    catalog = Catalog.open(settings)
    keep_trail(catalog)
    catalog.after_commit.append(lambda revision: _reload_code_servers(settings))
    return catalog


def keep_trail(catalog: Catalog) -> None:
    """Let what this command does be in the audit trail, as the act of the operating system's user."""
    import click

    from synqx_dagster.audit import recording
    from synqx_dagster.audit.actor import Actor, acting_as
    from synqx_dagster.cli.options import os_user

    recording.install(catalog)
    if (context := click.get_current_context(silent=True)) is not None:
        context.with_resource(acting_as(Actor(os_user(), method="local")))


def _reload_code_servers(settings: Settings) -> None:
    from synqx_dagster.defs.reload import request_reload

    request_reload(settings)


def unsealed_vault(catalog: Catalog) -> Vault:
    """The catalog's vault, opened by what the settings give, else by a password asked for on a terminal.

    Raises:
        SealedError: An operator sealed it, or nothing here opens it.
    """
    vault = catalog.vault
    try:
        vault.unseal_from_settings(catalog.settings)
    except WrongPasswordError:
        raise
    except SealedError:
        if vault.status().sealed_by_operator or not sys.stdin.isatty():
            raise
        from synqx_dagster.cli.passwords import ask_password

        vault.unseal(password=ask_password("Master password"))
    return vault
