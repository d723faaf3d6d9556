"""What DuckDB reads of a table's files: one relation whose columns have names and types, in any of the formats.

Guarantee: the files of a table have the same columns, or the table is refused; what DuckDB's reader of Parquet would
round is found out before, and refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.duckdb_types import DIALECT
from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.files_csv import (
    DUCKDB_ENCODINGS,
    check_header,
    iter_chunks,
    iter_text,
    read_first_record,
    scan_sql,
    transcode,
)
from synqx_dagster.connectors.files_jsonl import convert
from synqx_dagster.connectors.files_layout import DataFile, TableFiles
from synqx_dagster.connectors.files_options import FilesOptions
from synqx_dagster.connectors.files_store import Pinned, Store
from synqx_dagster.connectors.files_types import from_text, literal, make_column, native_type
from synqx_dagster.errors import DataError
from synqx_dagster.model.table import Column

#: Rows that are looked at for a preview, or to tell the columns of JSON lines in a listing.
SAMPLE_ROWS = 2_000

_NESTED = ("[]", "STRUCT(", "MAP(", "UNION(")


@dataclass(frozen=True)
class PinnedData:
    """A data file that is being read."""

    data: DataFile
    pinned: Pinned
    shown: str


@dataclass(frozen=True)
class Relation:
    """A query over files, and the columns that it has."""

    sql: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Reading:
    """What reading takes: a connection, a place for what must be converted first, and how much is wanted.

    Attributes:
        make_path: Gives a new name in a scratch directory.
        sample: The first rows will do.
    """

    connection: Any
    store: Store
    options: FilesOptions
    make_path: Callable[[str], Path]
    is_cancelled: Callable[[], bool]
    sample: bool = False


def relate(table: TableFiles, files: Sequence[PinnedData], shape: Sequence[Column], reading: Reading) -> Relation:
    """A relation over the files of a table.

    Args:
        shape: The columns as SynqX wrote them, if it did: they tell the types of text, key and nullability.

    Raises:
        DataError: The files are not what their names say, or their columns differ.
    """
    if table.file_format == "parquet":
        return _relate_parquet(files, shape, reading)
    if table.file_format == "csv":
        return _relate_csv(files, shape, reading)
    return _relate_jsonl(files, shape, reading)


# --- Parquet -------------------------------------------------------------------------------------------------------


def _relate_parquet(files: Sequence[PinnedData], shape: Sequence[Column], reading: Reading) -> Relation:
    first: dict[str, str] = {}
    for file in files:
        found = describe_parquet(file, reading.connection)
        first = first or found
        if found != first:
            raise DataError(
                f"{file.shown} and {files[0].shown} have different columns: {_difference(first, found)}",
                hint="files of one table have the same columns; read them as tables of their own",
            )
    items = [
        (f"to_json({quote(name)}) AS {quote(name)}" if _is_nested(native) else quote(name))
        for name, native in first.items()
    ]
    columns = [make_column(name, "JSON" if _is_nested(native) else native) for name, native in first.items()]
    listing = ", ".join(literal(file.pinned.duckdb_path) for file in files)
    # By name: the order of the columns may differ from file to file.
    sql = f"SELECT {', '.join(items)} FROM read_parquet([{listing}], union_by_name = true, hive_partitioning = false)"
    return Relation(sql, _with_keys(columns, shape))


def describe_parquet(file: PinnedData, connection: Any) -> dict[str, str]:
    """DuckDB's types of a Parquet file's columns, by name.

    Raises:
        DataError: A column whose values DuckDB would round.
    """
    path = literal(file.pinned.duckdb_path)
    old_timestamps = []
    for name, physical, converted, precision in connection.execute(
        f"SELECT name, type, converted_type, precision FROM parquet_schema({path})"
    ).fetchall():
        if converted == "DECIMAL" and precision is not None and precision > 38:
            raise DataError(
                f"{file.shown}: column {name!r} is a decimal of {precision} digits; up to 38 can be read",
                hint="have its writer make it text or a smaller decimal",
                column=name,
            )
        if physical == "INT96":
            old_timestamps.append(name)
    rows = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({path}, hive_partitioning = false)").fetchall()
    if old_timestamps:
        _check_old_timestamps(file, old_timestamps)
    return {row[0]: row[1] for row in rows}


def _check_old_timestamps(file: PinnedData, names: Sequence[str]) -> None:
    """INT96 counts nanoseconds, and DuckDB cuts them off: only files without any are read."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with file.pinned.open() as source:
        parquet = pq.ParquetFile(source)
        tops = [name for name in parquet.schema_arrow.names if name in names]
        if len(tops) < len(set(names)):
            raise DataError(f"{file.shown}: INT96 timestamps inside of lists or structs cannot be read exactly")
        for batch in parquet.iter_batches(batch_size=65_536, columns=tops):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                counts = column.cast(pa.timestamp("ns")).view(pa.int64())
                whole = pc.multiply(pc.divide(counts, 1000), 1000)
                if pc.any(pc.not_equal(counts, whole)).as_py():
                    raise DataError(
                        f"{file.shown}: column {name!r} holds INT96 timestamps finer than microseconds",
                        hint="have its writer use TIMESTAMP(NANOS) or TIMESTAMP(MICROS)",
                        column=name,
                    )


def _is_nested(native: str) -> bool:
    return native.endswith("]") or native.startswith(_NESTED)


def _difference(first: dict[str, str], other: dict[str, str]) -> str:
    names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
    return ", ".join(f"{name} ({other.get(name, 'missing')}, {first.get(name, 'missing')})" for name in names[:5])


