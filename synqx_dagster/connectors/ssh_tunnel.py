"""SSH tunnels: a port on the loopback interface that leads through an SSH server to a database.

Guarantee: the SSH server has proved the pinned host key before it learns anything; on Linux only this process gets
through the port. One tunnel serves all sessions of one connector in one process; a forked child opens its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.network import Endpoint, open_socket, policy_of, resolve_allowed
from synqx_dagster.connectors.protocol import ConnectionConfig, SshTunnelConfig
from synqx_dagster.errors import ConfigurationError, ConnectionFailedError, DriverMissingError, SynqxError

#: A dead SSH server is noticed after four of these without an answer.
KEEPALIVE_SECONDS = 15
KEEPALIVE_COUNT = 3

_LOOPBACK = "127.0.0.1"


class _Slot:
    """Where a connector's tunnel is kept; the lock is held while it opens."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tunnel: Tunnel | None = None


#: By process and config: a child inherits the table, and not the threads that serve its tunnels.
_slots: dict[tuple[int, int], _Slot] = {}


def tunnel_of(config: ConnectionConfig, host: str, port: int, *, timeout_seconds: float) -> Tunnel:
    """The open tunnel of a connector, found by its configuration; opened on first use, and again when it has died.

    Raises:
        ConnectionFailedError: It does not open; says whether name, network, host key or credentials are the cause.
        HostRefusedError: The host policy forbids the SSH server.
        DriverMissingError: The SSH library is not installed.
    """
    key = (os.getpid(), id(config))
    slot = _Slot()
    if (found := _slots.setdefault(key, slot)) is slot:
        weakref.finalize(config, _forget, key)
    with found.lock:
        tunnel = found.tunnel
        if tunnel is None or not tunnel.is_open:
            if tunnel is not None:
                tunnel.close()
            found.tunnel = tunnel = Tunnel(config, host, port, timeout_seconds=timeout_seconds)
        return tunnel


def close_tunnel(config: ConnectionConfig) -> None:
    """Close a connector's tunnel, and with it what goes through; silent when none is open."""
    tunnel = find_tunnel(config)
    if tunnel is not None:
        tunnel.close()


def find_tunnel(config: ConnectionConfig) -> Tunnel | None:
    """The tunnel that a connector has opened last; None without."""
    slot = _slots.get((os.getpid(), id(config)))
    return slot.tunnel if slot is not None else None


def why_unreachable(config: ConnectionConfig) -> ConnectionFailedError | None:
    """What the SSH server says when asked for the database once more; None when it can reach it, or is gone."""
    tunnel = find_tunnel(config)
    return tunnel.why_unreachable() if tunnel is not None else None


def _forget(key: tuple[int, int]) -> None:
    # Runs wherever memory runs short, a tunnel's own thread and the middle of `tunnel_of` included: no lock, no wait.
    slot = _slots.pop(key, None)
    if slot is not None and slot.tunnel is not None and key[0] == os.getpid():
        slot.tunnel.ask_to_close()


def check_tunnel(settings: SshTunnelConfig) -> list[str]:
    """What is wrong with a tunnel's settings, found without connecting."""
    try:
        import asyncssh
    except ImportError:
        return []  # Said when it is opened: the machine that checks need not be the one that connects.
    try:
        asyncssh.import_public_key(settings.host_key)
    except (asyncssh.KeyImportError, ValueError):
        return ["ssh_tunnel.host_key: this is not a public key; `ssh-keyscan HOST` shows the server's"]
    return []


