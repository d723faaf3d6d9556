"""Named places where a test may stop, kill or fail a load; nothing happens unless the environment asks.

``SYNQX_FAILPOINTS`` is a comma-separated list of ``place=action``, with the actions ``kill`` (SIGKILL to this
process), ``stop`` (SIGSTOP, until somebody sends SIGCONT) and ``error`` (raise `RetryableError`). Places are those
that `reach` is called with.
"""

from __future__ import annotations

import os
import signal
import threading

from synqx_dagster.errors import RetryableError

VARIABLE = "SYNQX_FAILPOINTS"


def reach(place: str) -> None:
    """Do what the environment asks for at this place; returns at once when it asks for nothing."""
    asked = os.environ.get(VARIABLE)
    if not asked:
        return
    for item in asked.split(","):
        name, _, action = item.partition("=")
        if name != place:
            continue
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            # To this thread: a signal to the process may be taken by another one, and this one would go on meanwhile.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        elif action == "error":
            raise RetryableError(f"failpoint {place} was asked to fail")
        else:
            raise ValueError(f"{VARIABLE}: {action!r} is not an action (kill, stop, error)")
