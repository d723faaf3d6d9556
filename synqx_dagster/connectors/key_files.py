"""Files that hold private keys: a key that others may read is refused before anything is sent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from synqx_dagster.errors import ConfigurationError

#: What others must not be allowed to. A file of root's may be shared with a group, as distributions do for servers'
#: keys. Source: PostgreSQL manual, Client Certificates; libpq checks the same.
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_OF_ROOT = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO


def check_private_file(file: str, place: str) -> None:
    """Refuse a private key's file that is missing or that others may read.

    Args:
        place: The field that names it, for messages.

    Raises:
        ConfigurationError: Says which, and how to mend it.
    """
    path = Path(file).expanduser()
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigurationError(f"{place}: the file {path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{place}: {path} is not a file")
    if status.st_mode & (_OTHERS_OF_ROOT if status.st_uid == 0 else _OTHERS):
        raise ConfigurationError(
            f"{place}: the key file {path} may be read by others (its mode is {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 600 {path}",
        )
    if not os.access(path, os.R_OK):
        raise ConfigurationError(f"{place}: this user may not read the file {path}")
