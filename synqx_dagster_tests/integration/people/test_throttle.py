"""Limits that several servers share through a real Redis, and what becomes of them without it."""

from __future__ import annotations

import logging

import pytest
from pydantic import SecretStr

from synqx_dagster.errors import TooManyAttemptsError
from synqx_dagster.model.server_settings import ServerSettings
from synqx_dagster.people.throttle import Throttle
from synqx_dagster_tests.fix_redis import PASSWORD, RedisServer


def count_logins(throttle: Throttle, name: str, address: str = "192.0.2.7") -> int:
    """How many logins are let through, up to a hundred."""
    for number in range(100):
        try:
            throttle.count_login(name, address)
        except TooManyAttemptsError:
            return number
    return 100


def test_servers_share_what_they_count(redis_server: RedisServer) -> None:
    settings = ServerSettings(rate_limit_store=SecretStr(redis_server.url), api_rate_per_minute=20)
    first, second = Throttle(settings), Throttle(settings)
    assert count_logins(first, "ann") == 10
    assert count_logins(second, "ann") == 0
    second.forget_login("ann")
    assert count_logins(first, "ann", "192.0.2.8") == 10
    for number in range(20):
        (first, second)[number % 2].count_request("somebody")
    with pytest.raises(TooManyAttemptsError):
        first.count_request("somebody")
    first.count_request("somebody else")
    # No name stands in the store, however it was written.
    assert "ann" not in redis_server.everything()
    with redis_server.connect() as client:
        assert not any("ann" in key.split("/") for key in client.scan_iter())


def test_without_an_answer_each_process_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    throttle = Throttle(ServerSettings(rate_limit_store=SecretStr(url)))
    with caplog.at_level(logging.WARNING):
        assert count_logins(throttle, "ann") == 10
        throttle.forget_login("ann")
        assert count_logins(throttle, "ann", "192.0.2.8") == 10
        throttle.count_request("somebody")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert PASSWORD not in caplog.text


def test_in_memory_names_and_addresses_are_counted_apart() -> None:
    throttle = Throttle(ServerSettings(login_rate_per_minute=3))
    assert count_logins(throttle, "ann", "a") == 3
    assert count_logins(throttle, "bob", "b") == 3
    assert count_logins(throttle, "\ud800" * 5000, "c") == 3
    # Of 15 from one address, every fourth is one too many for its name.
    assert [count_logins(throttle, f"name-{number}", "d") for number in range(5)] == [3, 3, 3, 3, 0]
