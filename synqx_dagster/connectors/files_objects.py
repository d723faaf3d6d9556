"""Objects of a store as files: for Python, and for DuckDB by way of fsspec.

Guarantee: every read asks for the object that was found; small ones are kept, so that they cannot change at all.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from synqx_dagster.connectors.files_state import StoredFile
from synqx_dagster.connectors.files_store import DocumentChangedError, FileGoneError, Pinned
from synqx_dagster.errors import RetryableError

#: What DuckDB's names of objects begin with.
PROTOCOL = "synqx"

#: What one GET of a streaming read fetches.
_READ_BYTES = 8 * 1024 * 1024

#: Objects up to this size are fetched once and kept by the session, so that it goes on seeing the same bytes.
_KEPT_BYTES = 8 * 1024 * 1024
_KEPT_TOTAL_BYTES = 64 * 1024 * 1024

Result = TypeVar("Result")


class Objects(Protocol):
    """Where the bytes come from."""

    def fetch(self, file: StoredFile, start: int, end: int) -> bytes:
        """Bytes from `start` up to `end` of an object, if it still is the one that was found."""
        ...


class _PinnedObject(Pinned):
    """An object as it was found."""

    def __init__(self, owner: ObjectFiles, store: Objects, file: StoredFile, number: int) -> None:
        self._owner = owner
        self._store = store
        self.number = number
        self.file = file
        self.kept: bytes | None = None
        self.duckdb_path = f"{PROTOCOL}://{number}"

    def fetch(self, start: int, end: int) -> bytes:
        """Some of the object's bytes."""
        if self.kept is not None:
            return self.kept[start:end]
        return self._store.fetch(self.file, start, end)

    def open(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_RawObject(self), _READ_BYTES))

    def check(self) -> None:
        """Nothing: each read asks for the object that was found."""

    def close(self) -> None:
        self._owner.forget(self)


class _RawObject(io.RawIOBase):
    """An object as a file of Python's."""

    def __init__(self, pinned: _PinnedObject) -> None:
        self._pinned = pinned
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._pinned.file.stamp.size
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._pinned.file.stamp.size)
        data = self._pinned.fetch(self._position, max(end, self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class ObjectFiles:
    """The objects that one store's sessions read, by number, as DuckDB knows them."""

    def __init__(self, store: Objects) -> None:
        self._store = store
        self._pinned: dict[str, _PinnedObject] = {}
        self._kept_bytes = 0
        self._numbers = itertools.count()
        self.failure: BaseException | None = None

    def pin(self, file: StoredFile) -> Pinned:
        """Keep a small object; of a large one just say which it is."""
        pinned = _PinnedObject(self, self._store, file, next(self._numbers))
        if file.stamp.size <= _KEPT_BYTES and self._kept_bytes + file.stamp.size <= _KEPT_TOTAL_BYTES:
            try:
                pinned.kept = self._store.fetch(file, 0, file.stamp.size)
            except RetryableError as exc:
                if isinstance(exc.__cause__, (DocumentChangedError, FileNotFoundError)):
                    raise FileGoneError(exc.message) from exc
                raise
            self._kept_bytes += file.stamp.size
        self._pinned[str(pinned.number)] = pinned
        return pinned

    def forget(self, pinned: _PinnedObject) -> None:
        """Let go of an object."""
        if self._pinned.pop(str(pinned.number), None) is not None and pinned.kept is not None:
            self._kept_bytes -= len(pinned.kept)

    def filesystem(self) -> Any:
        """A file system of fsspec's over these objects."""
        from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

        objects = self

        class ObjectFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
            def _fetch_range(self, start: int, end: int) -> bytes:
                return objects.guard(lambda: objects.find(self.path).fetch(start, end))

        class ObjectFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
            protocol = PROTOCOL
            cachable = False

            def info(self, path: str, **more: Any) -> dict[str, Any]:
                name = self._strip_protocol(path)
                return {"name": name, "size": objects.find(name).file.stamp.size, "type": "file"}

            def exists(self, path: str, **more: Any) -> bool:
                return True

            def modified(self, path: str) -> datetime:
                # A number stands for one content for ever.
                return datetime(2000, 1, 1, tzinfo=UTC)

            def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
                size = objects.find(self._strip_protocol(path)).file.stamp.size
                # DuckDB asks for footers and columns of Parquet here and there, and for CSV from the front.
                return ObjectFile(self, path, mode, block_size=min(_READ_BYTES, max(size, 1)), cache_type="readahead")

        return ObjectFileSystem()

    def find(self, path: str) -> _PinnedObject:
        """An object by its number."""
        return self._pinned[path.rpartition("/")[2]]

    def guard(self, fetch: Callable[[], Result]) -> Result:
        """Remember what went wrong: DuckDB makes a text of it."""
        try:
            return fetch()
        except BaseException as error:
            self.failure = error
            raise
