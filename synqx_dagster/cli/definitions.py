"""`synqx check`, `apply` and `export`: between YAML definitions and the catalog."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.changes import ACTIONS, change_documents, draw_changes
from synqx_dagster.cli.figures import plural
from synqx_dagster.cli.options import (
    DIRECTORY,
    PATH,
    SynqxCommand,
    confirm,
    json_option,
    pass_output,
    revision_options,
)
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.session import load_process_settings, open_catalog
from synqx_dagster.errors import ConfigurationError, InvalidInputError, NotInitialisedError

if TYPE_CHECKING:
    from synqx_dagster.catalog.changes import ChangePlan
    from synqx_dagster.catalog.documents import Definitions
    from synqx_dagster.catalog.snapshot import CatalogSnapshot

#: Where definitions are looked for when no path is given.
DEFAULT_DIRECTORY = Path("definitions")

_KIND = re.compile(rb"^kind\s*:", re.MULTILINE)
_SNIFFED_BYTES = 1 << 20


def find_definition_paths(given: Sequence[Path], directory: Path | None = None) -> list[Path]:
    """The files and directories to read definitions from.

    Without arguments: the directory ``definitions``, else the YAML files of the working directory that hold a
    ``kind:``. Other YAML files that projects keep there (``dagster.yaml``, ``workspace.yaml``) are passed over.

    Raises:
        ConfigurationError: No path is given, and there is nothing to read here.
    """
    if given:
        return list(given)
    directory = directory or Path()
    if (directory / DEFAULT_DIRECTORY).is_dir():
        return [directory / DEFAULT_DIRECTORY]
    files = sorted({*directory.glob("*.yaml"), *directory.glob("*.yml")})
    found = [path for path in files if path.is_file() and _holds_kind(path)]
    if not found:
        raise ConfigurationError(
            f"there are no definitions here: no directory {str(DEFAULT_DIRECTORY)!r}, and no *.yaml with `kind:`",
            hint=f"give the files or directories to read: {_command_path()} PATH...",
        )
    return found


def _command_path() -> str:
    context = click.get_current_context(silent=True)
    return context.command_path if context is not None else "synqx apply"


def _holds_kind(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _KIND.search(file.read(_SNIFFED_BYTES)) is not None
    except OSError:
        return True  # the reader says what is wrong with it


# --- check -----------------------------------------------------------------------------------------------------


@click.command(cls=SynqxCommand)
@click.argument("paths", nargs=-1, type=PATH)
@json_option
@pass_output
def check(output: Output, paths: tuple[Path, ...]) -> None:
    """Find every mistake in YAML definitions; change nothing.

    PATHS are files or directories; left out: the directory `definitions`, else the YAML files here that hold a
    `kind:`. What the catalog already has counts as known, if there is a catalog. Exits 2 when there are problems.
    """
    from synqx_dagster.catalog.check import check_definitions
    from synqx_dagster.catalog.documents import scan_documents

    definitions = scan_documents(find_definition_paths(paths))
    if problems := check_definitions(definitions, known=_find_snapshot()):
        raise InvalidInputError(problems)
    counts = _count_kinds(definitions)
    document = {"problems": [], "records": counts}

    def draw() -> None:
        output.print(f"No problems: {_describe_counts(counts)}.")

    output.result(document, draw)


def _find_snapshot() -> CatalogSnapshot | None:
    """The catalog's latest snapshot; None before `synqx init`, so that definitions can be checked anywhere."""
    from synqx_dagster.catalog.store import Catalog

    try:
        return Catalog.open(load_process_settings()).snapshot()
    except NotInitialisedError:
        return None


def _count_kinds(definitions: Definitions) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in definitions.records:
        counts[record.kind] = counts.get(record.kind, 0) + 1
    return counts


def _describe_counts(counts: dict[str, int]) -> str:
    return ", ".join(plural(count, kind) for kind, count in counts.items()) or "no records"


# --- apply -----------------------------------------------------------------------------------------------------


