"""What a files connection may be told, read and checked in one place without touching a file.

Guarantee: an option that is not known, or whose value means nothing, is a problem with its name; nothing is guessed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.connection import OptionValue

FileFormat = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[FileFormat, ...] = ("parquet", "csv", "jsonl")

#: Python's codec for each encoding that CSV files may have.
ENCODINGS = {
    "utf-8": "utf-8-sig",
    "latin-1": "latin-1",
    "windows-1252": "cp1252",
    "utf-16": "utf-16",
    "utf-16-le": "utf-16-le",
    "utf-16-be": "utf-16-be",
}

#: What one session's DuckDB may hold; beyond it, it spills to a scratch directory.
DEFAULT_MEMORY_LIMIT = "512MB"

_MEMORY = re.compile(r"\d{1,6}(\.\d+)?\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+/?")


@dataclass(frozen=True)
class CsvDialect:
    """How CSV is written and read. ``quote`` is None where nothing is quoted; such a connection is read-only."""

    delimiter: str = ","
    quote: str | None = '"'
    escape: str = '"'
    header: bool = True
    null_text: str = ""
    encoding: str = "utf-8"


@dataclass(frozen=True)
class S3Settings:
    """Where a bucket is and how it is reached; credentials are the connection's own fields."""

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    tls_verify: bool = True
    ca_file: str | None = None


@dataclass(frozen=True)
class FilesOptions:
    """A files connection, understood.

    Attributes:
        root: The local directory; None for an object store.
        s3: The object store; None for a local directory.
        prefix: What every key in the bucket begins with, without a slash at its end; empty for the whole bucket.
        file_format: What is written, and how files are read whose name does not tell.
        compression: Of written files: ``none``, ``gzip``, ``zstd``, and for Parquet ``snappy``.
    """

    root: Path | None
    s3: S3Settings | None = None
    prefix: str = ""
    file_format: FileFormat = "parquet"
    compression: str = "none"
    csv: CsvDialect = field(default_factory=CsvDialect)
    memory_limit: str = DEFAULT_MEMORY_LIMIT
    threads: int | None = None

    @property
    def extension(self) -> str:
        """What the names of written files end with, without the first dot: ``csv.gz``."""
        if self.file_format == "parquet":
            return "parquet"
        return self.file_format + {"none": "", "gzip": ".gz", "zstd": ".zst"}[self.compression]

    @property
    def why_read_only(self) -> str | None:
        """Why files cannot be written with these options; None when they can."""
        if self.file_format != "csv":
            return None
        if self.csv.quote is None:
            return "without options.quote a CSV file cannot hold every text"
        if self.csv.encoding != "utf-8":
            return f"CSV is written as utf-8, and options.encoding is {self.csv.encoding}"
        if not self.csv.header:
            return "CSV is written with a header, and options.header is false"
        return None

    @classmethod
    def parse(cls, config: ConnectionConfig) -> FilesOptions:
        """Read a connection's options.

        Raises:
            ConfigurationError: Lists every problem.
        """
        problems: list[str] = []
        options = _parse(config, problems)
        if options is None or problems:
            raise ConfigurationError(f"connection {config.name!r}: " + "; ".join(problems))
        return options


def check_options(config: ConnectionConfig) -> list[str]:
    """What is wrong with a configuration, field by field."""
    problems: list[str] = []
    _parse(config, problems)
    return problems


def _is_text(most: int) -> Callable[[OptionValue], bool]:
    return lambda value: isinstance(value, str) and len(value) <= most and "\x00" not in value


def _is_character(value: OptionValue) -> bool:
    return isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n\0"


#: Each option with what its value must be, and how to say so.
_OPTIONS: dict[str, tuple[Callable[[OptionValue], bool], str]] = {
    "url": (_is_text(4096), "write file:///directory or s3://bucket/prefix"),
    "format": (lambda value: value in FORMATS, "write parquet, csv or jsonl"),
    "compression": (lambda value: value in ("none", "snappy", "gzip", "zstd"), "write none, gzip or zstd"),
    "delimiter": (
        lambda value: isinstance(value, str) and 1 <= len(value) <= 4 and not set(value) & set('\r\n\0"'),
        "write one to four characters, no quote and no newline",
    ),
    "quote": (lambda value: value == "" or _is_character(value), "write one character, or nothing for no quotes"),
    "escape": (_is_character, "write one character"),
    "header": (lambda value: isinstance(value, bool), "write true or false"),
    "null_text": (
        lambda value: isinstance(value, str) and len(value) <= 32 and not set(value) & set("\r\n\0"),
        "write up to 32 characters without a newline",
    ),
    "encoding": (lambda value: value in ENCODINGS, "write one of " + ", ".join(ENCODINGS)),
    "endpoint": (
        lambda value: isinstance(value, str) and _ENDPOINT.fullmatch(value) is not None,
        "write https://host:port, without a user or a path",
    ),
    "region": (_is_text(64), "write the region's name"),
    "path_style": (lambda value: isinstance(value, bool), "write true or false"),
    "tls_verify": (lambda value: isinstance(value, bool), "write true or false"),
    "ca_file": (_is_text(4096), "write the path of a PEM file"),
    "memory_limit": (
        lambda value: isinstance(value, str) and _MEMORY.fullmatch(value) is not None,
        "write a size such as 512MB or 2GB",
    ),
    "threads": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024,
        "write a number from 1 to 1024",
    ),
}
_S3_OPTIONS = ("endpoint", "region", "path_style", "tls_verify", "ca_file")
_CSV_OPTIONS = ("delimiter", "quote", "escape", "header", "null_text", "encoding")


