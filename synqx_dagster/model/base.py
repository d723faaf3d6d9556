"""What every record has in common: frozen, strict about unknown keys, and named."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RecordKind = Literal[
    "connection", "schema", "asset", "mapping", "pipeline", "replication", "schedule", "sensor", "alert", "agent"
]

#: In the order in which records refer to each other: what is referred to stands first.
RECORD_KINDS: tuple[RecordKind, ...] = get_args(RecordKind)

_NOT_DAGSTER = re.compile(r"[^A-Za-z0-9_]+")


def _check_name(name: str) -> str:
    if name != name.strip():
        raise ValueError("a name must not begin or end with a blank")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError("a name must not hold control characters")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError("a name must be valid Unicode")
    if not _NOT_DAGSTER.sub("", name):
        raise ValueError("a name needs at least one ASCII letter, digit or underscore")
    return name


#: A record's name: 1 to 128 characters, unique within its kind.
Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_check_name)]

Label = Annotated[str, Field(min_length=1, max_length=256)]


def with_article(noun: str) -> str:
    """A kind of record as a sentence has it: ``a mapping``, ``an asset``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def dagster_name(name: str) -> str:
    """The name by which Dagster knows a record: what Dagster does not allow becomes an underscore.

    Two names of one kind that meet here are refused when the catalog is checked.
    """
    return _NOT_DAGSTER.sub("_", name)


class Value(BaseModel):
    """A frozen part of a record; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        str_strip_whitespace=False,
        hide_input_in_errors=True,
        populate_by_name=True,
    )


class Record(Value):
    """A named record of the catalog."""

    kind: ClassVar[RecordKind]

    name: Name
    description: str | None = Field(default=None, max_length=4000)
    #: Who may write the record over the API beside admins, and whom Dagster shows: ``team:NAME``, or an e-mail address.
    owners: tuple[Label, ...] = ()

    @property
    def writers(self) -> tuple[str, ...]:
        """Who may write the record over the API beside admins; empty for whoever may write at all."""
        return self.owners
