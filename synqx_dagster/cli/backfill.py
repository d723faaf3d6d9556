"""`synqx backfill`: partitions that are loaded again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.figures import plural
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.progress import make_progress_display
from synqx_dagster.cli.run import draw_run, exit_as
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from synqx_dagster.defs.runs import RunReport
    from synqx_dagster.transfer.result import PartitionSlice


@click.command(cls=SynqxCommand)
@click.argument("name", metavar="NAME")
@click.option("--from", "first", metavar="KEY", help="The first partition.")
@click.option("--to", "last", metavar="KEY", help="The last partition, included.  [default: the latest one]")
@click.option("--all", "everything", is_flag=True, help="All partitions that there are by now.")
@json_option
@pass_output
def backfill(output: Output, name: str, *, first: str | None, last: str | None, everything: bool) -> None:
    """Load partitions of a mapping, pipeline or schedule again, here and now.

    Their rows in the target are replaced by the source's, in one transaction for each run; no other row is touched.
    All partitions become one Dagster run, unless `partitions_per_run` says otherwise. Exits 1 when a run fails; the
    runs before it have committed.

    \b
    synqx backfill orders --from 2024-01-01 --to 2024-01-31
    synqx backfill sales --from de --to de
    """
    catalog = open_catalog()
    from synqx_dagster.defs.backfills import BackfillRequest, plan_backfill, run_backfill

    slices = plan_backfill(catalog, name, BackfillRequest(first, last, everything))
    count = sum(part.count for part in slices)
    span = f"{printable(slices[0].first)} to {printable(slices[-1].last)}"
    output.note(f"{printable(name)}: {plural(count, 'partition')}, {span}, in {plural(len(slices), 'run')}")
    with make_progress_display(output) as progress:
        reports = run_backfill(catalog, name, slices, progress=progress, on_planned=progress.expect)
    documents = [report.to_dict() for report in reports]
    document = {
        "name": name,
        "runs": [
            {"first": part.first, "last": part.last, "partitions": part.count, **made}
            for part, made in zip(slices, documents, strict=False)
        ],
    }
    output.result(document, lambda: _draw(output, document["runs"]))
    if left := not_loaded(slices, reports):
        command = f"synqx backfill {name} --from {left[0].first} --to {left[-1].last}"
        output.note(f"go on with: {printable(command)}", style="yellow")
    exit_as(reports[-1])


def not_loaded(slices: Sequence[PartitionSlice], reports: Sequence[RunReport]) -> Sequence[PartitionSlice]:
    """What a backfill that ended early has left; an interrupted run whose loads had all committed is whole."""
    last = reports[-1]
    is_whole = last.succeeded or (last.interruption is not None and not last.interruption.not_committed)
    return slices[len(reports) if is_whole else len(reports) - 1 :]


def _draw(output: Output, runs: Any) -> None:
    for run in runs:
        if len(runs) > 1:
            output.print(f"{printable(run['first'])} to {printable(run['last'])}", style="bold")
        draw_run(output, run)
