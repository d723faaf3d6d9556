"""Rows of DuckDB into data files: Parquet and CSV by DuckDB itself, JSON lines as text that DuckDB has put together.

Guarantee: what is written is read back as the same values by `synqx_dagster.connectors.files_relation`.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.files_csv import copy_options
from synqx_dagster.connectors.files_options import FilesOptions
from synqx_dagster.connectors.files_types import json_member, literal, to_text
from synqx_dagster.model.table import Column

#: Rows of a row group; DuckDB holds one for each thread while it writes.
ROW_GROUP_ROWS = 122_880

_BATCH_ROWS = 16_384
_GZIP_LEVEL = 6


def write_parquet(connection: Any, query: str, path: Path, compression: str) -> int:
    """Write a query's rows as one Parquet file; returns their number."""
    codec = {"none": "uncompressed"}.get(compression, compression)
    rows = connection.execute(
        f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION {codec}, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
    ).fetchall()
    return int(rows[0][0])


def write_file(connection: Any, relation: str, columns: Sequence[Column], path: Path, options: FilesOptions) -> None:
    """Write all rows of a relation of DuckDB's as one file of the connection's format."""
    if options.file_format == "parquet":
        items = ", ".join(quote(column.name) for column in columns)
        write_parquet(connection, f"SELECT {items} FROM {relation}", path, options.compression)
    elif options.file_format == "csv":
        items = ", ".join(f"{to_text(quote(column.name), column)} AS {quote(column.name)}" for column in columns)
        connection.execute(
            f"COPY (SELECT {items} FROM {relation}) TO {literal(str(path))}"
            f" ({copy_options(options.csv, options.compression)})"
        )
    else:
        _write_lines(connection, relation, columns, path, options.compression)


def _write_lines(connection: Any, relation: str, columns: Sequence[Column], path: Path, compression: str) -> None:
    members = " || ',' || ".join(
        f"to_json({literal(column.name)})::VARCHAR || ':' || {json_member(quote(column.name), column)}"
        for column in columns
    )
    sql = f"SELECT '{{' || {members} || '}}' || chr(10) AS line FROM {relation}"
    with open(path, "wb") as raw:
        stream = _compress(raw, compression)
        for batch in connection.sql(sql).to_arrow_reader(_BATCH_ROWS):
            lines = batch.column(0)
            _, offsets, data = lines.buffers()
            bounds = memoryview(offsets).cast("i")
            # The lines lie one behind the other, as they do in the file.
            stream.write(memoryview(data)[bounds[lines.offset] : bounds[lines.offset + len(lines)]])
        if stream is not raw:
            stream.close()


def _compress(raw: IO[bytes], compression: str) -> IO[bytes]:
    if compression == "gzip":
        # No name and no time inside: equal rows make equal files.
        return cast(IO[bytes], gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0))
    if compression == "zstd":
        import pyarrow as pa

        return cast(IO[bytes], pa.CompressedOutputStream(raw, "zstd"))
    return raw
