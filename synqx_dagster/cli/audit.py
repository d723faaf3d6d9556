"""`synqx audit`: the trail of what was done, by whom and from where, and whether it is what was written."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from synqx_dagster.cli.figures import format_time, plural
from synqx_dagster.cli.options import PATH, SynqxSubgroup, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from synqx_dagster.audit.chain import AuditEntry
    from synqx_dagster.audit.trail import AuditFilter

F = TypeVar("F", bound=Callable[..., Any])


class Moment(click.ParamType[datetime.datetime]):
    """A date or a moment in ISO 8601; without a zone, in that of this machine."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        """Read the text of an option."""
        if isinstance(value, datetime.datetime):
            return value
        try:
            moment = datetime.datetime.fromisoformat(str(value).strip())
            return moment.astimezone(datetime.UTC)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is no time; write 2026-11-30, or 2026-11-30T14:05:00+01:00", param, ctx)


def _filter_options(command: F) -> F:
    for option in reversed(
        (
            click.option("--action", metavar="NAME", help="Only these acts: user.login, or user.* for all of users."),
            click.option("--actor", metavar="NAME", help="Only acts of this user."),
            click.option("--outcome", type=click.Choice(("allowed", "denied", "failed")), help="Only these."),
            click.option("--since", type=Moment(), help="Only from this time on."),
            click.option("--until", type=Moment(), help="Only before this time."),
        )
    ):
        command = option(command)
    return command


def _wanted(**options: Any) -> AuditFilter:
    from synqx_dagster.audit.trail import AuditFilter

    return AuditFilter(**options)


@click.group(cls=SynqxSubgroup)
def audit() -> None:
    """Look at the audit trail, verify it and write it out."""


@audit.command()
@click.option(
    "--expect",
    multiple=True,
    metavar="NUMBER:HASH",
    help="An end of the trail that an earlier `verify` printed; may be repeated.",
)
@json_option
@pass_output
def verify(output: Output, expect: tuple[str, ...]) -> None:
    """Read the whole trail, and find the first entry that is not what was written.

    Prints the trail's end. Keep that in another place: with --expect, a trail that was cut off or written again as a
    whole is noticed, too. Exits 1 where something is wrong.
    """
    from synqx_dagster.audit.verify import parse_end, verify_trail

    verdict = verify_trail(open_catalog(), [parse_end(text) for text in expect])
    broken = verdict.broken
    end = f"{verdict.entries}:{verdict.end_hash}"

    def draw() -> None:
        if broken is None:
            output.print(f"The trail is what was written: {plural(verdict.entries, 'entry', 'entries')}.")
            output.print(f"Its end, to be kept elsewhere: {end}")
        else:
            output.print(f"Entry {broken.number} is wrong: {broken.reason}.", style="bold red")
            output.print(f"What comes before it is what was written: {plural(verdict.entries, 'entry', 'entries')}.")

    output.result(
        {
            "intact": broken is None,
            "entries": verdict.entries,
            "end": end,
            "broken_at": broken and broken.number,
            "reason": broken and broken.reason,
        },
        draw,
    )
    if broken is not None:
        raise click.exceptions.Exit(1)


@audit.command()
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@_filter_options
@json_option
@pass_output
def tail(output: Output, /, limit: int, **options: Any) -> None:
    """Show the latest entries, the newest last."""
    from synqx_dagster.audit.trail import AuditTrail

    newest, _ = AuditTrail(open_catalog()).page(_wanted(**options), limit=limit)
    found = newest[::-1]

    def draw() -> None:
        if not found:
            output.print("Nothing is in the trail.")
            return
        output.table(
            ["no.", "time", "who", "how", "from", "what", "to", "outcome", "detail"],
            [_cells(entry) for entry in found],
            right=["no."],
            fold=["to", "detail"],
        )

    output.result([entry.to_dict() for entry in found], draw)


def _cells(entry: AuditEntry) -> list[str]:
    event = entry.event
    target = " ".join(part for part in (event.target_kind, event.target) if part)
    words = [f"revision {event.revision}" if event.revision is not None else "", ", ".join(event.fields)]
    return [
        str(entry.number),
        format_time(entry.recorded_at),
        printable(event.actor),
        event.method,
        printable(event.address) or "-",
        event.action,
        printable(target) or "-",
        event.outcome,
        printable("; ".join(part for part in (*words, event.detail or "") if part)) or "-",
    ]


@audit.command()
@click.option("--output", "file", type=PATH, help="Write to this file, which must not be there; left out: stdout.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries with a number above this one.")
@_filter_options
@json_option
@pass_output
def export(output: Output, /, file: Path | None, after: int, **options: Any) -> None:
    """Write entries as lines of JSON, the oldest first, with their hashes.

    With the whole trail in hand, anybody can verify it without SynqX: docs/audit.md says how.
    """
    import json

    from synqx_dagster.audit.trail import AuditTrail

    entries = AuditTrail(open_catalog()).iter_entries(_wanted(**options), after=after)
    if file is None:
        for entry in entries:
            output.json_line(entry.to_dict())
        return
    count = 0
    try:
        # Nobody else's to read, and never in place of an older one.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            for entry in entries:
                stream.write(json.dumps(entry.to_dict(), ensure_ascii=False) + "\n")
                count += 1
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be written: {exc.strerror}") from exc
    output.result(
        {"file": str(file), "entries": count},
        lambda: output.print(f"{plural(count, 'entry', 'entries')} in {file}."),
    )
