"""Files in a directory of this machine.

Guarantee: what is published was flushed to the disk before, a name changes its file by one rename, and an open file
stays what it was for its readers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from synqx_dagster.connectors.files_scratch import Scratch, sweep
from synqx_dagster.connectors.files_state import OWN_DIRECTORY, Journal, Stamp, StoredFile
from synqx_dagster.connectors.files_store import DocumentChangedError, FileGoneError, Pinned, Store, is_hidden, join
from synqx_dagster.errors import ConnectionFailedError, DatabaseError, RetryableError

#: How long a commit waits for another one in the same directory.
LOCK_TIMEOUT_SECONDS = 30.0

_LOCK_POLL_SECONDS = 0.02

#: Where files lie that are being written, on the same disk as those that they will be.
_UNFINISHED = f"{OWN_DIRECTORY}/unfinished"


class LocalStore(Store):
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open_files = 0

    def describe(self, path: str) -> str:
        return str(self.root / path) if path else str(self.root)

    def check(self) -> tuple[bool, bool]:
        try:
            with os.scandir(self.root) as entries:
                next(entries, None)
        except FileNotFoundError:
            raise ConnectionFailedError(
                f"there is no directory {self.root}",
                reason="database_missing",
                hint="check the connection's directory; make it once, and loads make its subdirectories",
            ) from None
        except NotADirectoryError:
            raise ConnectionFailedError(
                f"{self.root} is not a directory", reason="database_missing", hint="give the directory of the files"
            ) from None
        except PermissionError:
            raise ConnectionFailedError(
                f"{self.root} cannot be read", reason="permission", hint="may this user read the directory?"
            ) from None
        return True, os.access(self.root, os.W_OK | os.X_OK)

    def _place(self, path: str) -> Path:
        """A path on disk, after every link.

        Raises:
            DatabaseError: It leads outside of the root.
        """
        root = os.path.realpath(self.root)
        place = os.path.realpath(os.path.join(root, path))
        if place != root and not place.startswith(root.rstrip("/") + "/"):
            raise DatabaseError(
                f"{self.describe(path)} leads outside of the connection's directory",
                hint="symbolic links are followed within the directory only",
            )
        return Path(place)

    def list_files(self, directory: str, prefix: str = "", *, recursive: bool = False) -> list[StoredFile]:
        found = []
        folder, _, rest = prefix.rpartition("/")
        start = join(directory, folder) if folder else directory
        for entry in self._scan(start):
            path = join(start, entry.name)
            if not entry.name.startswith(rest) or is_hidden(entry.name):
                continue
            try:
                if entry.is_dir():
                    if recursive and not entry.is_symlink():
                        found.extend(self.list_files(path, recursive=True))
                elif entry.is_file():
                    if entry.is_symlink():
                        self._place(path)
                    found.append(StoredFile(path, _stamp(entry.stat())))
            except (FileNotFoundError, DatabaseError):
                # Gone in the meantime, or a link to somewhere else: not one of the connection's files.
                continue
        return sorted(found, key=lambda file: file.path)

    def list_directories(self, directory: str) -> list[str]:
        return sorted(
            entry.name
            for entry in self._scan(directory)
            if entry.is_dir() and not entry.is_symlink() and not is_hidden(entry.name)
        )

    def _scan(self, directory: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._place(directory)) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError as exc:
            raise DatabaseError(
                f"{self.describe(directory)} cannot be read", hint="may this user read the directory?"
            ) from exc

    def find(self, path: str) -> StoredFile | None:
        try:
            return StoredFile(path, _stamp(os.stat(self._place(path))))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def pin(self, file: StoredFile) -> Pinned:
        place = self._place(file.place or file.path)
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as exc:
            raise FileGoneError(f"{self.describe(file.path)} is gone") from exc
        except PermissionError as exc:
            raise DatabaseError(
                f"{self.describe(file.path)} cannot be read", hint="may this user read the file?"
            ) from exc
        if _stamp(os.fstat(descriptor)) != file.stamp:
            os.close(descriptor)
            raise FileGoneError(f"{self.describe(file.path)} was changed just now")
        if self._open_files >= _MAX_OPEN_FILES:
            os.close(descriptor)
            return _NamedFile(place, self.describe(file.path), file.stamp)
        self._open_files += 1
        return _PinnedFile(self, descriptor, place, self.describe(file.path), file.stamp)

    def forget(self) -> None:
        """One pinned file less is open."""
        self._open_files -= 1

    def attach(self, connection: Any) -> list[str]:
        return [_DESCRIPTORS, os.path.realpath(self.root).rstrip("/") + "/"]

    def failure(self) -> BaseException | None:
        return None

    def read_document(self, path: str) -> tuple[bytes, str] | None:
        try:
            data = self._place(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return data, hashlib.sha256(data).hexdigest()

    def write_document(self, path: str, data: bytes, expected: str | None) -> str:
        place = self._place(path)
        found = self.read_document(path)
        if (found[1] if found else None) != expected:
            raise DocumentChangedError(f"{self.describe(path)} was changed by another process")
        self._make_directory(place.parent)
        # One name: the lock is held, and what a killed process left is written over.
        unfinished = place.parent / f".{place.name}"
        try:
            with open(unfinished, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, place)
        except OSError as exc:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise self._refused(exc, path) from exc
        _sync(place.parent)
        return hashlib.sha256(data).hexdigest()

    @contextmanager
    def lock(self, directory: str) -> Iterator[None]:
        place = self._place(join(directory, OWN_DIRECTORY))
        self._make_directory(place)
        try:
            descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise self._refused(exc, directory) from exc
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RetryableError(
                            f"{self.describe(directory)} is locked: another load is committing there",
                            hint="look for a process of SynqX that is stopped or hangs",
                        ) from None
                    time.sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def make_scratch(self, directory: str) -> Scratch:
        parent = self._place(join(directory, _UNFINISHED))
        self._make_directory(parent)
        try:
            return Scratch(parent)
        except OSError as exc:
            raise self._refused(exc, directory) from exc

    def sweep(self, directory: str) -> None:
        sweep(self._place(join(directory, _UNFINISHED)))

    def publish(self, local: Path, target: str) -> Mapping[str, Any]:
        _sync(local)
        _sync(local.parent)
        source = str(local.relative_to(os.path.realpath(self.root)))
        stamp = _stamp(local.stat())
        return {"from": source, "to": target, "size": stamp.size, "mark": stamp.mark}

    def relocate(self, file: StoredFile, target: str) -> Mapping[str, Any]:
        return {"from": file.path, "to": target, "size": file.stamp.size, "mark": file.stamp.mark}

    def close(self) -> None:
        """Nothing is open between sessions."""

    def withdraw(self, publication: Mapping[str, Any]) -> None:
        """Nothing: the file goes with its scratch directory."""

    def put(self, local: Path, target: str) -> StoredFile:
        place = self._place(target)
        try:
            _sync(local)
            self._make_directory(place.parent)
            os.replace(local, place)
            _sync(place.parent)
        except OSError as exc:
            raise self._refused(exc, target) from exc
        return StoredFile(target, _stamp(place.stat()))

    def remove_own(self, directory: str, keep: Collection[str]) -> None:
        own = join(directory, OWN_DIRECTORY)
        for entry in self._scan(own):
            if entry.name.endswith(".parquet") and join(own, entry.name) not in keep:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)

    def finish(self, journal: Journal) -> None:
        touched: set[Path] = set()
        try:
            for publication in journal.publications:
                source, target = self._place(publication["from"]), self._place(publication["to"])
                if self._is_pending(publication):
                    self._make_directory(target.parent)
                    os.replace(source, target)
                touched.update((source.parent, target.parent))
            for file in journal.deletions:
                place = self._place(file.path)
                found = self.find(file.path)
                if found is not None and found.stamp == file.stamp:
                    place.unlink()
                touched.add(place.parent)
            for directory in touched:
                if directory.is_dir():
                    _sync(directory)
            root = Path(os.path.realpath(self.root))
            for directory in sorted(touched, key=lambda path: len(str(path)), reverse=True):
                if directory != root and OWN_DIRECTORY not in directory.parts:
                    with contextlib.suppress(OSError):
                        # Only an empty one goes.
                        directory.rmdir()
        except FileNotFoundError as exc:
            raise RetryableError("another process is finishing the same commit") from exc
        except OSError as exc:
            raise self._refused(exc, "") from exc

    def _is_pending(self, publication: Mapping[str, Any]) -> bool:
        found = self.find(publication["from"])
        return found is not None and found.stamp == Stamp(publication["size"], publication["mark"])

    def settle(self, journal: Journal) -> Journal | None:
        pending = tuple(publication for publication in journal.publications if self._is_pending(publication))
        return Journal(pending, journal.deletions)

    def _make_directory(self, place: Path) -> None:
        missing = []
        while not place.is_dir():
            missing.append(place)
            place = place.parent
        try:
            for directory in reversed(missing):
                directory.mkdir(exist_ok=True)
                _sync(directory.parent)
        except OSError as exc:
            raise self._refused(exc, "") from exc

    def _refused(self, exc: OSError, path: str) -> RetryableError | DatabaseError:
        where = self.describe(path)
        if isinstance(exc, PermissionError):
            return DatabaseError(f"{where} cannot be written", hint="may this user write to the directory?")
        return RetryableError(f"{where} cannot be written: {os.strerror(exc.errno or 0)}", hint="is the disk full?")


#: Files that are open in this process, by number: the same bytes whatever becomes of the name.
_DESCRIPTORS = "/proc/self/fd/"

#: More files than these are not kept open: a process may have a thousand.
_MAX_OPEN_FILES = 256


class _NamedFile(Pinned):
    """A file that is opened by its name each time; a replacement is noticed, not survived."""

    def __init__(self, place: Path, shown: str, stamp: Stamp) -> None:
        self._place = place
        self._shown = shown
        self._stamp = stamp
        self.duckdb_path = str(place)

    def open(self) -> BinaryIO:
        return open(self._place, "rb")

    def _status(self) -> os.stat_result | None:
        try:
            return os.stat(self._place)
        except FileNotFoundError:
            return None

    def check(self) -> None:
        status = self._status()
        if status is None or _stamp(status) != self._stamp:
            raise RetryableError(
                f"{self._shown} was changed while it was read",
                hint="have its writer make a new file and rename it, or load when it is done",
            )

    def close(self) -> None:
        """Nothing is open."""


class _PinnedFile(_NamedFile):
    """An open file: who replaces it by a rename does not disturb its readers."""

    def __init__(self, store: LocalStore, descriptor: int, place: Path, shown: str, stamp: Stamp) -> None:
        super().__init__(place, shown, stamp)
        self._store = store
        self._descriptor = descriptor
        if os.path.isdir(_DESCRIPTORS):
            self._place = Path(f"{_DESCRIPTORS}{descriptor}")
            self.duckdb_path = str(self._place)

    def _status(self) -> os.stat_result | None:
        return os.fstat(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._store.forget()


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
