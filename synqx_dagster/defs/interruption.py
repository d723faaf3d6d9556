"""What an interrupted run has done: which of its loads are committed, by Dagster's event log and the targets' ledgers.

A signal may come after a load's commit and before Dagster heard of it; then only the ledger knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.defs.names import op_name
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.run_failures import INTERRUPTED, FailureReport
from synqx_dagster.defs.runs import Interruption, RunReport
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.ledger import has_committed

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

logger = logging.getLogger(__name__)

_WHOLE = "interrupted after its commit: the load is whole, although Dagster does not list it"
_UNDONE = "interrupted before its commit: the target is as it was"
_UNKNOWN = "interrupted, and the target cannot be asked now whether the load had committed; if it had, it is whole"
_BETWEEN = "interrupted between its loads"


def settle_interruption(
    instance: dg.DagsterInstance,
    report: RunReport,
    translator: Translator,
    mappings: Sequence[Mapping],
    get_catalog: Callable[[], Catalog],
) -> RunReport:
    """The report of a run that a signal ended, with what became of each of its loads."""
    made = {asset.name for asset in report.assets}
    failed = {failure.name for failure in report.failures if failure.error != INTERRUPTED}
    started = _started_steps(instance, report.run_id)
    failures = [failure for failure in report.failures if failure.error != INTERRUPTED]
    for mapping in mappings:
        step = op_name(translator.target_key(mapping).path)
        if mapping.name in made or mapping.name in failed or step not in started:
            continue
        committed = _ask_ledger(mapping, translator, get_catalog, report.run_id)
        if committed:
            made.add(mapping.name)
        said = _UNKNOWN if committed is None else _WHOLE if committed else _UNDONE
        failures.append(FailureReport(mapping.name, said, INTERRUPTED))
    if not failures:
        failures.append(FailureReport(f"run {report.run_id[:8]}", _BETWEEN, INTERRUPTED))
    names = [mapping.name for mapping in mappings]
    return replace(
        report,
        failures=tuple(failures),
        interruption=Interruption(
            committed=tuple(name for name in names if name in made),
            not_committed=tuple(name for name in names if name not in made),
        ),
    )


def _started_steps(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
    return {entry.step_key for entry in entries if entry.step_key is not None}


def _ask_ledger(
    mapping: Mapping, translator: Translator, get_catalog: Callable[[], Catalog], load_id: str
) -> bool | None:
    """Whether a load has committed; None where the target does not say."""
    resource = ConnectionResource(translator.snapshot.get_connection(mapping.target_connection), get_catalog)
    try:
        return has_committed(resource.connector, mapping.target, load_id)
    except SynqxError as error:
        logger.warning("%s: the ledger cannot be asked: %s", mapping.name, error)
        return None
    finally:
        resource.close()
