"""Comparisons of content beside Dagster: run on demand or after a load, and kept as evaluations of a check.

The evaluation of a comparison on demand belongs to no run: nothing was launched, and still the web UI shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.defs.access import needs_vault, require_unsealed
from synqx_dagster.defs.instance import open_instance
from synqx_dagster.defs.partitions import all_partitions
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import SynqxError
from synqx_dagster.transfer.result import CheckOutcome, LoadRequest

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.transfer.content_report import ContentReport


def verify_mapping(
    catalog: Catalog, name: str, *, limit: int = 100, show_values: bool = False, record: bool = True
) -> ContentReport:
    """Compare what a mapping of the latest revision says with what its target holds, and record the outcome.

    Args:
        limit: How many differences are listed.
        show_values: Whether they carry cell values; what is recorded never does.
        record: Keep the outcome as an evaluation of the asset's check ``content``.

    Raises:
        NotFoundError: There is no such mapping.
        SealedError: A secret is needed, and the vault is sealed.
        SynqxError: As `verify_content`; then nothing is recorded.
    """
    from synqx_dagster.connectors.registry import make_connector
    from synqx_dagster.transfer.content import verify_content
    from synqx_dagster.transfer.content_plan import ContentRequest

    snapshot = catalog.snapshot_for(mappings=[name])
    mapping = snapshot.get_mapping(name)
    translator = Translator(snapshot)
    ends = [snapshot.get_connection(end) for end in (mapping.source_connection, mapping.target_connection)]
    require_unsealed(catalog, secrets_needed=any(map(needs_vault, ends)))
    connectors = [make_connector(end, catalog.resolve_secret, host_policy=catalog.settings.host_policy) for end in ends]
    try:
        source, target = connectors
        report = verify_content(
            ContentRequest(
                mapping,
                translator.schema_of(mapping),
                source,
                target,
                limit,
                show_values,
                partition=None if mapping.partitions is None else all_partitions(mapping.partitions),
            )
        )
    finally:
        for connector in connectors:
            connector.close()
    if record:
        with open_instance(catalog.settings, executes=True) as instance:
            instance.report_runless_asset_event(_evaluation(translator.target_key(mapping), report.to_outcome()))
    return report


def compare_after_load(request: LoadRequest) -> CheckOutcome:
    """Compare the table that a load has just committed; a comparison that fails is a check that does, not an error."""
    from synqx_dagster.transfer.content import verify_content
    from synqx_dagster.transfer.content_plan import ContentRequest

    partition = request.window.partition
    asked = ContentRequest(request.mapping, request.schema, request.source, request.target, partition=partition)
    try:
        return verify_content(asked).to_outcome()
    except SynqxError as error:
        return CheckOutcome("content", False, f"the content could not be compared: {error}")


def _evaluation(key: dg.AssetKey, outcome: CheckOutcome) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=outcome.name,
        passed=outcome.passed,
        description=outcome.description,
        metadata=dict(outcome.metadata),
        severity=dg.AssetCheckSeverity.ERROR,
    )
