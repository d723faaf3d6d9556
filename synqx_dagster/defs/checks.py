"""The asset checks of a mapping: declared with the asset, decided by the load itself inside its transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from synqx_dagster import model
from synqx_dagster.defs.freshness import FRESHNESS_CHECK, freshness_spec, loaded_now
from synqx_dagster.model import Schema
from synqx_dagster.transfer.result import CheckOutcome

DESCRIPTIONS: Mapping[str, str] = {
    "contract": "Every row keeps the target's contract, or is in quarantine.",
    "row_count": "The target holds the rows that the source delivered, less those in quarantine.",
    "not_null_keys": "No column of the primary key is NULL.",
    "unique_keys": "No two rows have the same primary key.",
    "content": "The target holds what the mapping says, value by value, at the last comparison.",
}
_KEY_CHECKS = frozenset({"not_null_keys", "unique_keys"})


def check_specs(mapping: model.Mapping, schema: Schema | None, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of one asset.

    Without a target schema the key is the source's, which nobody knows before the load: its checks are
    declared, and say so where there is no key.
    """
    has_key = schema is None or bool(schema.primary_key)
    specs = [
        dg.AssetCheckSpec(name, asset=key, description=text, metadata={"synqx/mapping": mapping.name})
        for name, text in DESCRIPTIONS.items()
        if has_key or name not in _KEY_CHECKS
    ]
    if mapping.freshness is not None:
        specs.append(freshness_spec(mapping.name, mapping.freshness, key))
    return specs


def check_results(specs: Iterable[dg.AssetCheckSpec], outcomes: Iterable[CheckOutcome]) -> list[dg.AssetCheckResult]:
    """One result for each declared check. A check that the load did not decide did not fail, and says so.

    Content that was not compared has no result: the last comparison's stands.
    """
    by_name: dict[str, CheckOutcome] = {outcome.name: outcome for outcome in outcomes}
    results = []
    for spec in specs:
        if spec.name == FRESHNESS_CHECK:
            results.append(loaded_now(spec))
            continue
        outcome = by_name.get(spec.name)
        if outcome is None and spec.name == "content":
            continue
        metadata: dict[str, Any] = dict(outcome.metadata) if outcome else {}
        results.append(
            dg.AssetCheckResult(
                check_name=spec.name,
                asset_key=spec.asset_key,
                passed=outcome.passed if outcome else spec.name in _KEY_CHECKS,
                # Rows in quarantine are kept and counted: somebody should look, nothing is broken.
                severity=dg.AssetCheckSeverity.WARN if spec.name == "contract" else dg.AssetCheckSeverity.ERROR,
                description=outcome.description if outcome else _undecided(spec.name),
                metadata=metadata,
            )
        )
    return results


def _undecided(name: str) -> str:
    if name in _KEY_CHECKS:
        return "The table has no primary key."
    return "The load did not decide this check."
