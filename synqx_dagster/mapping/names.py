"""How names in SQL and in records find the columns of a source: exactly, or with the nearest name as advice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from synqx_dagster.errors import PlanError, SourceChangedError
from synqx_dagster.model.table import Column

#: Dialects whose column names differ only in more than case, and those that fold them to upper case: SQLAlchemy shows
#: the folded names in lower case. The empty one is of servers that nobody knows; they have the last word.
CASELESS = frozenset(
    {"", "athena", "bigquery", "databricks", "doris", "dremio", "drill", "duckdb", "exasol", "hive", "mysql", "oracle"}
    | {"presto", "redshift", "snowflake", "spark", "sqlite", "starrocks", "teradata", "trino", "tsql"}
)


def find_name(name: str, known: Iterable[str], dialect: str, *, quoted: bool) -> str | None:
    """The stored name that a name in SQL stands for in a dialect; None where there is none."""
    names = list(known)
    if dialect in CASELESS:
        if name in names:
            return name
        return next((candidate for candidate in names if candidate.lower() == name.lower()), None)
    wanted = fold(name, dialect, quoted=quoted)
    return wanted if wanted in names else None


def fold(name: str, dialect: str, *, quoted: bool) -> str:
    """A name in SQL as its server stores it; unchanged where the server keeps the case."""
    if quoted or dialect in CASELESS:
        return name
    # PostgreSQL folds ASCII letters only
    return "".join(character.lower() if character.isascii() else character for character in name)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Advice on a name that is not known."""
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    if not names:
        return None
    shown = ", ".join(names[:10])
    return f"there are: {shown}" + (" ..." if len(names) > 10 else "")


class SourceColumns:
    """The columns that a source offers, by name."""

    def __init__(self, columns: Sequence[Column], source: str) -> None:
        self.columns = tuple(columns)
        self.source = source
        self.by_name: dict[str, Column] = {}
        self._twice: set[str] = set()
        for column in columns:
            if column.name in self.by_name:
                self._twice.add(column.name)
            self.by_name[column.name] = column

    def get(self, name: str, *, field: str) -> Column:
        """The column of exactly this name.

        Raises:
            SourceChangedError: The source has no such column; names it and the nearest.
            PlanError: The source has it twice.
        """
        column = self.by_name.get(name)
        if column is None:
            raise self.missing(name, field=field)
        if name in self._twice:
            raise PlanError(
                f"field {field!r}: {self.source} returns the column {name!r} more than once",
                hint="give the columns of source_query different names",
                column=name,
            )
        return column

    def missing(self, name: str, *, field: str) -> SourceChangedError:
        """The error that says a column is not there."""
        return SourceChangedError(
            f"field {field!r}: {self.source} has no column {name!r}",
            hint=nearest(name, self.by_name),
            column=name,
        )
