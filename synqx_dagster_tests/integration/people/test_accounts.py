"""Accounts on both backends: unique names, the last admin, and changes that count at once."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from pydantic import SecretStr

from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import ConflictError, InvalidInputError, NotFoundError
from synqx_dagster.people.accounts import Accounts, NewUser, UserChange
from synqx_dagster.people.roles import Role
from synqx_dagster.people.service import People
from synqx_dagster.settings import Settings
from synqx_dagster_tests.fix_people import CLIENT, add_user, password_of
from synqx_dagster_tests.integration.catalog.processes import run_at_once


def test_an_account_is_read_back(any_people: People) -> None:
    made = add_user(any_people, "Ann.Miller", Role.EDITOR, email="Ann@Example.org", teams=frozenset({"data", "ops"}))
    accounts = any_people.accounts
    assert accounts.get(made.user_id) == accounts.get_by_name("ann.miller") == made
    assert (made.username, made.email, made.role, made.teams) == (
        "Ann.Miller",
        "Ann@Example.org",
        Role.EDITOR,
        {"data", "ops"},
    )
    assert made.has_password
    assert not made.disabled
    with pytest.raises(NotFoundError):
        accounts.get(uuid4())


@pytest.mark.parametrize(
    ("username", "email"),
    [
        ("ANN", None),
        ("ann@example.org", "ann@example.org"),
        ("bob", "ANN@example.ORG"),
        ("carl@example.org", "carl@example.org"),
        ("other", "carl"),
    ],
)
def test_names_and_addresses_are_unique_whatever_their_case(any_people: People, username: str, email: str) -> None:
    any_people.accounts.create(NewUser("ann", Role.VIEWER, email="ann@example.org"))
    any_people.accounts.create(NewUser("carl", Role.VIEWER, email="carl@example.org"))
    with pytest.raises((ConflictError, InvalidInputError)):
        any_people.accounts.create(NewUser(username, Role.VIEWER, email=email))
    assert any_people.accounts.page()[1] == 2


@pytest.mark.parametrize(
    "new",
    [
        NewUser("", Role.VIEWER),
        NewUser("a b", Role.VIEWER),
        NewUser("x" * 65, Role.VIEWER),
        NewUser("аnn", Role.VIEWER),  # the first letter is Cyrillic
        NewUser("ann\x00", Role.VIEWER),
        NewUser("system", Role.VIEWER),
        NewUser("bob@example.org", Role.VIEWER),
        NewUser("bob@example.org", Role.VIEWER, email="ann@example.org"),
        NewUser("ann", Role.VIEWER, email="no address"),
        NewUser("ann", Role.VIEWER, email="ann@example.org\nBcc: all@example.org"),
        NewUser("ann", Role.VIEWER, email="\ufdfa" * 60 + "@example.org"),
        NewUser("ann", Role.VIEWER, teams=frozenset({"data\x1b"})),
        NewUser("ann", Role.VIEWER, teams=frozenset(str(number) for number in range(101))),
        NewUser("ann", Role.VIEWER, password=SecretStr("short")),
    ],
)
def test_what_cannot_be_an_account_is_refused(people: People, new: NewUser) -> None:
    with pytest.raises(InvalidInputError):
        people.accounts.create(new)
    assert people.accounts.is_empty()


def test_pages_are_by_name_and_find_parts(any_people: People) -> None:
    for name in ("Carl", "ann", "bob_1", "bobx1"):
        any_people.accounts.create(NewUser(name, Role.ADMIN if name == "ann" else Role.VIEWER, f"{name}@example.org"))
    accounts = any_people.accounts

    def names(**options: object) -> list[str]:
        return [user.username for user in accounts.page(**options)[0]]  # type: ignore[arg-type]

    assert names() == ["ann", "bob_1", "bobx1", "Carl"]
    assert names(skip=1, limit=2) == ["bob_1", "bobx1"]
    assert names(search="B_1") == ["bob_1"]
    assert names(search="CARL@") == ["Carl"]
    assert names(role=Role.ADMIN) == ["ann"]
    assert accounts.page(limit=1)[1] == 4


def test_changes_count_at_once_and_are_in_the_trail(any_people: People, any_catalog: Catalog) -> None:
    add_user(any_people, "root", Role.ADMIN)
    ann = add_user(any_people, "ann", Role.EDITOR)
    login = any_people.login("ann", password_of("ann"), CLIENT)
    session = any_people.open_session(login.identity, CLIENT)
    tokens = any_people.issue_tokens(login.identity, CLIENT)

    def seen() -> list[tuple[Role, frozenset[str]] | None]:
        found = [any_people.identify_session(session.token), any_people.identify_bearer(tokens.access_token)]
        return [None if item is None else (item.role, item.teams) for item in found]

    accounts = any_people.accounts
    accounts.update(ann.user_id, UserChange(role=Role.VIEWER, teams=frozenset({"ops"})))
    assert seen() == [(Role.VIEWER, {"ops"})] * 2
    accounts.update(ann.user_id, UserChange(disabled=True))
    assert seen() == [None, None]
    accounts.update(ann.user_id, UserChange(disabled=False))
    # What was ended stays so.
    assert seen() == [None, None]
    accounts.update(ann.user_id, UserChange(disabled=False, role=Role.VIEWER))
    events = [entry.event for entry in AuditTrail(any_catalog).iter_entries() if entry.event.target == "ann"]
    assert [event.action for event in events] == [
        "user.create",
        "user.login",
        "user.set_role",
        "user.set_teams",
        "user.disable",
        "user.enable",
    ]
    assert events[2].detail == "from editor to viewer"


def test_the_last_admin_stays_one(any_people: People) -> None:
    accounts = any_people.accounts
    root, second = add_user(any_people, "root", Role.ADMIN), add_user(any_people, "second", Role.ADMIN)
    accounts.update(second.user_id, UserChange(disabled=True))
    for change in (UserChange(role=Role.EDITOR), UserChange(disabled=True)):
        with pytest.raises(ConflictError, match="root is the last admin"):
            accounts.update(root.user_id, change)
    accounts.update(second.user_id, UserChange(disabled=False))
    accounts.update(root.user_id, UserChange(role=Role.EDITOR))
    with pytest.raises(ConflictError, match="second is the last admin"):
        accounts.update(second.user_id, UserChange(disabled=True))


def test_admins_who_remove_each_other_at_once_leave_one(any_people: People, any_catalog: Catalog) -> None:
    for number in range(3):
        add_user(any_people, f"admin-{number}", Role.ADMIN)
    results = run_at_once(_demote_another, any_catalog.settings, count=3)
    found, _ = any_people.accounts.page()
    admins = [user for user in found if user.role is Role.ADMIN]
    assert len(admins) == 1
    assert sorted(results) == ["done", "done", "refused"]


def _demote_another(settings: Settings, number: int, meet: Callable[[], object]) -> str:
    with Catalog.open(settings) as catalog:
        accounts = Accounts(catalog)
        other = accounts.get_by_name(f"admin-{(number + 1) % 3}")
        meet()
        try:
            accounts.update(other.user_id, UserChange(role=Role.EDITOR))
        except ConflictError:
            return "refused"
        return "done"


@pytest.mark.slow
def test_of_two_first_users_one_is_the_first(any_catalog: Catalog) -> None:
    results = run_at_once(_be_first, any_catalog.settings, count=2)
    assert sorted(results) == ["done", "refused"]
    assert Accounts(any_catalog).page()[1] == 1


def _be_first(settings: Settings, number: int, meet: Callable[[], object]) -> str:
    with Catalog.open(settings) as catalog:
        accounts = Accounts(catalog)
        meet()
        try:
            accounts.create(NewUser(f"admin-{number}", Role.ADMIN), only_first=True)
        except ConflictError:
            return "refused"
        return "done"


def test_an_import_makes_all_or_nothing(any_people: People) -> None:
    accounts = any_people.accounts
    accounts.create(NewUser("bob", Role.ADMIN))
    users = [NewUser("ann", Role.VIEWER, disabled=True), NewUser("BOB", Role.VIEWER), NewUser("carl", Role.EDITOR)]
    with pytest.raises(ConflictError):
        accounts.import_all(users)
    assert accounts.page()[1] == 1
    assert accounts.import_all(users, skip_existing=True) == (2, 1)
    assert accounts.get_by_name("ann").disabled
    assert accounts.get_by_name("bob").role is Role.ADMIN
