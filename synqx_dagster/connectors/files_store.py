"""Where files lie: what the connector asks of a store.

Guarantee: a state document is replaced only by somebody who saw the one before (`Store.write_document`), what a
journal says is durable when `Store.finish` returns, and no path leads outside of the root.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from synqx_dagster.connectors.files_scratch import Scratch
from synqx_dagster.connectors.files_state import OWN_DIRECTORY, Journal, Stamp, StoredFile
from synqx_dagster.errors import DatabaseError, RetryableError


class DocumentChangedError(RetryableError):
    """Somebody else has replaced the state document."""


class FileGoneError(RetryableError):
    """A file is no longer what it was when the directory was listed."""


def is_hidden(name: str) -> bool:
    """Whether a file or directory is not data: dot files, and SynqX's own."""
    return name.startswith((".", OWN_DIRECTORY))


def check_relative(path: str, what: str) -> str:
    """A path below the root, unchanged.

    Raises:
        DatabaseError: It leads outside, or to something hidden.
    """
    for segment in path.split("/") if path else ():
        if segment in ("", ".", "..") or "\x00" in segment or is_hidden(segment):
            raise DatabaseError(
                f"{what} {path!r} does not name something below the connection's directory",
                hint="write directory/directory, without . or .. or hidden names",
            )
    return path


def join(directory: str, name: str) -> str:
    """A path of two parts; the root's name is empty."""
    return f"{directory}/{name}" if directory else name


class Pinned(ABC):
    """A file that is being read, as it was when it was found."""

    #: What DuckDB is told to read.
    duckdb_path: str

    @abstractmethod
    def open(self) -> BinaryIO:
        """The file's bytes from its beginning."""

    @abstractmethod
    def check(self) -> None:
        """Raise if the file has changed since it was found.

        Raises:
            RetryableError: It has.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


class Store(ABC):
    """A tree of files with one root. Paths are relative to it, with slashes; directories need not exist."""

    @abstractmethod
    def describe(self, path: str) -> str:
        """A path as users know it, for messages; without credentials."""

    @abstractmethod
    def check(self) -> tuple[bool, bool]:
        """Look at the root: whether it can be read and written.

        Raises:
            ConnectionFailedError: It is not there, or cannot be reached.
        """

    @abstractmethod
    def list_files(self, directory: str, prefix: str = "", *, recursive: bool = False) -> list[StoredFile]:
        """Files whose path continues ``directory/`` with `prefix`, by path; hidden ones are left out.

        Without `recursive` only those in the directory itself; with it, those of its subdirectories too.
        """

    @abstractmethod
    def list_directories(self, directory: str) -> list[str]:
        """Names of the directories in a directory, in order; hidden ones are left out."""

    @abstractmethod
    def pin(self, file: StoredFile) -> Pinned:
        """Open a file that was found.

        Raises:
            FileGoneError: It is no longer the file that was found.
        """

    @abstractmethod
    def attach(self, connection: Any) -> list[str]:
        """Let a DuckDB connection read pinned files; returns the directories that it needs to see."""

    @abstractmethod
    def failure(self) -> BaseException | None:
        """What went wrong when DuckDB last read a pinned file, if the store knows better than DuckDB."""

    @abstractmethod
    def read_document(self, path: str) -> tuple[bytes, str] | None:
        """A small file with its version; None if there is none."""

    @abstractmethod
    def write_document(self, path: str, data: bytes, expected: str | None) -> str:
        """Replace a small file, durably and at once; returns its new version.

        Args:
            expected: The version to be replaced; None where there must be none.

        Raises:
            DocumentChangedError: It has another version; nothing was written.
            CommitUnknownError: Nobody knows whether it was written.
        """

    @abstractmethod
    def lock(self, directory: str) -> AbstractContextManager[None]:
        """Keep other commits out of a directory where the store can; elsewhere `write_document` alone decides.

        Raises:
            RetryableError: Another one holds it for too long.
        """

    @abstractmethod
    def make_scratch(self, directory: str) -> Scratch | None:
        """A scratch directory from which alone `publish` takes files; None where it takes them from anywhere."""

    @abstractmethod
    def sweep(self, directory: str) -> None:
        """Remove what killed processes left in a directory; its journal has been carried out."""

    @abstractmethod
    def publish(self, local: Path, target: str) -> Mapping[str, Any]:
        """Bring a file of a scratch directory, durably, to where `finish` can make it visible under its name."""

    @abstractmethod
    def relocate(self, file: StoredFile, target: str) -> Mapping[str, Any]:
        """As `publish`, for a file that is visible under another name."""

    @abstractmethod
    def withdraw(self, publication: Mapping[str, Any]) -> None:
        """Give up what `publish` prepared."""

    @abstractmethod
    def put(self, local: Path, target: str) -> StoredFile:
        """Write a file of SynqX's own under a name that nobody has used, durably."""

    @abstractmethod
    def remove_own(self, directory: str, keep: Collection[str]) -> None:
        """Remove SynqX's own Parquet files in a directory that no document speaks of; its lock is held."""

    @abstractmethod
    def finish(self, journal: Journal) -> None:
        """Carry a journal out; doing it again does nothing."""

    @abstractmethod
    def settle(self, journal: Journal) -> Journal | None:
        """What a reader does with a pending journal: the rest of it is to be looked through as if it were done."""

    @abstractmethod
    def find(self, path: str) -> StoredFile | None:
        """One file, hidden or not."""

    @abstractmethod
    def close(self) -> None:
        """Close connections; the store may be used again."""


def overlay(files: Sequence[StoredFile], journal: Journal | None) -> list[StoredFile]:
    """Files as they will be when a pending journal is carried out."""
    if journal is None:
        return list(files)
    visible = {file.path: file for file in files}
    for file in journal.deletions:
        if file.path in visible and visible[file.path].stamp == file.stamp:
            del visible[file.path]
    for publication in journal.publications:
        if "from" in publication:
            visible.pop(publication["from"], None)
            stamp = Stamp(publication["size"], publication["mark"])
            visible[publication["to"]] = StoredFile(publication["to"], stamp, publication["from"])
    return sorted(visible.values(), key=lambda file: file.path)
