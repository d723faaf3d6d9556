"""The runtime unlock file: the root key in memory-backed storage, from `unlock` until `seal` or the next boot.

Guarantee: the file lives in a directory that only this user can enter, and both are judged through descriptors.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.vault.key_file import read_private_file

_PREFIX = "SYNQX-UNLOCKED-1"
_CONTENT = re.compile(rb"SYNQX-UNLOCKED-1 ([0-9a-f]{32}) ([0-9]{1,16}) ([0-9a-f]{64})\n")
_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def default_runtime_directories() -> list[Path]:
    """Memory-backed places for the runtime file, best first; empty where the system has none.

    The command that unlocks and the service that reads may differ in ``XDG_RUNTIME_DIR``, so a reader looks into all
    of them.
    """
    candidates = []
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and os.path.isabs(session):
        candidates.append((Path(session), Path(session) / "synqx"))
    shared_memory = Path("/dev/shm")  # noqa: S108
    candidates.append((shared_memory, shared_memory / f"synqx-{os.geteuid()}"))
    return [directory for parent, directory in candidates if is_memory_backed(parent)]


def is_memory_backed(path: Path) -> bool:
    """Whether a directory is on tmpfs or ramfs; False where the system does not tell (no ``/proc``)."""
    try:
        device = path.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        # proc(5): "ID parent major:minor root mount-point options [optional fields] - type source options"
        head, _, tail = line.partition(" - ")
        if head.split()[2:3] == [number]:
            return tail.split(maxsplit=1)[0] in _MEMORY_FILE_SYSTEMS
    return False


class RuntimeFile:
    """One vault's runtime file within one directory."""

    def __init__(self, directory: Path, *, vault_id: bytes) -> None:
        self._directory = directory
        self._vault_id = vault_id
        self._name = f"{vault_id.hex()}.key"

    def prepare(self) -> None:
        """Make the directory, if it is missing, and check it.

        Raises:
            ConfigurationError: It cannot be made, or is not a directory of this user alone.
        """
        try:
            os.mkdir(self._directory, 0o700)
        except FileExistsError:
            pass  # it is judged below, whoever made it
        except OSError as exc:
            raise ConfigurationError(f"{self._directory} cannot be created: {exc.strerror}") from exc
        with self._open_directory():
            pass

    def write(self, root_key: bytes, *, seal_epoch: int) -> None:
        """Leave the root key, in place of what an earlier unlock left.

        Raises:
            ConfigurationError: The directory is not safe, or cannot be written.
        """
        self.prepare()
        temporary = f".{secrets.token_hex(8)}"
        line = f"{_PREFIX} {self._vault_id.hex()} {seal_epoch} {root_key.hex()}\n".encode("ascii")
        with self._open_directory() as directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(descriptor, 0o600)
                    file.write(line)
                os.rename(temporary, self._name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError as exc:
                _unlink(temporary, directory)
                raise ConfigurationError(
                    f"The unlock file cannot be written to {self._directory}: {exc.strerror}"
                ) from exc

    def read(self, *, seal_epoch: int) -> bytes | None:
        """The root key, or None when there is no file of this seal epoch.

        A file of an earlier epoch is removed: its vault has been sealed since, maybe from another machine.

        Raises:
            ConfigurationError: The directory or the file is not safe, or the file is damaged.
        """
        if not os.path.lexists(self._directory):
            return None
        with self._open_directory() as directory:
            try:
                content = read_private_file(Path(self._name), what="unlock file", directory=directory)
            except ConfigurationError as exc:
                if isinstance(exc.__cause__, FileNotFoundError):
                    return None
                raise
            match = _CONTENT.fullmatch(content)
            if match is None or match[1].decode("ascii") != self._vault_id.hex():
                raise ConfigurationError(
                    f"The unlock file in {self._directory} is damaged", hint="run `synqx unlock` again"
                )
            if int(match[2]) != seal_epoch:
                _unlink(self._name, directory)
                return None
            return bytes.fromhex(match[3].decode("ascii"))

    def remove(self) -> None:
        """Remove the file; one that is not there is no error.

        Raises:
            ConfigurationError: The directory is not safe.
        """
        if os.path.lexists(self._directory):
            with self._open_directory() as directory:
                _unlink(self._name, directory)

    @contextmanager
    def _open_directory(self) -> Iterator[int]:
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            raise ConfigurationError(
                f"The runtime directory {self._directory} cannot be opened, or is not a directory",
                hint="a symbolic link is refused; remove it",
            ) from exc
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o777 != 0o700:
                raise ConfigurationError(
                    f"The runtime directory {self._directory} must belong to user {os.geteuid()} with mode 0700; "
                    f"it belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}",
                    hint="remove it, and look who made it",
                )
            yield descriptor
        finally:
            os.close(descriptor)


def _unlink(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
