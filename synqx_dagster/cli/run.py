"""`synqx run`: loads through Dagster, in this process, with progress and a table at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED
from synqx_dagster.cli.figures import format_bytes, format_count, format_rate, format_seconds
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.progress import make_progress_display
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from synqx_dagster.defs.runs import RunReport

#: What the table's columns beside the asset take; with less room it is drawn with two lines for each asset.
_FIGURES_WIDTH = 92

#: The check that fails where rows were quarantined; one that had to stop the load would have done so.
_CONTRACT = "contract"

#: What the columns of what was done to the target's rows take beside them.
_CHANGES_WIDTH = 30


@click.command(cls=SynqxCommand)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--full", is_flag=True, help="Read everything, and take the watermarks of cursors anew.")
@click.option("--from", "start", metavar="VALUE", help="Read from this value of the cursor column on.")
@click.option("--to", "end", metavar="VALUE", help="Read up to this value of the cursor column, which is left out.")
@json_option
@pass_output
def run(output: Output, names: tuple[str, ...], *, full: bool, start: str | None, end: str | None) -> None:
    """Run mappings, pipelines or schedules through Dagster, here and now.

    All NAMEs become one Dagster run, which the web UI and `synqx runs` show. Where a mapping, a pipeline and a
    schedule share a name, write `mapping:NAME`, `pipeline:NAME` or `schedule:NAME`. Exits 1 when the run fails.

    A mapping with a cursor reads what is new since its last load; --full, --from and --to read something else.
    """
    catalog = open_catalog()
    with make_progress_display(output) as progress:
        from synqx_dagster.defs.execution import run_targets
        from synqx_dagster.defs.windows import checked_window

        window = checked_window(full=full, start=start, end=end)
        report = run_targets(catalog, list(names), progress=progress, on_planned=progress.expect, window=window)
    document = report.to_dict()
    output.result(document, lambda: draw_run(output, document))
    exit_as(report)


def exit_as(report: RunReport) -> None:
    """Leave with the exit code of a run; returns after one that succeeded."""
    if report.was_interrupted:
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if not report.succeeded:
        raise click.exceptions.Exit(EXIT_FAILED)


def draw_run(output: Output, document: dict[str, Any]) -> None:
    """Draw a run's assets as a table, and below it what went wrong."""
    from rich.text import Text

    assets = document["assets"]
    longest = max((len(asset["asset_key"]) for asset in assets), default=0)
    changing = any(map(_changes_rows, assets))
    if assets and output.console().width >= _FIGURES_WIDTH + longest + changing * _CHANGES_WIDTH:
        _draw_wide(output, assets, changing=changing)
    elif assets:
        _draw_narrow(output, assets, changing=changing)
    if assets:
        output.print()
    for failure in document["failures"]:
        output.note(describe_failure(failure["name"], failure["message"]), style="red")
    ok = document["status"] == "SUCCESS"
    interruption = document.get("interruption")
    said = "Done" if ok else "Failed" if interruption is None else "Interrupted"
    line = Text(said, style="green" if ok else "bold red")
    line.append(f": run {document['run_id']}, revision {document['revision']}.", style="default")
    output.print(line)
    if interruption is not None:
        for words, names in (
            ("committed and whole", interruption["committed"]),
            ("not committed, as before", interruption["not_committed"]),
        ):
            output.print(f"  {words}: {printable(', '.join(names)) or 'none'}")
    if not ok:
        output.print(f"`synqx logs {document['run_id'][:8]}` shows what happened.")


def describe_failure(name: str, message: str) -> str:
    """A failure with its name once, and what follows its first line (differences, what to do) indented."""
    named = message if message.startswith(f"mapping {name!r}") else f"{name}: {message}"
    return printable(named, keep_lines=True).replace("\n", "\n  ")


def _draw_wide(output: Output, assets: list[dict[str, Any]], *, changing: bool) -> None:
    changes = ["inserted", "updated", "deleted"] if changing else []
    headings = ["asset", "lane", "rows in", "rows out", *changes, "quarantined", "bytes", "time", "rows/s", "checks"]
    rows = [
        [
            printable(asset["asset_key"]),
            asset["lane"],
            format_count(asset["rows_in"]),
            format_count(asset["rows_out"]),
            *(_changes_cells(asset) if changing else []),
            _count_cell(asset["rows_quarantined"]),
            format_bytes(asset["bytes"]),
            format_seconds(asset["seconds"]),
            format_rate(asset["rows_out"], asset["seconds"]),
            _checks_cell(asset),
        ]
        for asset in assets
    ]
    output.table(headings, rows, right=headings[2:-1], fold=["asset"])


def _draw_narrow(output: Output, assets: list[dict[str, Any]], *, changing: bool) -> None:
    """The same with a few lines for each asset, which is shown by its mapping's name."""
    changes = ["inserted\nupdated\ndeleted"] if changing else []
    headings = ["mapping\nlane", "rows in\nrows out", *changes, "quaran-\ntined", "bytes\nrows/s", "time", "checks"]
    rows = [
        [
            f"{printable(asset['name'])}\n{asset['lane']}",
            f"{format_count(asset['rows_in'])}\n{format_count(asset['rows_out'])}",
            *(["\n".join(_changes_cells(asset)).rstrip()] if changing else []),
            _count_cell(asset["rows_quarantined"]),
            f"{format_bytes(asset['bytes'])}\n{format_rate(asset['rows_out'], asset['seconds'])}",
            format_seconds(asset["seconds"]),
            _checks_cell(asset),
        ]
        for asset in assets
    ]
    output.table(headings, rows, right=headings[1:-1], fold=[headings[0], headings[-1]])


def _changes_rows(asset: dict[str, Any]) -> bool:
    """Whether the rows out do not say what became of the target's rows."""
    from synqx_dagster.model.mapping import KEYED_MODES

    return asset["mode"] in KEYED_MODES


def _changes_cells(asset: dict[str, Any]) -> list[str]:
    """Rows inserted, updated and deleted; nothing where the rows out say it all."""
    if not _changes_rows(asset):
        return ["", "", ""]
    return [format_count(asset[name]) for name in ("rows_inserted", "rows_updated", "rows_deleted")]


def _count_cell(count: int | None) -> Any:
    from rich.text import Text

    return Text(format_count(count), style="yellow" if count else "")


def _checks_cell(asset: dict[str, Any]) -> Any:
    """What the checks found; rows that were set aside as the mapping asks are a count, not a failure."""
    from rich.text import Text

    checks: dict[str, bool] = asset["checks"]
    quarantined = asset["rows_quarantined"] if checks.get(_CONTRACT) is False else None
    passed = sum(checks.values())
    failed = [name for name, is_passed in checks.items() if not is_passed and not (quarantined and name == _CONTRACT)]
    parts = [Text(f"{passed} ok", style="green")] if passed else []
    if quarantined:
        parts.append(Text(f"{_CONTRACT}: {format_count(quarantined)} quarantined", style="yellow"))
    if failed:
        parts.append(Text(f"failed: {', '.join(failed)}", style="bold red"))
    return Text(", ").join(parts) if parts else Text("-")
