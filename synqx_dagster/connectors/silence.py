"""Tells a server that works for long from one that will never answer again.

A driver that waits in C for a server cannot be told to stop, and a time limit on its answers would break long queries.
Here a thread of the process looks at calls in which nothing has moved for a while. The server is then asked, on a
connection of its own, what became of the session: one that works goes on, one that has answered, that waits for us, or
that cannot be asked at all has its socket shut, so that the driver's call ends with an error.

Guarantee: a call ends within about its limit, plus twice the time of asking, after the network went silent; one for
which the server still works never ends for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

DEFAULT_SILENCE_SECONDS = 60.0

#: ``working``: leave it alone. ``lost``: the session will never answer. ``unreachable``: nobody could be asked.
#: ``unknown``: the server is there and does not tell.
Verdict = Literal["working", "lost", "unreachable", "unknown"]

#: One failed question may be a busy server.
_UNREACHABLE_TIMES = 2

_LONGEST_TICK_SECONDS = 5.0
_SHORTEST_TICK_SECONDS = 0.05

#: Offset of ``tcpi_bytes_acked`` and ``tcpi_bytes_received`` in ``struct tcp_info``. Source: linux/tcp.h, Linux 4.1.
_BYTES_ACKED_OFFSET = 120
_TCP_INFO_BYTES = 136


class Watch:
    """The calls of one connection, of which at most one waits at a time.

    Args:
        stream: A duplicate of the connection's socket, which the watch owns and `close` closes.
        limit_seconds: Nothing may move for so long before the server is asked; 0 for no watch.
        ask: Asks the server what the session is doing; called in a thread of its own, answers in bounded time.
        on_lost: Called in that thread when the session was given up, which the server need not know.
    """

    def __init__(
        self, stream: socket.socket, limit_seconds: float, ask: Callable[[], Verdict], on_lost: Callable[[], None]
    ) -> None:
        self.limit_seconds = limit_seconds
        #: Stays when the watch is closed, for messages.
        self.asked_after_seconds = limit_seconds
        self.tripped = False
        self._stream = stream
        self._ask = ask
        self._on_lost = on_lost
        # A garbage collection within it may close this very watch.
        self._lock = threading.RLock()
        #: Number of the wait that goes on, 0 for none; even the same call waits anew after it was our turn.
        self._wait = 0
        self._waits = 0
        self._since = 0.0
        self._moved: tuple[int, int] | None = None
        self._is_asking = False
        self._times_unreachable = 0
        self._sink: int | None = None
        if limit_seconds > 0:
            _watch(self)

    @contextlib.contextmanager
    def waiting(self, sink: object = None) -> Iterator[None]:
        """The body waits for the server.

        Args:
            sink: Where the body writes what it receives. While a pipe takes nothing, it is not the server that is late.
        """
        self._sink = _descriptor_of(sink)
        self._begin()
        try:
            yield
        finally:
            self._end()
            self._sink = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The body, within `waiting`, is our turn: the server waits for us."""
        self._end()
        try:
            yield
        finally:
            self._begin()

    def _begin(self) -> None:
        self._waits += 1
        self._since = time.monotonic()
        self._wait = self._waits

    def _end(self) -> None:
        # The watcher must not shut the socket of a call that has just ended well.
        with self._lock:
            self._wait = 0

    def break_off(self) -> None:
        """Shut the socket, so that a call that waits for it ends with an error."""
        with self._lock, contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop watching."""
        with self._lock:
            self._wait = 0
            self.limit_seconds = 0.0
            self._stream.close()

    # --- called by the watcher ------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Ask about the session if nothing has moved for too long."""
        wait = self._wait
        if not wait or self._is_asking:
            return
        moved = self._bytes_moved()
        if moved != self._moved or self._is_our_turn():
            self._moved = moved
            self._since = now
            self._times_unreachable = 0
        elif now - self._since >= self.limit_seconds:
            self._is_asking = True
            threading.Thread(target=self._judge, args=(wait,), name="synqx-silence-ask", daemon=True).start()

    def _judge(self, wait: int) -> None:
        moved = self._moved
        try:
            verdict = self._ask()
            if verdict == "unreachable":
                self._times_unreachable += 1
                if self._times_unreachable < _UNREACHABLE_TIMES:
                    return
                verdict = "lost"
            if verdict != "lost":
                self._times_unreachable = 0
                self._since = time.monotonic()
                return
            # The answer may have been on its way while we asked.
            time.sleep(min(0.5, self.limit_seconds / 4))
            with self._lock:
                if self._wait == wait and self._bytes_moved() == moved and not self._is_our_turn():
                    self.tripped = True
                    with contextlib.suppress(OSError):
                        self._stream.shutdown(socket.SHUT_RDWR)
            if self.tripped:
                self._on_lost()
        finally:
            self._is_asking = False

    def _bytes_moved(self) -> tuple[int, int] | None:
        """Bytes that the other end has confirmed and sent; None where the system does not tell."""
        if sys.platform != "linux":
            return None
        try:
            info = self._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None  # A Unix socket.
        if len(info) < _TCP_INFO_BYTES:
            return None
        acknowledged, received = struct.unpack_from("=QQ", info, _BYTES_ACKED_OFFSET)
        return acknowledged, received

    def _is_our_turn(self) -> bool:
        """Whether what the server sent lies here unread, or what reads us takes nothing."""
        sink = self._sink
        return _is_ready(self._stream.fileno(), select.POLLIN) or (
            sink is not None and not _is_ready(sink, select.POLLOUT)
        )


