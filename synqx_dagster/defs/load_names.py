"""Which mapping of the catalog a step or an asset of a run loads."""

from __future__ import annotations

from functools import cached_property

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.names import op_name
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import SynqxError


class LoadNames:
    """The mappings of a snapshot by what Dagster knows of them; looked up when the first is asked for."""

    def __init__(self, snapshot: CatalogSnapshot) -> None:
        self.snapshot = snapshot

    @cached_property
    def by_key(self) -> dict[dg.AssetKey, str]:
        """Mappings by their assets; one that could not be built has none."""
        translator = Translator(self.snapshot)
        found = {}
        for mapping in self.snapshot.mappings.values():
            try:
                found[translator.target_key(mapping)] = mapping.name
            except SynqxError:
                continue
        return found

    @cached_property
    def by_step(self) -> dict[str, str]:
        """Mappings by their steps."""
        return {op_name(key.path): name for key, name in self.by_key.items()}
