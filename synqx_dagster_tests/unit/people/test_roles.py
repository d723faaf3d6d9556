"""The table of roles and permissions, and the one that people read."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import ROLE_PERMISSIONS, Permission, Role

PAGE = Path(__file__).parents[3] / "docs" / "people.md"


def test_the_documentation_shows_the_same_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    header = re.search(r"^\| permission \| allows \| ([a-z| ]+) \|$", text, re.MULTILINE)
    assert header is not None
    roles = [Role(name) for name in header[1].split(" | ")]
    assert roles == list(Role)
    shown: dict[Role, set[str]] = {role: set() for role in roles}
    for name, cells in re.findall(r"^\| `([a-z]+(?::[a-z]+)?)` \| [^|]+ \|([a-z| ]+)\|$", text, re.MULTILINE):
        for role, cell in zip(roles, cells.split("|"), strict=True):
            if cell.strip() == "yes":
                shown[role].add(name)
    assert shown == {role: {item.value for item in found} for role, found in ROLE_PERMISSIONS.items()}


def test_each_role_may_all_that_the_one_before_may() -> None:
    found = [ROLE_PERMISSIONS[role] for role in Role]
    assert all(lower < higher for lower, higher in pairwise(found))
    assert found[-1] == frozenset(Permission)


def test_a_record_is_written_by_its_owners_and_by_admins() -> None:
    from uuid import uuid4

    def owns(owners: tuple[str, ...], role: Role = Role.EDITOR) -> bool:
        who = Identity(
            uuid4(), "ann", role, ROLE_PERMISSIONS[role], "session", frozenset({"data"}), email="ann@example.org"
        )
        return who.owns(owners)

    assert owns(())
    assert owns(("team:data", "team:ops"))
    assert owns(("ann@example.org",))
    assert owns(("ann",))
    assert not owns(("team:ops", "bob"))
    assert not owns(("data",))
    assert owns(("team:ops",), Role.ADMIN)
