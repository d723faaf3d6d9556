"""Changing `enabled` in the catalog, for the commands of schedules, sensors and replications."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.options import json_option, pass_output, revision_options
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.defs.switches import Switchable


def add_switch(group: click.Group, name: str, *, kind: str, values: Mapping[str, Any], help_text: str) -> None:
    """Give a group the command ``enable`` or ``disable``, which writes these values into the records that are named."""

    @group.command(name, help=help_text)
    @click.argument("names", nargs=-1, required=True)
    @revision_options
    @json_option
    @pass_output
    def switch(output: Output, names: tuple[str, ...], author: str, reason: str | None) -> None:
        change_records(
            output, open_catalog(), names, kind=kind, values=values, done=f"{name}d", author=author, reason=reason
        )


def change_records(
    output: Output,
    catalog: Catalog,
    names: Sequence[str],
    *,
    kind: str,
    values: Mapping[str, Any],
    done: str,
    author: str,
    reason: str | None,
) -> None:
    """Write these values into records of one kind, as one revision, and let Dagster follow at once.

    Args:
        kind: ``schedule``, ``sensor`` or ``replication``.
        done: What they are then, for the message.

    Raises:
        NotFoundError: There is no such record; nothing was changed.
        ConflictError: Somebody else was first; nothing was changed.
    """
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.sensors import SENSOR_NAME
    from synqx_dagster.defs.switches import press, set_enabled

    snapshot = catalog.snapshot()
    finders: dict[str, Callable[[str], Switchable]] = {
        "schedule": snapshot.get_schedule,
        "sensor": snapshot.get_sensor,
        "replication": snapshot.get_replication,
    }
    find = finders[kind]
    records = [find(name).model_copy(update=dict(values)) for name in dict.fromkeys(names)]
    number = set_enabled(catalog, snapshot, records, author=author, reason=reason)
    with open_instance(catalog.settings) as instance:
        press(instance, records, marker=SENSOR_NAME)
    changed = number != snapshot.revision
    document = {"revision": number, "changed": changed, f"{kind}s": [record.name for record in records]}

    def draw() -> None:
        for record in records:
            output.print(f"{printable(record.name)} is {done}.")
        output.print(f"Revision {number}." if changed else "Nothing had to be changed.", style="dim")

    output.result(document, draw)
