"""A TCP proxy that can fall silent, as a network does whose firewall has forgotten a connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class StallingProxy:
    """Forwards connections to a port of this machine until it is told to stall.

    A stalled connection stays open at both ends, and the system under the proxy goes on confirming what it is sent, so
    that no keepalive notices.
    """

    def __init__(self, port: int) -> None:
        self._upstream_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._generation = 0
        self._stalled_before = 0
        self._is_closed = False
        self._lock = threading.Lock()
        self.forwarded_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self, *, new_connections_too: bool) -> None:
        """Forward nothing any more."""
        self._generation += 1
        self._stalled_before = 1 << 62 if new_connections_too else self._generation

    def recover(self) -> None:
        """Let new connections through; those that have stalled stay so."""
        self._generation += 1
        self._stalled_before = self._generation

    def close(self) -> None:
        """Close everything."""
        with self._lock:
            self._is_closed = True
            self._listener.close()
            for stream in self._sockets:
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)
                stream.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._keep(client):
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream_port))
            except OSError:
                client.shutdown(socket.SHUT_RDWR)
                continue
            if not self._keep(server):
                return
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(*ends, self._generation), daemon=True).start()

    def _keep(self, stream: socket.socket) -> bool:
        """Have `close` close a socket; closes it at once, and says False, when that has been."""
        with self._lock:
            if self._is_closed:
                stream.close()
                return False
            self._sockets.append(stream)
            return True

    def _forward(self, source: socket.socket, sink: socket.socket, generation: int) -> None:
        try:
            while data := self._receive(source, generation):
                sink.sendall(data)
                self.forwarded_bytes += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _receive(self, source: socket.socket, generation: int) -> bytes:
        self._wait_while_stalled(generation)
        data = source.recv(65536)
        self._wait_while_stalled(generation)
        return data

    def _wait_while_stalled(self, generation: int) -> None:
        while generation < self._stalled_before:
            if self._is_closed:
                raise OSError("closed")
            time.sleep(0.02)


@contextlib.contextmanager
def stalling_proxy(port: int) -> Iterator[StallingProxy]:
    """A proxy to a port, closed at the end."""
    proxy = StallingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
