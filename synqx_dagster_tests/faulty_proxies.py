"""TCP proxies with the faults of a network: connections that are reset, links that are slow, replies that are lost."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

#: Takes the bytes of one direction; returns what is forwarded, or None to reset the connection.
Filter = Callable[[bytes], bytes | None]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class FaultyProxy:
    """Forwards connections to a port of this machine through filters.

    Args:
        make_filters: Called for each connection; gives the filters of what the client sends and of what the server
            sends.
    """

    def __init__(self, port: int, make_filters: Callable[[], tuple[Filter, Filter]]) -> None:
        self._upstream_port = port
        self._make_filters = make_filters
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Close everything, and wait until the last byte is out of the way."""
        # accept() of a listener that another thread closes does not return.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for stream in self._sockets:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for stream in self._sockets:
            stream.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream_port))
            except OSError:
                return
            self._sockets += [client, server]
            for ends, look in zip(((client, server), (server, client)), self._make_filters(), strict=True):
                thread = threading.Thread(target=self._forward, args=(*ends, look), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, look: Filter) -> None:
        try:
            while data := source.recv(65536):
                passed = look(data)
                if passed is None:
                    for stream in (source, sink):
                        _reset(stream)
                    return
                sink.sendall(passed)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def _reset(stream: socket.socket) -> None:
    """End a connection with RST, as a router does that has forgotten it."""
    with contextlib.suppress(OSError):
        # Only close() sends it, and the other thread still uses the descriptor: a duplicate would keep it open.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        stream.shutdown(socket.SHUT_RDWR)


class Resets:
    """Resets each connection after so many bytes in one direction, as long as it is asked to."""

    def __init__(self, after_bytes: int) -> None:
        self.after_bytes = after_bytes
        self.resets = 0
        self.enabled = True

    def make_filters(self) -> tuple[Filter, Filter]:
        """For `FaultyProxy`."""
        return self._make_filter(), self._make_filter()

    def _make_filter(self) -> Filter:
        seen_bytes = 0

        def look(data: bytes) -> bytes | None:
            nonlocal seen_bytes
            seen_bytes += len(data)
            if self.enabled and seen_bytes > self.after_bytes:
                self.resets += 1
                return None
            return data

        return look


class Slowness:
    """Lets so many bytes through in a second, and each packet not before a delay."""

    def __init__(self, *, bytes_per_second: int, delay_seconds: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._delay_seconds = delay_seconds

    def make_filters(self) -> tuple[Filter, Filter]:
        """For `FaultyProxy`."""
        return self._look, self._look

    def _look(self, data: bytes) -> bytes:
        time.sleep(self._delay_seconds + len(data) / self._bytes_per_second)
        return data


class LostReplies:
    """Forwards the first COMMIT after an entry in the ledger, and loses the server's reply to it.

    Args:
        commit: How the client's COMMIT ends, in capitals.
        entry: What the statement holds that makes the entry.
    """

    def __init__(self, commit: bytes, entry: tuple[bytes, bytes] = (b"INSERT INTO", b"_synqx_ledger")) -> None:
        self._commit = commit
        self._entry = entry
        self.dropped = threading.Event()
        self.enabled = True

    def make_filters(self) -> tuple[Filter, Filter]:
        """For `FaultyProxy`."""
        has_recorded = False
        is_armed = threading.Event()

        def to_server(data: bytes) -> bytes:
            nonlocal has_recorded
            has_recorded = self.enabled and (has_recorded or all(part in data for part in self._entry))
            if has_recorded and data.upper().endswith(self._commit) and not self.dropped.is_set():
                is_armed.set()
            return data

        def to_client(data: bytes) -> bytes | None:
            if not is_armed.is_set() or self.dropped.is_set():
                return data
            # The reply is here, so the server has committed; the client never hears of it.
            self.dropped.set()
            return None

        return to_server, to_client


@contextlib.contextmanager
def faulty_proxy(port: int, make_filters: Callable[[], tuple[Filter, Filter]]) -> Iterator[FaultyProxy]:
    """A proxy to a port, closed at the end."""
    proxy = FaultyProxy(port, make_filters)
    try:
        yield proxy
    finally:
        proxy.close()
