"""Many looks at once, none of which holds up another: threads that nobody waits for beyond a deadline.

Guarantee: `collect` returns at its deadline whatever a server does. A look that ends later is there at the next one;
one thing is never looked at twice at the same time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")

#: Looks wait for the network, so there may be many; a server that is dead holds one of them for its time-out.
MAX_THREADS = 16
#: A thread without work ends.
_IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome(Generic[_T]):
    """What a look gave, or the error that ended it."""

    value: _T | None = None
    error: Exception | None = None


class Rounds(Generic[_T]):
    """Looks of one kind in this process, each under a key. Thread-safe."""

    def __init__(self, name: str, max_threads: int = MAX_THREADS) -> None:
        self._name = name
        self._max_threads = max_threads
        self._waiting: queue.SimpleQueue[tuple[str, Callable[[], _T]]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._begun: dict[str, float] = {}
        self._done: dict[str, Outcome[_T]] = {}
        self._threads = 0

    def begin(self, looks: Mapping[str, Callable[[], _T]]) -> list[str]:
        """Begin looks; gives the keys of those that were not under way already."""
        begun = []
        with self._changed:
            for key, look in looks.items():
                if key in self._begun or key in self._done:
                    continue
                self._begun[key] = time.monotonic()
                self._waiting.put((key, look))
                begun.append(key)
            while self._threads < min(len(self._begun), self._max_threads):
                self._threads += 1
                # A daemon thread: a look that hangs in the operating system must not keep the process from ending.
                threading.Thread(target=self._work, name=f"synqx-{self._name}", daemon=True).start()
        return begun

    def collect(self, seconds: float) -> dict[str, Outcome[_T]]:
        """What has ended since the last call; waits until nothing is under way, or so long."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._begun and (remaining := deadline - time.monotonic()) > 0:
                self._changed.wait(remaining)
            done, self._done = self._done, {}
            return done

    def under_way(self) -> dict[str, float]:
        """Looks that have not ended, and for how many seconds each has been under way."""
        now = time.monotonic()
        with self._changed:
            return {key: now - since for key, since in self._begun.items()}

    def _work(self) -> None:
        while True:
            try:
                key, look = self._waiting.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._changed:
                    # `begin` puts work there while it has the lock.
                    if self._waiting.empty():
                        self._threads -= 1
                        return
                continue
            outcome: Outcome[_T]
            try:
                outcome = Outcome(look())
            except Exception as exc:  # noqa: BLE001 # Whatever ends a look ends that look alone; the caller tells it.
                outcome = Outcome(error=exc)
            with self._changed:
                del self._begun[key]
                self._done[key] = outcome
                self._changed.notify_all()
