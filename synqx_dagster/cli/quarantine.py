"""`synqx quarantine`: the rows that loads have set aside, why, and another try for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.failure import EXIT_FAILED
from synqx_dagster.cli.figures import format_count, plural
from synqx_dagster.cli.mappings import read_mapping
from synqx_dagster.cli.options import SynqxCommand, SynqxSubgroup, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.progress import make_progress_display
from synqx_dagster.cli.run import describe_failure, draw_run, exit_as
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import SynqxError

if TYPE_CHECKING:
    from synqx_dagster.catalog.snapshot import CatalogSnapshot
    from synqx_dagster.catalog.store import Catalog


@click.group(cls=SynqxSubgroup)
def quarantine() -> None:
    """Look at rows that were set aside, and try them again."""


@quarantine.command(name="list", cls=SynqxCommand)
@click.argument("names", nargs=-1, metavar="[MAPPING...]")
@json_option
@pass_output
def list_rows(output: Output, names: tuple[str, ...]) -> None:
    """Count the rows in quarantine by mapping and reason.

    Asks the targets of these mappings, or of all that have `on_bad_row: quarantine`. One that cannot be asked is
    named, and the others are shown; then the command exits 1.
    """
    catalog = open_catalog()
    snapshot = catalog.snapshot()
    asked = [snapshot.get_mapping(name) for name in names] or [
        mapping for mapping in snapshot.mappings.values() if mapping.on_bad_row == "quarantine"
    ]
    found: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for mapping in asked:
        try:
            counts = _summarise(catalog, snapshot, mapping.name)
        except SynqxError as error:
            failed.append({"mapping": mapping.name, "message": str(error)})
            continue
        target = f"{mapping.target_connection}: {mapping.target}"
        found += [
            {"mapping": mapping.name, "target": target, "reason": reason, "rows": count} for _, reason, count in counts
        ]
    output.result({"rows": found, "failed": failed}, lambda: _draw_list(output, found, failed, len(asked)))
    if failed:
        raise click.exceptions.Exit(EXIT_FAILED)


def _summarise(catalog: Catalog, snapshot: CatalogSnapshot, name: str) -> list[tuple[str, str, int]]:
    from synqx_dagster.catalog.connecting import connected
    from synqx_dagster.transfer.quarantine import Quarantine

    mapping = snapshot.get_mapping(name)
    with connected(catalog, snapshot, [mapping.target_connection]) as (target,), target.write() as write:
        return Quarantine(target, write, mapping.target).summarise()


def _draw_list(output: Output, found: list[dict[str, Any]], failed: list[dict[str, Any]], asked: int) -> None:
    if found:
        output.table(
            ["mapping", "target", "rows", "reason"],
            [
                [
                    printable(row["mapping"]),
                    printable(row["target"]),
                    format_count(row["rows"]),
                    printable(row["reason"]),
                ]
                for row in found
            ],
            right=["rows"],
            fold=["reason"],
        )
    elif not failed:
        what = f"of {plural(asked, 'mapping')}" if asked else "(no mapping has on_bad_row: quarantine)"
        output.print(f"No row lies in quarantine {what}.")
    for failure in failed:
        output.note(describe_failure(failure["mapping"], failure["message"]), style="red")


@quarantine.command(cls=SynqxCommand)
@click.argument("mapping_name", metavar="MAPPING")
@click.option(
    "--limit", "-n", type=click.IntRange(min=1, max=100_000), default=20, show_default=True, help="How many rows."
)
@json_option
@pass_output
def show(output: Output, mapping_name: str, limit: int) -> None:
    """Show rows that were set aside: what is wrong with each, its key at the source, and its values."""
    from synqx_dagster.catalog.connecting import connected
    from synqx_dagster.transfer.quarantine import Quarantine

    catalog = open_catalog()
    snapshot, mapping, _ = read_mapping(catalog, mapping_name)
    with connected(catalog, snapshot, [mapping.target_connection]) as (target,), target.write() as write:
        rows = Quarantine(target, write, mapping.target).fetch_rows(limit=limit)
    document = [
        {**row, "source_key": _parsed(row["source_key"]), "source_row": _parsed(row["source_row"])} for row in rows
    ]
    output.result({"mapping": mapping.name, "rows": document}, lambda: _draw_rows(output, mapping.name, rows, limit))


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _draw_rows(output: Output, name: str, rows: list[dict[str, str | None]], limit: int) -> None:
    if not rows:
        output.print(f"No row of {printable(name)} lies in quarantine.")
        return
    for row in rows:
        output.print(printable(row["reason"] or ""), style="bold")
        facts = [("run", printable((row["run_id"] or "")[:8]))]
        if row["source_key"] is not None:
            facts.append(("key", printable(row["source_key"])))
        output.facts([*facts, ("row", printable(row["source_row"] or ""))], indent=2)
    if len(rows) == limit:
        output.print(f"The first {limit:,}; `--limit` shows more.", style="dim")


@quarantine.command(cls=SynqxCommand)
@click.argument("mapping_name", metavar="MAPPING")
@json_option
@pass_output
def retry(output: Output, mapping_name: str) -> None:
    """Read the rows in quarantine from the source again, and load them.

    For rows that were mended at the source, or whose mapping was. What is good now is loaded and leaves the quarantine
    in one transaction; what is still bad stays there. With nothing in quarantine there is no run, and that is fine.
    A mapping in mode `replace` tries all of its rows with each run.
    """
    from synqx_dagster.transfer.result import ReadWindow
    from synqx_dagster.transfer.retry import check_retry

    catalog = open_catalog()
    snapshot, mapping, _ = read_mapping(catalog, mapping_name)
    check_retry(mapping)
    if not _summarise(catalog, snapshot, mapping.name):
        nothing: dict[str, Any] = {
            "run_id": None,
            "status": "SUCCESS",
            "revision": snapshot.revision,
            "assets": [],
            "failures": [],
        }
        said = f"Nothing to try again: no row of {printable(mapping.name)} lies in quarantine."
        output.result(nothing, lambda: output.print(said))
        return
    with make_progress_display(output) as progress:
        from synqx_dagster.defs.execution import run_targets

        report = run_targets(
            catalog, [f"mapping:{mapping.name}"], progress=progress, window=ReadWindow(quarantined=True)
        )
    document = report.to_dict()
    output.result(document, lambda: draw_run(output, document))
    exit_as(report)
