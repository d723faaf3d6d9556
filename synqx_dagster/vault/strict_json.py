"""Strict reading and canonical writing of the vault's state as JSON: what is not exactly as expected is damage."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from synqx_dagster.errors import IntegrityError

_MAX_TEXT_CHARACTERS = 4 * 1024 * 1024
_MAX_INTEGER = 2**53 - 1

T = TypeVar("T")


class Fields:
    """Takes the fields of one JSON object; what is missing, left over or of another type is damage."""

    def __init__(self, document: Any, what: str) -> None:
        if not isinstance(document, dict):
            raise damaged(f"{what} is not an object")
        self._left: dict[str, Any] = dict(document)
        self._what = what

    def take(self, name: str, read: Callable[[Any], T]) -> T:
        """Read one field; ``read`` raises ValueError or TypeError for what it does not accept."""
        if name not in self._left:
            raise damaged(f"{self._what} has no {name}")
        try:
            return read(self._left.pop(name))
        except (TypeError, ValueError):
            raise damaged(f"{name} of {self._what} is not valid") from None

    def expect(self, name: str, value: int | str) -> None:
        """Read one field that has only one legal value."""
        found = self.take(name, lambda item: item)
        if type(found) is not type(value) or found != value:
            raise damaged(f"{name} of {self._what} is not known")

    def finish(self) -> None:
        """Every field must have been taken."""
        if self._left:
            raise damaged(f"{self._what} has a field that is not known")


def load_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        IntegrityError: The text is too long, not JSON, nested too deeply, or not an object.
    """
    if len(text) > _MAX_TEXT_CHARACTERS:
        raise damaged("it is too long")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged("it is not JSON") from None
    if not isinstance(document, dict):
        raise damaged("it is not an object")
    return document


def dump_canonical(document: Mapping[str, Any]) -> str:
    """ASCII text with sorted keys and no white space: one value, one text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def damaged(reason: str) -> IntegrityError:
    """The error of a state that cannot be read; ``reason`` must not quote it."""
    return IntegrityError(
        f"The vault's state is damaged: {reason}", hint="somebody changed the catalog; restore it from a backup"
    )


def read_integer(value: Any) -> int:
    """A count: 0 to 2**53 - 1."""
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise ValueError
    return value


def read_boolean(value: Any) -> bool:
    """True or false, and not 0 or 1."""
    if type(value) is not bool:
        raise ValueError
    return value


def read_list(value: Any) -> list[Any]:
    """A list of anything."""
    if type(value) is not list:
        raise ValueError
    return value


def read_hex(value: Any) -> bytes:
    """Bytes as hexadecimal digits."""
    return bytes.fromhex(value)


def read_bytes(value: Any) -> bytes:
    """Bytes as base64."""
    if type(value) is not str:
        raise ValueError
    return base64.b64decode(value, validate=True)


def read_time(value: Any) -> datetime:
    """An instant in UTC, ISO 8601."""
    time = datetime.fromisoformat(value)
    if time.utcoffset() != timedelta(0):
        raise ValueError
    return time


def read_optional(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """Null, or what ``read`` accepts."""
    return lambda value: None if value is None else read(value)


def dump_bytes(value: bytes) -> str:
    """Base64 with padding."""
    return base64.b64encode(value).decode("ascii")


def dump_time(value: datetime) -> str:
    """ISO 8601 with milliseconds."""
    return value.isoformat(timespec="milliseconds")


def dump_optional_time(value: datetime | None) -> str | None:
    """As `dump_time`; None stays None."""
    return None if value is None else dump_time(value)
