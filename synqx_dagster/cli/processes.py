"""A few processes as one: their output in one stream, and none of them left when one ends or the user stops.

Guarantee: when `ProcessGroup.close` returns, no process of the group runs, nor any that one of them started in its
session. On Linux they also end when this process is killed.
"""

from __future__ import annotations

import ctypes
import functools
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

_PR_SET_PDEATHSIG = 1  # prctl(2)

#: How long a process may take to stop before the next, ruder signal.
_PATIENCE_SECONDS = 15.0
_LAST_LINES = 30


@dataclass
class ManagedProcess:
    """One process of a group and the last lines that it printed."""

    name: str
    process: subprocess.Popen[bytes]
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    _rest: bytes = b""

    def take(self, data: bytes, *, at_end: bool) -> list[str]:
        """Whole lines out of newly read output; at its end, also a last one without a newline."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if at_end and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        texts = [line.decode("utf-8", "replace").rstrip() for line in lines]
        self.last_lines.extend(texts)
        return texts


class ProcessGroup:
    """Starts processes, passes their output on line by line, and stops them in the reverse order.

    Args:
        listener: Called with a process's name and a line of its output, without the line's end.
    """

    def __init__(self, listener: Callable[[str, str], None]) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._processes: list[ManagedProcess] = []
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process in a session of its own, so that the terminal's Ctrl-C reaches only this process."""
        process = subprocess.Popen(  # noqa: S603 - Dagster's own commands, without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=functools.partial(self._prepare, os.getpid()),
        )
        managed = ManagedProcess(name, process)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, managed)
        self._processes.append(managed)

    def watch(self, seconds: float) -> ManagedProcess | None:
        """Pass output on for a while; returns a process that has ended as soon as one has."""
        deadline = time.monotonic() + seconds
        while True:
            for key, _ in self._selector.select(min(0.2, max(0.0, deadline - time.monotonic()))):
                self._pump(key.data)
            for managed in self._processes:
                if managed.process.poll() is not None:
                    self._pump(managed)
                    return managed
            if time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        """Stop every process and what it started: first politely, then by force. Idempotent."""
        for managed in reversed(self._processes):
            managed.process.poll()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if not self._signal_all(number):
                break
            self._wait(_PATIENCE_SECONDS)
        for managed in self._processes:
            self._signal(managed, signal.SIGKILL)  # what a process that ended by itself has left in its session
            managed.process.wait()
            stream = managed.process.stdout
            if stream is not None and not stream.closed:
                self._selector.unregister(stream)
                stream.close()
        self._processes.clear()

    def _signal_all(self, number: signal.Signals) -> bool:
        """Signal every process that still runs, the last started first; whether there was one."""
        running = [managed for managed in self._processes if managed.process.poll() is None]
        for managed in reversed(running):
            self._signal(managed, number)
        return bool(running)

    @staticmethod
    def _signal(managed: ManagedProcess, number: signal.Signals) -> None:
        try:
            os.killpg(managed.process.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nothing of it is left

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(managed.process.poll() is not None for managed in self._processes):
                return
            for key, _ in self._selector.select(0.1):
                self._drain(key.data)

    def _pump(self, managed: ManagedProcess) -> None:
        for line in self._read(managed):
            self._listener(managed.name, line)

    def _drain(self, managed: ManagedProcess) -> None:
        """Read and forget, so that a process that ends talking does not block on a full pipe."""
        self._read(managed)

    def _read(self, managed: ManagedProcess) -> list[str]:
        stream = managed.process.stdout
        if stream is None or stream.closed:
            return []
        chunks: list[bytes] = []
        while True:
            try:
                chunk = os.read(stream.fileno(), 65536)
            except BlockingIOError:
                break
            if not chunk:
                self._selector.unregister(stream)
                stream.close()
                break
            chunks.append(chunk)
        return managed.take(b"".join(chunks), at_end=stream.closed)

    def _prepare(self, parent: int) -> None:
        """Runs in the new process, before its command does."""
        # A shell that starts this program in the background has it ignore SIGINT, and that is inherited.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it was killed before it could be followed
                os._exit(1)
