"""The page of results: bars first, then every case with every way that was measured; drawn from the results alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from benchmarks.case import Bar, Case

_INTRODUCTION = """\
# Benchmarks

`make bench` wrote this page. All tools load the same tables, on the same servers, in the same run; the order rotates
between rounds, targets are dropped before each load, and medians count. After each load the target is compared with
the source (rows, sums, hashes of texts); a load that left something else is void. Ratios travel between machines,
times do not. How every tool is set up, and how to run this yourself: [benchmarks/README.md](../benchmarks/README.md).

"own" is the time that a tool needs for the work: SynqX's engine, dlt's `pipeline.run`; "process" is from the start of
the process to its end, with Python's imports, Dagster's run and its event log. Sling and `psql` have only the latter.
"""


def draw_page(cases: Sequence[Case], results: dict[str, Any]) -> str:
    """The page as Markdown; of a case without a result there are the bars alone."""
    measured = [case for case in cases if case.name in results]
    parts = [_INTRODUCTION, "## What was promised, and what was measured\n", _bars(cases, results)]
    for case in measured:
        parts += [f"## {case.title}\n", _case(results[case.name])]
    parts += ["## Machine and versions\n", _machines(measured, results)]
    return "\n".join(parts)


def _bars(cases: Iterable[Case], results: dict[str, Any]) -> str:
    rows = []
    for case in cases:
        for bar in case.bars:
            if case.name not in results:
                rows.append([case.title, bar.text, "-", "not measured"])
                continue
            measured, ok = _judge(bar, results[case.name])
            verdict = {True: "yes", False: "**no**", None: "void"}[ok]
            rows.append([case.title, bar.text, measured, verdict])
    return _table(["work", "bar", "measured", "reached"], rows, right=(2,))


def _judge(bar: Bar, result: dict[str, Any]) -> tuple[str, bool | None]:
    """What was measured, and whether it reaches the bar; None where a figure is missing."""
    contestants = result["contestants"]
    if bar.memory:
        names = [name for name in contestants if fnmatchcase(name, bar.subject)]
        peaks = [_largest(contestants[name], "peak_memory_bytes") for name in names]
        if not peaks or None in peaks:
            return "-", None
        largest = max(peak for peak in peaks if peak is not None)
        if bar.reference is not None:
            base = _largest(contestants.get(bar.reference), "peak_memory_bytes")
            return ("-", None) if base is None else (f"{largest / base:.2f} x", largest / base <= (bar.at_most or 0))
        return f"{largest / 1e6:.0f} MB", largest <= (bar.at_most or 0)
    subject = _median(contestants.get(bar.subject), _field(bar))
    reference = _reference(bar, contestants)
    if subject is None or reference is None:
        return "-", None
    if bar.at_least is not None:
        return f"{reference / subject:.2f} x", reference / subject >= bar.at_least
    return f"{subject / reference:.2f} x", subject / reference <= (bar.at_most or 0)


def _field(bar: Bar) -> str:
    return "process_seconds" if bar.whole_process else "seconds"


def _reference(bar: Bar, contestants: dict[str, Any]) -> float | None:
    """A contestant's figure, or the best of a family: no peer is judged by its slower way."""
    if bar.reference in contestants:
        return _median(contestants[bar.reference], _field(bar))
    family = [record for record in contestants.values() if record["family"] == bar.reference]
    figures = [figure for record in family if (figure := _median(record, _field(bar))) is not None]
    return min(figures, default=None)


def _figures(record: dict[str, Any] | None, field: str) -> list[float]:
    outcomes = record["outcomes"] if record else []
    return [outcome[field] for outcome in outcomes if outcome[field] is not None]


def _median(record: dict[str, Any] | None, field: str) -> float | None:
    figures = _figures(record, field)
    return statistics.median(figures) if figures else None


def _largest(record: dict[str, Any] | None, field: str) -> float | None:
    return max(_figures(record, field), default=None)


