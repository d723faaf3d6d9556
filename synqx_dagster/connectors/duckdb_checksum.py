"""Digests that DuckDB computes over its own tables, by the spelling of `synqx_dagster.connectors.checksum`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from synqx_dagster.connectors.checksum import PORTABLE, ChecksumValue, duckdb_digest, duckdb_text
from synqx_dagster.connectors.protocol import Encoded
from synqx_dagster.model.types import DataType


class DuckdbChecksums(ABC):
    """The part of a read session that digests; see `synqx_dagster.connectors.checksum.ChecksumReadSession`."""

    @abstractmethod
    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """As `ReadSession.encode`."""
        ...

    def checksum_schemes(self) -> tuple[str, ...]:
        """The one that every database has."""
        return (PORTABLE,)

    def checksum_text(self, value: ChecksumValue) -> str:
        """A value's text in its form."""
        encoded = self.encode(value.expression, value.column.data_type, value.column.native_type)
        return duckdb_text(encoded.sql, encoded.arrow_type, value.form)

    def checksum_digest(self, scheme: str, values: Sequence[ChecksumValue]) -> str:
        """A row's digest."""
        return duckdb_digest([(self.checksum_text(value), value.form) for value in values])
