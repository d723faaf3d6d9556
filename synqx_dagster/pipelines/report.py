"""What the nodes of a step did: rows in and out, and where the time went."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class NodeReport:
    """One node of one run of a step.

    ``rows_in`` and ``rows_out`` are None as long as nobody has counted. ``seconds`` is the time that the node was at
    work while rows flowed; nodes that one SELECT of DuckDB does share it, and ``fused_with`` names the others.
    """

    node_id: str
    operator: str
    rows_in: int | None = None
    rows_out: int | None = None
    rows_quarantined: int = 0
    seconds: float = 0.0
    fused_with: tuple[str, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the run's metadata has them."""
        return {
            "node_id": self.node_id,
            "operator": self.operator,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rows_quarantined": self.rows_quarantined,
            "seconds": round(self.seconds, 3),
            "fused_with": list(self.fused_with),
            "error": self.error,
        }


@dataclass
class Counter:
    """Counts rows that pass; written by one thread, read by others when the rows have passed."""

    rows: int = 0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_seconds(self, seconds: float) -> None:
        """Add time; a stage may be waited for by several threads of DuckDB."""
        with self.lock:
            self.seconds += seconds
