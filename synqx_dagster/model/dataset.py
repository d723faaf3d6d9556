"""Datasets (``kind: asset``): names for tables, queries and files at connections, so that pipelines refer to them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Label, Name, Record, RecordKind
from synqx_dagster.model.table import TableName


class Dataset(Record):
    """A table, a query or a file of a connection.

    A query can be read; a table or a file can be read and loaded. ``file`` is another word for ``table`` where the
    connection is a directory or a bucket.
    """

    kind: ClassVar[RecordKind] = "asset"

    connection: Name
    table: str | None = None
    query: str | None = Field(default=None, min_length=1, max_length=100_000)
    file: str | None = None
    #: The columns, types and key that the table promises when a pipeline loads it.
    target_schema: Name | None = None
    tags: dict[Label, str] = Field(default_factory=dict)

    @field_validator("table", "file")
    @classmethod
    def _check_table(cls, text: str | None) -> str | None:
        if text is not None:
            TableName.parse(text)
        return text

    @model_validator(mode="after")
    def _check_whole(self) -> Dataset:
        if [self.table, self.query, self.file].count(None) != 2:
            raise ValueError("give one of table, query and file")
        return self

    @property
    def table_name(self) -> TableName | None:
        """The table or file; None for a query."""
        text = self.table or self.file
        return None if text is None else TableName.parse(text)
