"""Limits on how often somebody may try: logins by name and by address, the vault by address, requests by caller.

Counted in the process's memory, or in a Redis that all processes share. Without an answer from the Redis each process
counts for itself: a limit holds, though a weaker one, and nobody is locked out.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute
from limits.errors import ConfigurationError as LimitsConfigurationError
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from synqx_dagster.errors import ConfigurationError, TooManyAttemptsError

if TYPE_CHECKING:
    from limits import RateLimitItem

    from synqx_dagster.model.server_settings import ServerSettings

_log = logging.getLogger(__name__)

#: One address may stand for an office; one name stands for one person.
_ADDRESS_FACTOR = 5
_REDIS_TIMEOUT_SECONDS = 1


class Throttle:
    """The limits of one server. Safe to share between threads.

    Raises:
        ConfigurationError: The client for the Redis is not installed.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._by_name = RateLimitItemPerMinute(settings.login_rate_per_minute, namespace="synqx_login_name")
        self._by_address = RateLimitItemPerMinute(
            settings.login_rate_per_minute * _ADDRESS_FACTOR, namespace="synqx_login_address"
        )
        self._unlocks = RateLimitItemPerMinute(settings.login_rate_per_minute, namespace="synqx_unlock_address")
        self._requests = RateLimitItemPerMinute(settings.api_rate_per_minute, namespace="synqx_requests")
        memory = MemoryStorage()
        self._spare = (MovingWindowRateLimiter(memory), SlidingWindowCounterRateLimiter(memory))
        self._limiters = self._spare
        if settings.rate_limit_store is not None:
            storage = _open_redis(settings.rate_limit_store.get_secret_value())
            self._limiters = (MovingWindowRateLimiter(storage), SlidingWindowCounterRateLimiter(storage))
        self._warned_at = 0.0
        self._lock = threading.Lock()

    def count_login(self, name: str, address: str) -> None:
        """Count an attempt to log in, before the password is looked at.

        Raises:
            TooManyAttemptsError: Too many for this name, or from this address.
        """
        # Both are counted, so that many names from one address and one name from many addresses are noticed alike.
        waits = [self._hit(0, self._by_name, _key(name)), self._hit(0, self._by_address, address or "-")]
        if wait := max(waits):
            raise TooManyAttemptsError(
                "Too many logins were tried for this name or from this address",
                hint=f"try again in {wait} s",
                retry_after_seconds=wait,
            )

    def count_unlock(self, address: str) -> None:
        """Count an attempt to unlock the vault, before the password is looked at.

        The vault itself delays whoever guesses, wherever they are; this keeps one address from having it try at all.

        Raises:
            TooManyAttemptsError: Too many from this address.
        """
        if wait := self._hit(0, self._unlocks, address or "-"):
            raise TooManyAttemptsError(
                "Too many passwords of the vault were tried from this address",
                hint=f"try again in {wait} s",
                retry_after_seconds=wait,
            )

    def forget_login(self, name: str) -> None:
        """After a right password: the attempts for this name count no more."""
        try:
            self._limiters[0].clear(self._by_name, _key(name))
        except StorageError:
            self._spare[0].clear(self._by_name, _key(name))

    def count_request(self, caller: str) -> None:
        """Count a request.

        Raises:
            TooManyAttemptsError: Too many from this caller.
        """
        if wait := self._hit(1, self._requests, caller):
            raise TooManyAttemptsError("Too many requests", hint=f"try again in {wait} s", retry_after_seconds=wait)

    def _hit(self, strategy: int, item: RateLimitItem, key: str) -> int:
        """Count; 0, or the seconds to wait where the limit is reached."""
        limiter: RateLimiter = self._limiters[strategy]
        try:
            return _hit(limiter, item, key)
        except StorageError as exc:
            self._warn(exc)
            return _hit(self._spare[strategy], item, key)

    def _warn(self, exc: StorageError) -> None:
        with self._lock:
            now = time.monotonic()
            if self._warned_at and now - self._warned_at < 60:
                return
            self._warned_at = now
        # The type alone: the message of a client may hold the address that it was given.
        _log.warning(
            "SYNQX_RATE_LIMIT_STORE does not answer (%s); attempts are counted in each process by itself",
            type(exc.storage_error).__name__,
        )


def _hit(limiter: RateLimiter, item: RateLimitItem, key: str) -> int:
    if limiter.hit(item, key):
        return 0
    return max(1, int(limiter.get_window_stats(item, key).reset_time - time.time()) + 1)


def _open_redis(url: str) -> Storage:
    try:
        storage = storage_from_string(
            url,
            wrap_exceptions=True,
            socket_connect_timeout=_REDIS_TIMEOUT_SECONDS,
            socket_timeout=_REDIS_TIMEOUT_SECONDS,
        )
    except LimitsConfigurationError as exc:
        raise ConfigurationError(
            "SYNQX_RATE_LIMIT_STORE names a Redis, and its client is not installed",
            hint="install synqx-dagster[redis]",
        ) from exc
    assert isinstance(storage, Storage)
    return storage


def _key(name: str) -> str:
    # Names are as long as a stranger likes, and may hold anything.
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
