"""`synqx history`, `diff` and `rollback`: the catalog's revisions."""

from __future__ import annotations

import click

from synqx_dagster.cli.changes import change_documents, draw_changes
from synqx_dagster.cli.figures import format_count, format_time
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output, revision_options
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

_REVISION = click.IntRange(min=0)


@click.command(cls=SynqxCommand)
@click.option("--limit", "-n", type=click.IntRange(min=1, max=10_000), default=20, show_default=True, help="How many.")
@json_option
@pass_output
def history(output: Output, limit: int) -> None:
    """List the catalog's revisions, the newest first."""
    revisions = open_catalog().history(limit)
    document = [
        {
            "revision": info.number,
            "created_at": info.created_at,
            "author": info.author,
            "reason": info.reason,
            "created": info.created_records,
            "changed": info.changed_records,
            "removed": info.removed_records,
        }
        for info in revisions
    ]

    def draw() -> None:
        if not revisions:
            output.print("No revisions yet: write YAML definitions, then run `synqx apply`.")
            return
        output.table(
            ["revision", "when", "author", "created", "changed", "removed", "reason"],
            [
                [
                    str(info.number),
                    format_time(info.created_at),
                    printable(info.author),
                    format_count(info.created_records),
                    format_count(info.changed_records),
                    format_count(info.removed_records),
                    printable(info.reason or ""),
                ]
                for info in revisions
            ],
            right=["revision", "created", "changed", "removed"],
            fold=["author", "reason"],
        )

    output.result(document, draw)


@click.command(cls=SynqxCommand)
@click.argument("before", type=_REVISION, required=False)
@click.argument("after", type=_REVISION, required=False)
@json_option
@pass_output
def diff(output: Output, before: int | None, after: int | None) -> None:
    """Show what changed between two revisions.

    BEFORE is left out: the last revision is compared with the one before it. AFTER is left out: BEFORE is compared
    with the latest. Revision 0 is the empty catalog. What files would change shows `synqx apply --dry-run`.
    """
    from synqx_dagster.catalog.apply import diff_revisions

    catalog = open_catalog()
    latest = catalog.latest_revision()
    after = latest if after is None else after
    before = max(after - 1, 0) if before is None else before
    changes = diff_revisions(catalog, before, after)
    document = {"before": before, "after": after, "changes": change_documents(changes)}

    def draw() -> None:
        if latest == 0:
            output.print("No revisions yet: write YAML definitions, then run `synqx apply`.")
        elif changes:
            output.print(f"Revision {before} to {after}:", style="dim")
            draw_changes(output, changes)
        else:
            output.print(f"Revisions {before} and {after} say the same.")

    output.result(document, draw)


@click.command(cls=SynqxCommand)
@click.argument("revision", type=click.IntRange(min=0))
@click.option("--dry-run", is_flag=True, help="Show the changes; make none.")
@revision_options
@json_option
@pass_output
def rollback(output: Output, revision: int, dry_run: bool, author: str, reason: str | None) -> None:
    """Apply an old revision as a new one.

    History is never changed: the catalog says again what it said at REVISION, under a new number. Sealed secrets
    come back, too.
    """
    from synqx_dagster.catalog.apply import plan_rollback
    from synqx_dagster.catalog.apply import rollback as roll_back

    catalog = open_catalog()
    plan = plan_rollback(catalog, revision)
    latest, changes = plan.base_revision, plan.changes
    if changes and not output.as_json:
        draw_changes(output, changes)
    number = latest
    if changes and not dry_run:
        number = roll_back(catalog, revision, author=author, reason=reason)
    document = {
        "applied": number != latest,
        "revision": number,
        "base_revision": latest,
        "changes": change_documents(changes),
    }

    def draw() -> None:
        if not changes:
            output.print(f"Nothing to change: revision {latest} says the same as revision {revision}.")
        elif dry_run:
            output.print("Nothing was changed: this was a dry run.")
        else:
            output.print(f"The catalog says again what it said at revision {revision}: revision {number}.")

    output.result(document, draw)
