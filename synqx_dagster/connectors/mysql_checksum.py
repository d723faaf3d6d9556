"""Digests that MySQL and MariaDB compute over their own tables.

Of a float these servers print a text, which other servers print differently, and give no bytes: tables with one are
digested by who reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from synqx_dagster.connectors.checksum import DIGEST_DIGITS, NO_DIGEST, NULL_TEXT, PORTABLE, ChecksumValue
from synqx_dagster.connectors.mysql_types import NativeType
from synqx_dagster.connectors.protocol import Encoded
from synqx_dagster.model.types import DataType


class MysqlChecksums(ABC):
    """The part of a read session that digests; see `synqx_dagster.connectors.checksum.ChecksumReadSession`."""

    @abstractmethod
    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """As `ReadSession.encode`."""
        ...

    def checksum_schemes(self) -> tuple[str, ...]:
        """The one that every database has."""
        return (PORTABLE,)

    def checksum_text(self, value: ChecksumValue) -> str | None:
        """A value's text in its form; None for a float."""
        column, expression = value.column, value.expression
        match value.form:
            case "float":
                return None
            case "integer" | "decimal":
                return _digits(expression, NativeType.parse(column.native_type or ""), column.data_type)
            case "boolean":
                return f"CASE {expression} WHEN 0 THEN 'false' WHEN 1 THEN 'true' ELSE CAST({expression} AS CHAR) END"
            case "binary":
                return f"LOWER(HEX({expression}))"
            case _:
                encoded = self.encode(expression, column.data_type, column.native_type)
                # Lengths and digests are of UTF-8, whatever the column's character set is.
                return f"CONVERT({encoded.sql} USING utf8mb4)"

    def checksum_digest(self, scheme: str, values: Sequence[ChecksumValue]) -> str:
        """A row's digest."""
        row = ", ',', ".join(_framed(value, self.checksum_text(value) or "") for value in values)
        # A text beyond max_allowed_packet becomes NULL with no more than a warning, and CONCAT_WS would pass over it.
        digits = f"LEFT(MD5(CONCAT({row})), {DIGEST_DIGITS})"
        return f"IFNULL(CAST(CONV({digits}, 16, 10) AS SIGNED), {NO_DIGEST})"


def _framed(value: ChecksumValue, text: str) -> str:
    if value.form == "text":
        text = f"CONCAT(CHAR_LENGTH({text}), ':', {text})"
    return f"CASE WHEN {value.expression} IS NULL THEN '{NULL_TEXT}' ELSE {text} END"


def _digits(expression: str, native: NativeType, data_type: DataType) -> str:
    # The text of a year, or of a number filled with zeros, is longer than its digits.
    is_padded = native.is_zerofill or native.name == "year"
    text = f"CAST({expression} + 0 AS CHAR)" if is_padded else f"CAST({expression} AS CHAR)"
    if data_type.kind != "decimal" or data_type.scale == 0:
        return text
    trimmed = f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {text}))"
    if not native.name:
        # Of an expression the digits are not known; without a point the zeros count.
        trimmed = f"IF(LOCATE('.', {text}), {trimmed}, {text})"
    return trimmed
