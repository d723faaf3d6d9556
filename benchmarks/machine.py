"""Which machine and which versions a measurement is of; without them a time says nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

_FSYNCS = 50


def describe_machine(directory: Path) -> dict[str, Any]:
    """Processor, memory, kernel and the disk under a directory."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fsync_milliseconds": round(measure_fsync(directory) * 1000, 2),
    }


def _cpu_model() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure_fsync(directory: Path) -> float:
    """Median seconds of an append of 8 KiB and its fdatasync: what a commit waits for."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(_FSYNCS):
            start = time.perf_counter()
            os.write(file.fileno(), b"\0" * 8192)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def product_versions() -> dict[str, str]:
    """SynqX, the commit if there is one, and the libraries that move its rows."""
    names = ("synqx-dagster", "dagster", "duckdb", "pyarrow", "psycopg2-binary", "adbc-driver-postgresql", "pymysql")
    found = {name: version(name) for name in names}
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    if commit.returncode == 0:
        found["synqx-dagster"] += f" ({commit.stdout.strip()})"
    return found
