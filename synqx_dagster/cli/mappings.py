"""`synqx preview` and `plan`: what a mapping would load, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import describe_freshness, plural
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from rich.text import Text

    from synqx_dagster.catalog.snapshot import CatalogSnapshot
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.model import Mapping, Schema
    from synqx_dagster.transfer.preview import Preview

#: Longer values are cut on a terminal; ``--json`` has them whole.
_CELL_CHARACTERS = 40

#: A statement of a plan is shown whole up to so many characters; of a longer one, the beginning of its lines.
_SQL_CHARACTERS = 600
_SQL_LINES = 6
_SQL_LINE_CHARACTERS = 100

_MAPPING_PREFIX = "mapping:"
_PIPELINE_PREFIX = "pipeline:"


def read_mapping(catalog: Catalog, name: str) -> tuple[CatalogSnapshot, Mapping, Schema | None]:
    """A mapping by name (``mapping:NAME`` too), its schema, and a snapshot of all that they refer to."""
    name = name.removeprefix(_MAPPING_PREFIX)
    snapshot = catalog.snapshot_for(mappings=[name])
    mapping = snapshot.get_mapping(name)
    schema = snapshot.get_schema(mapping.target_schema) if mapping.target_schema is not None else None
    return snapshot, mapping, schema


# --- preview ---------------------------------------------------------------------------------------------------


@click.command(cls=SynqxCommand)
@click.argument("mapping_name", metavar="MAPPING")
@click.option(
    "--rows", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many rows at most."
)
@json_option
@pass_output
def preview(output: Output, mapping_name: str, rows: int) -> None:
    """Show the first rows as a mapping would load them.

    The source is read in a read-only transaction with limits of time and bytes, which is rolled back; the target
    plays no part. Rows that break the contract are marked, with the reason below the table.
    """
    from synqx_dagster.catalog.connecting import connected
    from synqx_dagster.transfer.preview import preview_mapping

    catalog = open_catalog()
    snapshot, mapping, schema = read_mapping(catalog, mapping_name)
    with connected(catalog, snapshot, [mapping.source_connection]) as (source,):
        found = preview_mapping(mapping, schema, source, limit_rows=rows)
    document = {"mapping": mapping.name, **found.to_dict()}
    output.result(document, lambda: _draw_preview(output, mapping, found))


def _draw_preview(output: Output, mapping: Mapping, found: Preview) -> None:
    if not found.rows:
        output.print(f"The source of {printable(mapping.name)} has no rows.")
    bad_number = 0
    reasons: list[str] = []
    rows: list[list[str | Text]] = []
    for row in found.rows:
        bad_columns = {breach.column for breach in row.breaches}
        marker = ""
        if row.breaches:
            bad_number += 1
            marker = f"bad {bad_number}"
            reasons.extend(f"bad {bad_number}: {breach.column}: {breach.reason}" for breach in row.breaches)
        rows.append(
            [
                _styled(marker, "red"),
                *(
                    _cell(value, bad=column.name in bad_columns)
                    for column, value in zip(found.columns, row.values, strict=True)
                ),
            ]
        )
    numeric = [
        column.name
        for column in found.columns
        if column.data_type.kind in ("smallint", "integer", "bigint", "decimal", "real", "float")
    ]
    headings = [f"{printable(column.name)}\n{column.data_type}" for column in found.columns]
    right = [heading for heading, column in zip(headings, found.columns, strict=True) if column.name in numeric]
    if any(row.breaches for row in found.rows):
        output.wide_table(["", *headings], rows, right=right)
    else:
        output.wide_table(headings, [row[1:] for row in rows], right=right)
    output.print()
    for reason in reasons:
        output.print(printable(reason), style="red")
    kept = "quarantined" if mapping.on_bad_row == "quarantine" else "refused, and the load with them"
    bad = f"; {plural(bad_number, 'bad row')} would be {kept}" if bad_number else ""
    output.print(f'{plural(len(found.rows), "row")}{bad}. NULL is no value, "" is an empty text.', style="dim")


def _styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style=style)


def _cell(value: str | None, *, bad: bool) -> Text:
    if value is None:
        return _styled("NULL", "red dim" if bad else "dim italic")
    if value == "":
        return _styled('""', "red" if bad else "dim")
    if value in ("NULL", '""'):
        return _styled(f"'{value}'", "red" if bad else "")  # a text that reads like one of the two above
    text = printable(value)
    if len(text) > _CELL_CHARACTERS:
        text = text[: _CELL_CHARACTERS - 1] + "…"
    return _styled(text, "red" if bad else "")


# --- plan ------------------------------------------------------------------------------------------------------


@click.command(cls=SynqxCommand)
@click.argument("mapping_name", metavar="NAME")
@click.option("--sql", "whole_sql", is_flag=True, help="Show long statements whole; --json always has them so.")
@json_option
@pass_output
def plan(output: Output, mapping_name: str, *, whole_sql: bool) -> None:
    """Explain how a mapping or a pipeline would run; change nothing.

    NAME is a mapping, or a pipeline (`pipeline:NAME` where a mapping has the name, too). Asks both databases for
    their columns and shows the lane and why it was chosen, in how many ranges the source is read, the statements, how
    the rows become visible, what is guaranteed, and where the target differs.
    """
    from synqx_dagster.catalog.connecting import connected
    from synqx_dagster.transfer.prepare import plan_load

    catalog = open_catalog()
    if (pipeline := _find_pipeline(catalog, mapping_name)) is not None:
        from synqx_dagster.cli.pipeline_plan import draw_plan, find_plan

        plan_of_steps = find_plan(catalog, pipeline)
        output.result(plan_of_steps.to_dict(), lambda: draw_plan(output, plan_of_steps))
        return
    snapshot, mapping, schema = read_mapping(catalog, mapping_name)
    names = [mapping.source_connection, mapping.target_connection]
    with connected(catalog, snapshot, names) as (source, target):
        found = plan_load(mapping, schema, source, target).to_dict()
    found["freshness"] = mapping.model_dump()["freshness"]
    output.result(found, lambda: _draw_plan(output, mapping, found, whole_sql=whole_sql))


def _find_pipeline(catalog: Catalog, text: str) -> str | None:
    """The pipeline that a name means; None where it means a mapping, or nothing."""
    if text.startswith(_PIPELINE_PREFIX):
        return text.removeprefix(_PIPELINE_PREFIX)
    if text.startswith(_MAPPING_PREFIX):
        return None
    snapshot = catalog.snapshot()
    return text if text in snapshot.pipelines and text not in snapshot.mappings else None


def _draw_plan(output: Output, mapping: Mapping, found: dict[str, Any], *, whole_sql: bool) -> None:
    source = f"{mapping.source_connection}: {found['source']}"
    action = "is created" if found["target_action"] == "create" else "exists"
    output.print(_styled(printable(mapping.name), "bold"))
    output.facts(
        [
            ("from", printable(source)),
            ("to", printable(f"{mapping.target_connection}: {found['target']} ({action})")),
            ("mode", f"{found['mode']}; bad rows: {mapping.on_bad_row}"),
            ("lane", f"{found['lane']}: {printable(found['lane_reason'])}"),
            *([("reads", printable(found["window"]))] if found["window"] is not None else []),
            ("ranges", printable(found["ranges"]["description"])),
            ("strategy", printable(found["strategy"])),
            *([("partitions", printable(found["partitions"]))] if found["partitions"] is not None else []),
            ("guarantee", found["guarantee"]),
            *([("freshness", describe_freshness(found["freshness"]))] if found["freshness"] is not None else []),
            ("key", printable(", ".join(found["primary_key"])) or "none"),
        ],
        indent=2,
    )
    output.print()
    output.table(
        ["column", "type", "nullable"],
        [
            [printable(column["name"]), printable(column["type"]), "yes" if column["nullable"] else "no"]
            for column in found["columns"]
        ],
    )
    for title, sql in (
        ("reads", found["read_sql"]),
        ("transforms (DuckDB)", found["transform_sql"]),
        ("reads bad rows", found["bad_rows_sql"]),
    ):
        _draw_sql(output, title, sql, whole=whole_sql)
    output.print()
    if found["schema_changes"]:
        output.print(_styled("changes of the target's columns", "bold"))
        for change in found["schema_changes"]:
            output.print(f"  {printable(change)}")
        output.print()
    if found["differences"]:
        output.print(_styled("differences of the target", "bold"))
        for difference in found["differences"]:
            output.print(f"  {printable(difference)}")
    elif not found["schema_changes"]:
        output.print("The target does not differ." if found["target_action"] == "use" else "", style="dim")


def _draw_sql(output: Output, title: str, sql: str | None, *, whole: bool) -> None:
    if not sql:
        return
    output.print()
    output.print(_styled(title, "bold"))
    lines = sql.splitlines()
    is_short = whole or len(sql) <= _SQL_CHARACTERS
    for line in lines if is_short else lines[:_SQL_LINES]:
        output.print_indented(printable(line if is_short else _beginning(line)))
    if not is_short:
        left = f", {plural(len(lines), 'line')}" if len(lines) > _SQL_LINES else ""
        output.print(f"  shortened from {plural(len(sql), 'character')}{left}: --sql shows all of it", style="dim")


def _beginning(line: str) -> str:
    return line if len(line) <= _SQL_LINE_CHARACTERS else f"{line[:_SQL_LINE_CHARACTERS]} …"
