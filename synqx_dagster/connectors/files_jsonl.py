"""JSON lines: parsed here, because DuckDB would round the numbers.

Guarantee: a number keeps the digits that it was written with, a text its characters; a missing key and JSON's null are
NULL; a line that is not one JSON object with different keys ends the read, naming file and line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from synqx_dagster.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

#: A record batch on the way is about this large.
_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_ROWS = 32_768

MAXIMUM_LINE_BYTES = 256 * 1024 * 1024

_WHITESPACE = " \t\r\n"


class _DuplicateKeyError(ValueError):
    """A key occurs twice in one object."""


class _Doubled(dict[str, Any]):
    """An object in which a key occurs twice."""


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    return row if len(row) == len(pairs) else _Doubled(row)


#: Numbers and the three constants stay the text they are.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_make_object)
_scan_string: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]  # not in typeshed


def _reject(message: str) -> NoReturn:
    raise ValueError(message)


def parse_line(line: str) -> dict[str, str | None]:
    """One line's values as text, in the order of their keys.

    Raises:
        ValueError: It is not one JSON object.
    """
    row: dict[str, Any] = _DECODER.decode(line)
    if not isinstance(row, dict):
        _reject("not an object")
    if isinstance(row, _Doubled):
        raise _DuplicateKeyError
    for name, value in row.items():
        if value is True or value is False:
            row[name] = "true" if value else "false"
        elif isinstance(value, (dict, list)):
            return _parse_nested(line)
    return row


def _parse_nested(line: str) -> dict[str, str | None]:
    """As `parse_line`, for a valid line with objects or arrays: these keep the text that they were written as."""
    row: dict[str, str | None] = {}
    position = _skip(line, 0) + 1
    while line[position := _skip(line, position)] != "}":
        if line[position] == ",":
            position = _skip(line, position + 1)
        name, position = _scan_string(line, position + 1)
        position = _skip(line, _skip(line, position) + 1)
        start = position
        value, position = _DECODER.raw_decode(line, position)
        row[name] = value if value is None or isinstance(value, str) else line[start:position]
    return row


def _skip(line: str, position: int) -> int:
    while line[position] in _WHITESPACE:
        position += 1
    return position


def convert(
    chunks: Iterator[bytes],
    shown: str,
    make_path: Callable[[], Path],
    *,
    maximum_rows: int = 0,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> tuple[list[Path], list[str]]:
    """Write a file's rows as Parquet files of text columns.

    Args:
        make_path: Gives the name of the next file; a key that first occurs late begins another one.
        maximum_rows: Stop after so many rows; 0 for all of them.

    Returns:
        The files, whose columns are ``c0``, ``c1``, ... for the first, second, ... of the keys, and the keys in the
        order in which they first occur.

    Raises:
        DataError: A line is not one JSON object.
    """
    import pyarrow.parquet as pq

    keys: dict[str, int] = {}
    paths: list[Path] = []
    writer: pq.ParquetWriter | None = None
    try:
        for batch in _iter_batches(chunks, shown, keys, maximum_rows):
            if is_cancelled():
                break
            if writer is None or writer.schema != batch.schema:
                if writer is not None:
                    writer.close()
                paths.append(make_path())
                # Read once or twice and thrown away: not worth the statistics, nor a slow codec.
                writer = pq.ParquetWriter(paths[-1], batch.schema, compression="lz4", write_statistics=False)
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()
    return paths, list(keys)


def _iter_batches(
    chunks: Iterator[bytes], shown: str, keys: dict[str, int], maximum_rows: int
) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, str | None]] = []
    number = count = size_bytes = 0
    for line in _iter_lines(chunks, shown):
        number += 1
        text = _decode(line, number, shown)
        if not text.strip(_WHITESPACE):
            continue
        row = _parse(text, number, shown)
        if not row.keys() <= keys.keys():
            if rows:
                yield _make_batch(rows, keys, shown)
                rows = []
                size_bytes = 0
            for name in row:
                _add_key(keys, name, number, shown)
        rows.append(row)
        count += 1
        size_bytes += len(line)
        if len(rows) >= _BATCH_ROWS or size_bytes >= _BATCH_BYTES:
            yield _make_batch(rows, keys, shown)
            rows = []
            size_bytes = 0
        if count == maximum_rows:
            break
    if rows:
        yield _make_batch(rows, keys, shown)


def _iter_lines(chunks: Iterator[bytes], shown: str) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > MAXIMUM_LINE_BYTES:
            raise DataError(f"{shown}: a line is longer than {MAXIMUM_LINE_BYTES // 2**20} MiB")
    if rest:
        yield rest


def _decode(line: bytes, number: int, shown: str) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise DataError(
            f"{shown}, line {number}: bytes that are not UTF-8", hint="JSON lines are UTF-8; convert the file"
        ) from None


def _parse(text: str, number: int, shown: str) -> dict[str, str | None]:
    try:
        return parse_line(text)
    except _DuplicateKeyError:
        raise DataError(f"{shown}, line {number}: a key occurs twice in one object") from None
    except RecursionError:
        raise DataError(f"{shown}, line {number}: values are nested too deeply") from None
    except ValueError:
        raise DataError(
            f"{shown}, line {number}: not one JSON object", hint="each line of JSON lines is one whole object"
        ) from None


def _add_key(keys: dict[str, int], name: str, number: int, shown: str) -> None:
    if name in keys:
        return
    if not name or "\x00" in name:
        raise DataError(f"{shown}, line {number}: a key is empty or holds a NUL character")
    keys[name] = len(keys)


def _make_batch(rows: Sequence[dict[str, str | None]], keys: dict[str, int], shown: str) -> pa.RecordBatch:
    import pyarrow as pa

    arrays = []
    for name in keys:
        try:
            arrays.append(pa.array([row.get(name) for row in rows], pa.string()))
        except UnicodeEncodeError:
            raise DataError(
                f"{shown}: column {name!r} holds half of a surrogate pair, which is no character", column=name
            ) from None
    return pa.record_batch(arrays, names=[f"c{position}" for position in range(len(keys))])
