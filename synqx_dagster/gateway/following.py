"""Waits for the first catalog of a server that was started without one, and has its code server load it then.

New revisions are another matter: who writes one asks for the reload, and a sensor catches what they miss; see
`synqx_dagster.defs.reload`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from synqx_dagster.defs.reload import request_reload
from synqx_dagster.errors import SynqxError

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings

#: A look costs one file, or one query.
_LOOK_SECONDS = 2.0


class FirstCatalog:
    """A thread that ends when there is a catalog.

    Args:
        settings: Whose code servers are meant.
        open_catalog: Raises while there is none.
    """

    def __init__(self, settings: Settings, open_catalog: Callable[[], object]) -> None:
        self._settings = settings
        self._open_catalog = open_catalog
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="synqx-first-catalog", daemon=True)

    def start(self) -> None:
        """Begin to wait; where there is a catalog already, nothing happens."""
        if not self._is_there():
            self._thread.start()

    def stop(self) -> None:
        """End; returns once the thread has."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _wait(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if self._is_there():
                request_reload(self._settings)
                return

    def _is_there(self) -> bool:
        try:
            self._open_catalog()
        except SynqxError:
            return False
        return True
