"""A real Redis for the tests, as a process of its own, with a password and nothing on disk.

Without the server's program the tests that need it are skipped with the way to get it; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster_tests.processes import reaped, start_watchdog

PROGRAM = "redis-server"
PASSWORD = "kanarienvogel-r3dis"
START_TIMEOUT_SECONDS = 30.0


@dataclass
class RedisServer:
    """A running server on ``127.0.0.1:port``."""

    port: int
    password: str = PASSWORD

    @property
    def url(self) -> str:
        """With the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def connect(self) -> Any:
        """A client."""
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, password=self.password, decode_responses=True)

    def everything(self) -> str:
        """All that it holds, as one text."""
        found = []
        with closing(self.connect()) as client:
            for key in client.scan_iter():
                kind = client.type(key)
                if kind == "string":
                    found.append(client.get(key))
                elif kind == "list":
                    found += client.lrange(key, 0, -1)
                elif kind == "hash":
                    found += client.hgetall(key).values()
        return "\n".join(found)


def find_program() -> str:
    """The server's program; skips the test, or fails it in CI, where there is none."""
    found = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        message = f"{PROGRAM} is not installed: scripts/install-system-packages"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    program = find_program()
    directory = Path(tempfile.mkdtemp(prefix="synqx-redis-", dir="/tmp"))
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    # By a file, because everybody on the machine sees the arguments of a process.
    config = directory / "redis.conf"
    config.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {PASSWORD}\nsave ""\nappendonly no\ndir {directory}\n'
        f"logfile {directory / 'redis.log'}\n"
    )
    process = subprocess.Popen([program, str(config)], stdin=subprocess.DEVNULL, start_new_session=True)
    with reaped(process), reaped(start_watchdog(process, directory)) as watchdog:
        server = RedisServer(port)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _answers(server):
            assert process.poll() is None, (directory / "redis.log").read_text()
            assert time.monotonic() < deadline, (directory / "redis.log").read_text()
            time.sleep(0.05)
        yield server
        watchdog.communicate(timeout=30)


def _answers(server: RedisServer) -> bool:
    import redis

    try:
        with closing(server.connect()) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