@click.command(cls=SynqxCommand)
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--dry-run", is_flag=True, help="Show the changes; make none.")
@click.option("--prune", is_flag=True, help="Also remove what the definitions do not mention.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before removing records.")
@revision_options
@json_option
@pass_output
def apply(
    output: Output,
    paths: tuple[Path, ...],
    dry_run: bool,
    prune: bool,
    yes: bool,
    author: str,
    reason: str | None,
) -> None:
    """Make the catalog say what the YAML definitions say.

    PATHS are files or directories; left out: the directory `definitions`, else the YAML files here that hold a
    `kind:`. All of it becomes one new revision, or nothing does. Records that no file mentions stay, unless --prune;
    on a terminal, --prune asks before it removes. Definitions without any record are pruned with --yes only.
    """
    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import scan_documents

    catalog = open_catalog()
    definitions = scan_documents(find_definition_paths(paths))
    plan = plan_changes(catalog, definitions, prune=prune)
    if prune and not (definitions.records or plan.is_empty or dry_run or yes):
        # More often a wrong path or a file that was cut off than somebody's wish.
        raise ConfigurationError(
            f"the definitions hold no record, so --prune would remove all {plural(plan.count('removed'), 'record')}",
            hint="look at what was read; if that is what you want, add --yes",
        )
    if not (output.as_json or plan.is_empty):
        draw_changes(output, plan.changes)
    removed = plan.count("removed")
    if removed and not (dry_run or yes or output.as_json) and sys.stdin.isatty():
        confirm(output, f"Remove {plural(removed, 'record')}?")
    revision = plan.base_revision
    if not (dry_run or plan.is_empty):
        revision = apply_changes(catalog, plan, author=author, reason=reason)
    applied = revision != plan.base_revision
    document = {
        "applied": applied,
        "revision": revision,
        "base_revision": plan.base_revision,
        "changes": change_documents(plan.changes),
    }

    def draw() -> None:
        if plan.is_empty:
            output.print(f"Nothing to change: the catalog (revision {revision}) says the same.")
        elif dry_run:
            output.print(f"{_summary(plan)}. Nothing was changed: this was a dry run.")
        else:
            output.print(f"{_summary(plan)}: revision {revision}.")

    output.result(document, draw)


def _summary(plan: ChangePlan) -> str:
    return ", ".join(f"{count} {action}" for action in ACTIONS if (count := plan.count(action)))


# --- export ----------------------------------------------------------------------------------------------------

_PLURALS = {
    "connections": "connections.yaml",
    "schemas": "schemas.yaml",
    "mappings": "mappings.yaml",
    "pipelines": "pipelines.yaml",
    "schedules": "schedules.yaml",
}


@click.command(cls=SynqxCommand)
@click.argument("directory", required=False, type=DIRECTORY)
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="An old revision, not the latest.")
@click.option("--force", is_flag=True, help="Replace files that say something else.")
@json_option
@pass_output
def export(output: Output, directory: Path | None, revision: int | None, force: bool) -> None:
    """Write the catalog as YAML definitions.

    To standard output, or into DIRECTORY as one file for each kind of record. Secrets are never written: one that the
    vault holds becomes `{sealed: true}`, which keeps its value when it is applied to this catalog again.
    """
    from synqx_dagster.catalog.documents import write_documents

    snapshot = open_catalog().snapshot(revision)
    if directory is None:
        output.result(snapshot.to_dict(), lambda: click.echo(write_documents(snapshot), nl=False))
        return
    empty: dict[str, Any] = {plural_kind: {} for plural_kind in _PLURALS}
    texts = {
        directory / file_name: write_documents(
            dataclasses.replace(snapshot, **{**empty, plural_kind: getattr(snapshot, plural_kind)})
        )
        for plural_kind, file_name in _PLURALS.items()
        if getattr(snapshot, plural_kind)
    }
    _refuse_to_overwrite(texts, force=force)
    directory.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        _write_file(path, text)
    document = {"revision": snapshot.revision, "files": [str(path) for path in texts]}

    def draw() -> None:
        for path in texts:
            output.print(str(path))
        if not texts:
            output.print("The catalog is empty; no file was written.")

    output.result(document, draw)


def _refuse_to_overwrite(texts: dict[Path, str], *, force: bool) -> None:
    """A file that a person wrote holds comments that an export would lose."""
    if force:
        return
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise ConfigurationError(
                f"{path} exists and says something else; no file was written",
                hint="choose another directory, or replace the files with --force",
            )


def _write_file(path: Path, text: str) -> None:
    """Write a whole file or none of it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