class Tunnel:
    """One SSH connection with a listening port, served by a thread of its own."""

    address = _LOOPBACK

    def __init__(self, config: ConnectionConfig, host: str, port: int, *, timeout_seconds: float) -> None:
        assert config.ssh_tunnel is not None
        try:
            import asyncssh  # noqa: F401  # only to say what is missing, in this thread
        except ImportError as error:
            raise DriverMissingError(
                f"connection {config.name!r}: the SSH library is not installed",
                hint="pip install 'synqx-dagster[ssh]'",
            ) from error
        self._name = config.name
        self._settings = config.ssh_tunnel
        self._target = (host[1:-1] if host.startswith("[") else host, port)
        self._timeout_seconds = timeout_seconds
        self._place = f"SSH server {self._settings.host}:{self._settings.port}"
        self.port = 0
        self._presented: Any = None
        self._connection: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._key = self._import_keys()
        # Ours, not the library's: the address was checked, and must not be looked up again.
        stream = self._open_socket(config)
        self._thread = threading.Thread(target=self._serve, args=(stream,), name="synqx-ssh-tunnel", daemon=True)
        self._thread.start()
        self._ready.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._thread.join()
            raise self._explain(self._failure) from self._failure

    @property
    def is_open(self) -> bool:
        """Whether the SSH connection stands."""
        return self._thread.is_alive() and self._connection is not None and not self._connection.is_closed()

    def close(self) -> None:
        """Close the port and the SSH connection; waits for its thread."""
        self.ask_to_close()
        if self._thread is not threading.current_thread():
            self._thread.join(self._timeout_seconds)

    def ask_to_close(self) -> None:
        """As `close`, without waiting."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and self._thread.is_alive():
            # The loop may end between the question and the call.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

    def why_unreachable(self) -> ConnectionFailedError | None:
        """Ask the SSH server for the database once more, for what it says."""
        import asyncssh

        async def ask() -> None:
            _, writer = await self._connection.open_connection(*self._target)
            writer.close()

        if not self.is_open or self._loop is None:
            return None
        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            asked.result(self._timeout_seconds)
        except asyncssh.ChannelOpenError as error:
            forbidden = error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            return ConnectionFailedError(
                f"connection {self._name!r}: the {self._place}"
                f" {'does not forward to' if forbidden else 'cannot reach'} {self._target[0]}:{self._target[1]}",
                reason="tunnel",
                hint="allow it there by AllowTcpForwarding and PermitOpen"
                if forbidden
                else "host and port are as the SSH server sees them; is the database running?",
            )
        except (asyncssh.Error, OSError, TimeoutError):
            return None
        return None

    # --- opening ------------------------------------------------------------------------------------------------

    def _import_keys(self) -> Any:
        import asyncssh

        place = f"connection {self._name!r}: ssh_tunnel"
        try:
            self._pinned = asyncssh.import_public_key(self._settings.host_key)
        except (asyncssh.KeyImportError, ValueError):
            raise ConfigurationError(f"{place}.host_key is not a public key") from None
        if self._settings.private_key is None:
            return None
        try:
            return asyncssh.import_private_key(self._settings.private_key, self._settings.passphrase)
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
            # Without the cause: it has the key's text in its frames.
            if self._settings.passphrase is None and "assphrase" in str(error):
                raise ConfigurationError(f"{place}: the private key is encrypted", hint="give its passphrase") from None
            raise ConfigurationError(
                f"{place}.private_key cannot be read",
                hint="is it a private key of OpenSSH's or PEM form, and its passphrase right?",
            ) from None

    def _open_socket(self, config: ConnectionConfig) -> socket.socket:
        host, port = self._settings.host, self._settings.port
        policy = policy_of(config)
        addresses = resolve_allowed(self._name, host, port, policy, timeout_seconds=self._timeout_seconds)
        try:
            stream = open_socket(Endpoint(host, port, addresses), timeout_seconds=self._timeout_seconds)
        except OSError as error:
            raise self._explain(error) from error
        stream.setblocking(False)
        return stream

    def _serve(self, stream: socket.socket) -> None:
        try:
            asyncio.run(self._forward(stream))
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self._failure = error
        finally:
            stream.close()
            self._ready.set()

    async def _forward(self, stream: socket.socket) -> None:
        import asyncssh

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tunnel = self

        class Client(asyncssh.SSHClient):  # type: ignore[misc, unused-ignore]  # untyped where it is not installed
            def validate_host_public_key(self, _host: str, _address: str, _port: int, key: Any) -> bool:
                tunnel._presented = key
                return hmac.compare_digest(key.public_data, tunnel._pinned.public_data)

        algorithms = [name.decode() for name in self._pinned.sig_algorithms]
        connecting = asyncssh.connect(
            self._settings.host,
            self._settings.port,
            sock=stream,
            client_factory=Client,
            # An empty list of known hosts asks the client; and nothing of the user's own SSH files counts.
            known_hosts=([], [], []),
            config=None,
            agent_path=None,
            gss_host=None,
            server_host_key_algs=[*algorithms, *(name for name in _host_key_algorithms() if name not in algorithms)],
            username=self._settings.username,
            client_keys=[self._key] if self._key is not None else None,
            password=self._settings.password,
            preferred_auth="publickey" if self._key is not None else "password,keyboard-interactive",
            disable_trivial_auth=True,
            login_timeout=self._timeout_seconds,
            keepalive_interval=KEEPALIVE_SECONDS,
            keepalive_count_max=KEEPALIVE_COUNT,
        )
        async with asyncio.timeout(self._timeout_seconds):
            self._connection = await connecting
        async with self._connection:
            listener = await self._connection.forward_local_port(
                _LOOPBACK, 0, *self._target, accept_handler=lambda _host, port: _is_ours(port, self.port)
            )
            self.port = listener.get_port()
            self._ready.set()
            stopping = asyncio.ensure_future(self._stop.wait())
            closing = asyncio.ensure_future(self._connection.wait_closed())
            await asyncio.wait({stopping, closing}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            closing.cancel()
            listener.close()
            self._connection.abort()

    def _explain(self, error: BaseException) -> SynqxError:
        import asyncssh

        place = f"connection {self._name!r}: {self._place}"
        match error:
            case SynqxError():
                return error
            case asyncssh.HostKeyNotVerifiable() if self._presented is not None:
                return ConnectionFailedError(
                    f"{place} shows another host key than the pinned one: it has {_fingerprint(self._presented)},"
                    f" pinned is {_fingerprint(self._pinned)}",
                    reason="host_key",
                    hint="somebody may be in between; if it is the server's new key, compare it there, change host_key",
                )
            case asyncssh.PermissionDenied():
                given = "key" if self._key is not None else "password"
                return ConnectionFailedError(
                    f"{place} refused the user {self._settings.username!r} with this {given}",
                    reason="authentication",
                    hint="check ssh_tunnel.username and the key or password, and what the server lets the user do",
                )
            case TimeoutError():
                return ConnectionFailedError(
                    f"{place} did not answer in time", reason="timeout", hint="is a firewall in between?"
                )
            case ConnectionRefusedError():
                return ConnectionFailedError(
                    f"{place} refused the connection", reason="refused", hint="are host and port of the tunnel right?"
                )
            case OSError():
                return ConnectionFailedError(f"{place} cannot be reached: {error.strerror or type(error).__name__}")
            case asyncssh.Error():
                return ConnectionFailedError(f"{place}: {error.reason}", reason="tunnel")
        return ConnectionFailedError(f"{place}: the tunnel failed with {type(error).__name__}", reason="tunnel")


def _fingerprint(key: Any) -> str:
    return f"{key.algorithm.decode()} {key.get_fingerprint()}"


def _host_key_algorithms() -> list[str]:
    # Others after the pinned one's: a server that lacks it then shows what it has, for the message.
    return ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-256", "rsa-sha2-512"]


def _is_ours(client_port: int, listening_port: int) -> bool:
    """Whether the other end of a connection to our port is this very process, and not another user of the machine.

    Where the system does not tell (it is not Linux, or hides its tables) everybody on it gets as far as the database,
    which asks for a password.
    """
    if sys.platform != "linux":
        return True
    ends = f"0100007F:{client_port:04X} 0100007F:{listening_port:04X}"
    try:
        table = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    except OSError:
        return True
    for line in table:
        fields = line.split()
        if f"{fields[1]} {fields[2]}" == ends:
            return _has_socket(fields[9])
    return False


def _has_socket(inode: str) -> bool:
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}") == f"socket:[{inode}]":
                return True
    return False
