"""The digest of a row that every database computes alike, and its spelling in DuckDB, which stands in for the rest.

A row's text is the text of each value in its `ChecksumForm`, joined by commas: ``~`` for NULL, a form ``text`` with
its length in characters and a colon before it, so that no two rows share a text. The digest is the first sixty bits
of the MD5 of that text in UTF-8. MD5 stands against chance here, not against malice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from synqx_dagster.model.table import Column

if TYPE_CHECKING:
    import pyarrow as pa

#: The scheme that this module describes.
PORTABLE = "md5"

NULL_TEXT = "~"

#: Hex digits of the MD5: sixty bits, which every database holds in a signed integer.
DIGEST_DIGITS = 15

#: In place of the digest of a row that its database cannot take at once: more than any sum of digests.
NO_DIGEST = 10**34

#: A double's NaN, whose bits differ by origin.
NAN_BITS = "7ff8000000000000"

#: How two columns are compared: what a value is turned into before it is digested, the same in every database.
#: ``integer`` and ``decimal``: plain digits without idle zeros. ``float``: the sixteen hex digits of the IEEE 754
#: double. ``boolean``: ``true`` or ``false``. ``plain``: canonical text that never holds a comma (dates, times,
#: UUIDs). ``text``: the text itself. ``binary``: lower-case hex digits.
ChecksumForm = Literal["integer", "decimal", "float", "boolean", "plain", "text", "binary"]


@dataclass(frozen=True)
class ChecksumValue:
    """One column of a row that is digested: an SQL expression, the column it stands for, and its form."""

    expression: str
    column: Column
    form: ChecksumForm


@runtime_checkable
class ChecksumReadSession(Protocol):
    """A read session whose database can digest rows by itself.

    Guarantee: two sessions that name the same scheme give the same number for rows whose values are the same, and
    for others different numbers but for a chance of less than 2^-50.
    """

    def checksum_schemes(self) -> tuple[str, ...]:
        """Names of what this database can compute, the fastest first; equal names mean equal numbers."""
        ...

    def checksum_text(self, value: ChecksumValue) -> str | None:
        """SQL for the value's text in its form, NULL for NULL; None where this database cannot spell it exactly."""
        ...

    def checksum_digest(self, scheme: str, values: Sequence[ChecksumValue]) -> str:
        """SQL for one signed 64-bit integer that stands for all the values in their order; never NULL.

        Every value must have a `checksum_text`.
        """
        ...


def duckdb_text(expression: str, arrow_type: pa.DataType, form: ChecksumForm) -> str:
    """DuckDB's SQL for a value's text in its form.

    Text that is not a value of the form stays as it is: it differs from every value, and so shows up.

    Args:
        arrow_type: What the expression yields: a carrier, or text.
    """
    import pyarrow as pa

    is_text = pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type)
    text = expression if is_text else f"CAST({expression} AS VARCHAR)"
    match form:
        case "integer" | "decimal":
            return _digits(text) if is_text else text
        case "float":
            number = f"TRY_CAST({text} AS DOUBLE)" if is_text else f"CAST({expression} AS DOUBLE)"
            bits = (
                f"CASE WHEN isnan({number}) THEN '{NAN_BITS}' ELSE lower(hex(CAST(CAST({number} AS BIT) AS BLOB))) END"
            )
            return f"coalesce({bits}, {text})" if is_text else bits
        case "boolean":
            return f"CASE {text} WHEN '1' THEN 'true' WHEN '0' THEN 'false' ELSE {text} END"
        case "binary":
            return f"lower(hex({expression}))"
        case _:
            return text


def _digits(text: str) -> str:
    """Digits without idle zeros: DuckDB itself writes ``.500`` for a decimal(3,3)."""
    trimmed = f"CASE WHEN contains({text}, '.') THEN rtrim(rtrim({text}, '0'), '.') ELSE {text} END"
    whole = f"regexp_replace({trimmed}, '^(-?)\\.', '\\10.')"
    return f"CASE WHEN {trimmed} IN ('-0', '-', '') THEN '0' ELSE {whole} END"


def duckdb_digest(texts: Sequence[tuple[str, ChecksumForm]]) -> str:
    """DuckDB's SQL for the digest of a row, from the texts of its values."""
    framed = ", ".join(_framed(text, form) for text, form in texts)
    return f"CAST('0x' || substr(md5(concat_ws(',', {framed})), 1, {DIGEST_DIGITS}) AS BIGINT)"


def _framed(text: str, form: ChecksumForm) -> str:
    if form == "text":
        text = f"length({text}) || ':' || {text}"
    return f"coalesce({text}, '{NULL_TEXT}')"
