"""How the requests to an object store reach it: each connection goes to an address that the host policy let through.

botocore resolves names by itself, for each connection again: those of a bucket, and of the region that a store sends a
request on to. So the requests are sent by a session whose connections resolve and check them, and connect to just what
was checked.
"""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from synqx_dagster.connectors.network import Endpoint, check_far_host, open_socket, policy_of, resolve_allowed
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import SynqxError


def guard(
    client: Any, config: ConnectionConfig, *, verify: bool | str, timeouts: tuple[float, float], size: int
) -> None:
    """Have a client's requests go to allowed hosts alone.

    Args:
        client: A client of botocore's that has sent nothing yet.
        verify: Whether certificates are verified, or the file of the authorities.
        timeouts: Seconds of connecting and of reading.
        size: How many connections are kept.
    """
    session = _GuardedSession(config, client.meta.endpoint_url, verify=verify, timeouts=timeouts, size=size)
    # What a handler of this event answers with is the response: botocore's own session sends nothing.
    client.meta.events.register("before-send.s3", session.answer)


class _GuardedSession(URLLib3Session):  # type: ignore[misc] # botocore has no types
    def __init__(
        self,
        config: ConnectionConfig,
        endpoint: str,
        *,
        verify: bool | str,
        timeouts: tuple[float, float],
        size: int,
    ) -> None:
        proxies = get_environ_proxies(endpoint)
        super().__init__(verify=verify, proxies=proxies, timeout=timeouts, max_pool_connections=size)
        self._synqx_config = config
        self._synqx_seconds = timeouts[0]
        # A proxy is named by the process's environment, and so by the operator: it is connected to as it is.
        self._manager.pool_classes_by_scheme = _pools(config, timeouts[0])

    def answer(self, request: Any, **_: Any) -> Any:
        """Send a request.

        Raises:
            HostRefusedError: The policy forbids its host.
            ConnectionFailedError: The host has no address.
            BotoCoreError: The store cannot be reached, or the connection broke.
        """
        if self._proxy_config.proxy_url_for(request.url) is not None:
            # The proxy resolves the name.
            host = urlsplit(request.url).hostname or ""
            check_far_host(
                self._synqx_config.name, host, policy_of(self._synqx_config), timeout_seconds=self._synqx_seconds
            )
        try:
            return self.send(request)
        except HTTPClientError as exc:
            refused = exc.kwargs.get("error")
            if isinstance(refused, SynqxError):
                raise refused from None
            raise


def _pools(config: ConnectionConfig, timeout_seconds: float) -> dict[str, type]:
    """The classes of connections for a store, by scheme."""
    policy = policy_of(config)

    def connect(connection: Any) -> socket.socket:
        host, port = connection.host, connection.port
        addresses = resolve_allowed(config.name, host, port, policy, timeout_seconds=timeout_seconds)
        try:
            return open_socket(Endpoint(host, port, addresses), timeout_seconds=timeout_seconds)
        except TimeoutError as exc:
            raise ConnectTimeoutError(connection, "the store does not answer") from exc
        except OSError as exc:
            raise NewConnectionError(connection, "the store cannot be reached") from exc

    class Plain(AWSHTTPConnection):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class Encrypted(AWSHTTPSConnection):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class PlainPool(AWSHTTPConnectionPool):  # type: ignore[misc]
        ConnectionCls = Plain

    class EncryptedPool(AWSHTTPSConnectionPool):  # type: ignore[misc]
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}
