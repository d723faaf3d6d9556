"""What a run reads survives in its tags."""

from __future__ import annotations

import pytest

from synqx_dagster.defs.windows import checked_window, read_window, window_tags
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.transfer.result import ReadWindow


@pytest.mark.parametrize(
    "window",
    [
        ReadWindow(),
        ReadWindow(full=True),
        ReadWindow(start="2024-01-01"),
        ReadWindow(start="", end="z"),
        ReadWindow(end="5"),
        ReadWindow(quarantined=True),
    ],
)
def test_tags_carry_a_window(window: ReadWindow) -> None:
    assert read_window({**window_tags(window), "synqx/revision": "3"}) == window


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot both be read"):
        checked_window(full=True, start="1", end=None)
    with pytest.raises(ConfigurationError, match="by themselves"):
        checked_window(full=False, start=None, end="5", quarantined=True)
    with pytest.raises(ConfigurationError, match="'yes'"):
        read_window({"synqx/full": "yes"})
