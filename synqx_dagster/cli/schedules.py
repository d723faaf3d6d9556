"""`synqx schedules`: what runs by the clock, when it ran and will run, and whether it does at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import format_time
from synqx_dagster.cli.options import Duration, SynqxSubgroup, json_option, pass_output, revision_options
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.cli.switching import add_switch, change_records

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.model import Schedule


@click.group(cls=SynqxSubgroup)
def schedules() -> None:
    """List schedules; enable, disable and pause them."""


@schedules.command("list")
@json_option
@pass_output
def list_schedules(output: Output) -> None:
    """List schedules with their last and next run."""
    catalog = open_catalog()
    found = list(catalog.snapshot().schedules.values())
    reports, is_served = _report(catalog, found)

    def draw() -> None:
        if not found:
            output.print("No schedules: declare one with `kind: schedule`.")
            return
        output.table(
            ["schedule", "runs", "cron", "time zone", "state", "last run", "status", "next run"],
            [
                [
                    printable(item["name"]),
                    printable(", ".join(item["runs"])),
                    item["cron_expression"],
                    item["timezone"],
                    item["state"],
                    _format(item["last_run_at"]),
                    item["last_run_status"] or "-",
                    _format(item["next_run_at"]),
                ]
                for item in reports
            ],
            fold=["runs"],
        )
        if not is_served:
            output.note("No daemon runs here, so nothing is started: `synqx dev`, or `dagster-daemon run`.")

    output.result(reports, draw)


@schedules.command()
@click.argument("name")
@json_option
@pass_output
def show(output: Output, name: str) -> None:
    """Show one schedule, with its last tick and why it was skipped, if it was."""
    catalog = open_catalog()
    reports, is_served = _report(catalog, [catalog.snapshot().get_schedule(name)])
    report = {**reports[0], "daemon_running": is_served}

    def draw() -> None:
        tick = report["last_tick_status"] or "none yet"
        if report["last_tick_at"] is not None:
            tick = f"{tick}, due {_format(report['last_tick_at'])}"
        if report["last_tick_reason"]:
            tick = f"{tick}: {report['last_tick_reason']}"
        output.facts(
            [
                ("schedule", printable(report["name"])),
                ("runs", printable(", ".join(report["runs"]))),
                ("cron", f"{report['cron_expression']} ({report['timezone']})"),
                ("state", report["state"]),
                ("catch up", _describe_catch_up(report)),
                ("last run", f"{_format(report['last_run_at'])} {report['last_run_status'] or ''}".strip()),
                ("last tick", printable(tick)),
                ("next run", _format(report["next_run_at"])),
                ("daemon", "runs" if is_served else "none runs here, so nothing is started"),
            ]
        )

    output.result(report, draw)


add_switch(
    schedules,
    "enable",
    kind="schedule",
    values={"enabled": True, "paused_until": None},
    help_text="Let schedules run; ends a pause, too.",
)
add_switch(
    schedules,
    "disable",
    kind="schedule",
    values={"enabled": False},
    help_text="Let schedules not run until they are enabled. Runs in flight go on.",
)


@schedules.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--until", metavar="TIME", help="ISO 8601, such as 2030-01-31T08:00; this machine's time zone.")
@click.option("--for", "duration", type=Duration(), help="Minutes, hours, days or weeks: 90m, 2h, 3d, 1w.")
@revision_options
@json_option
@pass_output
def pause(
    output: Output,
    names: tuple[str, ...],
    until: str | None,
    duration: timedelta | None,
    author: str,
    reason: str | None,
) -> None:
    """Skip the ticks of schedules for a while; then they go on by themselves."""
    moment = _end_of_pause(until, duration)
    change_records(
        output,
        open_catalog(),
        names,
        kind="schedule",
        values={"paused_until": moment.isoformat(timespec="seconds")},
        done=f"paused until {format_time(moment)}",
        author=author,
        reason=reason,
    )


def _end_of_pause(until: str | None, duration: timedelta | None) -> datetime:
    """When a pause ends, in UTC.

    Raises:
        UsageError: Not exactly one of the two is given, or the time is none, or in the past.
    """
    if (until is None) == (duration is None):
        raise click.UsageError("give --until or --for; to stop without an end, disable the schedule")
    now = datetime.now(UTC)
    if duration is not None:
        return now + duration
    assert until is not None
    try:
        moment = datetime.fromisoformat(until).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.UsageError("--until takes a time in ISO 8601, such as 2030-01-31T08:00") from None
    if moment <= now:
        raise click.UsageError("--until is in the past")
    return moment


def _report(catalog: Catalog, found: list[Schedule]) -> tuple[list[dict[str, Any]], bool]:
    """Schedules as plain values, and whether a daemon runs them."""
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.ticks import is_daemon_running, report_schedules

    now = datetime.now(UTC)
    with open_instance(catalog.settings) as instance:
        reports = report_schedules(instance, found, now)
        is_served = is_daemon_running(instance)
    values = [
        {
            "name": schedule.name,
            "runs": [*schedule.pipeline_names, *schedule.mapping_names],
            "cron_expression": schedule.cron_expression,
            "timezone": schedule.timezone,
            "enabled": schedule.enabled,
            "paused_until": schedule.paused_until,
            "state": _state_of(schedule, now),
            "catch_up": schedule.catch_up,
            "catch_up_limit": schedule.catch_up_limit,
            "last_run_at": report.last_run_at,
            "last_run_id": report.last_run_id,
            "last_run_status": report.last_run_status,
            "next_run_at": report.next_run_at,
            "last_tick_at": report.last_tick_at,
            "last_tick_status": report.last_tick_status,
            "last_tick_reason": report.last_tick_reason,
        }
        for schedule, report in zip(found, reports, strict=True)
    ]
    return values, is_served


def _state_of(schedule: Schedule, now: datetime) -> str:
    if not schedule.enabled:
        return "disabled"
    return "paused" if schedule.is_paused(now) else "enabled"


def _describe_catch_up(report: dict[str, Any]) -> str:
    if report["catch_up"] == "all":
        return f"all, {report['catch_up_limit']} at most"
    return str(report["catch_up"])


def _format(moment: datetime | None) -> str:
    return format_time(moment) if moment is not None else "-"
