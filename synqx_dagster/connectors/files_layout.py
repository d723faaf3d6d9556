"""Which files are which table: pure rules over names, and the listing that they are applied to.

``orders`` is the file ``orders.<format>``, or else the directory ``orders/`` of data files. A directory is a schema
too: ``sales.orders`` is ``orders`` in ``sales/``. A name that is no table may be a file's whole name, or a pattern.
Guarantee: a name stands for one table or is refused; two files that could both be meant are an error.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from synqx_dagster.connectors.files_options import FileFormat
from synqx_dagster.connectors.files_state import DOCUMENT_NAME, OWN_DIRECTORY, Journal, State, StoredFile
from synqx_dagster.connectors.files_store import FileGoneError, Store, check_relative, join, overlay
from synqx_dagster.errors import DataError, RetryableError

_FORMATS: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

#: How often a directory that changes under our eyes is looked at again.
_LOOKS = 10

_PATTERN = re.compile(r"[*?\[]")
_PART = re.compile(r"part-.*")

Found = TypeVar("Found")


@dataclass(frozen=True)
class DataFile:
    """A data file: where it is, what it holds, and what table it is by its name alone."""

    file: StoredFile
    stem: str
    file_format: FileFormat
    compression: str


@dataclass(frozen=True)
class TableFiles:
    """The files of one table, all of one format, in the order of their names; compressions may differ."""

    name: str
    files: tuple[DataFile, ...]
    is_directory: bool = False

    @property
    def file_format(self) -> FileFormat:
        """The format of all of them."""
        return self.files[0].file_format


@dataclass(frozen=True)
class Snapshot:
    """A directory's state document at one moment. ``version`` is None where there is no document."""

    directory: str
    state: State
    version: str | None
    pending: Journal | None


def split_name(file: StoredFile, default: FileFormat | None = None) -> DataFile | None:
    """What a file's name tells; None for a file that is not data.

    Args:
        default: The format of a file whose name tells none; left out, it is not data.
    """
    stem, compression = file.name, "none"
    for ending, found in _COMPRESSIONS.items():
        if stem.lower().endswith(ending):
            stem, compression = stem[: -len(ending)], found
    for ending, file_format in _FORMATS.items():
        if stem.lower().endswith(ending) and len(stem) > len(ending):
            return DataFile(file, stem[: -len(ending)], file_format, compression)
    return DataFile(file, stem, default, compression) if default is not None else None


def document_path(directory: str) -> str:
    """Where a directory's state document is."""
    return join(directory, f"{OWN_DIRECTORY}/{DOCUMENT_NAME}")


def look(store: Store, directory: str) -> Snapshot:
    """A directory's state as it is now."""
    check_relative(directory, "the schema")
    found = store.read_document(document_path(directory))
    if found is None:
        return Snapshot(directory, State(), None, None)
    state = State.from_bytes(found[0], store.describe(document_path(directory)))
    pending = store.settle(state.journal) if state.journal is not None else None
    return Snapshot(directory, state, found[1], pending)


