"""Whether a target holds what its mapping says, value by value: the comparison that counts cannot make.

Both sides sum up the digests of all their rows. Where the sums differ, they do so again for ranges of rows, made by the
digest of the key, which needs no order and no index. Ranges that differ and are large are split; of the others the
keys are read.

Guarantee: each side is one snapshot. Rows that change between the two snapshots are reported like any others.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from synqx_dagster.connectors.protocol import ReadSession
from synqx_dagster.transfer.content_plan import ContentPlan, ContentRequest, plan_content
from synqx_dagster.transfer.content_report import (
    ColumnDifference,
    ContentReport,
    Difference,
    DifferenceKind,
    SideReport,
)
from synqx_dagster.transfer.content_side import Checksum, KeyedRow, Ranges, RowValues, Side

#: The first ranges have about so many rows, and never less.
FIRST_RANGE_ROWS = 128

#: Ranges of one question; what a side answers stays within some tens of megabytes.
MAX_RANGES = 2**18

#: One split makes at most so many ranges, as bits, out of one.
MAX_SPLIT_BITS = 12

#: Bits of a digest that tell ranges apart.
MAX_BITS = 56

#: A range of so many rows is read; a larger one is split first.
RANGE_ROWS = 1_000

#: Rows whose keys are read of each side at most. What lies beyond is counted as ranges, not as keys.
READ_ROWS = 100_000

#: A key that many rows share cannot be split.
MAX_SPLITS = 4

#: How long a side may take to notice that it was cancelled, before it is cancelled again.
CANCEL_SECONDS = 0.5

A = TypeVar("A")
B = TypeVar("B")


def verify_content(request: ContentRequest) -> ContentReport:
    """Compare a mapping's output with its target.

    Changes nothing. Memory is bounded by `MAX_RANGES` and `READ_ROWS`, not by the tables.

    Raises:
        TargetMismatchError: The target is not there, or its columns do not fit.
        PlanError: The mapping cannot be planned, or not compared.
        DatabaseError, RetryableError: A side could not be read.
    """
    start = time.perf_counter()
    with request.source.read() as source, request.target.read() as target:
        plan = plan_content(request, source, target)
        with _BothSides(source, target) as both:
            return _Comparison(request, plan, both).run(start)


class _BothSides:
    """Asks both sides at the same time. When one fails, or Ctrl-C is heard, the other one is cancelled.

    Use as a context manager.
    """

    def __init__(self, source: ReadSession, target: ReadSession) -> None:
        self._sessions = (source, target)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="synqx-verify")

    def __enter__(self) -> _BothSides:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()

    def ask(self, source: Callable[[], A], target: Callable[[], B]) -> tuple[A, B]:
        """Both answers; of two errors the first, because the second may come of the cancelling."""
        first, second = self._threads.submit(source), self._threads.submit(target)
        asked: list[Future[Any]] = [first, second]
        try:
            done, _ = wait(asked, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return first.result(), second.result()
        finally:
            # Again and again: between two statements a cancel is lost.
            while wait(asked, timeout=0).not_done:
                for session in self._sessions:
                    session.cancel()
                wait(asked, timeout=CANCEL_SECONDS)


@dataclass(frozen=True)
class _Found:
    """The ranges that differ, and which of them were left out for their number."""

    ranges: Ranges
    differing: int
    is_complete: bool


class _Comparison:
    def __init__(self, request: ContentRequest, plan: ContentPlan, both: _BothSides) -> None:
        self._request = request
        self._plan = plan
        self._both = both
        self._rows = (0, 0)
        self._ranges = 0

    def run(self, start: float) -> ContentReport:
        found = self._narrow()
        counts: Counter[DifferenceKind] = Counter()
        differences: list[Difference] = []
        set_aside = 0
        if found is not None:
            rows = self._ask(lambda side: side.rows(found.ranges))
            listed, set_aside = self._classify(*rows)
            counts.update({kind: sum(one.rows for one in listed if one.kind == kind) for kind in _KINDS})
            chosen = _chosen(listed, self._request.limit, extra_last=self._plan.allows_extra)
            differences = self._with_columns(chosen, found.ranges, *rows)
        plan = self._plan
        return ContentReport(
            mapping=self._request.mapping.name,
            source=SideReport(
                self._request.mapping.source_connection,
                plan.source_name,
                self._rows[0],
                "database" if plan.source_reason is None else "here",
                plan.source_reason,
            ),
            target=SideReport(
                self._request.mapping.target_connection,
                str(self._request.mapping.target),
                self._rows[1],
                "database" if plan.target_reason is None else "here",
                plan.target_reason,
            ),
            key=plan.key,
            columns=plan.source.columns,
            ranges=self._ranges,
            differing_ranges=found.differing if found else 0,
            missing=counts["missing"],
            extra=counts["extra"],
            different=counts["different"],
            set_aside=set_aside,
            complete=found is None or found.is_complete,
            allows_extra=plan.allows_extra,
            differences=tuple(differences),
            seconds=time.perf_counter() - start,
        )

    def _ask(self, question: Callable[[Side], A]) -> tuple[A, A]:
        return self._both.ask(lambda: question(self._plan.source), lambda: question(self._plan.target))

    # --- ranges ---------------------------------------------------------------------------------------------

    def _narrow(self) -> _Found | None:
        """Ranges that differ, small enough to be read; None where none differs."""
        sums = self._ask(lambda side: side.total())
        self._rows = (sums[0].rows, sums[1].rows)
        if sums[0] == sums[1]:
            return None
        bits = _first_bits(max(self._rows))
        weights = _differing(*self._ask(lambda side: side.checksums(bits)))
        self._ranges, differing, is_complete = 2**bits, len(weights), True
        for _ in range(MAX_SPLITS):
            split = _bits_to_split(weights, bits)
            if split == 0:
                break
            room = MAX_RANGES >> split
            if len(weights) > room:
                weights, is_complete = _first(weights, room), False
            within = Ranges(bits, tuple(weights))
            bits += split
            weights = _differing(*self._ask(lambda side: side.checksums(bits, within)))  # noqa: B023  # asked at once
        readable = _first_rows(weights, READ_ROWS)
        return _Found(Ranges(bits, tuple(readable)), differing, is_complete and len(readable) == len(weights))

    # --- rows -----------------------------------------------------------------------------------------------

    def _classify(self, source: Sequence[KeyedRow], target: Sequence[KeyedRow]) -> tuple[list[Difference], int]:
        """What differs, key by key, and how many rows of the source are rightly kept out of the target."""
        there = (_by_key(source), _by_key(target))
        found: list[Difference] = []
        set_aside = 0
        for key in {**there[0], **there[1]}:
            wanted, held = Counter(there[0][key]), Counter(there[1][key])
            missing, extra = wanted - held, held - wanted
            if self._plan.sets_aside and not held and wanted.total() > 1:
                set_aside += wanted.total()
                continue
            if not self._plan.key:
                # Without a key a changed row is one that is missing and another that is too much.
                found.extend(_keyless("missing", missing))
                found.extend(_keyless("extra", extra))
            elif missing and extra:
                found.append(Difference("different", key, rows=max(missing.total(), extra.total())))
            elif missing or extra:
                found.append(Difference("missing" if missing else "extra", key, rows=(missing or extra).total()))
        return found, set_aside

    def _with_columns(
        self,
        differences: Sequence[Difference],
        ranges: Ranges,
        source: Sequence[KeyedRow],
        target: Sequence[KeyedRow],
    ) -> list[Difference]:
        """The same differences; those of one row on either side with the columns that differ."""
        there = (_by_key(source), _by_key(target))
        pairs = {
            one.key: (there[0][one.key][0], there[1][one.key][0])
            for one in differences
            if one.kind == "different" and len(there[0][one.key]) == len(there[1][one.key]) == 1
        }
        if not pairs:
            return list(differences)
        shown = self._request.show_values
        of_source, of_target = self._both.ask(
            lambda: self._plan.source.values([pair[0] for pair in pairs.values()], ranges, with_texts=shown),
            lambda: self._plan.target.values([pair[1] for pair in pairs.values()], ranges, with_texts=shown),
        )
        completed = []
        for one in differences:
            pair = pairs.get(one.key)
            if pair is None or one.kind != "different":
                completed.append(one)
                continue
            columns = self._differing_columns(of_source[pair[0]], of_target[pair[1]])
            completed.append(Difference(one.kind, one.key, columns, one.rows))
        return completed

    def _differing_columns(self, source: RowValues, target: RowValues) -> tuple[ColumnDifference, ...]:
        found = []
        for position, name in enumerate(self._plan.names):
            if source.digests[position] == target.digests[position]:
                continue
            texts = (source.texts[position], target.texts[position]) if source.texts else (None, None)
            show = self._plan.show_text
            found.append(ColumnDifference(name, show(position, texts[0]), show(position, texts[1])))
        return tuple(found)


_KINDS: tuple[DifferenceKind, ...] = ("missing", "extra", "different")


def _first_bits(rows: int) -> int:
    """Of the key's digest, so many bits make the first ranges."""
    return min((rows // FIRST_RANGE_ROWS).bit_length(), MAX_RANGES.bit_length() - 1)


def _differing(source: dict[int, Checksum], target: dict[int, Checksum]) -> dict[int, int]:
    """Ranges that differ, in order, with the rows of their larger side."""
    nothing = Checksum(0, 0)
    return {
        bucket: max(source.get(bucket, nothing).rows, target.get(bucket, nothing).rows)
        for bucket in sorted(source.keys() | target.keys())
        if source.get(bucket, nothing) != target.get(bucket, nothing)
    }


def _bits_to_split(weights: dict[int, int], bits: int) -> int:
    """How many bits further to split the ranges that differ; 0 when they may be read as they are."""
    heaviest, total = max(weights.values(), default=0), sum(weights.values())
    wanted = max(heaviest / RANGE_ROWS, total / READ_ROWS)
    if wanted <= 1:
        return 0
    # One bit to spare: ranges are not all of one size.
    split = min(int(wanted).bit_length() + 1, MAX_SPLIT_BITS, MAX_BITS - bits)
    if heaviest > RANGE_ROWS:
        return split
    # Nothing forces this split: it lets more differences be read, if all the ranges that it makes can be asked for.
    return max(0, min(split, (MAX_RANGES // len(weights)).bit_length() - 1))


def _first(weights: dict[int, int], count: int) -> dict[int, int]:
    return dict(list(weights.items())[: max(1, count)])


def _first_rows(weights: dict[int, int], rows: int) -> dict[int, int]:
    """The first ranges that together have no more rows than this; at least one."""
    chosen: dict[int, int] = {}
    for bucket, weight in weights.items():
        if chosen and sum(chosen.values()) + weight > rows:
            break
        chosen[bucket] = weight
    return chosen


def _by_key(rows: Sequence[KeyedRow]) -> defaultdict[tuple[str | None, ...], list[int]]:
    found: defaultdict[tuple[str | None, ...], list[int]] = defaultdict(list)
    for row in rows:
        found[row.key].append(row.digest)
    return found


def _keyless(kind: DifferenceKind, digests: Counter[int]) -> list[Difference]:
    total = digests.total()
    return [Difference(kind, (), rows=total)] if total else []


def _chosen(found: Sequence[Difference], limit: int, *, extra_last: bool) -> list[Difference]:
    """The differences to list: in the order of their keys, those that are no fault at the end."""

    def order(one: Difference) -> tuple[bool, tuple[tuple[bool, int, str], ...], str]:
        return extra_last and one.kind == "extra", tuple(map(_sortable, one.key)), one.kind

    return sorted(found, key=order)[:limit]


def _sortable(text: str | None) -> tuple[bool, int, str]:
    """Whole numbers by their size, other texts by their characters, NULL at the end."""
    if text is None:
        return True, 0, ""
    is_number = text.isascii() and text.removeprefix("-").isdigit() and len(text) < 40
    return False, int(text) if is_number else 0, text
