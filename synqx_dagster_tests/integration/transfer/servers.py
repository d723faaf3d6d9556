"""Servers that a test may crash, and file systems that it may fill: nobody else uses them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(megabytes: int, *, at: Path | None = None) -> Iterator[Path]:
    """A file system of its own that is soon full; skips the test where one cannot be mounted.

    Args:
        at: An empty directory to mount it at; left out, one is made.
    """
    place = at or Path(tempfile.mkdtemp(prefix="synqx-small-", dir="/tmp"))
    try:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("a full disk is tested as root on Linux alone, who may mount a small one")
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(place)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"this machine does not let root mount a tmpfs: {mounted.stderr.decode().strip()}")
        try:
            yield place
        finally:
            # Lazily: a server that still runs holds its directory open.
            subprocess.run(["umount", "-l", str(place)], check=True)
    finally:
        if at is None:
            place.rmdir()


@contextmanager
def filled_up(disk: Path, *, leaving_bytes: int) -> Iterator[Path]:
    """The disk with just so much room left; the file that takes the rest is yielded, and removed at the end."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - leaving_bytes
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    try:
        yield ballast
    finally:
        ballast.unlink(missing_ok=True)
