"""Partitions of mappings as Dagster's, and the partitions of a run as what the transfer replaces."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import dagster as dg
from dagster import AssetExecutionContext

from synqx_dagster.errors import ConfigurationError, RequestError
from synqx_dagster.model.partitions import Partitions, StaticPartitions, TimePartitions
from synqx_dagster.transfer.result import PartitionSlice

# Dagster's own names of these tags; source: dagster/_core/storage/tags.py.
PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"

_TIMED = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
}


# Made once: Dagster compares them by value, and a thousand mappings mostly share a few.
@lru_cache(maxsize=1024)
def partitions_definition(partitions: Partitions) -> dg.PartitionsDefinition[str]:
    """Dagster's definition of partitions."""
    if isinstance(partitions, StaticPartitions):
        return dg.StaticPartitionsDefinition(list(partitions.values))
    zone = ZoneInfo(partitions.timezone)
    start = datetime(partitions.start.year, partitions.start.month, partitions.start.day, tzinfo=zone)
    end = partitions.end and datetime(partitions.end.year, partitions.end.month, partitions.end.day, tzinfo=zone)
    made: dg.PartitionsDefinition[str] = _TIMED[partitions.type](
        start_date=start, end_date=end, timezone=partitions.timezone
    )
    return made


def backfill_policy(partitions: Partitions) -> dg.BackfillPolicy:
    """How many partitions one run of a backfill replaces."""
    if partitions.partitions_per_run is None:
        return dg.BackfillPolicy.single_run()
    return dg.BackfillPolicy.multi_run(partitions.partitions_per_run)


def find_slice(context: AssetExecutionContext, partitions: Partitions | None) -> PartitionSlice | None:
    """The partitions that a run replaces; None of a run that names none."""
    if partitions is None or not (context.has_partition_key or context.has_partition_key_range):
        return None
    found = context.partition_key_range
    return make_slice(partitions, found.start, found.end)


def make_slice(partitions: Partitions, first: str, last: str) -> PartitionSlice:
    """The partitions between two keys, both of which belong to them.

    Raises:
        RequestError: A key names no partition, or they are in the wrong order; says which there are.
    """
    definition = partitions_definition(partitions)
    for key in (first, last):
        if not definition.has_partition_key(key):
            raise RequestError(f"there is no partition {key!r}", hint=describe_keys(partitions))
    keys = _keys_between(definition, first, last)
    if not keys:
        raise RequestError(
            f"the partition {last!r} comes before {first!r}", hint="--from is the first one, --to the last"
        )
    if isinstance(partitions, StaticPartitions):
        return PartitionSlice(first, last, len(keys), values=tuple(keys))
    assert isinstance(definition, dg.TimeWindowPartitionsDefinition)
    start = definition.time_window_for_partition_key(first).start
    return PartitionSlice(first, last, len(keys), start, definition.time_window_for_partition_key(last).end)


def _keys_between(definition: dg.PartitionsDefinition[str], first: str, last: str) -> Sequence[str]:
    if first == last:
        return [first]
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        # Not all keys: there are tens of thousands of hours.
        begin = definition.time_window_for_partition_key(first).start
        beyond = definition.time_window_for_partition_key(last).end
        return definition.get_partition_keys_in_time_window(dg.TimeWindow(begin, beyond)) if begin < beyond else []
    keys = definition.get_partition_keys()
    start, end = keys.index(first), keys.index(last)
    return keys[start : end + 1]


def cut_into_runs(partitions: Partitions, asked: PartitionSlice) -> list[PartitionSlice]:
    """The parts of a backfill that have a run each."""
    size = partitions.partitions_per_run
    if size is None or asked.count <= size:
        return [asked]
    keys = _keys_between(partitions_definition(partitions), asked.first, asked.last)
    parts = [keys[start : start + size] for start in range(0, len(keys), size)]
    return [make_slice(partitions, part[0], part[-1]) for part in parts]


def all_partitions(partitions: Partitions) -> PartitionSlice:
    """All that there are by now.

    Raises:
        ConfigurationError: The first one has not ended yet.
    """
    definition = partitions_definition(partitions)
    first, last = definition.get_first_partition_key(), definition.get_last_partition_key()
    if first is None or last is None:
        raise ConfigurationError("there is no partition yet", hint=describe_keys(partitions))
    return make_slice(partitions, first, last)


def latest_key(partitions: TimePartitions, moment: datetime) -> str | None:
    """The last partition that had ended at a moment; None before the first one's end."""
    definition = partitions_definition(partitions)
    assert isinstance(definition, dg.TimeWindowPartitionsDefinition)
    window = definition.get_prev_partition_window(moment)
    return None if window is None else definition.get_partition_key(window.start)


def due_tags(partitions: Partitions | None, moment: datetime) -> dict[str, str] | None:
    """The tags of a run that nobody has chosen partitions for: the last one by time, or all static ones.

    Returns:
        None while no partition has ended.
    """
    if partitions is None:
        return {}
    if isinstance(partitions, StaticPartitions):
        return slice_tags(all_partitions(partitions))
    key = latest_key(partitions, moment)
    return None if key is None else {PARTITION_TAG: key}


def describe_keys(partitions: Partitions) -> str:
    """Which keys there are, for an error."""
    definition = partitions_definition(partitions)
    if isinstance(partitions, StaticPartitions):
        return f"the partitions are {partitions}"
    first, last = definition.get_first_partition_key(), definition.get_last_partition_key()
    if first is None:
        return f"the first of the {partitions.type} partitions begins on {partitions.start} and has not ended yet"
    return f"the {partitions.type} partitions go from {first} to {last}, the last one that has ended"


def slice_tags(asked: PartitionSlice) -> dict[str, str]:
    """The tags by which a run says which partitions it replaces."""
    if asked.count == 1:
        return {PARTITION_TAG: asked.first}
    return {RANGE_START_TAG: asked.first, RANGE_END_TAG: asked.last}
