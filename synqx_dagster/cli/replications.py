"""`synqx replications`: what follows a PostgreSQL database, how far it is, and what its slot keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from synqx_dagster.cli.failure import EXIT_FAILED
from synqx_dagster.cli.figures import format_age, format_bytes, format_seconds, plural
from synqx_dagster.cli.options import SynqxSubgroup, confirm, json_option, pass_output, revision_options
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.cli.switching import change_records

if TYPE_CHECKING:
    from rich.console import RenderableType

    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.connectors.protocol import Connector
    from synqx_dagster.model import Replication, TableName
    from synqx_dagster.replication.operations import SourceCheck
    from synqx_dagster.replication.status import ReplicationStatus

_NAME = click.argument("name", metavar="NAME")
#: How often `--watch` looks again, if it is not told.
_WATCH_SECONDS = 2.0


@click.group(cls=SynqxSubgroup)
def replications() -> None:
    """Create, start, pause, watch and drop replications."""


@replications.command("list")
@json_option
@pass_output
def list_replications(output: Output) -> None:
    """List replications with their last run and what the last look at their slot said."""
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.ticks import report_sensors

    catalog = open_catalog()
    found = list(catalog.snapshot().replications.values())
    with open_instance(catalog.settings) as instance:
        reports = report_sensors(instance, found)
    documents = [
        {
            "name": replication.name,
            "source_connection": replication.source_connection,
            "target_connection": replication.target_connection,
            "tables": [table.name for table in replication.tables],
            "mode": replication.mode,
            "enabled": replication.enabled,
            "continuous": replication.continuous,
            **report,
        }
        for replication, report in zip(found, reports, strict=True)
    ]

    def draw() -> None:
        if not documents:
            output.print("No replications: declare one with `kind: replication`.")
            return
        output.table(
            ["replication", "from", "to", "tables", "mode", "state", "last look"],
            [
                [
                    printable(item["name"]),
                    printable(item["source_connection"]),
                    printable(item["target_connection"]),
                    printable(", ".join(item["tables"])),
                    item["mode"],
                    "started" if item["enabled"] else "paused",
                    printable(item["last_tick_reason"] or item["last_tick_status"] or "none yet"),
                ]
                for item in documents
            ],
            fold=["tables", "last look"],
        )

    output.result(documents, draw)


@replications.command()
@_NAME
@json_option
@pass_output
def create(output: Output, name: str) -> None:
    """Check the source, then make publication and slot there; nothing is copied before `start`.

    Prints a table of what is followed, and what to grant or change where something is missing. Exits 1 if so, and then
    nothing was made. What is there already is left as it is, so the command may be repeated.
    """
    from synqx_dagster.replication.operations import create as create_objects

    catalog = open_catalog()
    _enter(catalog, "replication.create", name)
    with _ends(catalog, name) as (replication, source, target):
        made = create_objects(replication, source, target, _find_loads(catalog, replication))
    document = made.to_dict()

    def draw() -> None:
        _draw_source(output, made.source)
        output.print()
        if made.source.problems:
            output.print("Nothing was made.", style="bold red")
            return
        for line in made.lines:
            output.print(printable(line), style="green")
        output.print(f"`synqx replications start {printable(name)}` lets it follow.")

    output.result(document, draw)
    if made.source.problems:
        raise click.exceptions.Exit(EXIT_FAILED)


@replications.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@revision_options
@json_option
@pass_output
def start(output: Output, names: tuple[str, ...], author: str, reason: str | None) -> None:
    """Let replications follow; makes publication and slot where they are missing.

    From here on the sensor of each starts runs. The first one copies the tables.
    """
    from synqx_dagster.replication.operations import create as create_objects

    catalog = open_catalog()
    for name in dict.fromkeys(names):
        _enter(catalog, "replication.create", name)
        with _ends(catalog, name) as (replication, source, target):
            made = create_objects(replication, source, target, _find_loads(catalog, replication))
        if made.source.problems:
            _draw_source(output, made.source)
            output.note(f"{printable(name)} cannot follow: nothing was started", style="bold red")
            raise click.exceptions.Exit(EXIT_FAILED)
        for line in made.lines:
            output.note(printable(line))
    _switch(output, catalog, names, enabled=True, author=author, reason=reason)
    if not output.as_json:
        output.note("Write `enabled: true` into the YAML as well: a file without it pauses with the next apply.")


@replications.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@revision_options
@json_option
@pass_output
def pause(output: Output, names: tuple[str, ...], author: str, reason: str | None) -> None:
    """Let replications follow no more until they are started again.

    A run in flight finishes its batch and ends. The slot stays, and keeps the source's write-ahead log: `status` says
    how much. To give it up, `drop` the replication.
    """
    _switch(output, open_catalog(), names, enabled=False, author=author, reason=reason)


def _switch(
    output: Output, catalog: Catalog, names: tuple[str, ...], *, enabled: bool, author: str, reason: str | None
) -> None:
    change_records(
        output,
        catalog,
        names,
        kind="replication",
        values={"enabled": enabled},
        done="started" if enabled else "paused",
        author=author,
        reason=reason,
    )


# --- status -----------------------------------------------------------------------------------------------------------


@replications.command()
@_NAME
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600), default=_WATCH_SECONDS, show_default=True, help="Seconds between."
)
@json_option
@pass_output
def status(output: Output, name: str, *, watch: bool, interval: float) -> None:
    """Show how far a replication is, what its slot keeps, and the state of each table.

    With --watch and --json a line of JSON for each look.
    """
    catalog = open_catalog()
    with _ends(catalog, name) as (replication, source, target):
        look = _looker(catalog, replication, source, target)
        if not watch:
            found = look()
            output.result(found.to_dict(), lambda: output.print(_render(found)))
            return
        _watch(output, look, interval)


def _looker(
    catalog: Catalog, replication: Replication, source: Connector, target: Connector
) -> Callable[[], ReplicationStatus]:
    from synqx_dagster.replication.status import read_status

    def look() -> ReplicationStatus:
        current = catalog.snapshot_for(replications=[replication.name]).get_replication(replication.name)
        return read_status(current, source, target)

    return look


def _watch(output: Output, look: Callable[[], ReplicationStatus], interval: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from synqx_dagster.errors import RetryableError

    if output.as_json:
        while True:
            output.json_line(look().to_dict())
            time.sleep(interval)
    last: RenderableType = Text("looking ...", style="dim")
    with Live(last, console=output.console(), auto_refresh=False) as live:
        while True:
            try:
                last = _render(look())
                live.update(last, refresh=True)
            except RetryableError as exc:
                # A server that restarts is no reason to stop watching.
                live.update(Group(last, Text(str(exc), style="yellow")), refresh=True)
            time.sleep(interval)


def _render(found: ReplicationStatus) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    colour = {"following": "green", "lost": "bold red"}.get(found.state, "yellow")
    facts.add_row("replication", printable(found.name))
    facts.add_row("state", Text.assemble((found.state, colour), f", {'started' if found.enabled else 'paused'}"))
    if found.reason:
        facts.add_row("", Text(printable(found.reason, keep_lines=True), style=colour))
    facts.add_row("behind", _describe_lag(found))
    facts.add_row("slot", _describe_slot(found))
    if found.cost:
        facts.add_row("", Text(printable(found.cost), style="yellow"))
    if found.guard.level != "ok":
        facts.add_row("WAL guard", Text(printable(found.guard.text), style="bold red"))
    if not found.tables:
        return facts
    tables = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("table", "target", "state", "from"):
        tables.add_column(heading, overflow="fold")
    styles = {"following": "green", "stopped": "bold red"}
    for table in found.tables:
        said = table.status + (f": {table.reason}" if table.reason else "")
        tables.add_row(
            printable(str(table.source)),
            printable(str(table.target)),
            Text(printable(said), style=styles.get(table.status, "yellow")),
            table.copied_at or "-",
        )
    return Group(facts, Text(), tables)


def _describe_lag(found: ReplicationStatus) -> str:
    if found.lag_bytes is None:
        return "-"
    if not found.lag_bytes:
        return "nothing"
    since = "" if found.lag_seconds is None else f", {format_seconds(found.lag_seconds)}"
    return f"{format_bytes(found.lag_bytes)} of log{since}"


def _describe_slot(found: ReplicationStatus) -> str:
    slot = found.slot
    if slot is None:
        return f"{printable(found.slot_name)}: not there"
    parts = [
        f"{printable(found.slot_name)}: {'active' if slot.is_active else 'nobody reads it'}",
        f"keeps {format_bytes(slot.held_bytes)}",
    ]
    if slot.wal_status is not None:
        parts.append(slot.wal_status)
    if slot.safe_bytes is not None:
        parts.append(f"given up after {format_bytes(slot.safe_bytes)} more")
    if slot.inactive_since is not None:
        parts.append(f"inactive since {format_age(slot.inactive_since)}")
    return ", ".join(parts)


# --- what cannot be taken back ----------------------------------------------------------------------------------------


@replications.command()
@_NAME
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Only this source table; may be repeated.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def resync(output: Output, name: str, *, tables: tuple[str, ...], yes: bool) -> None:
    """Have tables copied anew by the next run; after a slot was lost, all of them.

    Readers see the old rows until a table's copy is complete.
    """
    from synqx_dagster.replication.operations import resync as mark_for_resync

    catalog = open_catalog()
    what = ", ".join(tables) if tables else "all its tables"
    if not yes and not output.as_json:
        confirm(output, f"Copy {printable(what)} of {printable(name)} anew?")
    _enter(catalog, "replication.resync", name, what)
    with _ends(catalog, name) as (replication, source, target):
        marked = mark_for_resync(replication, source, target, tables)
    document = {"name": name, "tables": [str(table) for table in marked]}
    output.result(
        document,
        lambda: output.print(f"{plural(len(marked), 'table')} of {printable(name)} will be copied by the next run."),
    )


@replications.command()
@_NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
@revision_options
@json_option
@pass_output
def drop(output: Output, name: str, *, yes: bool, author: str, reason: str | None) -> None:
    """Pause a replication, drop its slot and publication at the source, and forget how far it was.

    The target's tables stay as they are, and so does the record: to start it again is to copy its tables again.
    """
    from synqx_dagster.replication.operations import drop as drop_objects

    catalog = open_catalog()
    if not yes and not output.as_json:
        confirm(output, f"Drop the slot and the publication of {printable(name)}?")
    record = catalog.snapshot().get_replication(name)
    if record.enabled:
        _disable(catalog, record, author=author, reason=reason or f"drop replication {name}")
    _enter(catalog, "replication.drop", name)
    with _ends(catalog, name) as (replication, source, target):
        dropped = drop_objects(replication, source, target)

    def draw() -> None:
        for line in dropped.lines:
            output.print(printable(line))

    output.result({"name": name, **dropped.to_dict()}, draw)


def _disable(catalog: Catalog, record: Replication, *, author: str, reason: str) -> None:
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.sensors import SENSOR_NAME
    from synqx_dagster.defs.switches import press, set_enabled

    paused = record.model_copy(update={"enabled": False})
    set_enabled(catalog, catalog.snapshot(), [paused], author=author, reason=reason)
    with open_instance(catalog.settings) as instance:
        press(instance, [paused], marker=SENSOR_NAME)


# --- a run ------------------------------------------------------------------------------------------------------------


@replications.command()
@_NAME
@json_option
@pass_output
def run(output: Output, name: str) -> None:
    """Follow in this process until there is nothing to do, or until Ctrl-C.

    It is a Dagster run like any other, and may be made of a paused replication, too.
    """
    from synqx_dagster.cli.follow_display import follow_display
    from synqx_dagster.cli.run import exit_as
    from synqx_dagster.defs.replication_runs import run_replication

    catalog = open_catalog()
    with follow_display(output) as display:
        report = run_replication(catalog, name, progress=display.show, interrupted=display)
    document = report.to_dict()

    def draw() -> None:
        for line in report.lines:
            output.print(printable(line))
        for failure in document["failures"]:
            output.note(printable(failure["message"], keep_lines=True), style="red")

    output.result(document, draw)
    exit_as(report.run)


# --- shared -----------------------------------------------------------------------------------------------------------


def _enter(catalog: Catalog, action: str, name: str, detail: str | None = None) -> None:
    """Enter into the audit trail what is about to be done with a replication that is there."""
    from synqx_dagster.audit.recording import record_act

    catalog.snapshot_for(replications=[name])
    record_act(catalog, action, kind="replication", name=name, detail=detail)


@contextmanager
def _ends(catalog: Catalog, name: str) -> Iterator[tuple[Replication, Connector, Connector]]:
    from synqx_dagster.defs.replication_ends import open_ends

    snapshot = catalog.snapshot_for(replications=[name])
    with open_ends(catalog, snapshot, snapshot.get_replication(name)) as ends:
        yield ends


def _find_loads(catalog: Catalog, replication: Replication) -> Callable[[TableName], str | None]:
    from synqx_dagster.defs.replication_ends import find_loads

    return find_loads(catalog.snapshot(), replication.target_connection)


def _draw_source(output: Output, source: SourceCheck) -> None:
    if source.tables:
        output.table(
            ["table", "target", "key", "replica identity", "note"],
            [
                [
                    printable(str(table.source)),
                    printable(str(table.target)),
                    printable(", ".join(table.key)) or "-",
                    table.replica_identity,
                    printable(table.note or "ok"),
                ]
                for table in source.tables
            ],
            fold=["table", "target", "note"],
        )
    for problem in source.problems:
        output.note(f"  {printable(problem.message)}", style="red")
        # On a line of its own, so that it can be taken as it is.
        output.note(f"    {printable(problem.remedy)}")
