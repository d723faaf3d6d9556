"""`synqx unlock`, `seal` and `vault`: who may open the catalog's secrets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synqx_dagster.cli.figures import format_seconds, format_time, plural
from synqx_dagster.cli.options import PATH, SynqxCommand, SynqxSubgroup, confirm, json_option, pass_output
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.passwords import ask_new_password, ask_password, read_password_file
from synqx_dagster.cli.session import open_catalog, unsealed_vault
from synqx_dagster.errors import ConfigurationError, SealedError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.vault import VaultStatus

# --- unlock and seal ---------------------------------------------------------------------------------------------


@click.command(cls=SynqxCommand)
@click.option("--key-file", type=PATH, help="Open with this key file.")
@click.option("--recovery", is_flag=True, help="Open with a recovery passphrase, which is asked for.")
@click.option("--password-file", type=PATH, help="Read the password or passphrase from a file; - is standard input.")
@json_option
@pass_output
def unlock(output: Output, key_file: Path | None, recovery: bool, password_file: Path | None) -> None:
    """Unseal the vault for every process of this user.

    Opens with the key file or password that the settings give, or asks for the master password on a terminal. Lifts
    an operator's seal. The key stays in memory-backed storage on this machine until `synqx seal` or a reboot.
    """
    from synqx_dagster.audit.recording import unlock_vault

    catalog = open_catalog()
    settings = catalog.settings
    if password_file is not None or recovery:
        passphrase = (
            read_password_file(password_file)
            if password_file is not None
            else _ask_on_terminal("Recovery passphrase", "--password-file")
        )
        if recovery:
            unlock_vault(catalog, recovery=passphrase)
        else:
            unlock_vault(catalog, password=passphrase)
    elif key_file is not None:
        unlock_vault(catalog, key_file=key_file)
    elif settings.key_file is not None or settings.master_password is not None:
        unlock_vault(catalog, key_file=settings.key_file, password=settings.master_password)
    else:
        unlock_vault(catalog, password=_ask_on_terminal("Master password", "--key-file or --password-file"))
    output.result({"unsealed": True}, lambda: output.print("The vault is unsealed. `synqx seal` closes it again."))


def _ask_on_terminal(prompt: str, instead: str) -> SecretStr:
    if not sys.stdin.isatty():
        raise SealedError(
            "There is no terminal to ask for the password",
            hint=f"set SYNQX_MASTER_PASSWORD or SYNQX_KEY_FILE, or give {instead}",
        )
    return ask_password(prompt)


@click.command(cls=SynqxCommand)
@json_option
@pass_output
def seal(output: Output) -> None:
    """Seal the vault for every process until it is unlocked.

    Needs no password. Runs that need a secret fail, schedules and sensors skip with the reason, until `synqx unlock`.
    """
    open_catalog().vault.seal()
    output.result({"sealed": True}, lambda: output.print("The vault is sealed. `synqx unlock` opens it again."))


# --- vault -------------------------------------------------------------------------------------------------------


@click.group(cls=SynqxSubgroup)
def vault() -> None:
    """Manage keyslots and encryption keys."""


@vault.command("status")
@json_option
@pass_output
def vault_status(output: Output) -> None:
    """Show the vault's state and keyslots."""
    catalog = open_catalog()
    opens, why_not = try_vault(catalog)
    status = catalog.vault.status()
    document = {**status.to_dict(), "unsealed": opens}

    def draw() -> None:
        if not status.initialised:
            output.print("There is no vault yet: run `synqx init`.")
            return
        output.facts(
            [
                ("state", describe_vault(status, opens=opens, why_not=why_not)),
                ("key generation", str(status.active_generation)),
                ("rotation", "not finished: run `synqx vault rotate`" if status.rotation_in_progress else "none"),
                *(
                    [("next password", f"in {format_seconds(status.retry_after_seconds)}")]
                    if status.retry_after_seconds
                    else []
                ),
            ]
        )
        output.print()
        output.table(
            ["keyslot", "kind", "created"],
            [[slot.id, slot.kind.replace("_", " "), format_time(slot.created_at)] for slot in status.keyslots],
        )

    output.result(document, draw)


def try_vault(catalog: Catalog) -> tuple[bool, str]:
    """Whether what the settings give opens the vault, and why it does not."""
    if not catalog.vault.is_initialised:
        return False, ""
    try:
        catalog.vault.unseal_from_settings(catalog.settings)
    except SealedError as exc:
        # The plain error says no more than that the vault is sealed.
        return False, exc.message if type(exc) is not SealedError else "`synqx unlock` opens it"
    except ConfigurationError as exc:
        return False, exc.message
    return True, ""


def describe_vault(status: VaultStatus, *, opens: bool, why_not: str) -> str:
    """The vault's state in a few words."""
    if not status.initialised:
        return "none: run `synqx init`"
    if status.sealed_by_operator:
        return "sealed by an operator: run `synqx unlock`"
    return "unsealed" if opens else f"sealed: {why_not}"


