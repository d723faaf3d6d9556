"""The server's process: a socket that is taken at once, Dagster's workspace, and uvicorn until somebody ends it."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from dagster._core.workspace.load_target import (
    CompositeTarget,
    GrpcServerTarget,
    WorkspaceFileTarget,
    WorkspaceLoadTarget,
)

from synqx_dagster.api.app import product_version
from synqx_dagster.api.context import ApiContext
from synqx_dagster.defs.instance import open_instance
from synqx_dagster.defs.json_logs import follow_settings
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.gateway.app import Gateway, create_gateway
from synqx_dagster.gateway.following import FirstCatalog
from synqx_dagster.gateway.workspace import GatewayProcessContext

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings

_log = logging.getLogger(__name__)

#: As Dagster's own webserver sets them: milliseconds, seconds, connections.
_STATEMENT_TIMEOUT, _POOL_RECYCLE, _POOL_OVERFLOW = 15_000, 3600, 20

#: How long answers under way, and streams, may take to end.
_GRACE_SECONDS = 8
#: Subscriptions are small; the default would let each client have 16 MiB read.
_WEBSOCKET_BYTES = 1024 * 1024


@dataclass(frozen=True)
class CodeLocation:
    """A code server that listens at a socket."""

    socket: Path
    name: str


def listen(host: str, port: int) -> socket.socket:
    """Take a port, before anything else is started.

    Raises:
        ConfigurationError: It is taken, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            # So that another server that comes at the same moment is refused, too.
            taken.listen(2048)
        except OSError:
            taken.close()
            raise
    except OSError as exc:
        hint = "another web UI may run already; choose another port with --port"
        if exc.errno in (errno.EACCES, errno.EPERM):
            hint = "ports below 1024 are for root; choose another one with --port, behind a proxy"
        raise ConfigurationError(
            f"{host}:{port} cannot be listened at: {exc.strerror or 'no such address'}", hint=hint
        ) from exc
    return taken


@contextlib.contextmanager
def open_gateway(
    settings: Settings,
    *,
    target: WorkspaceLoadTarget | None = None,
) -> Iterator[Gateway]:
    """Dagster's instance and workspace, the catalog, and the application over them; closed at the end of the block.

    Args:
        settings: Of this process.
        target: Where code locations are, see `load_target`; left out, there are none.

    Raises:
        ConfigurationError: The workspace cannot be read, or Dagster's home cannot be used.
    """
    follow_settings(settings, process_stream="stderr")
    with open_instance(settings) as instance, contextlib.ExitStack() as stack:
        instance.optimize_for_webserver(_STATEMENT_TIMEOUT, _POOL_RECYCLE, _POOL_OVERFLOW)
        context = ApiContext(settings)
        stack.callback(context.close)
        process_context = stack.enter_context(GatewayProcessContext(instance, target, version=product_version()))
        gateway = create_gateway(context, process_context)
        first_catalog = FirstCatalog(lambda: context.catalog)
        first_catalog.start()
        stack.callback(first_catalog.stop)
        yield gateway


def load_target(workspace: Path | None, code_location: CodeLocation | None) -> WorkspaceLoadTarget | None:
    """Where code locations are: those of a ``workspace.yaml``, a code server beside it, or none.

    Raises:
        ConfigurationError: There is no such file.
    """
    targets: list[WorkspaceLoadTarget] = []
    if workspace is not None:
        if not workspace.is_file():
            raise ConfigurationError(f"There is no workspace file {workspace}")
        targets.append(WorkspaceFileTarget([str(workspace)]))
    if code_location is not None:
        targets.append(
            GrpcServerTarget(
                host="localhost", port=None, socket=str(code_location.socket), location_name=code_location.name
            )
        )
    return CompositeTarget(targets) if targets else None


class Server:
    """uvicorn on a socket that is listened at already.

    Args:
        gateway: What answers.
        listening: The socket.
        trusted_proxies: Addresses of proxies that may say who the client is and whether it came over TLS.
    """

    def __init__(self, gateway: Gateway, listening: socket.socket, *, trusted_proxies: tuple[str, ...]) -> None:
        self._socket = listening
        self._server = uvicorn.Server(
            uvicorn.Config(
                gateway.app,
                # Its access log has query strings in it; ours has not.
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=True,
                forwarded_allow_ips=list(trusted_proxies),
                timeout_graceful_shutdown=_GRACE_SECONDS,
                ws_max_size=_WEBSOCKET_BYTES,
                lifespan="auto",
            )
        )

    def run(self) -> None:
        """Serve until `stop`, or until the process gets SIGINT or SIGTERM, which it then gets once more."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End soon: answers under way get a few seconds. From any thread."""
        self._server.should_exit = True
