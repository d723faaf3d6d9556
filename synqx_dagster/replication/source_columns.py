"""What the log does not tell of a source table's columns: which is which, and what earlier rows hold in a new one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import Connector, ReadSession
from synqx_dagster.errors import FatalError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType


@dataclass(frozen=True)
class SourceColumn:
    """One column as the source's catalog has it now.

    Attributes:
        number: Stays the same when the column is renamed.
        missing: What rows hold that were there before the column was added, as text; None: NULL.
        is_filled: The server filled such rows with something that the log does not tell.
    """

    number: int
    missing: str | None = None
    is_filled: bool = False


#: Rows that are older than a column have the default that it was added with (``attmissingval``), as long as that is the
#: same for all of them. A default that is not was evaluated for each row, and the table rewritten, of which the log
#: says nothing; it cannot be told from a default that was given later.
_COLUMNS_SQL = """
SELECT json_object_agg(a.attname, json_build_object(
    'number', a.attnum,
    'missing', CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END,
    'is_filled', NOT a.atthasmissing AND (a.atthasdef OR a.attidentity <> '')
))::text
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped
"""


def read_source_columns(session: ReadSession, oid: int) -> dict[str, SourceColumn]:
    """The columns of a table, by name; empty where there is no such table any more."""
    text = session.fetch_value(_COLUMNS_SQL.format(oid=int(oid)))
    if text is None:
        return {}
    found = json.loads(str(text))
    return {name: SourceColumn(**values) for name, values in found.items()}


def ask_source(source: Connector, oid: int) -> dict[str, SourceColumn]:
    """The same, over a session of its own."""
    with source.read() as session:
        return read_source_columns(session, oid)


@dataclass(frozen=True)
class KnownRelation:
    """How a relation was when it was last looked at; kept in the target as JSON.

    Attributes:
        columns: Names and types, in order.
        numbers: What tells a renamed column from a new one, by name; empty where the source was not asked.
    """

    oid: int
    columns: tuple[Column, ...]
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, oid: int, columns: Sequence[Column], found: Mapping[str, SourceColumn]) -> KnownRelation:
        """A relation of the log, or a table as its copy read it, with what the source's catalog says."""
        kept = tuple(Column(one.name, one.data_type, native_type=one.native_type) for one in columns)
        return cls(oid, kept, {one.name: found[one.name].number for one in kept if one.name in found})

    def to_json(self) -> str:
        """As it is kept."""
        columns = [[one.name, str(one.data_type), one.native_type] for one in self.columns]
        return json.dumps({"oid": self.oid, "columns": columns, "numbers": dict(self.numbers)})

    @classmethod
    def from_json(cls, text: str) -> KnownRelation:
        """Read what was kept.

        Raises:
            FatalError: It is not that.
        """
        try:
            found = json.loads(text)
            columns = tuple(Column(name, _parse(kind), native_type=native) for name, kind, native in found["columns"])
            return cls(int(found["oid"]), columns, dict(found["numbers"]))
        except (ValueError, KeyError, TypeError):
            raise FatalError("the target's state of a replicated table is not what SynqX wrote") from None


def _parse(text: str) -> DataType:
    try:
        return DataType.parse(text)
    except ValueError:
        # A decimal with more digits after the point than digits, which no schema may declare.
        precision, scale = text.removeprefix("decimal(").removesuffix(")").split(",")
        return DataType("decimal", int(precision), int(scale))
