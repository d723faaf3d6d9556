"""What this machine and the processes of SynqX and Dagster use of it: CPU, memory, disk and open files.

Guarantee: a figure that the operating system does not show is None. CPU is counted between two looks of one meter, so
the first look has none.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from synqx_dagster.monitor.rounds import Rounds

if TYPE_CHECKING:
    import psutil

#: The subject of the figures of the machine as a whole.
HOST = "host"

#: Subjects of processes: how their command lines begin, without the interpreter; the first that fits.
_ROLES: Sequence[tuple[str, tuple[str, ...]]] = (
    ("step", ("dagster api execute_step", "celery --app synqx", "celery -A synqx", "synqx worker")),
    ("run", ("dagster api execute_run", "dagster api resume_run", "synqx run", "synqx backfill", "dagster job")),
    ("code server", ("dagster api grpc", "dagster code-server", "synqx_dagster.cli.code_server")),
    ("daemon", ("dagster-daemon", "dagster._daemon")),
    ("web UI", ("dagster-webserver", "dagster_webserver")),
    ("serve", ("synqx serve", "synqx dev", "dagster dev")),
    ("other", ("synqx", "dagster")),
)
#: The same program by another name.
_MODULES = {"synqx_dagster.cli.main": "synqx"}
#: How long a disk may take to answer: one that is mounted from a server that is gone never does.
DISK_SECONDS = 2.0
#: Options of the interpreter that are followed by a value.
_VALUED = frozenset({"-W", "-X"})


@dataclass(frozen=True)
class SystemSample:
    """What one subject uses.

    Attributes:
        subject: ``host``, or a role of processes, such as ``daemon``.
        cpu_seconds, elapsed_seconds: CPU time that was used since the look before, in which time, both or neither.
        cpu_count: Processors of the machine.
        memory_bytes: The machine's that is in use; of processes what of it is theirs (resident).
        memory_total_bytes, disk_used_bytes, disk_total_bytes: The machine's; the disk is that of SynqX's home.
        open_files, max_open_files: File handles; of processes only of those that belong to this user.
        processes: How many there are.
    """

    subject: str
    cpu_seconds: float | None = None
    elapsed_seconds: float | None = None
    cpu_count: int | None = None
    memory_bytes: int | None = None
    memory_total_bytes: int | None = None
    disk_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    open_files: int | None = None
    max_open_files: int | None = None
    processes: int | None = None


@dataclass(frozen=True)
class SystemLook:
    """What one look found, the machine first."""

    looked_at: datetime
    host_name: str
    samples: tuple[SystemSample, ...]


@dataclass(frozen=True)
class _Usage:
    cpu_seconds: float
    memory_bytes: int
    open_files: int | None


class SystemMeter:
    """Looks at this machine, and remembers the look before. Not thread-safe.

    Args:
        directory: The disk on which this lies is looked at.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._disks: Rounds[tuple[int, int]] = Rounds("disk", 1)
        self._host_cpu: tuple[float, float] | None = None
        self._looked_at: float | None = None
        #: CPU time of each process, by its number and start: numbers are given out again.
        self._cpu: dict[tuple[int, float], float] = {}
        #: What each process is; a process that goes on stays what it was.
        self._roles: dict[tuple[int, float], str | None] = {}

    def look(self) -> SystemLook:
        """Look once: a few files of the operating system, and three of each process of ours."""
        now = time.monotonic()
        elapsed = None if self._looked_at is None else now - self._looked_at
        samples = [self._look_at_host(), *self._look_at_processes(elapsed)]
        self._looked_at = now
        return SystemLook(datetime.now(UTC), socket.gethostname(), tuple(samples))

    # --- the machine ------------------------------------------------------------------------------------------

    def _look_at_host(self) -> SystemSample:
        import psutil

        times = psutil.cpu_times()
        # guest time is part of user time already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        before, self._host_cpu = self._host_cpu, (busy, total)
        count = psutil.cpu_count() or 1
        cpu = elapsed = None
        if before is not None and total > before[1]:
            cpu, elapsed = max(0.0, busy - before[0]), (total - before[1]) / count
        memory = psutil.virtual_memory()
        disk = self._disk()
        open_files, max_open_files = _host_files()
        return SystemSample(
            HOST,
            cpu_seconds=cpu,
            elapsed_seconds=elapsed,
            cpu_count=count,
            memory_bytes=int(memory.total - memory.available),
            memory_total_bytes=int(memory.total),
            disk_used_bytes=disk[0],
            disk_total_bytes=disk[1],
            open_files=open_files,
            max_open_files=max_open_files,
            processes=len(psutil.pids()),
        )

    def _disk(self) -> tuple[int | None, int | None]:
        # What came too late for the look before is old by now, and one that hangs still is not waited for again.
        self._disks.collect(0)
        if not self._disks.begin({"disk": self._read_disk}):
            return None, None
        found = self._disks.collect(DISK_SECONDS).get("disk")
        return (None, None) if found is None or found.value is None else found.value

    def _read_disk(self) -> tuple[int, int]:
        import psutil

        usage = psutil.disk_usage(str(self._directory))
        # As df counts: what is kept for root is of no use to us.
        return int(usage.used), int(usage.used + usage.free)

    # --- processes --------------------------------------------------------------------------------------------

    def _look_at_processes(self, elapsed: float | None) -> Iterator[SystemSample]:
        usages: dict[str, list[_Usage]] = {}
        spent: dict[str, float] = {}
        cpu: dict[tuple[int, float], float] = {}
        roles: dict[tuple[int, float], str | None] = {}
        for key, process in _iter_processes():
            role = self._roles[key] if key in self._roles else _role_of(process)
            roles[key] = role
            usage = None if role is None else _usage_of(process)
            if role is None or usage is None:
                continue
            usages.setdefault(role, []).append(usage)
            cpu[key] = usage.cpu_seconds
            # All that a process has used that was not there at the look before, it has used since.
            spent[role] = spent.get(role, 0.0) + max(0.0, usage.cpu_seconds - self._cpu.get(key, 0.0))
        self._cpu, self._roles = cpu, roles
        for role, found in sorted(usages.items()):
            files = [usage.open_files for usage in found if usage.open_files is not None]
            yield SystemSample(
                role,
                cpu_seconds=None if elapsed is None else spent[role],
                elapsed_seconds=elapsed,
                memory_bytes=sum(usage.memory_bytes for usage in found),
                open_files=sum(files) if files else None,
                processes=len(found),
            )


