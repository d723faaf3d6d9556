"""`synqx verify`: whether a target holds what its mapping says, value by value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from synqx_dagster.cli.failure import EXIT_FAILED
from synqx_dagster.cli.figures import format_count, format_seconds, plural
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from rich.text import Text

    from synqx_dagster.transfer.content_report import ContentReport, Difference, SideReport

_STYLES = {"missing": "red", "extra": "yellow", "different": "magenta"}

#: Longer values are cut on a terminal; ``--json`` has more of them.
_CELL_CHARACTERS = 60


@click.command(cls=SynqxCommand)
@click.argument("mapping_name", metavar="MAPPING")
@click.option(
    "--limit", type=click.IntRange(0, 10_000), default=100, show_default=True, help="How many keys to list at most."
)
@click.option("--show-values", is_flag=True, help="Show the values that differ; by default only keys and columns.")
@click.option("--no-record", is_flag=True, help="Do not keep the outcome for the web UI.")
@json_option
@pass_output
def verify(output: Output, mapping_name: str, limit: int, show_values: bool, no_record: bool) -> None:
    """Compare a target with what its mapping says, value by value.

    Changes nothing. Both databases digest their rows by range of the key, and only ranges that differ are read.
    Rows that are missing, extra or different are listed by their keys. Exits 1 when something differs.
    """
    catalog = open_catalog()
    name = mapping_name.removeprefix("mapping:")
    with _waiting(output, f"comparing {printable(name)}"):
        from synqx_dagster.defs.content import verify_mapping

        report = verify_mapping(catalog, name, limit=limit, show_values=show_values, record=not no_record)
    output.result(report.to_dict(), lambda: draw_report(output, report))
    if not report.passed:
        raise click.exceptions.Exit(EXIT_FAILED)


@contextmanager
def _waiting(output: Output, text: str) -> Iterator[None]:
    console = output.error_console()
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


def draw_report(output: Output, report: ContentReport) -> None:
    """Draw a comparison: both sides, what differs by key, and the outcome."""
    from rich.text import Text

    output.print(Text(printable(report.mapping), style="bold"))
    output.facts(
        [
            ("source", _side(report.source)),
            ("target", _side(report.target)),
            ("key", printable(", ".join(report.key)) or "none: rows are compared as a whole, and not listed"),
            ("ranges", _ranges(report)),
            ("time", format_seconds(report.seconds)),
        ],
        indent=2,
    )
    output.print()
    if report.key and report.differences:
        _draw_differences(output, report)
    output.print(
        Text(f"{'Same' if report.passed else 'Differs'}: ", style="green" if report.passed else "bold red").append(
            f"{report.description}.", style="default"
        )
    )
    if not report.complete:
        output.print("Too much differs to be read: the counts are of the ranges that were read. Load the table again.")


def _side(side: SideReport) -> str:
    where = "digested in the database" if side.computed_in == "database" else f"digested here: {side.reason}"
    return printable(f"{side.connection}: {side.relation}, {plural(side.rows, 'row')}, {where}")


def _ranges(report: ContentReport) -> str:
    if not report.ranges:
        return "one: the digests of all rows add up to the same"
    return f"{format_count(report.ranges)}, {plural(report.differing_ranges, 'differs', 'differ')}"


def _draw_differences(output: Output, report: ContentReport) -> None:
    from rich.text import Text

    shows_values = any(
        one.source is not None or one.target is not None for d in report.differences for one in d.columns
    )
    rows: list[list[str | Text]] = []
    for difference in report.differences:
        kind = Text(difference.kind, style=_STYLES[difference.kind])
        if difference.rows > 1:
            kind.append(f" ({plural(difference.rows, 'row')})", style="dim")
        key: list[str | Text] = [_cell(value) for value in difference.key]
        if not shows_values:
            rows.append([kind, *key, printable(", ".join(one.column for one in difference.columns))])
            continue
        rows.extend(_value_rows(kind, key, difference))
    headings = ["", *map(printable, report.key), *(["column", "source", "target"] if shows_values else ["columns"])]
    output.table(headings, rows, fold=headings[-2:] if shows_values else headings[-1:])
    output.print()
    listed = sum(one.rows for one in report.differences)
    total = report.missing + report.extra + report.different
    if listed < total:
        output.print(f"The first {plural(len(report.differences), 'key')}; --limit lists more.", style="dim")


def _value_rows(kind: Text, key: list[str | Text], difference: Difference) -> Iterator[list[str | Text]]:
    if not difference.columns:
        yield [kind, *key, "", "", ""]
    for number, one in enumerate(difference.columns):
        blank: list[str | Text] = [""] * (1 + len(key))
        yield [*(blank if number else [kind, *key]), printable(one.column), _cell(one.source), _cell(one.target)]


def _cell(value: str | None) -> Text:
    from rich.text import Text

    if value is None:
        return Text("NULL", style="dim italic")
    if value == "":
        return Text('""', style="dim")
    text = f"'{value}'" if value in ("NULL", '""') or value != value.strip() else value
    text = printable(text)
    return Text(text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…")
