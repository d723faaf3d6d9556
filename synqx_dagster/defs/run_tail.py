"""A run as it goes on, in pieces: its state and the lines of its log that are new, until it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import dagster as dg

from synqx_dagster.defs.run_logs import LogReader, NumberedLine
from synqx_dagster.defs.runs import RunInfo, get_exact_run

ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


@dataclass(frozen=True)
class TailPiece:
    """What is new.

    Attributes:
        has_more: There are more lines already; ask again at once.
        is_over: The run has ended and these were its last lines.
    """

    info: RunInfo
    lines: tuple[NumberedLine, ...]
    has_more: bool
    is_over: bool


class RunTail:
    """Follows one run. Each call reads a bounded number of lines; not for two threads at once."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str, *, after: int | None = None) -> None:
        self._instance = instance
        self._run_id = run_id
        self._reader = LogReader(instance, run_id, after=after)
        self._reading: Iterator[NumberedLine] | None = None
        self._info: RunInfo | None = None

    def read(self, limit: int = 500) -> TailPiece:
        """What is new since the last call.

        Raises:
            NotFoundError: The run is not there (any more).
        """
        if self._reading is None or self._info is None:
            # The state first: what a run says last is written before it has ended.
            self._info = get_exact_run(self._instance, self._run_id)
            self._reading = self._reader.read_numbered()
        lines = tuple(islice(self._reading, limit))
        has_more = len(lines) == limit
        if not has_more:
            self._reading = None
        return TailPiece(self._info, lines, has_more, not has_more and self._info.status in ENDED)
