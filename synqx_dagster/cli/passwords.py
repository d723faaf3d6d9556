"""Where passwords come from: a terminal without an echo, or a file; never an argument, which other users could see."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synqx_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr

_MAX_PASSWORD_FILE_BYTES = 64 * 1024


def ask_new_password(prompt: str = "New master password") -> SecretStr:
    """Ask for a new password, twice, without an echo."""
    from pydantic import SecretStr

    return SecretStr(click.prompt(prompt, hide_input=True, confirmation_prompt="The same again", err=True))


def ask_password(prompt: str) -> SecretStr:
    """Ask for a password without an echo."""
    from pydantic import SecretStr

    return SecretStr(click.prompt(prompt, hide_input=True, err=True))


def read_password_file(path: Path) -> SecretStr:
    """Read a password from a file, or from standard input for ``-``; one trailing newline is not part of it.

    Raises:
        ConfigurationError: The file cannot be read, or is not a text of a believable length.
    """
    from pydantic import SecretStr

    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(_MAX_PASSWORD_FILE_BYTES + 1)
        else:
            with path.open("rb") as file:
                content = file.read(_MAX_PASSWORD_FILE_BYTES + 1)
        if len(content) > _MAX_PASSWORD_FILE_BYTES:
            raise ConfigurationError(f"{path} is longer than a password can be")
        text = content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path} is not UTF-8 text") from exc
    return SecretStr(text)
