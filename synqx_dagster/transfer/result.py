"""What a load is asked for, what it reports while it runs, and what it reports at the end."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.mapping.lineage import Lineage
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column

if TYPE_CHECKING:
    from synqx_dagster.transfer.quarantine import BadRowSpool

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)

Lane = Literal["passthrough", "arrow"]
CheckName = Literal["contract", "row_count", "not_null_keys", "unique_keys", "content"]


@dataclass(frozen=True)
class Progress:
    """How far a load is. ``rows`` is 0 while a lane cannot count them (bytes in passthrough tell instead).

    ``total_rows`` and ``total_bytes`` are the source's own guesses: None where it has none, and of the bytes no more
    than a hint, because a server stores rows in another form than it sends them.
    """

    phase: str
    rows: int
    bytes: int
    seconds: float
    total_rows: int | None = None
    total_bytes: int | None = None

    @property
    def fraction(self) -> float | None:
        """How much of the rows has arrived, below 1 as long as any may be missing; None where nobody can tell."""
        done, total = (self.rows, self.total_rows) if self.rows else (self.bytes, self.total_bytes)
        return min(done / total, 0.99) if done and total else None

    @property
    def remaining_seconds(self) -> float | None:
        """About how long the rows that are missing take at the speed so far; None where nobody can tell."""
        fraction = self.fraction
        return None if fraction is None or fraction >= 0.99 else self.seconds * (1 / fraction - 1)


@dataclass(frozen=True)
class PartitionSlice:
    """Partitions of a mapping that one load replaces together.

    Attributes:
        first, last: Keys; the same of one partition.
        count: How many partitions.
        start, end: Aware moments, of partitions by time: the first one's beginning, and the last one's end.
        values: Of static partitions.
    """

    first: str
    last: str
    count: int
    start: datetime | None = None
    end: datetime | None = None
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.count == 1:
            return f"the partition {self.first}"
        return f"the {self.count:,} partitions from {self.first} to {self.last}"


@dataclass(frozen=True)
class ReadWindow:
    """Which part of a source one run reads, other than everything, or from the watermark of its cursor on.

    Attributes:
        full: Read everything, and take the watermark anew.
        start: Read from this value of the cursor column on (inclusive), whatever the watermark says.
        end: Read up to this value (exclusive).
        quarantined: Read the rows that lie in quarantine, and no others; needs no cursor.
        partition: Of a mapping with partitions: those that are replaced.
        condition: Only rows for which this holds: SQL of the source over its columns, checked by who asks.
    """

    full: bool = False
    start: str | None = None
    end: str | None = None
    quarantined: bool = False
    partition: PartitionSlice | None = None
    condition: str | None = None


class Upstream(Protocol):
    """Where a load's rows come from when nobody can ask for them again: the nodes of a pipeline."""

    def prepare(self, find_start: Callable[[], str | None]) -> None:
        """Called before its session is opened; `find_start` asks the target, over the load's session, for the watermark
        from which nodes go on that choose rows by it."""
        ...

    def begin(self, watermark: str | None) -> None:
        """Told the target's watermark, as its ledger has it, once no earlier attempt can move it any more.

        Raises:
            SynqxError: The rows were chosen by another watermark.
        """
        ...

    def give_bad_rows(self, spool: BadRowSpool) -> None:
        """Put the rows that were set aside on the way into a spool; called once, when all others have passed."""
        ...

    @property
    def watermark(self) -> str | None:
        """What is committed with the rows."""
        ...


@dataclass(frozen=True)
class LoadRequest:
    """One attempt at one load.

    Attributes:
        run_id: The run that makes this attempt.
        load_id: The same for every attempt at one load: an attempt that finds it in the ledger does nothing.
        progress: Called about twice a second from the thread that loads; must be quick and must not raise.
        window: For a mapping with a cursor; the default reads from the watermark on.
        upstream: For the load of a pipeline; None where the source is a database.
    """

    mapping: Mapping
    schema: Schema | None
    source: Connector
    target: Connector
    run_id: str
    load_id: str
    progress: Callable[[Progress], None] | None = None
    window: ReadWindow = ReadWindow()
    upstream: Upstream | None = None


