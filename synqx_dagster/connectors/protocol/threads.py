"""How a thread that uses a session is waited for.

A session is used by one thread at a time. Who goes on with it while another thread still waits for its server gets the
answer that the other one waits for, or none for ever; so nothing that interrupts the waiting may end it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


def wait_for(ended: threading.Event, nudge: Callable[[], None], *, every_seconds: float) -> None:
    """Wait for the end of a thread that has no reason to go on.

    Args:
        ended: Set by the thread at its end. The thread itself cannot be asked: up to Python 3.12 one whose join() was
            interrupted says that it has stopped, and has not.
        nudge: Called again and again until then: makes it end, by cancelling what it waits for.
        every_seconds: How long it may take by itself, before the first nudge and after each.

    Raises:
        BaseException: What interrupted the waiting (Ctrl-C), once the thread has ended.
    """
    interrupt: BaseException | None = None
    while True:
        try:
            while not ended.wait(every_seconds):
                nudge()
            break
        except BaseException as error:  # noqa: BLE001  # raised below
            interrupt = error
    if interrupt is not None:
        raise interrupt
