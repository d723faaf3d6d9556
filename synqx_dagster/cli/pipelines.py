"""`synqx pipelines`: the pipelines of the catalog, their versions, and what an older one said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.changes import change_documents, draw_changes
from synqx_dagster.cli.figures import format_time
from synqx_dagster.cli.options import SynqxSubgroup, json_option, pass_output, revision_options
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import CatalogVersionError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from synqx_dagster.catalog.revisions import RecordVersion
    from synqx_dagster.catalog.store import Catalog

_NUMBER = click.IntRange(min=1)


@click.group(cls=SynqxSubgroup)
def pipelines() -> None:
    """List pipelines; look at their versions, and go back to one."""


@pipelines.command("list")
@json_option
@pass_output
def list_pipelines(output: Output) -> None:
    """List pipelines with their nodes and version."""
    catalog = open_catalog()
    snapshot = catalog.snapshot()
    found = [
        {
            "name": pipeline.name,
            "version": catalog.find_version("pipeline", pipeline.name, snapshot.revision),
            "nodes": len(pipeline.nodes),
            "extracts": sum(1 for node in pipeline.nodes if node.operator_type == "extract"),
            "loads": sum(1 for node in pipeline.nodes if node.operator_type == "load"),
            "description": pipeline.description,
        }
        for pipeline in snapshot.pipelines.values()
    ]

    def draw() -> None:
        if not found:
            output.print("No pipelines: declare one with `kind: pipeline`.")
            return
        output.table(
            ["pipeline", "version", "nodes", "extracts", "loads", "description"],
            [
                [
                    printable(str(item["name"])),
                    *(str(item[name]) for name in ("version", "nodes", "extracts", "loads")),
                    printable(str(item["description"] or "")),
                ]
                for item in found
            ],
            right=["version", "nodes", "extracts", "loads"],
            fold=["description"],
        )

    output.result(found, draw)


@pipelines.command()
@click.argument("name")
@json_option
@pass_output
def versions(output: Output, name: str) -> None:
    """List the versions of a pipeline, the newest first.

    Every change makes a new one; a run says in its steps' metadata which it ran.
    """
    catalog = open_catalog()
    found = _versions(catalog, name)
    infos = catalog.revisions_of(version.valid_from for version in found)
    document: list[dict[str, Any]] = []
    for version in reversed(found):
        info = infos.get(version.valid_from)
        document.append(
            {
                "version": version.number,
                "revision": version.valid_from,
                "is_current": version.valid_to is None,
                "is_readable": _is_readable(version),
                "created_at": None if info is None else info.created_at,
                "author": None if info is None else info.author,
                "reason": None if info is None else info.reason,
            }
        )

    def draw() -> None:
        output.table(
            ["version", "revision", "when", "author", "reason"],
            [
                [
                    f"{item['version']}{_describe_state(item)}",
                    str(item["revision"]),
                    format_time(item["created_at"]) if item["created_at"] else "-",
                    printable(str(item["author"] or "")),
                    printable(str(item["reason"] or "")),
                ]
                for item in document
            ],
            right=["revision"],
            fold=["author", "reason"],
        )

    output.result(document, draw)


@pipelines.command()
@click.argument("name")
@click.argument("before", type=_NUMBER, required=False)
@click.argument("after", type=_NUMBER, required=False)
@json_option
@pass_output
def diff(output: Output, name: str, before: int | None, after: int | None) -> None:
    """Show what changed between two versions of a pipeline.

    BEFORE is left out: the last version is compared with the one before it. AFTER is left out: BEFORE is compared with
    the last one.
    """
    from synqx_dagster.catalog.changes import compare_records

    found = _versions(open_catalog(), name)
    after = found[-1].number if after is None else after
    before = max(after - 1, 1) if before is None else before
    old, new = _get(found, name, before), _get(found, name, after)
    change = compare_records(old.decode(), new.decode(), frozenset())
    changes = [] if change is None else [change]
    document = {"name": name, "before": before, "after": after, "changes": change_documents(changes)}

    def draw() -> None:
        if changes:
            output.print(f"Version {before} to {after}:", style="dim")
            draw_changes(output, changes)
        else:
            output.print(f"Versions {before} and {after} say the same.")

    output.result(document, draw)


@pipelines.command()
@click.argument("name")
@click.argument("version", type=_NUMBER)
@click.option("--dry-run", is_flag=True, help="Show the changes; make none.")
@revision_options
@json_option
@pass_output
def restore(output: Output, name: str, version: int, dry_run: bool, author: str, reason: str | None) -> None:
    """Let a pipeline say again what it said in an older version, as a new one.

    What the old version refers to must still be there, and is checked as `synqx apply` checks.
    """
    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import Definitions

    catalog = open_catalog()
    old = _get(_versions(catalog, name), name, version)
    plan = plan_changes(catalog, Definitions((old.decode(),)))
    if plan.changes and not output.as_json:
        draw_changes(output, plan.changes)
    number = plan.base_revision
    if plan.changes and not dry_run:
        number = apply_changes(
            catalog, plan, author=author, reason=reason or f"pipeline {name}: back to version {version}"
        )
    document: dict[str, Any] = {
        "applied": number != plan.base_revision,
        "revision": number,
        "version": catalog.find_version("pipeline", name, number),
        "changes": change_documents(plan.changes),
    }

    def draw() -> None:
        if not plan.changes:
            output.print(f"Nothing to change: {printable(name)} says the same as in version {version}.")
        elif dry_run:
            output.print("Nothing was changed: this was a dry run.")
        else:
            output.print(
                f"{printable(name)} says again what it said in version {version}:"
                f" version {document['version']}, revision {number}."
            )

    output.result(document, draw)


def _is_readable(version: RecordVersion) -> bool:
    try:
        version.decode()
    except (IntegrityError, CatalogVersionError):
        return False
    return True


def _describe_state(item: dict[str, Any]) -> str:
    if not item["is_readable"]:
        return " (cannot be read)"
    return " (current)" if item["is_current"] else ""


def _versions(catalog: Catalog, name: str) -> list[RecordVersion]:
    """The versions of a pipeline, also of one that was removed.

    Raises:
        NotFoundError: There never was one of this name.
    """
    found = catalog.versions("pipeline", name)
    if not found:
        catalog.snapshot().get_pipeline(name)
    return found


def _get(found: list[RecordVersion], name: str, number: int) -> RecordVersion:
    for version in found:
        if version.number == number:
            return version
    raise NotFoundError(f"pipeline {name!r} has no version {number}", hint=f"it has 1 to {found[-1].number}")
