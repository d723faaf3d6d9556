"""Backfills: which partitions of a mapping, pipeline or schedule are loaded again, and by how many runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synqx_dagster.defs.execution import plan_targets, run_targets
from synqx_dagster.defs.jobs import partitions_of
from synqx_dagster.defs.partitions import all_partitions, cut_into_runs, describe_keys, make_slice
from synqx_dagster.errors import ConfigurationError, RequestError
from synqx_dagster.transfer.result import PartitionSlice, Progress, ReadWindow

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.defs.runs import RunReport


@dataclass(frozen=True)
class BackfillRequest:
    """Partitions by their keys: from one to another, both included, or all that there are by now.

    Without `last` they go on to the latest one.
    """

    first: str | None = None
    last: str | None = None
    everything: bool = False


def plan_backfill(catalog: Catalog, name: str, asked: BackfillRequest) -> list[PartitionSlice]:
    """What each run of a backfill replaces, in order.

    Args:
        name: A mapping, pipeline or schedule; ``kind:name`` where two kinds share the name.

    Raises:
        NotFoundError: There is no such record.
        RequestError: A key names no partition, or none is asked for; says which there are.
        ConfigurationError: Nothing that it runs has partitions, or two have different ones.
    """
    snapshot = catalog.snapshot()
    plan = plan_targets(snapshot, [name])
    partitions = partitions_of(plan, snapshot)
    if partitions is None:
        raise ConfigurationError(
            f"{name!r} has no partitions",
            hint=f"`synqx run {name}` loads it as a whole; partitions are given by `partitions` and `partition_column`",
        )
    if asked.everything:
        if asked.first is not None or asked.last is not None:
            raise RequestError("--all is all partitions, so --from and --to cannot stand beside it")
        return cut_into_runs(partitions, all_partitions(partitions))
    if asked.first is None:
        raise RequestError("say which partitions: --from KEY [--to KEY], or --all", hint=describe_keys(partitions))
    last = asked.last or all_partitions(partitions).last
    return cut_into_runs(partitions, make_slice(partitions, asked.first, last))


def run_backfill(
    catalog: Catalog,
    name: str,
    slices: Sequence[PartitionSlice],
    *,
    progress: Callable[[str, Progress], None] | None = None,
    on_planned: Callable[[int], None] | None = None,
) -> list[RunReport]:
    """Replace partitions, one run after the other, here and now; a run that fails is the last one.

    Raises:
        SynqxError: As `run_targets`; runs before it have committed.
    """
    reports: list[RunReport] = []
    for part in slices:
        window = ReadWindow(partition=part)
        reports.append(run_targets(catalog, [name], progress=progress, on_planned=on_planned, window=window))
        if not reports[-1].succeeded:
            break
    return reports
