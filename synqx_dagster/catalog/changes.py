"""What would change: two sets of records compared, record by record and field by field, without any secret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from synqx_dagster.catalog.snapshot import AnySecret, is_same, plain_values, secrets_of
from synqx_dagster.catalog.yaml_tree import FieldPath, format_path
from synqx_dagster.model import EnvSecret, FileSecret, Record, RecordKind

Action = Literal["created", "changed", "removed"]

_SIGNS: dict[Action, str] = {"created": "+", "changed": "~", "removed": "-"}
_MAX_SHOWN_CHARACTERS = 120

#: By these keys the items of a list are recognised, so that one more column is not a change of all that follow.
_IDENTITIES = ("node_id", "name")


@dataclass(frozen=True)
class FieldChange:
    """One field that differs; None stands for a field that is not there. Values are plain, as JSON has them."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Change:
    """One record that is created, changed or removed.

    Attributes:
        fields: What differs; of a created record what is not a default, of a removed one nothing.
        record: The record as it will be; None when it is removed. May hold a literal secret, so it does not show.
    """

    action: Action
    kind: RecordKind
    name: str
    fields: tuple[FieldChange, ...] = ()
    record: Record | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ChangePlan:
    """What an apply will do to the catalog as it is at ``base_revision``.

    Attributes:
        base_revision: The plan holds only while this is the latest revision.
        changes: By kind, what is referred to first; then by name.
    """

    base_revision: int
    changes: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes

    def count(self, action: Action) -> int:
        """How many records an action touches."""
        return sum(change.action == action for change in self.changes)

    def lines(self) -> list[str]:
        """The plan as text: one line for each record, and below it one for each field that changes."""
        lines: list[str] = []
        for change in self.changes:
            lines.append(f"{_SIGNS[change.action]} {change.action} {change.kind} {change.name}")
            if change.action == "changed":
                lines.extend(f"    {item.path}: {_shown(item)}" for item in change.fields)
        counts = [f"{self.count(action)} {action}" for action in _SIGNS]
        lines.append(", ".join(counts) if lines else "nothing changes")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "base_revision": self.base_revision,
            "changes": [
                {
                    "action": change.action,
                    "kind": change.kind,
                    "name": change.name,
                    "fields": [
                        {"path": item.path, "before": item.before, "after": item.after} for item in change.fields
                    ],
                }
                for change in self.changes
            ],
        }


def _shown(change: FieldChange) -> str:
    if change.before is None:
        return f"{_show(change.after)} (was not set)"
    if change.after is None:
        return f"{_show(change.before)} -> not set"
    return f"{_show(change.before)} -> {_show(change.after)}"


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    text = text.replace("\n", "\\n")
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[: _MAX_SHOWN_CHARACTERS - 1] + "…"


# --- comparing --------------------------------------------------------------------------------------------------


def compare_records(before: Record | None, after: Record, changed_secrets: frozenset[str]) -> Change | None:
    """What makes one record of another; None when nothing does.

    Args:
        before: The record in the catalog; None when there is none.
        after: The record as it will be.
        changed_secrets: Secret fields whose stored value will be another one.
    """
    if before is None:
        created = _differences(_show_secrets(after, {}, defaults=True), _show_secrets(after, {}))
        return Change("created", after.kind, after.name, tuple(created), after)
    if not changed_secrets and is_same(before, after):
        return None
    changed = dict.fromkeys(changed_secrets, "(changed secret)")
    fields = tuple(_differences(_show_secrets(before, {}), _show_secrets(after, changed)))
    return Change("changed", after.kind, after.name, fields, after) if fields else None


def _show_secrets(record: Record, texts: Mapping[str, str], *, defaults: bool = False) -> dict[str, Any]:
    """A record's values with every stored secret as a word. ``defaults`` keeps only what created records lack."""
    if defaults:
        given = plain_values(record, {}, exclude_defaults=True)
        return {name: value for name, value in plain_values(record, {}).items() if name not in given}
    shown = {path: texts.get(path) or _show_secret(secret) for path, secret in secrets_of(record).items()}
    values = plain_values(record, shown)
    values.pop("name")
    return values


def _show_secret(secret: AnySecret) -> Any:
    return secret.model_dump() if isinstance(secret, EnvSecret | FileSecret) else "(secret)"


def _differences(before: Any, after: Any, path: FieldPath = ()) -> Iterator[FieldChange]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _differences(before.get(key), after.get(key), (*path, key))
        # Of what a node gives the order is that of a table; of other keys it means nothing.
        if path[-1:] == ("columns",) and list(before) != list(after) and set(before) == set(after):
            yield FieldChange(f"{format_path(path)} (order)", list(before), list(after))
        return
    if isinstance(before, list) and isinstance(after, list):
        old, new = _by_identity(before), _by_identity(after)
        if old is not None and new is not None:
            yield from _list_differences(old, new, path)
            return
    if before != after or type(before) is not type(after):
        yield FieldChange(format_path(path), before, after)


def _list_differences(
    old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]], path: FieldPath
) -> Iterator[FieldChange]:
    for name in [*old, *(name for name in new if name not in old)]:
        place = f"{format_path(path)}[{name}]"
        if name not in old or name not in new:
            yield FieldChange(place, old.get(name), new.get(name))
            continue
        for change in _differences(old[name], new[name]):
            yield FieldChange(f"{place}.{change.path}", change.before, change.after)
    kept_before = [name for name in old if name in new]
    kept_after = [name for name in new if name in old]
    if kept_before != kept_after:
        yield FieldChange(f"{format_path(path)} (order)", list(old), list(new))


def _by_identity(items: list[Any]) -> dict[str, dict[str, Any]] | None:
    """The items by what identifies them; None when nothing does."""
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    for key in _IDENTITIES:
        names = [str(item.get(key)) for item in items]
        if all(item.get(key) is not None for item in items) and len(set(names)) == len(names):
            return dict(zip(names, items, strict=True))
    return None
