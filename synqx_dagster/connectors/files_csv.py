"""CSV files: their header, read exactly as it stands, and DuckDB's reader with nothing left to its guesses.

Guarantee: every field is text. An empty field is NULL and a quoted empty one is the empty text (or what
``options.null_text`` says); a line with another number of fields, a broken quote or bytes that are not of the
encoding end the read, naming file and line.
"""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

from synqx_dagster.connectors.files_options import ENCODINGS, CsvDialect
from synqx_dagster.connectors.files_types import literal
from synqx_dagster.errors import DataError

#: DuckDB decodes these by itself; its UTF-16 knows no characters beyond the first 65,536.
DUCKDB_ENCODINGS = ("utf-8", "latin-1")

#: One line, quoted newlines included, may be this long.
MAXIMUM_LINE_BYTES = 16 * 1024 * 1024

#: What DuckDB reads at once; left to itself it takes sixteen of the longest lines, a gibibyte.
_BUFFER_BYTES = 2 * MAXIMUM_LINE_BYTES

_CHUNK_BYTES = 1024 * 1024
_COMPRESSIONS = {"none": "none", "gzip": "gzip", "zstd": "zstd"}


def decompress(file: BinaryIO, compression: str) -> IO[bytes]:
    """A compressed file's content."""
    if compression == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if compression == "zstd":
        import pyarrow as pa

        return cast(IO[bytes], pa.CompressedInputStream(file, "zstd"))
    return file


def iter_chunks(file: BinaryIO, compression: str, shown: str) -> Iterator[bytes]:
    """A file's content, decompressed.

    Raises:
        DataError: The compressed data are cut or damaged.
    """
    stream = decompress(file, compression)
    while True:
        try:
            chunk = stream.read(_CHUNK_BYTES)
        except (EOFError, gzip.BadGzipFile) as exc:
            raise damaged(shown, compression) from exc
        except OSError as exc:
            if compression == "none":
                raise
            raise damaged(shown, compression) from exc
        if not chunk:
            return
        yield chunk


def damaged(shown: str, compression: str) -> DataError:
    """The error for a compressed file that ends too early or is not one."""
    return DataError(
        f"{shown}: the {compression} data are cut or damaged", hint="was the file still being written? copy it again"
    )


def iter_text(chunks: Iterator[bytes], encoding: str, shown: str) -> Iterator[str]:
    """Decoded text, without a byte order mark.

    Raises:
        DataError: Bytes that are not of the encoding; names the line.
    """
    decoder = codecs.getincrementaldecoder(ENCODINGS[encoding])()
    line = 1
    first = True

    def decode(data: bytes, *, final: bool) -> str:
        nonlocal line, first
        try:
            text = decoder.decode(data, final)
        except UnicodeDecodeError as exc:
            before = exc.object[: exc.start].decode(ENCODINGS[encoding], errors="replace")
            raise DataError(
                f"{shown}, line {line + before.count(chr(10))}: bytes that are not {encoding}",
                hint="set options.encoding to the file's own",
            ) from None
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        line += text.count("\n")
        return text

    for chunk in chunks:
        yield decode(chunk, final=False)
    yield decode(b"", final=True)


def read_first_record(texts: Iterator[str], dialect: CsvDialect, shown: str) -> list[str] | None:
    """The fields of the first record; None for a file without one.

    Raises:
        DataError: A quote is not closed.
    """
    text = ""
    for piece in texts:
        text += piece
        fields = _parse_record(text, dialect, at_end=False)
        if fields is not None:
            return fields
        if len(text) > MAXIMUM_LINE_BYTES:
            break
    if not text:
        return None
    fields = _parse_record(text, dialect, at_end=True)
    if fields is None:
        raise DataError(f"{shown}, line 1: a quote is not closed", hint="check options.quote and options.escape")
    return fields


def _parse_record(text: str, dialect: CsvDialect, *, at_end: bool) -> list[str] | None:
    """The first record's fields; None when the text ends before it does."""
    fields, field, position, quoted = [], "", 0, False
    while position < len(text):
        character = text[position]
        if quoted:
            following = text[position + 1 : position + 2]
            if character == dialect.escape and following and following in (dialect.quote, dialect.escape):
                field += following
                position += 1
            elif character == dialect.quote:
                if not following and not at_end and dialect.escape == dialect.quote:
                    return None
                quoted = False
            else:
                field += character
        elif character == dialect.quote and not field:
            quoted = True
        elif text.startswith(dialect.delimiter, position):
            fields.append(field)
            field = ""
            position += len(dialect.delimiter) - 1
        elif character in "\r\n":
            return [*fields, field]
        else:
            field += character
        position += 1
    return [*fields, field] if at_end and not quoted else None


def check_header(names: Sequence[str] | None, shown: str) -> list[str]:
    """The names in a header.

    Raises:
        DataError: There is none, or a name is empty or occurs twice.
    """
    if not names:
        raise DataError(f"{shown} is empty: it has no header", hint="set options.header to false if it has none")
    seen: set[str] = set()
    for name in names:
        if not name or "\x00" in name:
            raise DataError(f"{shown}, line 1: a column of the header has no name", hint="give each column a name")
        if name.casefold() in seen:
            raise DataError(f"{shown}, line 1: the header names {name!r} twice", hint="give each column its own name")
        seen.add(name.casefold())
    return list(names)


def scan_sql(paths: Sequence[str], columns: int, dialect: CsvDialect, compression: str) -> str:
    """A call of DuckDB's reader; the columns are ``c0``, ``c1``, ..., all of them text."""
    shape = ", ".join(f"'c{position}': 'VARCHAR'" for position in range(columns))
    quote = literal(dialect.quote or "")
    options = {
        "columns": "{" + shape + "}",
        "auto_detect": "false",
        "header": str(dialect.header).lower(),
        "delim": literal(dialect.delimiter),
        "quote": quote,
        "escape": literal(dialect.escape) if dialect.quote else quote,
        "nullstr": literal(dialect.null_text),
        "allow_quoted_nulls": "false",
        "strict_mode": "true",
        "encoding": literal(dialect.encoding if dialect.encoding in DUCKDB_ENCODINGS else "utf-8"),
        "compression": literal(_COMPRESSIONS[compression]),
        "max_line_size": str(MAXIMUM_LINE_BYTES),
        "buffer_size": str(_BUFFER_BYTES),
    }
    listing = ", ".join(map(literal, paths))
    arguments = ", ".join(f"{name} = {value}" for name, value in options.items())
    return f"read_csv([{listing}], {arguments})"


def copy_options(dialect: CsvDialect, compression: str) -> str:
    """What DuckDB's COPY is told so that `scan_sql` reads the same values again."""
    return (
        f"FORMAT csv, HEADER true, DELIMITER {literal(dialect.delimiter)}, QUOTE {literal(dialect.quote or '')},"
        f" ESCAPE {literal(dialect.escape)}, NULLSTR {literal(dialect.null_text)},"
        f" COMPRESSION {literal(_COMPRESSIONS[compression])}"
    )


def transcode(texts: Iterator[str], target: Path) -> None:
    """Write decoded text as UTF-8."""
    with open(target, "w", encoding="utf-8", newline="") as file:
        for text in texts:
            file.write(text)
