"""The replication's own slot: made where none is, and never in place of somebody else's.

Guarantee: a slot is dropped, or replaced, only when the target says that it was made for this replication. Its name is
written down there just before it is made, and only where there is no slot of that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.replication import Replication
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.position import ReplicationState
from synqx_dagster.replication.slot import NewSlot, SlotState, SourceConnector, create_slot, find_slot
from synqx_dagster.transfer.failpoints import reach

_IS_THERE = "42710"


def refuse_foreign_slot(replication: Replication, slot: SlotState | None, state: ReplicationState) -> None:
    """Refuse a slot of the replication's name that was not made for it.

    Args:
        state: Read after the slot: what was made in between was written down before.

    Raises:
        ConfigurationError: It is somebody else's, as far as the target knows.
    """
    if slot is not None and state.slot != replication.slot_name:
        raise _refusal(replication.slot_name)


def _refusal(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"there is a slot {name!r} already, and the target does not know it as this replication's",
        hint="another replication, catalog or consumer uses it: give `slot:` another name; if nobody needs it any more,"
        f" SELECT pg_drop_replication_slot('{name}') drops it",
    )


@contextmanager
def make_own_slot(applier: Applier, source: SourceConnector, replication: Replication) -> Iterator[NewSlot]:
    """Make the slot, and write down in the target where it begins; its snapshot can be used within the block.

    Raises:
        ConfigurationError: Somebody else has a slot of this name; it was not touched.
        SynqxError: The source refuses, or a newer attempt has taken over.
    """
    name = replication.slot_name
    # What was written down before, and never finished, is ours to replace.
    is_ours = applier.state.slot == name
    if not is_ours:
        with source.write() as session:
            refuse_foreign_slot(replication, find_slot(session, name), applier.state)
    applier.set_position(None, slot=name, status="creating")
    reach("replication_before_slot")
    is_made = False
    try:
        with create_slot(source, name, replaces=is_ours) as slot:
            is_made = True
            reach("replication_slot_made")
            applier.set_position(slot.consistent_lsn, slot=name, status="copying")
            slot.keep()
            yield slot
    except ConfigurationError as error:
        if is_made or is_ours or error.context.get("sqlstate") != _IS_THERE:
            raise
        # Somebody was quicker: the next attempt must not take his slot for what this one has left.
        applier.set_position(None, slot=None, status="new")
        raise _refusal(name) from None
