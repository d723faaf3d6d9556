"""Private directories for unfinished files: gone with the session that made them, or with the next one after a kill.

Guarantee: a directory is removed by its owner, or by somebody who holds the lock that a dead owner has let go of; a
paused owner keeps its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_LOCK_NAME = "owner.lock"
_PREFIX = "synqx-files-"

#: A directory without a lock is being made, or its owner died while making it.
_MAKING_SECONDS = 60.0


class Scratch:
    """A new directory in `parent` (left out: the system's directory for temporary files), for this user alone."""

    def __init__(self, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        sweep(parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self._lock = os.open(self.path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Somebody may have taken the directory for a dead one before it was locked.
            if _try_lock(self._lock) and (self.path / _LOCK_NAME).exists():
                return
            os.close(self._lock)

    def close(self) -> None:
        """Remove the directory with all that is in it."""
        if self._lock >= 0:
            _remove(self.path)
            os.close(self._lock)
            self._lock = -1


def sweep(parent: Path) -> None:
    """Remove what dead owners left in a directory; passes over what is alive and what is not ours to remove."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_dead(Path(entry.path))


def _remove_dead(path: Path) -> None:
    status = path.lstat()
    if status.st_uid != os.getuid():
        return
    try:
        lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - status.st_mtime > _MAKING_SECONDS:
            _remove(path)
        return
    try:
        if _try_lock(lock):
            _remove(path)
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    """Remove a directory, its lock last: who is killed on the way leaves it to be found."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _LOCK_NAME:
                os.unlink(entry.path)
        shutil.rmtree(path, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
