"""Where a connection goes: a host's name is resolved once, its addresses are checked, and these are connected to.

Guarantee: what the host policy let through is what is connected to. Nothing resolves the name a second time, so a name
server that answers differently the second time gains nothing.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import ConnectionFailedError, HostRefusedError
from synqx_dagster.model.host_policy import HostPolicy, is_local, normalise_host, parse_address

#: A peer that vanished without a word is noticed after 30 + 3 * 10 seconds in which nothing came.
KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_COUNT = 3

#: How long sent data may stay unacknowledged by the other machine before the connection counts as lost.
USER_TIMEOUT_MILLISECONDS = 60_000


@dataclass(frozen=True)
class Endpoint:
    """Where to connect to.

    Attributes:
        host: The database's host as the user wrote it, which its certificate must be for; a path for a Unix socket.
        port: The port to connect to, which is a tunnel's own when there is one.
        addresses: What the host resolved to, in order, each allowed; empty for a Unix socket.
        tunnel_host: The SSH server in between, for messages.
    """

    host: str
    port: int
    addresses: tuple[str, ...]
    tunnel_host: str | None = None


def policy_of(config: ConnectionConfig) -> HostPolicy:
    """Which hosts a connection may reach."""
    return config.host_policy if config.host_policy is not None else HostPolicy.from_environment(os.environ)


def locate(config: ConnectionConfig, default_port: int, *, timeout_seconds: float) -> Endpoint:
    """Where a connection goes, checked against the host policy; opens its SSH tunnel if it has one.

    Raises:
        HostRefusedError: The operator's lists, or what is never reached, forbid it.
        ConnectionFailedError: The name has no address, or the tunnel does not open.
    """
    host, port = config.host or "localhost", config.port or default_port
    policy = policy_of(config)
    if config.ssh_tunnel is not None:
        from synqx_dagster.connectors.ssh_tunnel import tunnel_of

        check_far_host(config.name, host, policy, timeout_seconds=timeout_seconds)
        tunnel = tunnel_of(config, host, port, timeout_seconds=timeout_seconds)
        return Endpoint(host, tunnel.port, (tunnel.address,), tunnel_host=config.ssh_tunnel.host)
    if host.startswith(("/", "@")):
        check_addresses(config.name, "localhost", ("127.0.0.1",), policy)
        return Endpoint(host, port, ())
    return Endpoint(host, port, resolve_allowed(config.name, host, port, policy, timeout_seconds=timeout_seconds))


# --- policy --------------------------------------------------------------------------------------------------------


def resolve_allowed(
    connection: str, host: str, port: int, policy: HostPolicy, *, timeout_seconds: float
) -> tuple[str, ...]:
    """A host's addresses, all of which may be connected to; connect to these, not to the name.

    For whatever opens sockets of its own, an object store's client for one.

    Args:
        connection: The connection's name, for messages.

    Raises:
        HostRefusedError: The policy forbids the host or one of its addresses.
        ConnectionFailedError: The name has no address, or none was found in time.
    """
    _refuse_name(connection, host, policy)
    deadline = time.monotonic() + timeout_seconds
    addresses = _resolve(connection, host, port, deadline)
    allowed = check_addresses(connection, host, addresses, policy)
    for name in policy.denied_names:
        # A denied host must not be reached by another name of it, either.
        if not name.startswith("*"):
            with contextlib.suppress(ConnectionFailedError):
                if set(_resolve(connection, name, port, deadline)) & set(allowed):
                    raise HostRefusedError(f"connection {connection!r}: {host!r} is {name!r}, which is denied")
    return allowed


def check_addresses(connection: str, host: str, addresses: tuple[str, ...], policy: HostPolicy) -> tuple[str, ...]:
    """Those addresses of a host that may be connected to.

    One that is denied refuses the host: a name that leads to it once will do so again.

    Raises:
        HostRefusedError: One is denied, or none is allowed.
    """
    allowed = []
    for text in addresses:
        address = parse_address(text)
        reason = "it is no address" if address is None else policy.why_address_refused(address)
        if reason is not None:
            shown = repr(host) if host == text else f"{host!r} ({text})"
            raise HostRefusedError(f"connection {connection!r}: {shown} must not be connected to: {reason}")
        if address is not None and (policy.allows_name(host) or policy.allows_address(address)):
            allowed.append(text)
    if not allowed:
        raise HostRefusedError(
            f"connection {connection!r}: {host!r} ({', '.join(addresses)}) is not in the operator's list of hosts",
            hint="the operator's SYNQX_ALLOWED_HOSTS names what may be connected to",
        )
    return tuple(allowed)


def check_far_host(connection: str, host: str, policy: HostPolicy, *, timeout_seconds: float) -> None:
    """Whether a host behind a tunnel may be reached. Its name is resolved at the far end, so what can be known is
    checked: the name, an address written in whatever form, and what the name means here, if anything.

    Raises:
        HostRefusedError: The policy forbids it, or has an allow-list in which the name is not.
    """
    _refuse_name(connection, host, policy)
    try:
        addresses = _resolve(connection, host, 0, time.monotonic() + timeout_seconds)
    except ConnectionFailedError:
        addresses = ()
    for text in addresses:
        address = parse_address(text)
        if address is not None and (reason := policy.why_address_refused(address)) is not None:
            raise HostRefusedError(f"connection {connection!r}: {host!r} ({text}) must not be connected to: {reason}")
    literal = parse_address(normalise_host(host))
    if not policy.allows_name(host) and (literal is None or not policy.allows_address(literal)):
        raise HostRefusedError(
            f"connection {connection!r}: {host!r} is not in the operator's list of hosts",
            hint="behind an SSH tunnel a name must be listed as a name: what it resolves to there is not known here",
        )


def _refuse_name(connection: str, host: str, policy: HostPolicy) -> None:
    if (reason := policy.why_name_refused(host)) is not None:
        raise HostRefusedError(f"connection {connection!r}: {host!r} must not be connected to: {reason}")


def _resolve(connection: str, host: str, port: int, deadline: float) -> tuple[str, ...]:
    """A host's addresses; getaddrinfo cannot be interrupted, so a thread does it that may outlive the wait."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if parse_address(bare) is not None and "%" not in bare:
        return (bare,)
    answers: queue.Queue[tuple[str, ...] | OSError] = queue.Queue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)
            answers.put(tuple(dict.fromkeys(str(address[0]) for *_, address in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=look_up, name="synqx-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise ConnectionFailedError(
            f"connection {connection!r}: the name {host!r} was not resolved in time",
            reason="name_resolution",
            hint="check host and the machine's name server",
        ) from None
    if isinstance(answer, OSError) or not answer:
        raise ConnectionFailedError(
            f"connection {connection!r}: the name {host!r} cannot be resolved",
            reason="name_resolution",
            hint="check host",
        )
    return answer


# --- sockets -------------------------------------------------------------------------------------------------------


def open_socket(endpoint: Endpoint, *, timeout_seconds: float) -> socket.socket:
    """A connected socket with keepalives; tries the addresses in order within one limit.

    Raises:
        OSError: Of the last address.
    """
    if not endpoint.addresses:
        with _closing_on_error(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as stream:
            stream.settimeout(timeout_seconds)
            stream.connect("\0" + endpoint.host[1:] if endpoint.host.startswith("@") else endpoint.host)
            return stream
    deadline = time.monotonic() + timeout_seconds
    failure: OSError | None = None
    for address in endpoint.addresses:
        try:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            # Not socket.create_connection(), which resolves what it is given.
            with _closing_on_error(socket.socket(_family_of(address), socket.SOCK_STREAM)) as stream:
                stream.settimeout(remaining)
                stream.connect((address, endpoint.port))
                keep_alive(stream)
                return stream
        except OSError as error:
            failure = error
    assert failure is not None
    raise failure


def _family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextlib.contextmanager
def _closing_on_error(stream: socket.socket) -> Iterator[socket.socket]:
    try:
        yield stream
    except BaseException:
        stream.close()
        raise


def keep_alive(stream: socket.socket) -> None:
    """Have the system notice when the other machine is gone, and send small packets at once."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)


__all__ = [
    "Endpoint",
    "check_addresses",
    "check_far_host",
    "is_local",
    "keep_alive",
    "locate",
    "open_socket",
    "policy_of",
    "resolve_allowed",
]
