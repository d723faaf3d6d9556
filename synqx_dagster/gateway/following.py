"""What the server does once there is a catalog: at its start, or as soon as somebody makes one while it runs.

New revisions are another matter: who writes one asks for the reload, and a sensor catches what they miss; see
`synqx_dagster.defs.reload`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from synqx_dagster.api.seeding import VARIABLE, seed_catalog
from synqx_dagster.defs.reload import request_reload
from synqx_dagster.errors import SealedError, SynqxError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

_log = logging.getLogger(__name__)

#: A look costs one file, or one query.
_LOOK_SECONDS = 2.0


class FirstCatalog:
    """A thread that waits for the catalog, makes the connection of ``DATABASE_URL`` in it, and ends.

    Args:
        find_catalog: Gives the server's catalog; raises while there is none.
    """

    def __init__(self, find_catalog: Callable[[], Catalog]) -> None:
        self._find_catalog = find_catalog
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synqx-first-catalog", daemon=True)

    def start(self) -> None:
        """Begin. Nobody waits for it: a database that does not answer must not keep the server from starting."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns once the thread has, or does not in time."""
        self._ended.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        waited = False
        while (catalog := self._look()) is None:
            waited = True
            if self._ended.wait(_LOOK_SECONDS):
                return
        if waited:
            # The code server has loaded what there is without a catalog.
            request_reload(catalog.settings)
        if os.environ.get(VARIABLE):
            self._seed(catalog)

    def _seed(self, catalog: Catalog) -> None:
        while True:
            try:
                catalog.unseal()
                seed_catalog(catalog, os.environ)
            except SealedError:
                # Its password cannot be kept yet; somebody may unlock the vault at any time.
                if self._ended.wait(_LOOK_SECONDS):
                    return
                continue
            except SynqxError as exc:
                _log.warning("nothing was made of %s: %s", VARIABLE, exc.message)
            return

    def _look(self) -> Catalog | None:
        try:
            return self._find_catalog()
        except SynqxError:
            return None
