"""When the texts of two kinds of servers say the same value; within one kind only equal texts do."""

from __future__ import annotations

import datetime
import re
import struct
from decimal import Decimal, InvalidOperation

from synqx_dagster_tests.integration.transfer.types.cases import Kind

_ERA = re.compile(r"^(\S+) \(BC\)(.*)$")
_FRACTION = re.compile(r"(:\d\d)\.(\d*?)0*(?=$|[+\- ])")
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "infinity": "Infinity", "-inf": "-Infinity", "-infinity": "-Infinity"}


def canonical(text: str | None, kind: Kind) -> str | None:
    """The same text for every spelling of one value; the text itself where it is no value of its kind."""
    if text is None:
        return None
    match kind:
        case "number":
            return _number(text)
        case "real" | "float":
            return _float(text, "f" if kind == "real" else "d")
        case "boolean":
            return {"t": "true", "1": "true", "f": "false", "0": "false"}.get(text.lower(), text.lower())
        case "binary":
            return text.removeprefix("\\x").lower()
        case "uuid":
            return text.lower()
        case "date" | "time" | "timestamp" | "timestamptz":
            return _moment(text, kind)
        case _:
            return text


def _number(text: str) -> str:
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    try:
        value = Decimal(text)
    except InvalidOperation:
        return text
    # Not normalize(): it rounds to the context's digits.
    sign, digits, exponent = value.as_tuple()
    whole = "".join(map(str, digits)).lstrip("0")
    stripped = whole.rstrip("0")
    if not stripped:
        return "0"
    return f"{'-' if sign else ''}{stripped}e{int(exponent) + len(whole) - len(stripped)}"


def _float(text: str, code: str) -> str:
    try:
        value = float(text)
        return struct.pack(f">{code}", value).hex() if value == value else "NaN"
    except (ValueError, OverflowError):
        return text


def _moment(text: str, kind: Kind) -> str:
    text = _ERA.sub(r"\1\2 BC", text)
    text = _FRACTION.sub(lambda match: f"{match[1]}.{match[2]}" if match[2] else match[1], text)
    if kind == "timestamptz":
        return _in_utc(text.replace("+00", ""))
    return re.sub(r"(?<=\d)T(?=\d)", " ", text) if kind == "timestamp" else text


def _in_utc(text: str) -> str:
    """A moment that SQLite keeps with its offset, as the other servers print it."""
    if not re.search(r"[+-]\d\d(:\d\d)?$", text) or text.count("-") > 3:
        return text
    try:
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC).replace(tzinfo=None).isoformat(" ")
    except ValueError:
        return text
