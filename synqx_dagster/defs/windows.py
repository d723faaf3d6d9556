"""Which part of its sources a run reads, carried by the run's tags, so that its retries read the same part."""

from __future__ import annotations

from collections.abc import Mapping

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.transfer.result import ReadWindow

FULL_TAG = "synqx/full"
START_TAG = "synqx/from"
END_TAG = "synqx/to"
QUARANTINED_TAG = "synqx/quarantined"

_YES = "true"


def window_tags(window: ReadWindow) -> dict[str, str]:
    """The tags of a run that reads this part; none for a run that goes on from the watermarks."""
    tags = {FULL_TAG: _YES} if window.full else {}
    if window.start is not None:
        tags[START_TAG] = window.start
    if window.end is not None:
        tags[END_TAG] = window.end
    if window.quarantined:
        tags[QUARANTINED_TAG] = _YES
    return tags


def read_window(tags: Mapping[str, str]) -> ReadWindow:
    """The part that a run's tags ask for; somebody may have written them in the web UI's launchpad.

    Raises:
        ConfigurationError: They contradict each other.
    """
    for name in (FULL_TAG, QUARANTINED_TAG):
        if tags.get(name) not in (None, _YES):
            raise ConfigurationError(
                f"the run's tag {name} is {tags[name]!r}", hint=f"write {_YES}, or leave the tag out"
            )
    return checked_window(
        full=FULL_TAG in tags,
        start=tags.get(START_TAG),
        end=tags.get(END_TAG),
        quarantined=QUARANTINED_TAG in tags,
    )


def checked_window(*, full: bool, start: str | None, end: str | None, quarantined: bool = False) -> ReadWindow:
    """A part of a source.

    Raises:
        ConfigurationError: Everything and a part of it cannot both be asked for.
    """
    if full and (start is not None or end is not None):
        raise ConfigurationError("everything (full) and a part of it (from, to) cannot both be read")
    if quarantined and (full or start is not None or end is not None):
        raise ConfigurationError("rows in quarantine are read by themselves, not with full, from or to")
    return ReadWindow(full=full, start=start, end=end, quarantined=quarantined)
