"""Which hosts an object store may be at: the policy decides about each connection, whatever the names mean by then."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from synqx_dagster.connectors.files_options import S3Settings
from synqx_dagster.connectors.files_s3 import S3Store
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import ConnectionFailedError, HostRefusedError
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster_tests.fix_s3 import BUCKET, PASSWORD, USERNAME, S3Prefix

NameServer = Callable[..., list[str]]


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    """Has names resolve to the given addresses, one after another and the last one for good; answers what was asked."""
    system = socket.getaddrinfo

    def make(*answers: str) -> list[str]:
        left, asked = list(answers), []

        def look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            asked.append(host)
            return system(left.pop(0) if len(left) > 1 else left[0], port, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return asked

    return make


def store(
    endpoint: str | None, allowed: str | None = None, denied: str | None = None, *, path_style: bool = False
) -> S3Store:
    settings = S3Settings(BUCKET, endpoint, "us-east-1", path_style)
    config = ConnectionConfig("exports", "files", username=USERNAME, password=PASSWORD)
    return S3Store(settings, "x", replace(config, host_policy=HostPolicy.parse(allowed, denied)))


def test_a_store_without_an_endpoint_is_checked(name_server: NameServer) -> None:
    asked = name_server("52.216.0.1")
    with pytest.raises(HostRefusedError, match=f"'{BUCKET}.s3.amazonaws.com'.*not in the operator's list"):
        store(None, "10.0.0.0/8").check()
    with pytest.raises(HostRefusedError, match="must not be connected to"):
        store(None, denied="*.amazonaws.com").check()
    # Once each, and not tried again.
    assert asked == [f"{BUCKET}.s3.amazonaws.com"]


def test_an_endpoint_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch, s3: S3Prefix) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    with pytest.raises(HostRefusedError, match=r"'127\.0\.0\.1'"):
        store(None, denied="127.0.0.0/8").check()


def test_a_name_that_means_something_else_later_gains_nothing(name_server: NameServer, s3: S3Prefix) -> None:
    port = urlsplit(s3.endpoint).port
    found = store(f"http://localhost:{port}", "127.0.0.0/8", path_style=True)
    name_server("127.0.0.1")
    assert found.check() == (True, True)
    name_server("169.254.169.254")
    with pytest.raises(HostRefusedError, match=r"169\.254\.169\.254"):
        found.check()
    name_server("127.0.0.1", "169.254.169.254")
    # What was resolved for the check is what is connected to: the name is not asked for a second time.
    assert found.check() == (True, True)


def test_a_host_behind_a_proxy_is_checked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(HostRefusedError, match=r"'store\.invalid'"):
        store("http://store.invalid", "*.example.org", path_style=True).check()
    with pytest.raises(ConnectionFailedError, match="the proxy cannot be reached"):
        store("http://store.example.org", "*.example.org", path_style=True).check()


def test_a_store_that_is_away_is_told_as_before() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ConnectionFailedError, match="the store cannot be reached"):
        store(f"http://127.0.0.1:{port}", path_style=True).check()