@dataclass(frozen=True)
class CheckOutcome:
    """The result of one check of the loaded table."""

    name: CheckName
    passed: bool
    description: str
    metadata: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadResult:
    """What a load did.

    ``rows_in`` is ``rows_out`` plus ``rows_quarantined``; ``rows_quarantined_before`` of these lay in quarantine when
    the load began, and it replaced what was said of them. ``bytes`` is what went over the wire to the target in
    passthrough, and the size of the Arrow batches written otherwise. ``seconds`` is wall time from opening the
    connections to the last check. ``rows_inserted``, ``rows_updated`` and ``rows_deleted`` say what happened in the
    target; rows of a merge that were equal are in none of them. ``watermark_before`` and ``watermark_after`` are the
    cursor column's values as the source prints them. ``phase_seconds`` tells where the time went; what
    moves rows is ``read`` (waiting for the source), ``transform`` and ``write`` where these take turns (the arrow lane
    in one piece), and ``copy`` where they go on at the same time. ``window`` says which part of the source was read,
    None for all of it. With ``already_committed`` an earlier attempt at the same load had committed: the
    figures are that attempt's, out of the ledger.
    """

    lane: Lane
    lane_reason: str
    rows_in: int
    rows_out: int
    rows_quarantined: int
    bytes: int
    seconds: float
    phase_seconds: dict[str, float]
    epoch: int
    already_committed: bool
    columns: tuple[Column, ...]
    lineage: Lineage
    checks: tuple[CheckOutcome, ...]
    target_row_count: int
    peak_memory_bytes: int
    checksum: str | None = None
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    parallelism: int = 1
    watermark_before: str | None = None
    watermark_after: str | None = None
    schema_changes: tuple[str, ...] = ()
    rows_quarantined_before: int = 0
    window: str | None = None


class Stopwatch:
    """Wall time of a load, in all and by phase."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.phase_seconds: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds since the load began."""
        return time.perf_counter() - self._start

    def split(self, name: str, parts: dict[str, float]) -> None:
        """Put parts in the place of a phase that has been measured more closely."""
        del self.phase_seconds[name]
        for part, seconds in parts.items():
            self.phase_seconds[part] = self.phase_seconds.get(part, 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + time.perf_counter() - start


class ProgressMeter:
    """Passes counts on to a listener at a bounded rate; a meter without a listener costs next to nothing."""

    INTERVAL_SECONDS = 0.5

    def __init__(
        self, listener: Callable[[Progress], None] | None, stopwatch: Stopwatch, total_rows: int | None = None
    ) -> None:
        self._listener = listener
        # Ranges that are loaded at the same time count together.
        self._lock = threading.Lock()
        self._stopwatch = stopwatch
        self._last = 0.0
        self.phase = "plan"
        self.rows = 0
        self.bytes = 0
        self.total_rows = total_rows
        self.total_bytes: int | None = None

    def add(self, *, rows: int = 0, size_bytes: int = 0) -> None:
        """Count rows and bytes that reached the target's connection."""
        with self._lock:
            self.rows += rows
            self.bytes += size_bytes
            if self._listener is not None and self._stopwatch.seconds - self._last >= self.INTERVAL_SECONDS:
                self._report()

    def enter(self, phase: str) -> None:
        """Start a phase; always reported."""
        self.phase = phase
        self._report()

    def _report(self) -> None:
        if self._listener is not None:
            self._last = self._stopwatch.seconds
            self._listener(Progress(self.phase, self.rows, self.bytes, self._last, self.total_rows, self.total_bytes))


def peak_memory_bytes() -> int:
    """The most memory this process has held, in bytes. Source: proc_pid_status(5); getrusage(2), in bytes on macOS."""
    import resource

    try:
        # What getrusage says of a process that was just started is its parent's peak.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    if (found := _PEAK.search(status)) is not None:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
