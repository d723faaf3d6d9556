"""Processes that tests start: none outlives its test, however that ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import AnyStr


@contextmanager
def reaped(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """A started process, for a block: at its end killed if it still runs, waited for, and its pipes closed.

    What is left to the garbage collector instead warns in a later test, which then fails for an earlier one.
    """
    with process:
        try:
            yield process
        finally:
            process.kill()


def start_watchdog(server: subprocess.Popen[bytes], directory: Path) -> subprocess.Popen[bytes]:
    """A process that kills a server and removes its files when our end of a pipe closes.

    It closes when this process ends, however it ends: a killed test run leaves no server behind. To close it orderly:
    ``communicate()``, and only then wait for the server, whose number nobody else can have until then.
    """
    return subprocess.Popen(
        ["sh", "-c", 'cat; kill -TERM "$1" 2>/dev/null; rm -rf "$2"', "sh", str(server.pid), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
