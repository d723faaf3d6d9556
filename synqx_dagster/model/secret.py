"""Secrets as records hold them: a reference that is resolved at connect time, or a value on its way to the vault."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_serializer

from synqx_dagster.model.base import Value


class EnvSecret(Value):
    """A secret in an environment variable of the process that connects."""

    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")


class FileSecret(Value):
    """A secret in a file on the machine that connects; one trailing newline is not part of it."""

    file: str = Field(min_length=1)


class SealedSecret(Value):
    """A secret that the vault of this catalog holds.

    ``version`` counts the values this field has had, from 1. In YAML it is written ``{sealed: true}`` (keep what
    the catalog has); only the catalog fills in the rest.
    """

    sealed: Literal[True] = True
    version: int | None = Field(default=None, ge=1, exclude_if=lambda version: version is None)


class LiteralSecret(Value):
    """A secret in the clear, as a user typed it; the catalog encrypts it before it is stored.

    It never serialises: a literal must not leave the process that read it.
    """

    value: SecretStr

    @model_serializer
    def _refuse(self) -> Any:
        raise ValueError("a literal secret must be sealed before it is stored or shown")


def _from_text(value: Any) -> Any:
    if isinstance(value, str):
        return LiteralSecret(value=SecretStr(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError("write a secret in quotes: YAML read this one as a number")
    return value


#: ``{env: NAME}``, ``{file: PATH}``, ``{sealed: true}``, or a literal string.
Secret = Annotated[
    EnvSecret | FileSecret | SealedSecret | LiteralSecret,
    BeforeValidator(_from_text),
]