@vault.command("change-password")
@click.option("--new-password-file", type=PATH, help="Read the new password from a file; - is standard input.")
@json_option
@pass_output
def change_password(output: Output, new_password_file: Path | None) -> None:
    """Set a new master password; no secret is re-encrypted.

    The vault is opened as always; the new password is asked for twice, or read from a file.
    """
    opened = unsealed_vault(open_catalog())
    if new_password_file is not None:
        password = read_password_file(new_password_file)
    elif sys.stdin.isatty():
        password = ask_new_password()
    else:
        raise ConfigurationError(
            "There is no terminal to ask for the new password", hint="give --new-password-file PATH, or - for stdin"
        )
    opened.change_password(password)
    output.result(
        {"changed": True},
        lambda: output.print("The master password is changed. Where SYNQX_MASTER_PASSWORD is set, change it, too."),
    )


@vault.command("add-recovery")
@json_option
@pass_output
def add_recovery(output: Output) -> None:
    """Add a keyslot for a new recovery passphrase, which is shown once.

    Write it down and keep it away from this machine. `synqx unlock --recovery` opens the vault with it.
    """
    passphrase = unsealed_vault(open_catalog()).add_recovery()

    def draw() -> None:
        output.note("Write this down and keep it in a safe place; it is not shown again:")
        click.echo(passphrase)

    output.result({"recovery_passphrase": passphrase}, draw)


@vault.command("create-key-file")
@click.argument("path", type=PATH)
@json_option
@pass_output
def make_key_file(output: Output, path: Path) -> None:
    """Write a new random key to PATH, readable by you alone; opens nothing until it is added."""
    from synqx_dagster.vault import create_key_file

    create_key_file(path)
    output.result(
        {"key_file": str(path)},
        lambda: output.print(f"{path} is written. `synqx vault add-key-file {path}` lets it open the vault."),
    )


@vault.command("add-key-file")
@click.argument("path", type=PATH)
@json_option
@pass_output
def add_key_file(output: Output, path: Path) -> None:
    """Add a keyslot for a key file; a missing file is created.

    The file must belong to this user, with mode 0600 or 0400.
    """
    from synqx_dagster.vault import create_key_file

    opened = unsealed_vault(open_catalog())
    if not path.exists() and not path.is_symlink():
        create_key_file(path)
    slot_id = opened.add_key_file(path)
    output.result(
        {"keyslot": slot_id, "key_file": str(path)},
        lambda: output.print(f"Keyslot {slot_id}: {path} opens the vault. Set SYNQX_KEY_FILE={path} to use it."),
    )


@vault.command("remove-keyslot")
@click.argument("keyslot")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def remove_keyslot(output: Output, keyslot: str, yes: bool) -> None:
    """Remove a keyslot: its password, passphrase or key file opens the vault no more.

    `synqx vault status` lists the keyslots. The last one cannot be removed.
    """
    opened = unsealed_vault(open_catalog())
    if not (yes or output.as_json) and sys.stdin.isatty():
        confirm(output, f"Remove keyslot {keyslot}?")
    opened.remove_keyslot(keyslot)
    output.result({"removed": keyslot}, lambda: output.print(f"Keyslot {keyslot} is removed."))


@vault.command("rotate")
@json_option
@pass_output
def rotate(output: Output) -> None:
    """Make a new encryption key and re-encrypt every secret with it.

    It may be interrupted at any time: the next call goes on where it stopped. Old revisions still open.
    """
    opened = unsealed_vault(open_catalog())
    count = opened.rotate()
    generation = opened.status().active_generation
    output.result(
        {"reencrypted": count, "active_generation": generation},
        lambda: output.print(f"Key generation {generation}: {plural(count, 'secret')} re-encrypted."),
    )


@vault.command("import-fernet")
@click.argument("connection")
@click.option("--token-file", type=PATH, required=True, help="The file with the Fernet token; - is standard input.")
@click.option("--key-file", "fernet_key_file", type=PATH, required=True, help="The file with the Fernet key.")
@click.option("--reason", metavar="TEXT", help="Why, for the history.")
@click.option("--author", metavar="NAME", help="Who, for the history.  [default: the operating system's user]")
@json_option
@pass_output
def import_fernet(
    output: Output,
    connection: str,
    token_file: Path,
    fernet_key_file: Path,
    reason: str | None,
    author: str | None,
) -> None:
    """Make the text of a Fernet token the password of CONNECTION, sealed by this vault."""
    from pydantic import SecretStr

    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import Definitions
    from synqx_dagster.cli.options import os_user
    from synqx_dagster.model import LiteralSecret
    from synqx_dagster.vault import import_fernet as decrypt

    token = read_password_file(token_file).get_secret_value().encode()
    key = read_password_file(fernet_key_file).get_secret_value().encode()
    catalog = open_catalog()
    record = catalog.snapshot_for(connections=[connection]).get_connection(connection)
    unsealed_vault(catalog)
    secret = LiteralSecret(value=SecretStr(decrypt(token, key)))
    plan = plan_changes(catalog, Definitions((record.model_copy(update={"password": secret}),)))
    revision = plan.base_revision
    if not plan.is_empty:
        revision = apply_changes(catalog, plan, author=author or os_user(), reason=reason or "import of a Fernet token")
    output.result(
        {"connection": connection, "revision": revision, "changed": not plan.is_empty},
        lambda: output.print(
            f"The password of {connection} is sealed: revision {revision}."
            if not plan.is_empty
            else f"Nothing to change: {connection} has this password already."
        ),
    )
