"""`synqx lineage`: what an asset is made of, and what is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from synqx_dagster.defs.lineage import Direction, LineageAnswer, LineageNode

_MAKERS = {"stored": "rows between steps of", "source": ""}


@click.command(cls=SynqxCommand)
@click.argument("asset")
@click.option("--up", is_flag=True, help="Only what the asset is made of.")
@click.option("--down", is_flag=True, help="Only what is made of the asset.")
@click.option("--columns", is_flag=True, help="Also which column is made of which.")
@click.option("--column", metavar="NAME", help="Follow one column of the asset; implies --columns.")
@click.option("--depth", type=click.IntRange(1, 100), default=10, show_default=True, help="How many edges away.")
@json_option
@pass_output
def lineage(output: Output, asset: str, *, up: bool, down: bool, columns: bool, column: str | None, depth: int) -> None:
    """Show what an asset is made of and what is made of it.

    ASSET is a key, such as warehouse/analytics/customer, or the name of a dataset or of a mapping. Nothing is connected
    to: columns are those that the records tell, or that the last load has found.
    """
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.lineage import LineageReader

    direction: Direction = "both" if up == down else "up" if up else "down"
    catalog = open_catalog()
    with open_instance(catalog.settings) as instance:
        answer = LineageReader().read(catalog, instance, asset, direction=direction, depth=depth, column=column)
    output.result(answer.to_dict(), lambda: _draw(output, answer, with_columns=columns or column is not None))


def _draw(output: Output, answer: LineageAnswer, *, with_columns: bool) -> None:
    # What it is made of above, the farthest first, and what is made of it below.
    nodes = sorted(answer.nodes, key=lambda node: (_height(node), node.asset))
    output.table(
        ["asset", "", "made by"],
        [[printable(node.asset), _place(node), printable(_maker(node))] for node in nodes],
        fold=["asset"],
    )
    if with_columns:
        output.print()
        if not answer.column_edges:
            output.print("Nothing is known of columns: no record declares them, and no load has told.")
        else:
            output.table(
                ["column", "is made of"],
                [
                    [
                        printable(f"{edge.downstream} {edge.downstream_column}"),
                        printable(f"{edge.upstream} {edge.upstream_column}"),
                    ]
                    for edge in sorted(answer.column_edges, key=lambda edge: (edge.downstream, edge.downstream_column))
                ],
            )
    if answer.is_cut:
        output.note("There is more, further away: --depth shows it.")


def _height(node: LineageNode) -> int:
    return node.distance if node.direction == "down" else -node.distance


def _place(node: LineageNode) -> str:
    if node.direction == "self":
        return "this one"
    return f"{node.distance} {node.direction}" if node.direction != "both" else f"{node.distance} in a circle"


def _maker(node: LineageNode) -> str:
    if node.record is None:
        return "-"
    return f"{_MAKERS.get(node.maker, node.maker)} {node.record}".strip()
