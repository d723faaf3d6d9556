"""Tables and columns as connectors describe them and as plans speak of them."""

from __future__ import annotations

from dataclasses import dataclass

from synqx_dagster.model.types import DataType


@dataclass(frozen=True)
class TableName:
    """A table at a connection. ``schema`` is None where the database has none or the default is meant."""

    name: str
    schema: str | None = None

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read ``table`` or ``schema.table``; a part that holds a dot or a quote is written ``"in quotes"``.

        Raises:
            ValueError: The text is empty, has more than two parts, or an unbalanced quote.
        """
        parts: list[str] = []
        part, quoted, was_quoted = "", False, False
        position = 0
        while position < len(text):
            character = text[position]
            if quoted:
                if character == '"' and text[position + 1 : position + 2] == '"':
                    part += '"'
                    position += 1
                elif character == '"':
                    quoted = False
                else:
                    part += character
            elif character == '"' and not part:
                quoted = was_quoted = True
            elif character == ".":
                parts.append(part)
                part, was_quoted = "", False
            elif was_quoted:
                raise ValueError(f"{text!r} is not a table name: text after a closing quote")
            else:
                part += character
            position += 1
        if quoted:
            raise ValueError(f"{text!r} is not a table name: a quote is not closed")
        parts.append(part)
        if len(parts) > 2:
            raise ValueError(f"{text!r} is not a table name: write table or schema.table")
        if not all(parts) or "\x00" in text:
            raise ValueError(f"{text!r} is not a table name: a part is empty")
        return cls(parts[-1], parts[0] if len(parts) == 2 else None)

    def __str__(self) -> str:
        parts = [self.schema, self.name] if self.schema is not None else [self.name]
        return ".".join(_quote_if_needed(part) for part in parts)


def _quote_if_needed(part: str) -> str:
    if "." in part or '"' in part:
        return '"' + part.replace('"', '""') + '"'
    return part


@dataclass(frozen=True)
class Column:
    """One column of a table or of a query's result.

    Attributes:
        name: As stored by the database, without quotes.
        data_type: What the values mean.
        nullable: Whether NULL may occur; True where the database cannot tell (a query's result).
        native_type: The database's own spelling, complete with modifiers (``character varying(20)``).
        native_dialect: The sqlglot dialect that `native_type` belongs to.
        key_position: One-based position in the primary key, None outside it.
        generated: The database computes the value (a stored expression); it cannot be written.
        has_default: A row that leaves the column out gets a value (a default, identity, serial).
    """

    name: str
    data_type: DataType
    nullable: bool = True
    native_type: str | None = None
    native_dialect: str | None = None
    key_position: int | None = None
    generated: bool = False
    has_default: bool = False


def primary_key_of(columns: tuple[Column, ...]) -> tuple[str, ...]:
    """Names of the primary key's columns in key order; empty without a key."""
    keyed = [column for column in columns if column.key_position is not None]
    return tuple(column.name for column in sorted(keyed, key=lambda column: column.key_position or 0))