# --- CSV -----------------------------------------------------------------------------------------------------------


def _relate_csv(files: Sequence[PinnedData], shape: Sequence[Column], reading: Reading) -> Relation:
    dialect = reading.options.csv
    names: list[str] = []
    for file in files:
        found = _read_header(file, reading)
        names = names or found
        if found != names:
            first = dict.fromkeys(names, "present")
            listing = _difference(first, dict.fromkeys(found, "present"))
            raise DataError(
                f"{file.shown} and {files[0].shown} have different headers: {listing or 'another order of columns'}",
                hint="files of one table have the same header; read them as tables of their own",
            )
    texts = [(file.data.compression, file.pinned.duckdb_path) for file in files]
    if dialect.encoding not in DUCKDB_ENCODINGS:
        texts = [("none", str(_to_utf8(file, reading))) for file in files]
        dialect = dataclasses.replace(dialect, encoding="utf-8")
    scans = [
        scan_sql([path for _, path in group], len(names), dialect, compression)
        for compression, group in groupby(texts, key=lambda item: item[0])
    ]
    return _relate_text(names, scans, shape, refuses_nul=True)


def _read_header(file: PinnedData, reading: Reading) -> list[str]:
    dialect = reading.options.csv
    with file.pinned.open() as source:
        texts = iter_text(iter_chunks(source, file.data.compression, file.shown), dialect.encoding, file.shown)
        record = read_first_record(texts, dialect, file.shown)
    if dialect.header:
        return check_header(record, file.shown)
    if record is None:
        raise DataError(f"{file.shown} is empty, so that nobody knows its columns", hint="remove the file")
    return [f"column{position}" for position in range(1, len(record) + 1)]


def _to_utf8(file: PinnedData, reading: Reading) -> Path:
    path = reading.make_path("csv")
    with file.pinned.open() as source:
        texts = iter_text(
            iter_chunks(source, file.data.compression, file.shown), reading.options.csv.encoding, file.shown
        )
        transcode(texts, path)
    return path


# --- JSON lines ----------------------------------------------------------------------------------------------------


def _relate_jsonl(files: Sequence[PinnedData], shape: Sequence[Column], reading: Reading) -> Relation:
    names: dict[str, None] = dict.fromkeys(column.name for column in shape)
    converted: list[tuple[list[Path], list[str]]] = []
    for file in files:
        with file.pinned.open() as source:
            paths, keys = convert(
                iter_chunks(source, file.data.compression, file.shown),
                file.shown,
                lambda: reading.make_path("parquet"),
                maximum_rows=SAMPLE_ROWS if reading.sample else 0,
                is_cancelled=reading.is_cancelled,
            )
        converted.append((paths, keys))
        names.update(dict.fromkeys(keys))
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{files[0].shown}: the keys {other!r} and {name!r} differ in case alone",
                hint="a table's columns are told apart by more than case; rename one of them",
            )
    if not names:
        raise DataError(f"{files[0].shown} has no rows, so that nobody knows its columns", hint="remove the file")
    order = list(names)
    scans = []
    for paths, keys in converted:
        for path in paths:
            present = reading.connection.execute(
                f"SELECT count(*) FROM parquet_schema({literal(str(path))}) WHERE type IS NOT NULL"
            ).fetchall()[0][0]
            at = {key: position for position, key in enumerate(keys[:present])}
            items = ", ".join(
                f"c{at[name]} AS c{position}" if name in at else f"CAST(NULL AS VARCHAR) AS c{position}"
                for position, name in enumerate(order)
            )
            scans.append(f"(SELECT {items} FROM read_parquet({literal(str(path))}))")
    if not scans:
        nothing = ", ".join(f"CAST(NULL AS VARCHAR) AS c{position}" for position in range(len(order)))
        scans = [f"(SELECT {nothing} WHERE false)"]
    return _relate_text(order, scans, shape, refuses_nul=False)


# --- text ----------------------------------------------------------------------------------------------------------


def _relate_text(names: Sequence[str], scans: Sequence[str], shape: Sequence[Column], *, refuses_nul: bool) -> Relation:
    """A relation over scans of text columns ``c0``, ``c1``, ..., with the types that the shape tells."""
    known = {column.name: column for column in shape}
    items, columns = [], []
    for position, name in enumerate(names):
        alias = f"c{position}"
        column = make_column(name, "VARCHAR")
        value = alias
        if name in known:
            column = Column(
                name,
                known[name].data_type,
                native_type=native_type(known[name], "csv"),
                native_dialect=DIALECT,
            )
            value = from_text(alias, column)
        if refuses_nul and column.native_type == "VARCHAR":
            broken = f"error({literal('synqx nul ' + name)})"
            value = f"CASE WHEN contains({alias}, chr(0)) THEN {broken} ELSE {alias} END"
        items.append(f"{value} AS {quote(name)}")
        columns.append(column)
    listing = ", ".join(items)
    sql = " UNION ALL ".join(f"SELECT {listing} FROM {scan}" for scan in scans)
    return Relation(sql, _with_keys(columns, shape))


def _with_keys(columns: Sequence[Column], shape: Sequence[Column]) -> tuple[Column, ...]:
    """Columns with the nullability and the key that SynqX wrote them with."""
    known = {column.name: column for column in shape}
    if not set(known) <= {column.name for column in columns}:
        # Somebody has made another table of this name.
        return tuple(columns)
    return tuple(
        dataclasses.replace(
            column,
            nullable=known[column.name].nullable if column.name in known else True,
            key_position=known[column.name].key_position if column.name in known else None,
        )
        for column in columns
    )
