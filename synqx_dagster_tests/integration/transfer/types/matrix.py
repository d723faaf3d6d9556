"""The matrix as Markdown: one table for each source, kept in docs/types.md between two marks.

The committed page must be what the tests see; `SYNQX_WRITE_DOCS=1` has them write it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from synqx_dagster_tests.integration.transfer.types.cases import Case
from synqx_dagster_tests.integration.transfer.types.routes import Outcomes

PAGE = Path(__file__).parents[4] / "docs" / "types.md"
WRITE_VARIABLE = "SYNQX_WRITE_DOCS"

_SHOWN = 200


def render_cases(cases: Sequence[Case], routes: Mapping[str, Outcomes]) -> str:
    """A table of types and routes; values of a type that fare alike on all routes share a row."""
    lines = [_row(["type", "values", *routes]), _row(["---"] * (2 + len(routes)))]
    for column, one in enumerate(cases):
        alike: dict[tuple[str, ...], list[str]] = {}
        for value, tried in enumerate(one.values):
            cells = tuple(str(outcomes[column, value]) for outcomes in routes.values())
            alike.setdefault(cells, []).append(tried.label)
        for cells, labels in alike.items():
            lines.append(_row([_code(one.name), "; ".join(map(_code, labels)), *map(_cell, cells)]))
    return "\n".join(lines)


def render_rows(head: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """A table of one outcome for each row and route."""
    routes = list(next(iter(rows.values())))
    lines = [_row([head, *routes]), _row(["---"] * (1 + len(routes)))]
    lines += [_row([name, *(_cell(cells[route]) for route in routes)]) for name, cells in rows.items()]
    return "\n".join(lines)


def check_section(name: str, text: str) -> None:
    """Compare a section with the committed page; or write it, where the environment says so.

    Raises:
        AssertionError: The page says something else.
    """
    if os.environ.get(WRITE_VARIABLE) == "1":
        _write_section(name, text)
    found = _section(PAGE.read_text(encoding="utf-8"), name)[1].strip().splitlines()
    seen = text.strip().splitlines()
    changed = [f"- {line}" for line in found if line not in seen] + [f"+ {line}" for line in seen if line not in found]
    assert found == seen, f"{PAGE.name} does not say what was seen; {WRITE_VARIABLE}=1 writes it:\n" + "\n".join(
        changed
    )


def _write_section(name: str, text: str) -> None:
    with PAGE.open("r+", encoding="utf-8") as page:
        # Two test processes may write two sections at once.
        fcntl.flock(page, fcntl.LOCK_EX)
        before, _, after = _section(page.read(), name)
        page.seek(0)
        page.truncate()
        page.write(f"{before}\n{text.strip()}\n{after}")


def _section(page: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name}: written by the tests -->", f"<!-- {name}: end -->"
    assert page.count(begin) == page.count(end) == 1, f"{PAGE.name} has no place for {name}"
    before, rest = page.split(begin)
    inside, after = rest.split(end)
    return before + begin, inside, end + after


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(text: str) -> str:
    shown = text.replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def _cell(text: str) -> str:
    shown = re.sub(r"\s+", " ", text).replace("|", "\\|")
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
