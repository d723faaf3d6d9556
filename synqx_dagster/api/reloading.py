"""Asks the code servers on this machine to load new revisions, without keeping the writer waiting."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from synqx_dagster.errors import SynqxError

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings

_log = logging.getLogger(__name__)

#: A reload takes seconds and brings all revisions there are: those of one burst of writes share one.
_BURST_SECONDS = 0.25


class Reloader:
    """One thread that asks for a reload after each burst of revisions; made when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def announce(self, revision: int) -> None:
        """There is a new revision; returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="synqx-reload", daemon=True)
                self._thread.start()
        self._wanted.set()

    def close(self) -> None:
        """End the thread; a reload that was asked for last may be left to the sensor that follows the catalog."""
        self._ended.set()
        self._wanted.set()

    def _work(self) -> None:
        from synqx_dagster.defs.reload import request_reload

        while True:
            self._wanted.wait()
            if self._ended.wait(_BURST_SECONDS):
                return
            self._wanted.clear()
            try:
                request_reload(self._settings)
            except (SynqxError, OSError) as error:
                _log.warning("The code servers could not be asked to reload: %s", type(error).__name__)
