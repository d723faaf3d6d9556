"""Processes that tests start: none outlives its test, however that ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
