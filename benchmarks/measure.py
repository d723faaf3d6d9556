"""What a command took: its wall time and the most memory that it and its children held at once."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Nothing here takes so long on a machine that is of use for a benchmark.
TIMEOUT_SECONDS = 3600.0
_SAMPLE_SECONDS = 0.1
_KIB = 1024


class RunFailedError(Exception):
    """A command failed, took too long, or left something else than it should have."""


@dataclass(frozen=True)
class Usage:
    """One command.

    Attributes:
        seconds: From its start to its end.
        peak_memory_bytes: Of its process, or of all its processes together where that is more.
        output: What it wrote to standard output.
    """

    seconds: float
    peak_memory_bytes: int
    output: str


def _inherited() -> dict[str, str]:
    """This process's environment, in which Python may keep what it compiled, as it does for users."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run_measured(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    text: str = "",
) -> Usage:
    """Run a command to its end; ``log`` gets what it writes to standard error.

    Raises:
        RunFailedError: It failed or took more than `TIMEOUT_SECONDS`; the message ends with its last lines.
    """
    output_path = log.with_suffix(".out")
    with log.open("w") as errors, output_path.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE, stdout=output, stderr=errors, text=True,
            env={**_inherited(), **(environment or {})}, cwd=directory, start_new_session=True,
        )  # fmt: skip
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            process.communicate(text, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise RunFailedError(f"no end within {TIMEOUT_SECONDS:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            seconds = time.perf_counter() - start
            sampler.stop()
    said = output_path.read_text(errors="replace")
    if process.returncode:
        tail = "\n".join((log.read_text(errors="replace") + said).strip().splitlines()[-15:])
        raise RunFailedError(f"exit code {process.returncode}:\n{tail}")
    return Usage(seconds, sampler.peak_bytes, said)


class _Sampler(threading.Thread):
    """Watches a process and its descendants.

    Not ru_maxrss: Linux counts in it what the parent held when it started the process (the largest value is kept across
    execve). VmHWM is of the process's own memory, and a high-water mark: only the last moments can be missed.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            alone = _read_status(self._pid, "VmHWM")
            together = sum(_read_status(pid, "VmRSS") for pid in (self._pid, *_descendants(self._pid)))
            self.peak_bytes = max(self.peak_bytes, alone, together)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _read_status(pid: int, field: str) -> int:
    """A field of /proc/PID/status in bytes; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(f"{field}:")), 0)


def _descendants(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