def _iter_processes() -> Iterable[tuple[tuple[int, float], psutil.Process]]:
    import psutil

    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            yield (pid, process.create_time()), process


def _role_of(process: psutil.Process) -> str | None:
    """What a process is; None for one that is not ours."""
    import psutil

    try:
        command = process.cmdline()
    except (psutil.Error, OSError):
        return None
    return find_role(command)


def find_role(command: Sequence[str]) -> str | None:
    """What a process with a command line is; None for one that is neither SynqX's nor Dagster's."""
    words = list(command)
    if words and Path(words[0]).name.startswith("python"):
        del words[0]
        while words and words[0].startswith("-"):
            option = words.pop(0)
            if option == "-m":
                break
            if option == "-c":
                return None
            if option in _VALUED:
                del words[:1]
    if not words:
        return None
    # The program by its name, whatever directory it lies in, and no more words than tell it from others.
    program = Path(words[0]).name
    line = " ".join([_MODULES.get(program, program), *words[1:4]]) + " "
    return next((role for role, starts in _ROLES if line.startswith(starts)), None)


def _usage_of(process: psutil.Process) -> _Usage | None:
    import psutil

    try:
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
    except (psutil.Error, OSError):
        return None
    open_files: int | None = None
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        open_files = process.num_fds()
    return _Usage(times.user + times.system, int(memory.rss), open_files)


def _host_files() -> tuple[int | None, int | None]:
    """Open file handles and their limit, where the system is Linux."""
    try:
        text = Path("/proc/sys/fs/file-nr").read_text("ascii")
        used, _, limit = (int(part) for part in text.split())
    except (OSError, ValueError):
        return None, None
    # Newer kernels have no limit: the largest number there is.
    return used, limit if limit < 2**62 else None
