"""Records to YAML: stable in order and form, so that two exports differ only where the records differ."""

from __future__ import annotations

import re
import sys
from typing import Any

import yaml

from synqx_dagster.catalog.snapshot import CatalogSnapshot, plain_values, secrets_of
from synqx_dagster.catalog.yaml_tree import resolve_plain
from synqx_dagster.model import Record, SealedSecret

#: What a YAML reader may take for a line break, drop or refuse; it is written as an escape.
_NEEDS_ESCAPE = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def write_documents(snapshot: CatalogSnapshot) -> str:
    """Write the records of a snapshot as YAML documents; what is referred to comes first, then by name.

    Fields that have their default are left out. A sealed secret is written ``{sealed: true}``: no value and no
    ciphertext leaves the catalog.
    """
    documents = [_plain(record) for record in snapshot.iter_records()]
    return yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        explicit_start=True,
        width=sys.maxsize,
    )


def _plain(record: Record) -> _Root:
    secrets = {
        path: {"sealed": True} if isinstance(secret, SealedSecret) else secret.model_dump()
        for path, secret in secrets_of(record).items()
    }
    values = plain_values(record, secrets, exclude_defaults=True)
    ordered = {name: values[name] for name in type(record).model_fields if name in values}
    return _Root(kind=record.kind, **ordered)


class _Root(dict[str, Any]):
    """A whole document: written as a block, also when it is short."""


class _Dumper(yaml.SafeDumper):
    """Writes text so that `yaml_tree` and readers of YAML 1.1 both take it for text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if _NEEDS_ESCAPE.search(text):
        style = '"'
    elif "\n" in text:
        style = "|"
    elif not isinstance(resolve_plain(text), str):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_root(dumper: yaml.SafeDumper, values: _Root) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", values, flow_style=False)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(_Root, _represent_root)
