"""What a case is: a column type, the values that it is tried with, and how two servers' texts of it are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What a value means, so that the text of one kind of server can be compared with that of another.
Kind = Literal[
    "text", "number", "real", "float", "boolean", "binary", "date", "time", "timestamp", "timestamptz", "uuid"
]


@dataclass(frozen=True)
class Value:
    """One value, as an SQL expression of its server; the label stands in the documentation."""

    sql: str
    label: str


@dataclass(frozen=True)
class Case:
    """One column.

    Attributes:
        type: As DDL spells it.
        name: What the documentation calls it; the type where that says all.
        text: An expression over ``{}`` that gives the value's text, where a plain cast to text does not.
        later: Statements over ``{table}`` and ``{column}`` that run when the table is there, before it has rows.
    """

    type: str
    kind: Kind
    values: tuple[Value, ...]
    name: str
    text: str | None = None
    later: tuple[str, ...] = ()


def case(
    type_: str,
    kind: Kind,
    *values: str | tuple[str, str],
    name: str | None = None,
    text: str | None = None,
    later: tuple[str, ...] = (),
) -> Case:
    """A case; a value is an SQL expression, or a label with one."""
    made = tuple(Value(value, value) if isinstance(value, str) else Value(value[1], value[0]) for value in values)
    return Case(type_, kind, made, name or type_, text, later)


#: Texts that are hard to carry, by what they are, as Python strings; each source spells them in its own SQL.
HARD_TEXTS: dict[str, str] = {
    "empty": "",
    "trailing blanks": "ab  ",
    "leading blanks": "  ab",
    "tab": "a\tb",
    "newline": "a\nb",
    "CR": "a\rb\r\n",
    "backslash": "a\\b\\",
    "\\N": "\\N",
    "\\.": "\n\\.\n",
    "quotes": "'\"`,;",
    "emoji": "\U0001f600\U0001f468\u200d\U0001f469",
    "combining marks": "e\u0301\u0323",
    "BOM": "\ufeffa",
    "line separators": "a\u2028b\u0085c",
    "NULL": "NULL",
    "control characters": "".join(chr(code) for code in range(1, 32)) + "\x7f",
}
