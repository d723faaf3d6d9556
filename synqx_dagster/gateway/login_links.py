"""One-time links that log somebody in on this machine, as `synqx dev` prints one.

Guarantee: a link works once, for a short time, and only for a browser on the same machine. Only its digest is kept.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable

from synqx_dagster.model.web_address import is_loopback

#: Long enough to go from one window to the other.
LIFETIME_SECONDS = 15 * 60


class LoginLinks:
    """The links of one process that have not been used yet. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[bytes, tuple[str, float]] = {}

    def issue(self, username: str, token: str | None = None) -> str:
        """Make a link's token that logs this user in.

        Args:
            token: One that another process has made already; left out, a new one of 256 bits.
        """
        token = token or secrets.token_urlsafe(32)
        with self._lock:
            self._links[_digest(token)] = (username, self._clock() + LIFETIME_SECONDS)
        return token

    def redeem(self, token: str, address: str) -> str | None:
        """The user whom a link logs in, and the end of the link; None for one that is unknown, used, or too old.

        Args:
            address: Where the request comes from. From elsewhere a link neither works nor is used up.
        """
        if not is_loopback(address):
            return None
        with self._lock:
            found = self._links.pop(_digest(token), None)
        if found is None or self._clock() > found[1]:
            return None
        return found[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
