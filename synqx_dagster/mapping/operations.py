"""What becomes a field before it is cast to the field's type: one value object for each kind of mapping.

Operations are pure descriptions; `duckdb_select` and `pushdown` render them, with the same meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    from sqlglot import exp

    from synqx_dagster.mapping.expressions import Name, ParsedExpression

TEXT = DataType("string")


@dataclass(frozen=True)
class Take:
    """A source column as it is."""

    column: Column

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (self.column,)

    @property
    def data_type(self) -> DataType:
        return self.column.data_type


@dataclass(frozen=True)
class SplitPart:
    """One part of a text that is split at a literal delimiter; NULL where there are fewer parts.

    Attributes:
        part: One-based; `parts` is the number of fields. The last field takes the rest, delimiters included,
            unless `extra_is_bad`: then a row with more parts is bad.
    """

    column: Column
    delimiter: str
    part: int
    parts: int
    extra_is_bad: bool

    data_type = TEXT

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (self.column,)

    @property
    def is_last(self) -> bool:
        return self.part == self.parts


@dataclass(frozen=True)
class Join:
    """Canonical texts with a separator between them; all NULL gives NULL."""

    inputs: tuple[Column, ...]
    separator: str
    nulls: Literal["skip", "keep"]

    data_type = TEXT


@dataclass(frozen=True)
class Digest:
    """SHA-256 of salt and canonical text in UTF-8, as 64 lower-case hex digits."""

    column: Column
    salt: str

    data_type = TEXT

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (self.column,)


@dataclass(frozen=True)
class Portable:
    """An expression that both engines compute alike.

    Attributes:
        columns: Source columns by the name that the expression calls them.
        result: The type that the source gives it.
        is_wide: An integer that may have left the bounds of `result`.
    """

    parsed: ParsedExpression
    columns: tuple[tuple[Name, Column], ...]
    result: DataType
    is_wide: bool

    def find_column(self, node: exp.Column) -> Column:
        """The source column that a node of the tree means."""
        from synqx_dagster.mapping.expressions import name_of

        return dict(self.columns)[name_of(node)]

    @property
    def inputs(self) -> tuple[Column, ...]:
        return tuple(dict.fromkeys(column for _, column in self.columns))

    @property
    def data_type(self) -> DataType:
        """What the renderings yield: digits where the value may be wider than any integer type."""
        return DataType("decimal") if self.is_wide else self.result


@dataclass(frozen=True)
class Computed:
    """An expression that only the source can compute; it arrives as one more column.

    Attributes:
        alias: The name of that column in the read.
        column: What the source says about it.
        reads: The source columns in it.
    """

    parsed: ParsedExpression
    alias: str
    column: Column
    reads: tuple[Column, ...]
    #: They are read inside the expression, not beside it.
    inputs: tuple[Column, ...] = ()

    @property
    def data_type(self) -> DataType:
        return self.column.data_type


@dataclass(frozen=True)
class Deleted:
    """Whether a column says that its row is deleted: true, not zero or, of another type, not NULL. Never NULL."""

    column: Column

    data_type = DataType("boolean")

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (self.column,)


@dataclass(frozen=True)
class Constant:
    """The same value in every row, already of the field's type.

    ``text`` is its canonical text; None is NULL.
    """

    text: str | None
    data_type: DataType
    inputs: tuple[Column, ...] = ()


Operation = Take | SplitPart | Join | Digest | Deleted | Portable | Computed | Constant
