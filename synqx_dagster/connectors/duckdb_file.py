"""Open DuckDB files: one instance for each file and process, shared by all sessions.

DuckDB locks a file for the process: many processes may read it, or one may write to it, and within one process all
connections share one mode. Readers therefore open the file read-only until a session of the same process writes:
then the file is opened anew for writing, and the readers' snapshots are taken again from the same bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.duckdb_errors import wrap_open_error
from synqx_dagster.errors import RetryableError

#: Neither the network nor other files are touched, whatever a query says.
_CONFINEMENT = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "enable_external_access": "false",
}

_OPEN_FILES: dict[Path, _OpenFile] = {}
_LOCK = threading.RLock()


class Handle:
    """One session's connection to a file. ``connection`` changes when the file is opened anew."""

    def __init__(self, opened: _OpenFile, *, reads: bool) -> None:
        self._opened = opened
        self._reads = reads
        self._busy = False
        self.connection: Any = None
        self.connect()

    @property
    def is_busy(self) -> bool:
        """Whether rows are being read."""
        return self._busy

    @property
    def has_busy_neighbour(self) -> bool:
        """Whether another session of this process reads rows of the same file."""
        with _LOCK:
            return any(handle.is_busy for handle in self._opened.handles if handle is not self)

    def set_busy(self, busy: bool) -> None:
        """Say whether rows are being read; the file is not opened anew in the meantime."""
        with _LOCK:
            self._busy = busy

    def connect(self) -> None:
        """Connect to the file as it is open now; a reader takes its snapshot."""
        self.connection = self._opened.root.cursor()
        self.connection.execute("SET TimeZone = 'UTC'")
        if self._reads:
            self.connection.execute("BEGIN TRANSACTION READ ONLY")
            # BEGIN alone takes no snapshot of the file; its first read does.
            self.connection.execute("SELECT count(*) FROM duckdb_schemas()").fetchall()

    def disconnect(self) -> None:
        """Close the connection, which rolls back; the file stays open."""
        self.connection.close()

    def release(self) -> None:
        """Close the connection, and the file with the last one."""
        with _LOCK:
            self.disconnect()
            self._opened.remove(self)


class _OpenFile:
    """One instance of DuckDB on one file."""

    def __init__(self, path: Path, settings: Mapping[str, str], *, writable: bool) -> None:
        self.path = path
        self.settings = dict(settings)
        self.writable = writable
        self.handles: list[Handle] = []
        self.root = _open(path, self.settings, writable=writable)

    def remove(self, handle: Handle) -> None:
        self.handles.remove(handle)
        if not self.handles:
            del _OPEN_FILES[self.path]
            self.root.close()

    def make_writable(self) -> None:
        if any(handle.is_busy for handle in self.handles):
            raise RetryableError(
                f"{self.path} is being read by this process, so it cannot be opened for writing",
                hint="one process reads or writes a DuckDB file; run one load on it at a time",
            )
        before = _stamp(self.path)
        for handle in self.handles:
            handle.disconnect()
        self.root.close()
        try:
            self.root = _open(self.path, self.settings, writable=True)
            self.writable = True
        except RetryableError:
            # Another process reads the file: this one goes on reading, too.
            self.root = _open(self.path, self.settings, writable=False)
            raise
        finally:
            for handle in self.handles:
                handle.connect()
        if self.handles and _stamp(self.path) != before:
            raise RetryableError(f"{self.path} was changed by another process while it was opened for writing")


def open_reader(path: Path, settings: Mapping[str, str]) -> Handle:
    """A connection in a read-only transaction that sees one snapshot.

    Raises:
        ConnectionFailedError, RetryableError: The file is missing, not DuckDB's, not permitted, or locked.
    """
    return _open_handle(path, settings, reads=True)


def open_writer(path: Path, settings: Mapping[str, str]) -> Handle:
    """A connection outside a transaction; creates the file if it is missing.

    Raises:
        ConnectionFailedError, RetryableError: As in `open_reader`.
    """
    return _open_handle(path, settings, reads=False)


def _open_handle(path: Path, settings: Mapping[str, str], *, reads: bool) -> Handle:
    path = path.resolve()
    with _LOCK:
        opened = _OPEN_FILES.get(path)
        if opened is None:
            opened = _OPEN_FILES[path] = _OpenFile(path, settings, writable=not reads)
        elif not reads and not opened.writable:
            opened.make_writable()
        handle = Handle(opened, reads=reads)
        opened.handles.append(handle)
        return handle


def _open(path: Path, settings: Mapping[str, str], *, writable: bool) -> Any:
    import duckdb

    try:
        return duckdb.connect(str(path), read_only=not writable, config={**_CONFINEMENT, **settings})
    except duckdb.Error as exc:
        raise wrap_open_error(exc, path) from exc


def _stamp(path: Path) -> tuple[int, int]:
    # Not by opening the file: closing it again would give up this process's lock (POSIX, fcntl).
    status = path.stat()
    return status.st_size, status.st_mtime_ns