def _case(result: dict[str, Any]) -> str:
    rows_moved = result["rows"]
    contestants = result["contestants"]
    own = {name: _median(record, "seconds") for name, record in contestants.items()}
    base = next((own[name] for name, record in contestants.items() if record["family"] == "psql"), None)
    subject = next((figure for name, figure in own.items() if contestants[name]["family"] == "synqx"), None)
    process = {name: _median(record, "process_seconds") for name, record in contestants.items()}
    process_subject = next((process[name] for name in contestants if contestants[name]["family"] == "synqx"), None)
    rows = []
    for name, record in contestants.items():
        peak = _largest(record, "peak_memory_bytes")
        lanes = {outcome["lane"] for outcome in record["outcomes"] if outcome["lane"]}
        spread = _figures(record, "seconds")
        rows.append(
            [
                name + (f" ({', '.join(sorted(lanes))})" if lanes and not lanes & set(name.split(", ")) else ""),
                _seconds(own[name]) + (f" ({min(spread):.2f}-{max(spread):.2f})" if len(spread) > 1 else ""),
                _seconds(process[name]),
                _ratio(own[name], base),
                _ratio(own[name], subject),
                _ratio(process[name], process_subject),
                "-" if peak is None else f"{peak / 1e6:.0f} MB",
                f"{len(record['outcomes'])} of {result['runs']}" + (", void" if record["failures"] else ""),
            ]
        )
    headings = ["way", "own, s", "process, s", "to psql", "to SynqX, own", "to SynqX, process", "peak memory", "valid"]
    kept: Callable[[int], bool] = lambda index: index != 3 or base is not None  # noqa: E731
    indices = [index for index in range(len(headings)) if kept(index)]
    table = _table(
        [headings[index] for index in indices],
        [[row[index] for index in indices] for row in rows],
        right=tuple(range(1, len(indices))),
    )
    loads = result["load_averages"]
    busy = f"load average {min(loads):.1f} to {max(loads):.1f}" if loads else "nothing ran"
    heading = (
        f"{rows_moved:,} rows, {result['table_bytes'] / 1e6:,.0f} MB in PostgreSQL; medians of {result['runs']};"
        f" {result['started'][:16].replace('T', ' ')} UTC, {busy} before each load ({result['load_average_before']:.1f}"
        " before the case).\n"
    )
    return f"{heading}\n{table}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(value: float | None, base: float | None) -> str:
    return "-" if value is None or not base else f"{value / base:.2f}"


def _machines(cases: Sequence[Case], results: dict[str, Any]) -> str:
    """One paragraph for each machine with its versions, and the cases that it measured."""
    found: dict[str, list[str]] = {}
    for case in cases:
        found.setdefault(_machine(results[case.name]), []).append(f"`{case.name}`")
    several = len(found) > 1
    fsyncs = [results[case.name]["machine"]["fsync_milliseconds"] for case in cases]
    disk = f"A commit's fdatasync of 8 KiB took {min(fsyncs):.2f} to {max(fsyncs):.2f} ms.\n" if fsyncs else ""
    return "\n".join(
        (f"{', '.join(names)}:\n\n" if several else "") + text for text, names in found.items()
    ) + f"\n{disk}"  # fmt: skip


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    rows = [
        ["processor", f"{machine['cpu']}, {machine['cores']} cores"],
        ["memory", f"{machine['memory_bytes'] / 1e9:.0f} GB"],
        ["system", f"{machine['kernel']}, Python {machine['python']}"],
        ["SynqX", _versions(result["versions"])],
        ["peers", _versions(result["peers"])],
        ["PostgreSQL's settings", _versions(result["settings"]["postgresql"])],
    ]
    if "mariadb" in result["versions"]:
        rows.append(["MariaDB's settings", _versions(result["settings"]["mariadb"])])
    return _table(["", ""], rows)


def _versions(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    rule = ["--:" if index in right else "---" for index in range(len(headings))]
    lines = [headings, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
