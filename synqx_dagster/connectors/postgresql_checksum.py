"""Digests that PostgreSQL computes over its own tables.

Between two PostgreSQL servers rows are digested by the hash functions of hash partitioning, which take half the time
of MD5 over texts. Guarantee: that is done only where both servers give the same number for a row of probes, because
these functions depend on a machine's byte order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from synqx_dagster.connectors import postgresql_types
from synqx_dagster.connectors.checksum import DIGEST_DIGITS, NAN_BITS, NULL_TEXT, PORTABLE, ChecksumValue

#: hash_record_extended came with version 14.
_HASH_RECORD_VERSION = 140000

#: One value of each type that `_as_bytes` makes bytes of.
_PROBE = (
    "ROW(int8send(9007199254740993), numeric_send(trim_scale(-1.50)), 'synqx'::text, true, '2024-02-29'::date,"
    " time_send('12:00:00.5'), timestamp_send('2024-02-29 12:00:00.5'), timestamptz_send('2024-02-29 12:00:00.5+00'),"
    " uuid_send('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), float8send(1.5), NULL::bytea)"
)

#: A function takes at most a hundred arguments.
_ARGUMENTS = 90


class PostgresqlChecksums(ABC):
    """The part of a read session that digests; see `synqx_dagster.connectors.checksum.ChecksumReadSession`."""

    _checksum_schemes: tuple[str, ...] | None = None
    _server_encoding = "UTF8"

    @abstractmethod
    def fetch_value(self, sql: str) -> object:
        """As `ReadSession.fetch_value`."""
        ...

    def checksum_schemes(self) -> tuple[str, ...]:
        """What this server can compute; asks it once."""
        if self._checksum_schemes is None:
            self._checksum_schemes = self._find_schemes()
        return self._checksum_schemes

    def _find_schemes(self) -> tuple[str, ...]:
        self._server_encoding = str(self.fetch_value("SELECT current_setting('server_encoding')"))
        if self._server_encoding == "SQL_ASCII":
            # Nobody knows what the bytes of a text mean.
            return ()
        version = int(str(self.fetch_value("SELECT current_setting('server_version_num')::int")))
        if version < _HASH_RECORD_VERSION:
            return (PORTABLE,)
        probe = self.fetch_value(f"SELECT {_hashed(_PROBE)}")
        return (f"postgresql:{self._server_encoding}:{probe}", PORTABLE)

    def checksum_text(self, value: ChecksumValue) -> str:
        """A value's text in its form."""
        expression, data_type = value.expression, value.column.data_type
        match value.form:
            case "integer" | "decimal":
                return _digits(expression, data_type.scale if data_type.kind == "decimal" else 0)
            case "float":
                return f"encode({_bits(expression)}, 'hex')"
            case "boolean" if data_type.kind != "boolean":
                text = f"CAST({expression} AS text)"
                return f"CASE {text} WHEN '0' THEN 'false' WHEN '1' THEN 'true' ELSE {text} END"
            case "binary":
                return f"encode(CAST({expression} AS bytea), 'hex')"
            case "boolean":
                return f"CAST({expression} AS text)"
            case _:
                return _text(value)

    def checksum_digest(self, scheme: str, values: Sequence[ChecksumValue]) -> str:
        """A row's digest."""
        if scheme != PORTABLE:
            return _hashed(f"ROW({', '.join(self._as_bytes(value) for value in values)})")
        row = _joined([_framed(value, self.checksum_text(value)) for value in values])
        if self._server_encoding != "UTF8":
            row = f"convert_to({row}, 'UTF8')"
        return f"('x' || left(md5({row}), {DIGEST_DIGITS}))::bit({4 * DIGEST_DIGITS})::bigint"

    def _as_bytes(self, value: ChecksumValue) -> str:
        """A value as the bytes of its binary form, or as text.

        Not as its own type: the hash of a numeric leaves its sign out, that of an integer or a time is of 32 bits.
        """
        expression, kind = value.expression, value.column.data_type.kind
        match value.form:
            case "integer":
                return f"int8send(CAST({expression} AS int8))"
            case "decimal":
                return f"numeric_send(trim_scale(CAST({expression} AS numeric)))"
            case "float":
                return _bits(expression)
            case "boolean" if kind == "boolean":
                return f"CAST({expression} AS bool)"
            case "plain" if kind == "date":
                # Its hash is of 64 bits.
                return f"CAST({expression} AS date)"
            case "plain":
                return f"{kind}_send(CAST({expression} AS {kind}))"
            case "binary":
                return f"CAST({expression} AS bytea)"
            case _:
                return f'({self.checksum_text(value)}) COLLATE "C"'


def _hashed(row: str) -> str:
    # A record's hash is a weighted sum over its columns: without the second hash, rows of one range that swap their
    # values of a column would add up to the same number as before.
    return f"hash_record_extended(ROW(int8send(hash_record_extended({row}, 0))), 0)"


def _text(value: ChecksumValue) -> str:
    return postgresql_types.encode(value.expression, value.column.data_type, value.column.native_type).sql


def _digits(expression: str, scale: int | None) -> str:
    text = f"CAST({expression} AS text)"
    if scale is None:
        return f"CASE WHEN scale({expression}) > 0 THEN rtrim(rtrim({text}, '0'), '.') ELSE {text} END"
    return f"rtrim(rtrim({text}, '0'), '.')" if scale > 0 else text


def _bits(expression: str) -> str:
    number = f"CAST({expression} AS float8)"
    return f"CASE WHEN {number} = 'NaN' THEN '\\x{NAN_BITS}'::bytea ELSE float8send({number}) END"


def _framed(value: ChecksumValue, text: str) -> str:
    if value.form == "text":
        text = f"length({text}) || ':' || {text}"
    return f"coalesce({text}, '{NULL_TEXT}')"


def _joined(texts: Sequence[str]) -> str:
    while len(texts) > _ARGUMENTS:
        texts = [_joined(texts[start : start + _ARGUMENTS]) for start in range(0, len(texts), _ARGUMENTS)]
    return f"concat_ws(',', {', '.join(texts)})"