def _parse(config: ConnectionConfig, problems: list[str]) -> FilesOptions | None:
    values: dict[str, OptionValue] = {}
    for name, value in config.options.items():
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            what = f"did you mean {near[0]}?" if near else f"files has the options {', '.join(sorted(_OPTIONS))}"
            problems.append(f"options.{name}: {what}")
            continue
        accepts, what = _OPTIONS[name]
        if accepts(value):
            values[name] = value
        else:
            problems.append(f"options.{name}: {what}")
    problems.extend(
        f"{name}: means nothing for files" for name in ("host", "port") if getattr(config, name) is not None
    )
    root, s3, prefix = _parse_location(config, values, problems)
    file_format = cast(FileFormat, values.get("format", "parquet"))
    compression = str(values.get("compression", "snappy" if file_format == "parquet" else "none"))
    if compression == "snappy" and file_format != "parquet":
        problems.append("options.compression: snappy is for parquet alone; write none, gzip or zstd")
    if problems or (root is None and s3 is None):
        return None
    csv = {name: values[name] for name in _CSV_OPTIONS if name in values}
    if csv.get("quote") == "":
        csv["quote"] = None  # type: ignore[assignment]  # no quote
    if csv.get("delimiter") == "\\t":
        csv["delimiter"] = "\t"
    if "quote" in csv and "escape" not in csv:
        csv["escape"] = csv["quote"] or '"'
    dialect = CsvDialect(**csv)  # type: ignore[arg-type]  # each was checked above
    if len({dialect.delimiter, dialect.quote}) < 2 or dialect.null_text in (dialect.delimiter, dialect.quote):
        problems.append("options: delimiter, quote and null_text must differ")
        return None
    threads = values.get("threads")
    return FilesOptions(
        root,
        s3,
        prefix,
        file_format,
        compression,
        dialect,
        str(values.get("memory_limit", DEFAULT_MEMORY_LIMIT)),
        threads if isinstance(threads, int) else None,
    )


def _parse_location(
    config: ConnectionConfig, values: dict[str, OptionValue], problems: list[str]
) -> tuple[Path | None, S3Settings | None, str]:
    url = values.get("url")
    if url is None and config.database is None and "url" not in config.options:
        problems.append("database: give the directory of the files, or options.url: s3://bucket/prefix")
    if url is not None and config.database is not None:
        problems.append("database: give either the directory here or options.url")
    text = config.database if url is None else str(url)
    if text is None:
        return None, None, ""
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "s3" and url is not None:
        return _parse_s3(config, text, values, problems)
    for name in ("username", "password"):
        if getattr(config, name) is not None:
            problems.append(f"{name}: means nothing for local files")
    problems.extend(f"options.{name}: is for object stores" for name in _S3_OPTIONS if name in values)
    if "\x00" in text:
        problems.append("database: a path must not hold a NUL character")
        return None, None, ""
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path:
            problems.append("options.url: write file:///directory")
            return None, None, ""
        text = unquote(parts.path)
    elif scheme or url is not None:
        problems.append(f"{'database' if url is None else 'options.url'}: {_OPTIONS['url'][1]}")
        return None, None, ""
    return Path(text).expanduser().absolute(), None, ""


def _parse_s3(
    config: ConnectionConfig, text: str, values: dict[str, OptionValue], problems: list[str]
) -> tuple[None, S3Settings | None, str]:
    parts = urlsplit(text)
    if parts.query or parts.fragment or "@" in parts.netloc:
        problems.append("options.url: write s3://bucket/prefix; an access key goes into username and password")
        return None, None, ""
    if not _BUCKET.fullmatch(parts.netloc):
        problems.append("options.url: the bucket's name is not one that S3 allows")
        return None, None, ""
    prefix = unquote(parts.path).strip("/")
    if any(segment in ("", ".", "..") for segment in prefix.split("/")) and prefix:
        problems.append("options.url: the prefix must not hold empty parts, . or ..")
    if config.password is not None and config.username is None:
        problems.append("username: give the access key's id beside its secret (password)")
    return (
        None,
        S3Settings(
            parts.netloc,
            endpoint=_text(values.get("endpoint")),
            region=_text(values.get("region")),
            path_style=bool(values.get("path_style", "endpoint" in values)),
            tls_verify=bool(values.get("tls_verify", True)),
            ca_file=_text(values.get("ca_file")),
        ),
        prefix,
    )


def _text(value: OptionValue | None) -> str | None:
    return None if value is None else str(value)