def _is_ready(descriptor: int, event: int) -> bool:
    if descriptor < 0:
        return False  # Closed meanwhile.
    # Not select.select(), which knows no descriptor above 1023.
    poller = select.poll()
    poller.register(descriptor, event)
    return bool(poller.poll(0))


def _descriptor_of(sink: object) -> int | None:
    fileno = getattr(sink, "fileno", None)
    if fileno is None:
        return None
    try:
        descriptor: int = fileno()
    except (OSError, ValueError):
        return None
    return descriptor


class PausingReader:
    """A file that is read within `Watch.waiting`; while it is read it is not the server that is late."""

    def __init__(self, source: BinaryIO, watch: Watch) -> None:
        self._source = source
        self._watch = watch

    def read(self, size: int = -1) -> bytes:
        """The next bytes; empty at the end."""
        with self._watch.paused():
            return self._source.read(size)


# --- the watcher ---------------------------------------------------------------------------------------------------

_watches: weakref.WeakSet[Watch] = weakref.WeakSet()
_watches_lock = threading.Lock()
_watcher: tuple[int, threading.Thread] | None = None


def _watch(watch: Watch) -> None:
    global _watcher
    with _watches_lock:
        if _watcher is None or _watcher[0] != os.getpid() or not _watcher[1].is_alive():
            if _watcher is not None and _watcher[0] != os.getpid():
                # Of a parent; its sessions are not ours.
                _watches.clear()
            thread = threading.Thread(target=_look_at_all, name="synqx-silence", daemon=True)
            _watcher = (os.getpid(), thread)
            thread.start()
        _watches.add(watch)


def _look_at_all() -> None:
    """Look at all watches from time to time; ends when there are none."""
    global _watcher
    while True:
        with _watches_lock:
            alive = [watch for watch in _watches if watch.limit_seconds > 0]
            if not alive:
                _watcher = None
                return
        now = time.monotonic()
        for watch in alive:
            watch.look(now)
        tick = min(watch.limit_seconds for watch in alive if watch.limit_seconds > 0) / 4 if alive else 0
        del alive, watch
        time.sleep(min(max(tick, _SHORTEST_TICK_SECONDS), _LONGEST_TICK_SECONDS))
