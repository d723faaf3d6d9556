"""`synqx health`: which connections can be used, and what this machine and the processes on it do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import format_age, format_bytes, format_count, format_latency
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from rich.text import Text

    from synqx_dagster.catalog.store import Catalog

_WINDOW = timedelta(days=1)
_HOUR_SECONDS = 3600


@click.command(cls=SynqxCommand)
@json_option
@pass_output
def health(output: Output) -> None:
    """Show how connections have been over the last day, and what machines and processes use now.

    What is shown is what the sensor `synqx_health` has found; `synqx connections test` looks at once.
    Exits 1 when a connection is down.
    """
    catalog = open_catalog()
    now = datetime.now(UTC)
    connections = _read_connections(catalog, now)
    machines = _read_machines(catalog, now)

    def draw() -> None:
        if not connections:
            output.print("No connections yet: declare one in YAML (`kind: connection`), then run `synqx apply`.")
            return
        output.table(
            ["connection", "state", "since", "last test", "latency", "slowest", "available", "why"],
            [
                [
                    printable(item["connection"]),
                    _state(item["status"]),
                    format_age(item["since"]) if item["since"] else "-",
                    format_age(item["tested_at"]),
                    format_latency(item["latency_seconds"]),
                    format_latency(item["latency_seconds_max"]),
                    "-" if item["availability"] is None else f"{item['availability']:.2%}",
                    printable(item["message"] or "-"),
                ]
                for item in connections
            ],
            right=["latency", "slowest", "available"],
            fold=["why"],
        )
        if all(item["status"] is None for item in connections):
            output.print()
            output.print("Nothing was tested yet: the sensor synqx_health does, while `synqx dev` runs.", style="dim")
        if machines:
            output.print()
            _draw_machines(output, machines)

    output.result({"connections": connections, "system": machines}, draw)
    if any(item["status"] == "down" for item in connections):
        raise click.exceptions.Exit(1)


def _state(status: str | None) -> Text:
    from rich.text import Text

    return Text(status or "not tested", style={"up": "green", "down": "bold red"}.get(status or "", "dim"))


def _draw_machines(output: Output, machines: Sequence[Mapping[str, Any]]) -> None:
    output.table(
        ["machine", "what", "processes", "CPU", "memory", "of", "disk", "of", "open files"],
        [
            [
                printable(item["host_name"]),
                printable(item["subject"]),
                format_count(item["processes"]),
                "-" if item["cpu_percent"] is None else f"{item['cpu_percent']:.1f} %",
                format_bytes(item["memory_bytes"]),
                format_bytes(item["memory_total_bytes"]),
                format_bytes(item["disk_used_bytes"]),
                format_bytes(item["disk_total_bytes"]),
                format_count(item["open_files"]),
            ]
            for item in machines
        ],
        right=["processes", "CPU", "memory", "of", "disk", "open files"],
    )


def _read_connections(catalog: Catalog, now: datetime) -> list[dict[str, Any]]:
    """The state of each connection, and its tests of the last day put together."""
    from synqx_dagster.catalog.metrics import MetricsHistory, health_subject
    from synqx_dagster.catalog.monitor_tables import connection_health
    from synqx_dagster.defs.monitor_looks import read_health

    history = MetricsHistory(catalog)
    names = sorted(catalog.snapshot().connections)
    ids = history.record_ids(names)
    states = {item.subject: item for item in history.read_states(health_subject(name) for name in names)}
    totals: dict[int, dict[str, Any]] = {}
    points = history.points(
        connection_health,
        {"record_id": list(ids.values())},
        now - _WINDOW,
        now + _WINDOW,
        _HOUR_SECONDS,
        limit=26 * max(1, len(ids)),
    )
    for row in points.rows:
        total = totals.setdefault(row["record_id"], {"tests": 0, "failures": 0, "sum": 0, "count": 0, "max": None})
        total["tests"] += row["tests"]
        total["failures"] += row["failures"]
        total["sum"] += row["latency_us_sum"] or 0
        total["count"] += row["latencies"] or 0
        known = [value for value in (total["max"], row["latency_us_max"]) if value is not None]
        total["max"] = max(known, default=None)
    found = []
    for name in names:
        known_state = states.get(health_subject(name))
        state = None if known_state is None else read_health(known_state.state)
        total = totals.get(ids.get(name, -1), {})
        tests, count = total.get("tests", 0), total.get("count", 0)
        found.append(
            {
                "connection": name,
                "status": None if state is None else state.status,
                "since": None if state is None else datetime.fromisoformat(state.since),
                "tested_at": None if known_state is None else known_state.looked_at,
                "tests": tests,
                "failures": total.get("failures", 0),
                "availability": 1 - total["failures"] / tests if tests else None,
                "latency_seconds": total["sum"] / count / 1_000_000 if count else None,
                "latency_seconds_max": None if total.get("max") is None else total["max"] / 1_000_000,
                "reason": None if state is None else state.reason,
                "message": None if state is None else state.message,
            }
        )
    return found


def _read_machines(catalog: Catalog, now: datetime) -> list[dict[str, Any]]:
    """The last look at each machine that has looked within ten minutes."""
    from synqx_dagster.catalog.metrics import MetricsHistory
    from synqx_dagster.catalog.monitor_tables import system_metrics

    since = now - timedelta(minutes=10)
    points = MetricsHistory(catalog).points(system_metrics, {}, since, now + _WINDOW, 0, limit=100_000)
    latest = {(row["host_name"], row["subject"]): row for row in points.rows}
    moments: dict[str, datetime] = {}
    for row in latest.values():
        moments[row["host_name"]] = max(row["sampled_at"], moments.get(row["host_name"], row["sampled_at"]))
    # The machine before its processes; and none that has ended since.
    rows = [row for row in latest.values() if row["sampled_at"] == moments[row["host_name"]]]
    rows.sort(key=lambda row: (row["host_name"], row["subject"] != "host", row["subject"]))
    names = (
        *("host_name", "subject", "sampled_at", "processes", "cpu_count", "memory_bytes", "memory_total_bytes"),
        *("disk_used_bytes", "disk_total_bytes", "open_files", "max_open_files"),
    )
    return [
        {
            **{name: row[name] for name in names},
            "cpu_percent": row["cpu_ms"] / row["elapsed_ms"] * 100 if row["elapsed_ms"] else None,
        }
        for row in rows
    ]
