"""`synqx init`: the home, the catalog, its vault and Dagster's storage; what exists is left as it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synqx_dagster.cli.options import PATH, SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.passwords import ask_new_password
from synqx_dagster.cli.session import keep_trail, load_process_settings
from synqx_dagster.errors import (
    CatalogVersionError,
    ConfigurationError,
    ConflictError,
    NotInitialisedError,
    SynqxError,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.people.accounts import NewUser
    from synqx_dagster.settings import Settings


@click.command(cls=SynqxCommand)
@click.option("--key-file", type=PATH, help="Let this key file open the vault; a missing one is created.")
@click.option(
    "--generate-key-file",
    is_flag=True,
    help="Let a key file in SYNQX_HOME open the vault; every command finds it there.",
)
@click.option(
    "--admin", metavar="NAME", help="Make the first user, an admin, with SYNQX_ADMIN_PASSWORD or one that is asked for."
)
@json_option
@pass_output
def init(output: Output, key_file: Path | None, generate_key_file: bool, admin: str | None) -> None:
    """Create the catalog, its vault and Dagster's storage.

    The vault is opened by SYNQX_MASTER_PASSWORD, by a key file, or by a password that is asked for twice on a
    terminal. What exists already is left as it is, so the command may be repeated; a catalog of an older version is
    migrated.
    """
    if key_file is not None and generate_key_file:
        raise click.UsageError("give --key-file or --generate-key-file, not both")
    settings = load_process_settings()
    had_catalog = _has_catalog(settings)
    if generate_key_file:
        key_file = settings.generated_key_file
    # Asked for before anything is written, so that a wrong answer leaves nothing behind.
    credentials = None if had_catalog else _credentials(settings, key_file)
    first_user = None if admin is None or had_catalog else new_admin(admin)
    _make_home(settings.home)
    _make_home(settings.dagster_home)

    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.defs.instance import prepare_instance

    catalog = Catalog.initialise(settings)
    keep_trail(catalog)
    made_vault = not catalog.vault.is_initialised
    if made_vault:
        _initialise_vault(catalog, *(credentials or _credentials(settings, key_file)))
    made_user = False if admin is None else _make_admin(catalog, admin, first_user)
    had_storage = (settings.dagster_home / "dagster.yaml").exists()
    prepare_instance(settings)
    document = {
        "home": settings.home,
        "catalog": settings.display_catalog_url,
        "catalog_id": catalog.catalog_id,
        "revision": catalog.latest_revision(),
        "dagster_home": settings.dagster_home,
        "created": {"catalog": not had_catalog, "vault": made_vault, "dagster": not had_storage, "admin": made_user},
        "keyslots": [slot.kind for slot in catalog.vault.status().keyslots],
    }

    def draw() -> None:
        kinds = " and ".join(kind.replace("_", " ") for kind in document["keyslots"])  # type: ignore[attr-defined]
        output.facts(
            [
                ("home", str(settings.home)),
                ("catalog", f"{settings.display_catalog_url} ({_said(not had_catalog)})"),
                ("vault", f"opened by {kinds} ({_said(made_vault)})"),
                ("Dagster", f"{settings.dagster_home} ({_said(not had_storage)})"),
                *([("admin", f"{admin} ({_said(made_user)})")] if admin is not None else []),
            ]
        )
        output.print()
        if key_file is not None and made_vault and not generate_key_file:
            output.print(f"Set SYNQX_KEY_FILE={key_file.absolute()} in the environment or in .env.")
        if key_file is not None and not made_vault and not _opens(catalog, key_file):
            output.print(f"The vault exists: `synqx vault add-key-file {key_file}` lets the key file open it.")
        if catalog.latest_revision() == 0:
            output.print("Next: write YAML definitions, then run `synqx check` and `synqx apply`.")

    output.result(document, draw)


def new_admin(name: str) -> NewUser:
    """The first user, with a password from SYNQX_ADMIN_PASSWORD or from a terminal.

    Raises:
        InvalidInputError: The name or the password is not taken.
        ConfigurationError: There is neither a password nor a terminal.
    """
    from pydantic import SecretStr

    from synqx_dagster.people.accounts import NewUser, check_new_user
    from synqx_dagster.people.roles import Role

    check_new_user(NewUser(name, Role.ADMIN))
    if text := os.environ.get("SYNQX_ADMIN_PASSWORD"):
        password = SecretStr(text)
    elif sys.stdin.isatty():
        password = ask_new_password(f"Password for {name}")
    else:
        raise ConfigurationError(
            f"There is no terminal to ask for the password of {name}", hint="set SYNQX_ADMIN_PASSWORD"
        )
    new = NewUser(name, Role.ADMIN, password=password)
    check_new_user(new)
    return new


def _make_admin(catalog: Catalog, name: str, new: NewUser | None) -> bool:
    """Make the first user; False where this admin is there already.

    Raises:
        ConflictError: Somebody else has an account.
    """
    from synqx_dagster.people.accounts import Accounts
    from synqx_dagster.people.roles import Role

    accounts = Accounts(catalog)
    if not accounts.is_empty():
        found, _ = accounts.page(search=name, role=Role.ADMIN, limit=500)
        if any(user.username == name for user in found):
            return False
        raise ConflictError("There are users already", hint=f"`synqx users add {name} --role admin` makes another one")
    accounts.create(new or new_admin(name), only_first=True)
    return True


def _opens(catalog: Catalog, key_file: Path) -> bool:
    """Whether a key file opens the vault; also False where that cannot be seen, as with an operator's seal."""
    try:
        catalog.vault.unseal(key_file=key_file)
    except SynqxError:
        return False
    return True


def _said(created: bool) -> str:
    return "created" if created else "exists"


def _has_catalog(settings: Settings) -> bool:
    from synqx_dagster.catalog.store import Catalog

    try:
        Catalog.open(settings).close()
    except NotInitialisedError:
        return False
    except CatalogVersionError:
        return True  # an older one is migrated, a newer one is refused there
    return True


def _credentials(settings: Settings, key_file: Path | None) -> tuple[SecretStr | None, Path | None]:
    """The password and key file that shall open the new vault; at least one of them.

    Raises:
        ConfigurationError: There is neither, and nobody to ask.
    """
    key_file = key_file or settings.key_file
    if settings.master_password is not None or key_file is not None:
        return settings.master_password, key_file
    if sys.stdin.isatty():
        return ask_new_password(), None
    raise ConfigurationError(
        "The vault needs something that opens it, and there is no terminal to ask for a password",
        hint="set SYNQX_MASTER_PASSWORD, or run `synqx init --key-file PATH`, or `synqx init --generate-key-file`",
    )


def _make_home(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be created: {exc.strerror}", hint="set SYNQX_HOME to a directory that you may write"
        ) from exc


def _initialise_vault(catalog: Catalog, password: SecretStr | None, key_file: Path | None) -> None:
    from synqx_dagster.vault import create_key_file

    if key_file is not None and not key_file.exists() and not key_file.is_symlink():
        create_key_file(key_file)
    catalog.vault.initialise(password=password, key_file=key_file)
