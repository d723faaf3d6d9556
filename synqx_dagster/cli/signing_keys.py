"""`synqx signing-keys`: what access tokens are signed with, from the machine itself."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import format_time
from synqx_dagster.cli.options import SynqxSubgroup, confirm, json_option, pass_output
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.session import open_catalog, unsealed_vault

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.people.signing_keys import SigningKeyInfo, SigningKeys


@click.group("signing-keys", cls=SynqxSubgroup)
def signing_keys() -> None:
    """List, rotate and retire the keys that sign access tokens.

    A new key takes over by itself every 90 days. API keys and the sessions of browsers have nothing to do with them.
    """


def _keys_of(catalog: Catalog) -> SigningKeys:
    from synqx_dagster.people.tokens import AccessTokens

    return AccessTokens(catalog).keys


def _document(key: SigningKeyInfo) -> dict[str, Any]:
    return {**asdict(key), "state": key.state}


def _describe(key: SigningKeyInfo) -> str:
    if key.verifies_until is None:
        return "signs"
    return f"verifies until {format_time(key.verifies_until)}" if key.state == "verifies" else "over"


@signing_keys.command("list")
@json_option
@pass_output
def list_keys(output: Output) -> None:
    """List the keys, the newest first; never what they are made of."""
    found = _keys_of(open_catalog()).list()

    def draw() -> None:
        if not found:
            output.print("There is none yet: the first login over the API makes one.")
            return
        output.table(["key", "created", "state"], [[k.key_id, format_time(k.created_at), _describe(k)] for k in found])

    output.result([_document(key) for key in found], draw)


@signing_keys.command()
@json_option
@pass_output
def rotate(output: Output) -> None:
    """Have a new key sign from now on.

    Tokens of the key before are taken until they are over, ten minutes at most. Nobody notices.
    """
    catalog = open_catalog()
    unsealed_vault(catalog)
    made = _keys_of(catalog).rotate()
    output.result(_document(made), lambda: output.print(f"Key {made.key_id} signs access tokens now."))


@signing_keys.command()
@click.argument("key")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def retire(output: Output, key: str, yes: bool) -> None:
    """Refuse every token that KEY has signed, from now on and in every process.

    KEY is an id of `synqx signing-keys list`, or a beginning of it. It is removed from the catalog; where it is the one
    that signs, a new one takes its place. Logins go on: clients get a new access token by their refresh token.
    """
    catalog = open_catalog()
    unsealed_vault(catalog)
    if not (yes or output.as_json) and sys.stdin.isatty():
        confirm(output, f"Refuse every access token that key {key} has signed?")
    retired = _keys_of(catalog).retire(key)
    output.result(
        {"retired": retired.key_id},
        lambda: output.print(f"Key {retired.key_id} is retired: no token that it has signed is taken any more."),
    )
