"""The options that a connector passes on: those on its list, and no others.

What a driver could be told beyond them may read files, run statements or change what a session prints (``service``,
``passfile``, ``init_command``, ``local_infile``, ``read_default_file``), so an option that is not listed is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection


def unknown_option(name: str, db_type: str, allowed: Collection[str]) -> str:
    """What to say of an option that is not on a connector's list, with the nearest that is."""
    near = difflib.get_close_matches(name.casefold(), allowed, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(allowed))}"
    return f"options.{name}: {db_type} has no such option; {advice}"
