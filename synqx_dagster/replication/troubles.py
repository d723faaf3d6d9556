"""What is the matter with a replication that people have to see to: pure."""

from __future__ import annotations

from synqx_dagster.replication.status import Seen

#: The key of a slot that has lost changes.
LOST = "lost"


def find_troubles(seen: Seen) -> dict[str, str]:
    """Each trouble in words, under a key that stays the same for as long as the trouble lasts."""
    troubles = {}
    if seen.loss is not None or seen.state.status == LOST:
        troubles[LOST] = f"{seen.loss or 'its slot was given up'}: nothing goes on by itself"
    for source, state in sorted(seen.tables.items(), key=lambda item: str(item[0])):
        if state.status == "stopped":
            troubles[f"stopped:{source}"] = f"{source} has stopped: {state.reason}"
        elif state.reason is not None:
            troubles[f"doubt:{source}"] = f"{source}: {state.reason}"
    return troubles
