"""Key files: 256 random bits in a file that only its owner can read.

Guarantee: a file is judged and read through one descriptor, so it cannot be exchanged between the two.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from pathlib import Path

from synqx_dagster.errors import ConfigurationError

_PREFIX = "SYNQX-KEY-1"
_CONTENT = re.compile(rb"SYNQX-KEY-1 ([0-9a-f]{64})\n?")
_MAX_BYTES = 4096
_ALLOWED_MODES = (0o600, 0o400)
_SYMLINK_ERRORS = (errno.ELOOP, errno.EMLINK)  # of O_NOFOLLOW: Linux and macOS, FreeBSD


def create_key_file(path: Path) -> None:
    """Write a new random key to a new file with mode 0600; durable on return.

    Raises:
        ConfigurationError: The file exists already, or cannot be written; nothing was changed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as exc:
        raise ConfigurationError(
            f"{path} exists already", hint="a key file is never overwritten; choose another path"
        ) from exc
    except OSError as exc:
        raise ConfigurationError(f"The key file {path} cannot be created: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # the umask may have taken bits that the owner needs
            file.write(f"{_PREFIX} {secrets.token_hex(32)}\n".encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(path.parent)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise ConfigurationError(f"The key file {path} cannot be written: {exc.strerror}") from exc


def read_key_file(path: Path) -> bytes:
    """The 32 bytes of a key file.

    Raises:
        ConfigurationError: It is missing, a symbolic link, not a regular file, not owned by this user, has a mode
            other than 0600 or 0400, or does not hold a key.
    """
    match = _CONTENT.fullmatch(read_private_file(path, what="key file"))
    if match is None:
        raise ConfigurationError(
            f"The key file {path} does not hold a key", hint="make one with `synqx vault create-key-file`"
        )
    return bytes.fromhex(match[1].decode("ascii"))


def read_private_file(path: Path, *, what: str, directory: int | None = None) -> bytes:
    """The content of a small file that nobody but this user can read.

    Args:
        path: The file; relative to ``directory`` where that is given.
        what: How an error calls it.
        directory: Descriptor of an open directory.

    Raises:
        ConfigurationError: It is not such a file. ``__cause__`` is FileNotFoundError when it is missing.
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer before anything can be judged.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, dir_fd=directory)
    except OSError as exc:
        if exc.errno in _SYMLINK_ERRORS:
            raise ConfigurationError(
                f"The {what} {path} is a symbolic link", hint="give the path of the file itself"
            ) from exc
        raise ConfigurationError(f"The {what} {path} cannot be read: {exc.strerror}") from exc
    try:
        _judge(os.fstat(descriptor), path, what)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"The {what} {path} cannot be read: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise ConfigurationError(f"The {what} {path} is longer than {_MAX_BYTES} bytes")
    return content


def _judge(status: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"The {what} {path} is not a regular file")
    if _is_credential(status, path):
        return
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"The {what} {path} belongs to user {status.st_uid}, not to the user of this process",
            hint=f"chown it to user {os.geteuid()}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode not in _ALLOWED_MODES:
        raise ConfigurationError(
            f"The {what} {path} has mode {mode:04o}; only 0600 and 0400 keep others out", hint=f"chmod 600 {path}"
        )


def _is_credential(status: os.stat_result, path: Path) -> bool:
    """Whether systemd passed the file to this service: root's, and readable for the service by an access list.

    Such a list shows as rights of the group. Others cannot enter the directory. Source: systemd.exec(5), Credentials.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory or path.parent != Path(directory):
        return False
    return status.st_uid == 0 and stat.S_IMODE(status.st_mode) in (0o400, 0o440)


def _sync_directory(path: Path) -> None:
    # Without it a power cut may leave the vault's keyslot in the catalog and no file that opens it.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
