"""A benchmark case and how it is measured: rounds in which all contestants take turns, every result checked.

A run whose target does not hold what it should is void: its figure is not kept.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.measure import RunFailedError

if TYPE_CHECKING:
    from benchmarks.lab import Lab

Family = Literal["psql", "synqx", "sling", "dlt"]


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        seconds: The tool's own work: the engine's for SynqX, ``pipeline.run`` for dlt, else the process.
        process_seconds: From the start of the process to its end.
    """

    seconds: float
    process_seconds: float
    peak_memory_bytes: int | None = None
    lane: str | None = None


def nothing() -> None:
    """For contestants that need no preparation."""


@dataclass(frozen=True)
class Contestant:
    """One way to do a case's work.

    Attributes:
        prepare: Brings the target into the state before the load; not timed.
        check: Raises `RunFailedError` unless the target holds what it should; not timed.
    """

    name: str
    family: Family
    run: Callable[[], Outcome]
    check: Callable[[], None]
    prepare: Callable[[], None] = nothing


@dataclass(frozen=True)
class Bench:
    """A case that is ready to run.

    Attributes:
        stateful: A round builds on the one before: a contestant that fails is out.
        runs: How many rounds, whatever is asked for; None: as asked.
    """

    rows: int
    table_bytes: int
    contestants: Sequence[Contestant]
    before_round: Callable[[int], None] | None = None
    stateful: bool = False
    runs: int | None = None


@dataclass(frozen=True)
class Bar:
    """What a case must show.

    ``subject`` and ``reference`` are names of contestants; a family as reference is its fastest contestant. With
    ``at_least``, reference divided by subject; with ``at_most``, subject divided by reference, or, without a
    reference, the largest peak memory of all whose names match the subject, in bytes. ``memory`` compares peaks.
    """

    subject: str
    text: str
    reference: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    whole_process: bool = False
    memory: bool = False


@dataclass(frozen=True)
class Case:
    """A case that can be asked for by its name."""

    name: str
    title: str
    start: Callable[[Lab], AbstractContextManager[Bench]]
    bars: Sequence[Bar] = ()


@dataclass
class Record:
    """What became of one contestant in all rounds."""

    family: Family
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def measure_case(case: Case, bench: Bench, runs: int) -> dict[str, Any]:
    """Run all rounds; the order of the contestants rotates from round to round."""
    records = {contestant.name: Record(contestant.family) for contestant in bench.contestants}
    loads: list[float] = []
    for number in range(bench.runs or runs):
        if bench.before_round is not None:
            bench.before_round(number)
        turn = number % len(bench.contestants)
        for contestant in [*bench.contestants[turn:], *bench.contestants[:turn]]:
            record = records[contestant.name]
            if bench.stateful and record.failures:
                continue
            loads.append(os.getloadavg()[0])
            _run_once(case, contestant, record, number, loads[-1])
    return {
        "title": case.title,
        "rows": bench.rows,
        "table_bytes": bench.table_bytes,
        "runs": bench.runs or runs,
        "load_averages": [round(load, 2) for load in loads],
        "contestants": {name: asdict(record) for name, record in records.items()},
    }


def _run_once(case: Case, contestant: Contestant, record: Record, number: int, load: float) -> None:
    label = f"{case.name} {number + 1}: {contestant.name}"
    try:
        contestant.prepare()
        outcome = contestant.run()
        contestant.check()
    except RunFailedError as exc:
        record.failures.append(str(exc))
        say(f"{label}: VOID, {exc}")
    # A benchmark of an hour goes on, whatever one tool or one check of it does.
    except Exception as exc:  # noqa: BLE001
        record.failures.append(f"{type(exc).__name__}: {exc}")
        say(f"{label}: VOID, {traceback.format_exc()}")
    else:
        record.outcomes.append(asdict(outcome))
        memory = f", {outcome.peak_memory_bytes / 1e6:.0f} MB" if outcome.peak_memory_bytes else ""
        lane = f", {outcome.lane}" if outcome.lane else ""
        say(
            f"{label}: {outcome.seconds:.2f} s (process {outcome.process_seconds:.2f} s{memory}{lane}), load {load:.1f}"
        )


def say(line: str) -> None:
    """Progress, to standard error."""
    print(line, file=sys.stderr, flush=True)
