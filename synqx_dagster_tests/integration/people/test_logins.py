"""Logging in: one answer for everything that is wrong, limits, upgrades of hashes, and what ends a login."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import bcrypt
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from synqx_dagster.audit.actor import acting_as
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.catalog.people_tables import api_key, session, user
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import (
    AccessError,
    ConflictError,
    InvalidInputError,
    LoginFailedError,
    NotFoundError,
    SealedError,
    SynqxError,
    TooManyAttemptsError,
)
from synqx_dagster.people.accounts import NewUser, UserChange
from synqx_dagster.people.identity import Client
from synqx_dagster.people.roles import Permission, Role
from synqx_dagster.people.service import People, actor_of
from synqx_dagster_tests.fix_people import CLIENT, add_user, password_of

WRONG = SecretStr("not the right one")


def events_of(catalog: Catalog, action: str) -> list[AuditEvent]:
    return [entry.event for entry in AuditTrail(catalog).iter_entries() if entry.event.action == action]


def stored_hash(catalog: Catalog, username: str) -> str:
    with catalog.read() as connection:
        found = connection.execute(sa.select(user.c.password_hash).where(user.c.username == username)).scalar()
    assert isinstance(found, str)
    return found


def test_by_name_or_address_in_any_case(any_people: People, any_catalog: Catalog) -> None:
    made = add_user(any_people, "Ann", Role.EDITOR, email="ann@example.org", teams=frozenset({"data"}))
    for name in ("Ann", "ann", " ANN ", "ANN@EXAMPLE.ORG"):
        login = any_people.login(name, password_of("Ann"), CLIENT)
        assert (login.identity.user_id, login.identity.username, login.identity.teams) == (
            made.user_id,
            "Ann",
            {"data"},
        )
    assert any_people.accounts.get(made.user_id).last_login_at is not None
    [event, *_] = events_of(any_catalog, "user.login")
    assert (event.outcome, event.actor, event.address, event.request_id) == (
        "allowed",
        "Ann",
        "192.0.2.7",
        "request-1",
    )


def test_everything_that_is_wrong_gets_one_answer_and_the_trail_knows_which(
    any_people: People, any_catalog: Catalog
) -> None:
    add_user(any_people, "root", Role.ADMIN)
    ann = add_user(any_people, "ann", Role.EDITOR)
    any_people.accounts.create(NewUser("ghost", Role.VIEWER))
    any_people.accounts.update(ann.user_id, UserChange(disabled=True))
    attempts = [
        ("a password in the wrong field", WRONG),
        ("root", WRONG),
        ("ghost", WRONG),
        ("ann", password_of("ann")),
        ("\x00", WRONG),
        ("\ud800", WRONG),
        ("x" * 5000, WRONG),
        ("root", SecretStr("")),
        ("root", SecretStr("\ud800")),
    ]
    answers = set()
    for name, password in attempts:
        with pytest.raises(LoginFailedError) as caught:
            any_people.login(name, password, CLIENT)
        answers.add(str(caught.value))
    assert len(answers) == 1
    assert [event.detail for event in events_of(any_catalog, "user.login")] == [
        "there is no such user",
        "wrong password",
        "the account has no password",
        "the account is disabled",
        "there is no such user",
        "there is no such user",
        "there is no such user",
        "wrong password",
        "wrong password",
    ]
    assert [event.actor for event in events_of(any_catalog, "user.login")][:2] == ["a …", "root"]


def test_a_hash_of_another_system_becomes_ours_at_the_first_login(any_people: People) -> None:
    stored = bcrypt.hashpw(b"four words and a half", bcrypt.gensalt(4)).decode()
    any_people.accounts.import_all([NewUser("ann", Role.VIEWER, password_hash=stored)])
    catalog = any_people.accounts._catalog
    with pytest.raises(LoginFailedError):
        any_people.login("ann", WRONG, CLIENT)
    assert stored_hash(catalog, "ann") == stored
    for _ in range(2):
        any_people.login("ann", SecretStr("four words and a half"), CLIENT)
        assert stored_hash(catalog, "ann").startswith("$argon2id$")
    assert any_people.accounts.get_by_name("ann").password_changed_at is not None


def test_too_many_attempts_must_wait_whoever_there_is(people: People) -> None:
    add_user(people, "ann", Role.VIEWER)
    for name in ("ann", "nobody"):
        for _ in range(10):
            with pytest.raises(LoginFailedError):
                people.login(name, WRONG, CLIENT)
        with pytest.raises(TooManyAttemptsError) as caught:
            people.login(name, password_of(name), CLIENT)
        wait = caught.value.context["retry_after_seconds"]
        assert isinstance(wait, int)
        assert 1 <= wait <= 61
    # Many names from one address are noticed as well.
    refused: list[str] = []
    for number in range(50):
        try:
            people.login(f"nobody-{number}", WRONG, CLIENT)
        except (LoginFailedError, TooManyAttemptsError) as exc:
            refused.append(type(exc).__name__)
    # Those above were 22 of the 50 that an address may try.
    assert refused == ["LoginFailedError"] * 28 + ["TooManyAttemptsError"] * 22
    with pytest.raises(LoginFailedError):
        people.login("somebody", WRONG, Client("192.0.2.8"))


def test_a_right_password_makes_the_wrong_ones_count_no_more(people: People) -> None:
    add_user(people, "ann", Role.VIEWER)
    for _ in range(3):
        for _ in range(9):
            with pytest.raises(LoginFailedError):
                people.login("ann", WRONG, CLIENT)
        people.login("ANN", password_of("ann"), CLIENT)


def test_registration_is_closed_unless_a_setting_opens_it(any_people: People, any_catalog: Catalog) -> None:
    new = NewUser("ann", Role.ADMIN, teams=frozenset({"data"}), password=password_of("ann"))
    with pytest.raises(AccessError, match="closed"):
        any_people.register(new, CLIENT)
    server = dataclasses.replace(any_catalog.settings.server, registration_open=True)
    any_catalog.settings = dataclasses.replace(any_catalog.settings, server=server)
    people = People(any_catalog)
    made = people.register(new, CLIENT)
    # Whatever they ask for.
    assert (made.role, made.teams) == (Role.VIEWER, frozenset())
    with pytest.raises(ConflictError):
        people.register(new, CLIENT)
    [event] = events_of(any_catalog, "user.register")
    assert (event.actor, event.address) == ("ann", "192.0.2.7")


def test_a_new_password_ends_every_login_and_leaves_keys(any_people: People, any_catalog: Catalog) -> None:
    add_user(any_people, "ann", Role.VIEWER)
    login = any_people.login("ann", password_of("ann"), CLIENT)
    browser = any_people.open_session(login.identity, CLIENT)
    tokens = any_people.issue_tokens(login.identity, CLIENT)
    key = any_people.keys.create(login.identity, "key", [Permission.RUNS_READ], None)
    identity = any_people.identify_session(browser.token)
    assert identity is not None
    with pytest.raises(InvalidInputError, match="not changed"):
        any_people.change_password(identity, WRONG, SecretStr("another one of these"), CLIENT)
    with pytest.raises(InvalidInputError):
        any_people.change_password(identity, password_of("ann"), SecretStr("short"), CLIENT)
    assert any_people.identify_session(browser.token) is not None
    with acting_as(actor_of(identity, CLIENT)):
        any_people.change_password(identity, password_of("ann"), SecretStr("another one of these"), CLIENT)
    assert any_people.identify_session(browser.token) is None
    assert any_people.identify_bearer(tokens.access_token) is None
    with pytest.raises(LoginFailedError):
        any_people.refresh(tokens.refresh_token, CLIENT)
    assert any_people.identify_bearer(key.key) is not None
    with pytest.raises(LoginFailedError):
        any_people.login("ann", password_of("ann"), CLIENT)
    any_people.login("ann", SecretStr("another one of these"), CLIENT)
    assert [event.outcome for event in events_of(any_catalog, "user.set_password")] == ["failed", "allowed"]


# --- sessions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ann(any_people: People) -> Iterator[People]:
    add_user(any_people, "ann", Role.OPERATOR)
    return any_people


def test_a_session_has_two_ends(ann: People, any_catalog: Catalog) -> None:
    login = ann.login("ann", password_of("ann"), CLIENT)
    for column, moment in (
        (session.c.expires_at, datetime.now(UTC) - timedelta(seconds=1)),
        (session.c.last_seen_at, datetime.now(UTC) - timedelta(hours=2, seconds=1)),
    ):
        browser = ann.open_session(login.identity, CLIENT)
        assert ann.identify_session(browser.token) is not None
        with any_catalog.write() as connection:
            connection.execute(sa.update(session).values({column: moment}))
        assert ann.identify_session(browser.token) is None
        assert ann.sessions.page(login.identity.user_id) == ([], 0)


def test_a_session_that_is_used_stays(ann: People, any_catalog: Catalog) -> None:
    login = ann.login("ann", password_of("ann"), CLIENT)
    browser = ann.open_session(login.identity, CLIENT)
    before = datetime.now(UTC) - timedelta(hours=1)
    with any_catalog.write() as connection:
        connection.execute(sa.update(session).values(last_seen_at=before))
    assert ann.identify_session(browser.token) is not None
    [info], _ = ann.sessions.page(login.identity.user_id)
    assert info.last_seen_at > before
    assert (info.address, info.user_agent) == ("192.0.2.7", "a test")


def test_sessions_are_ended_one_by_one(ann: People, any_catalog: Catalog) -> None:
    other = add_user(ann, "bob", Role.ADMIN)
    login = ann.login("ann", password_of("ann"), CLIENT)
    first, second = (ann.open_session(login.identity, CLIENT) for _ in range(2))
    identity = ann.identify_session(first.token)
    assert identity is not None
    assert identity.credential_id is not None
    mine, _ = ann.sessions.page(login.identity.user_id)
    with pytest.raises(NotFoundError):
        ann.sessions.revoke(other.user_id, mine[0].session_id)
    ann.logout(identity)
    assert ann.identify_session(first.token) is None
    ann.close_session(second.token)
    ann.close_session(second.token)
    ann.close_session("no token at all")
    assert ann.identify_session(second.token) is None
    with pytest.raises(NotFoundError):
        ann.logout(identity)


def test_the_csrf_token_is_that_of_the_session(ann: People) -> None:
    login = ann.login("ann", password_of("ann"), CLIENT)
    first, second = (ann.open_session(login.identity, CLIENT) for _ in range(2))
    assert ann.check_csrf(first.token, first.csrf_token)
    assert ann.csrf_token(first.token) == first.csrf_token
    for other in (second.csrf_token, "", "é", first.csrf_token[:-1], "\ud800"):
        assert not ann.check_csrf(first.token, other)


def test_no_table_holds_a_token_and_no_value_shows_one(ann: People, any_catalog: Catalog) -> None:
    login = ann.login("ann", password_of("ann"), CLIENT)
    browser = ann.open_session(login.identity, CLIENT)
    tokens = ann.issue_tokens(login.identity, CLIENT)
    key = ann.keys.create(login.identity, "key", [Permission.RUNS_READ], None)
    secrets = [browser.token, browser.csrf_token, tokens.access_token, tokens.refresh_token, key.key]
    shown = repr([browser, tokens, key, login])
    stored = []
    with any_catalog.read() as connection:
        for table in sa.inspect(connection).get_table_names():
            stored += [str(row) for row in connection.execute(sa.text(f'select * from "{table}"'))]
    for secret in [*secrets, password_of("ann").get_secret_value()]:
        assert secret not in shown
        assert secret not in "\n".join(stored)


# --- keys of services -----------------------------------------------------------------------------------------------


def test_a_key_does_what_its_scopes_and_its_owner_may(ann: People, any_catalog: Catalog) -> None:
    add_user(ann, "root", Role.ADMIN)
    root = ann.login("root", password_of("root"), CLIENT).identity
    made = ann.keys.create(root, "ci", [Permission.RUNS_LAUNCH, Permission.AUDIT_READ], None)
    found = ann.identify_bearer(made.key)
    assert found is not None
    assert (found.method, found.permissions) == ("api_key", {Permission.RUNS_LAUNCH, Permission.AUDIT_READ})
    add_user(ann, "second", Role.ADMIN)
    ann.accounts.update(root.user_id, UserChange(role=Role.OPERATOR))
    found = ann.identify_bearer(made.key)
    assert found is not None
    assert found.permissions == {Permission.RUNS_LAUNCH}
    [info], _ = ann.keys.page(root.user_id)
    assert info.last_used_at is not None
    assert made.key.startswith(info.prefix)
    with pytest.raises(AccessError):
        ann.keys.create(found, "from a key", [Permission.RUNS_LAUNCH], None)
    with pytest.raises(AccessError):
        ann.logout(found)
    with pytest.raises(AccessError):
        ann.change_password(found, password_of("root"), SecretStr("another one of these"), CLIENT)


def test_nobody_gives_a_key_what_they_may_not(ann: People) -> None:
    identity = ann.login("ann", password_of("ann"), CLIENT).identity
    with pytest.raises(AccessError, match="people:manage"):
        ann.keys.create(identity, "ci", [Permission.RUNS_READ, Permission.PEOPLE_MANAGE], None)


@pytest.mark.parametrize(
    ("name", "scopes", "hours"),
    [("", ["runs:read"], 1), ("x" * 129, ["runs:read"], 1), ("a\x00", ["runs:read"], 1), ("ci", [], 1)]
    + [("ci", ["runs:read"], hours) for hours in (-1, 0, 24 * 366 * 6)],
)
def test_a_key_that_cannot_be_meant_is_refused(ann: People, name: str, scopes: list[str], hours: int) -> None:
    identity = ann.login("ann", password_of("ann"), CLIENT).identity
    until = datetime.now(UTC) + timedelta(hours=hours)
    with pytest.raises(InvalidInputError):
        ann.keys.create(identity, name, [Permission(scope) for scope in scopes], until)


def test_a_key_ends_by_the_clock_or_by_hand(ann: People, any_catalog: Catalog) -> None:
    identity = ann.login("ann", password_of("ann"), CLIENT).identity
    other = add_user(ann, "bob", Role.ADMIN)
    timed = ann.keys.create(identity, "timed", [Permission.RUNS_READ], datetime.now(UTC) + timedelta(hours=1))
    revoked = ann.keys.create(identity, "revoked", [Permission.RUNS_READ], None)
    with any_catalog.write() as connection:
        connection.execute(
            sa.update(api_key)
            .where(api_key.c.expires_at.is_not(None))
            .values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        )
    assert ann.identify_bearer(timed.key) is None
    with pytest.raises(NotFoundError):
        ann.keys.revoke(other.user_id, revoked.info.key_id)
    ann.keys.revoke(identity.user_id, revoked.info.key_id)
    assert ann.identify_bearer(revoked.key) is None
    with pytest.raises(NotFoundError):
        ann.keys.revoke(identity.user_id, revoked.info.key_id)
    found, total = ann.keys.page(identity.user_id)
    assert ([item.name for item in found], total) == (["timed"], 1)


# --- a sealed vault -------------------------------------------------------------------------------------------------


def test_behind_a_sealed_vault_sessions_and_keys_go_on_and_tokens_wait(ann: People, any_catalog: Catalog) -> None:
    login = ann.login("ann", password_of("ann"), CLIENT)
    browser = ann.open_session(login.identity, CLIENT)
    tokens = ann.issue_tokens(login.identity, CLIENT)
    key = ann.keys.create(login.identity, "key", [Permission.RUNS_READ], None)
    any_catalog.vault.seal()
    assert ann.identify_session(browser.token) is not None
    assert ann.identify_bearer(key.key) is not None
    again = ann.login("ann", password_of("ann"), CLIENT)
    attempts = (
        lambda: ann.identify_bearer(tokens.access_token),
        lambda: ann.issue_tokens(again.identity, CLIENT),
        lambda: ann.refresh(tokens.refresh_token, CLIENT),
    )
    for attempt in attempts:
        with pytest.raises(SealedError):
            attempt()
    # What is no token needs no key to be refused.
    assert ann.identify_bearer("nonsense") is None
    any_catalog.vault.unlock(password=any_catalog.settings.master_password, remember=False)
    assert ann.identify_bearer(tokens.access_token) is not None
    assert ann.identify_bearer(ann.refresh(tokens.refresh_token, CLIENT).access_token) is not None


def test_without_a_trail_nobody_comes_in(ann: People, any_catalog: Catalog) -> None:
    with any_catalog.write() as connection:
        connection.exec_driver_sql("alter table synqx_audit rename to synqx_audit_gone")
    with pytest.raises(SynqxError) as caught:
        ann.login("ann", password_of("ann"), CLIENT)
    assert not isinstance(caught.value, LoginFailedError)
    assert ann.accounts.get_by_name("ann").last_login_at is None
