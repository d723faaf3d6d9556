"""Names are resolved once, and what was checked is what is connected to."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from synqx_dagster.connectors import network
from synqx_dagster.connectors.network import Endpoint, check_far_host, locate, open_socket, resolve_allowed
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import ConnectionFailedError, HostRefusedError
from synqx_dagster.model.host_policy import HostPolicy

OPEN = HostPolicy()


def answer_with(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[list[str]]]) -> list[str]:
    """A name server that gives each name's answers in turn, the last one for ever; returns the questions."""
    asked: list[str] = []

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        answers = names[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(network.socket, "getaddrinfo", look_up)
    return asked


def resolve(host: str, policy: HostPolicy = OPEN) -> tuple[str, ...]:
    return resolve_allowed("shop", host, 5432, policy, timeout_seconds=5)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "::ffff:a9fe:a9fe",
        "１６９.254.169.254",
        "0.0.0.0",
        "0",
        "metadata.google.internal.",
    ],
)
def test_hostile_spellings_of_an_address_are_refused(host: str) -> None:
    # The system's own resolver takes the odd ones apart, so it is the one that is asked.
    with pytest.raises(HostRefusedError):
        resolve(host)


def test_a_name_that_leads_to_a_metadata_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, {"innocent.example": [["93.184.216.34", "169.254.169.254"]]})
    with pytest.raises(HostRefusedError, match=r"innocent\.example.*169\.254\.169\.254"):
        resolve("innocent.example")


def test_what_was_checked_is_connected_to_although_the_name_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        asked = answer_with(monkeypatch, {"rebound.example": [["127.0.0.1"], ["169.254.169.254"]]})
        config = ConnectionConfig("shop", "postgresql", host="rebound.example", port=port)
        endpoint = locate(config, 5432, timeout_seconds=5)
        assert endpoint == Endpoint("rebound.example", port, ("127.0.0.1",))
        with open_socket(endpoint, timeout_seconds=5) as stream:
            assert stream.getpeername() == ("127.0.0.1", port)
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert asked == ["rebound.example"]


def test_an_allow_list_takes_names_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, {"db.example": [["10.0.0.5", "192.0.2.1"]], "other.example": [["192.0.2.9"]]})
    assert resolve("db.example", HostPolicy.parse("10.0.0.0/8", None)) == ("10.0.0.5",)
    assert resolve("db.example", HostPolicy.parse("db.example", None)) == ("10.0.0.5", "192.0.2.1")
    with pytest.raises(HostRefusedError, match="not in the operator's list"):
        resolve("other.example", HostPolicy.parse("10.0.0.0/8 db.example", None))


def test_a_deny_list_is_stronger_and_sees_through_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, {"alias.example": [["192.0.2.7"]], "secret.example": [["192.0.2.7"]]})
    for denied in ("192.0.2.0/24", "alias.example", "secret.example"):
        with pytest.raises(HostRefusedError):
            resolve("alias.example", HostPolicy.parse("alias.example", denied))
    assert resolve("alias.example", HostPolicy.parse(None, "gone.example")) == ("192.0.2.7",)


def test_sockets_of_this_machine_count_as_localhost() -> None:
    def find(policy: HostPolicy) -> Endpoint:
        config = ConnectionConfig("shop", "postgresql", host="/run/postgresql", host_policy=policy)
        return locate(config, 5432, timeout_seconds=1)

    assert find(OPEN).addresses == ()
    assert find(HostPolicy.parse("127.0.0.0/8", None)).addresses == ()
    assert find(HostPolicy.parse("localhost", None)).addresses == ()
    with pytest.raises(HostRefusedError):
        find(HostPolicy.parse("10.0.0.0/8", None))


def test_the_environment_holds_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNQX_DENIED_HOSTS", "127.0.0.0/8")
    with pytest.raises(HostRefusedError, match="SYNQX_DENIED_HOSTS"):
        locate(ConnectionConfig("shop", "postgresql", host="127.0.0.1"), 5432, timeout_seconds=1)


def test_behind_a_tunnel_what_can_be_known_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, {"here-too.example": [["169.254.1.1"]], "2852039166": [["169.254.169.254"]]})

    def check(host: str, policy: HostPolicy = OPEN) -> None:
        check_far_host("shop", host, policy, timeout_seconds=1)

    check("db.far")
    check("10.0.0.5", HostPolicy.parse("10.0.0.0/8", None))
    check("db.far", HostPolicy.parse("db.far", None))
    for host in ("169.254.169.254", "[fe80::1]", "metadata.google.internal", "here-too.example", "2852039166"):
        with pytest.raises(HostRefusedError):
            check(host)
    with pytest.raises(HostRefusedError, match="not in the operator's list"):
        check("db.far", HostPolicy.parse("10.0.0.0/8", None))


def test_a_name_server_that_does_not_answer_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def look_up(*_: Any, **__: Any) -> list[Any]:
        answer.wait(60)
        return []

    monkeypatch.setattr(network.socket, "getaddrinfo", look_up)
    start = time.monotonic()
    try:
        with pytest.raises(ConnectionFailedError, match="not resolved in time"):
            resolve_allowed("shop", "slow.example", 1, OPEN, timeout_seconds=0.1)
        # Far from the limit, because a busy machine is late; and far from what the name server takes.
        assert time.monotonic() - start < 30
    finally:
        answer.set()
