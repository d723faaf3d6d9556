"""What a server is asked: one query to a file, ``<name>_<version>.sql``, with the first version that understands it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def find_query(name: str, major_version: int) -> str | None:
    """The newest form of a query that a server of a version understands; None where it has no such view."""
    forms = {
        int(entry.name.removeprefix(f"{name}_").removesuffix(".sql")): entry
        for entry in files(__package__).iterdir()
        if entry.name.startswith(f"{name}_") and entry.name.endswith(".sql")
    }
    fitting = [version for version in forms if version <= major_version]
    return forms[max(fitting)].read_text("utf-8") if fitting else None
