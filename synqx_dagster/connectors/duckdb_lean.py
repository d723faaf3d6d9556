"""How much memory and how many threads DuckDB takes while it writes a stream of batches.

DuckDB keeps what it has written as long as its limit allows, and each of its threads holds row groups of its own: 3
million rows of lineitem took 270 MB beyond the process's own with two threads and a limit of 1 GB, 80 MB with one
thread and a limit of 80 MB, and less CPU. One thread writes faster than any source delivers, because the rows come by
one stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_MIB = 1024 * 1024

#: What a write needs, and what it needs for each column: the segment that is filled and the one that is compressed.
_LEAST_BYTES, _COLUMN_BYTES = 48 * _MIB, _MIB

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": _MIB, "GIB": 2**30, "TIB": 2**40}


@contextmanager
def lean(connection: Any, columns: int, memory_limit: str, threads: object = None) -> Iterator[None]:
    """Bound DuckDB's memory and threads by what a stream into a table of so many columns needs.

    Args:
        memory_limit: What DuckDB may take otherwise; holds again afterwards.
        threads: How many it has otherwise; None: as many as there are cores.
    """
    import duckdb

    wanted = _LEAST_BYTES + columns * _COLUMN_BYTES
    # A connection of its own: in a transaction that failed the write's would refuse the statements.
    settings = connection.cursor()

    def restore() -> None:
        settings.execute("RESET threads" if threads is None else f"SET threads = {threads}")
        settings.execute(f"SET memory_limit = '{memory_limit}'")

    try:
        settings.execute("SET threads = 1")
        if wanted < _bytes(memory_limit):
            # What is in use already, an index perhaps, may be more.
            with suppress(duckdb.OutOfMemoryException):
                settings.execute(f"SET memory_limit = '{wanted // _MIB}MiB'")
        yield
    except BaseException:
        # A database that a fatal error has ended takes no setting, and what it says of that is not what went wrong.
        with suppress(duckdb.Error):
            restore()
        raise
    else:
        restore()
    finally:
        settings.close()


def _bytes(size: str) -> float:
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]+)", size.strip())
    # Percent, or what a later DuckDB may understand: no bound to go by.
    return float(match[1]) * _UNITS.get(match[2].upper(), 0) if match else 0