def find_table(store: Store, snapshot: Snapshot, name: str, default: FileFormat | None = None) -> TableFiles | None:
    """The files of a table; None where there are none.

    Args:
        snapshot: The directory in which the table is.
        default: As for `split_name`, for files that are named in full.

    Raises:
        DataError: More than one table could be meant, or its files have different formats.
    """
    directory = snapshot.directory

    def files(prefix: str, *, recursive: bool = False) -> list[StoredFile]:
        listed = store.list_files(directory, prefix, recursive=recursive)
        wanted = join(directory, prefix)
        return [
            file
            for file in overlay(listed, snapshot.pending)
            if file.path.startswith(wanted) and (recursive or "/" not in file.path[len(wanted) :])
        ]

    check_relative(name, "the table")
    if "/" not in name:
        single = _only(store, [data for data in map(split_name, files(f"{name}.")) if data and data.stem == name])
        if single is not None:
            return TableFiles(name, (single,))
        parts = _same_format(store, join(directory, name), map(split_name, files(f"{name}/")))
        if parts:
            return TableFiles(name, parts, is_directory=True)
        folded = _find_folded(store, snapshot, name)
        if folded is not None:
            return find_table(store, snapshot, folded, default)
    exact = [file for file in files(name) if file.path == join(directory, name)]
    if exact:
        return _table_of(name, [data for file in exact if (data := split_name(file, default))])
    if not _PATTERN.search(name):
        return None
    fixed = _PATTERN.split(name, maxsplit=1)[0]
    pattern = join(directory, name)
    depth = pattern.count("/")
    matching = [
        file
        for file in files(fixed, recursive="/" in name)
        if ("**" in name or file.path.count("/") == depth) and fnmatch.fnmatchcase(file.path, pattern)
    ]
    return _table_of(name, _same_format(store, pattern, (split_name(file, default) for file in matching)))


def _table_of(name: str, files: Sequence[DataFile]) -> TableFiles | None:
    return TableFiles(name, tuple(files)) if files else None


def _find_folded(store: Store, snapshot: Snapshot, name: str) -> str | None:
    """Another spelling of a name: DuckDB's names fold their case, so those of the tables do too."""
    names = {table for table, _ in list_tables(store, snapshot)} | set(store.list_directories(snapshot.directory))
    found = sorted(other for other in names if other != name and other.casefold() == name.casefold())
    if len(found) > 1:
        raise DataError(
            f"{name} may be {' or '.join(found)} in {store.describe(snapshot.directory)}",
            hint="write the name as it is spelt there",
        )
    return found[0] if found else None


def _only(store: Store, found: Sequence[DataFile]) -> DataFile | None:
    if len(found) > 1:
        names = ", ".join(data.file.name for data in found)
        raise DataError(
            f"{store.describe(found[0].file.path)}: the table {found[0].stem} may be each of {names}",
            hint="keep one of the files, or write one's whole name in quotes as the table",
        )
    return found[0] if found else None


def _same_format(store: Store, where: str, found: Iterable[DataFile | None]) -> tuple[DataFile, ...]:
    files = tuple(data for data in found if data is not None)
    formats = sorted({data.file_format for data in files})
    if len(formats) > 1:
        raise DataError(
            f"{store.describe(where)} holds files of the formats {', '.join(formats)}",
            hint='a table has one format; name the files by a pattern such as "orders/*.csv"',
        )
    return files


def list_tables(store: Store, snapshot: Snapshot) -> list[tuple[str, bool]]:
    """Names of the tables in a directory, each with whether it is a directory of parts."""
    files = overlay(store.list_files(snapshot.directory), snapshot.pending)
    depth = snapshot.directory.count("/") + 1 if snapshot.directory else 0
    here = [file for file in files if file.path.count("/") == depth]
    names = {data.stem: False for file in here if (data := split_name(file))}
    for name in store.list_directories(snapshot.directory):
        if name not in names and is_part_directory(store, snapshot, name):
            names[name] = True
    return sorted(names.items())


def is_part_directory(store: Store, snapshot: Snapshot, name: str) -> bool:
    """Whether a directory is one table: all of its data files are parts (``part-...``)."""
    files = overlay(store.list_files(join(snapshot.directory, name)), snapshot.pending)
    prefix = join(snapshot.directory, name) + "/"
    found = [data for file in files if file.path.startswith(prefix) and (data := split_name(file))]
    return bool(found) and all(_PART.fullmatch(data.stem) for data in found)


def retry_gone(attempt: Callable[[], Found]) -> Found:
    """Look again where a file was replaced between two looks."""
    for _ in range(_LOOKS - 1):
        try:
            return attempt()
        except FileGoneError:
            continue
    try:
        return attempt()
    except FileGoneError as exc:
        raise RetryableError(exc.message, hint="the files keep changing; load when their writer is done") from exc
