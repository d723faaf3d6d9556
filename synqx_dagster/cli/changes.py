"""How changes of the catalog look: what is created, what is removed, and each field that changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synqx_dagster.cli.output import Output, printable

if TYPE_CHECKING:
    from synqx_dagster.catalog.changes import Action, Change

ACTIONS: tuple[Action, ...] = ("created", "changed", "removed")

_MARKS = {"created": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}

#: Longer values are cut in the middle of a line; ``--json`` has them whole.
_VALUE_CHARACTERS = 60


def draw_changes(output: Output, changes: Sequence[Change]) -> None:
    """Print one line for each record, and below it one for each changed field."""
    from rich.text import Text

    text = Text()
    for change in changes:
        mark, style = _MARKS[change.action]
        text.append(f"{mark} {change.action:<8}", style=style)
        text.append(f"{change.kind} ", style="dim")
        text.append(f"{printable(change.name)}\n", style="bold")
        if change.action != "changed":
            continue
        for field in change.fields:
            text.append(f"    {printable(field.path)}: ")
            text.append(_show(field.before), style="red")
            text.append(" -> ", style="dim")
            text.append(_show(field.after) + "\n", style="green")
    output.print(text)


def change_documents(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Changes as JSON has them."""
    return [
        {
            "action": change.action,
            "kind": change.kind,
            "name": change.name,
            "fields": [{"path": field.path, "before": field.before, "after": field.after} for field in change.fields],
        }
        for change in changes
    ]


def _show(value: object) -> str:
    if value is None:
        return "(unset)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = printable(text)
    if len(text) <= _VALUE_CHARACTERS:
        return text
    half = _VALUE_CHARACTERS // 2
    return f"{text[:half]} … {text[-half + 3 :]}"
