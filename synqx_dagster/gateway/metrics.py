"""`GET /metrics`: what a monitoring system watches, for a key that may read runs, or for all where that is set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from synqx_dagster.defs.exposition import render_metrics
from synqx_dagster.defs.metrics import collect_metrics

if TYPE_CHECKING:
    import dagster as dg

    from synqx_dagster.catalog.store import Catalog

#: Source: Prometheus, "Exposition formats", text-based format.
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Several servers that scrape at once are answered from one reading of the storage.
_KEPT_SECONDS = 5.0


class Metrics:
    """The metrics of one instance and catalog. Safe to share between threads; one of them reads, the others wait."""

    def __init__(self, instance: dg.DagsterInstance, catalog: Callable[[], Catalog]) -> None:
        self._instance = instance
        self._catalog = catalog
        self._lock = threading.Lock()
        self._text = ""
        self._read_at = float("-inf")

    def text(self) -> str:
        """The metrics as text, at most five seconds old.

        Raises:
            NotInitialisedError, ConfigurationError: As `collect_metrics`.
        """
        with self._lock:
            if time.monotonic() - self._read_at > _KEPT_SECONDS:
                self._text = render_metrics(collect_metrics(self._instance, self._catalog()))
                self._read_at = time.monotonic()
            return self._text
