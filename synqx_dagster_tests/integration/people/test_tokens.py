"""Access and refresh tokens: forged, stale, stolen, raced for, and across rotations of keys."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.catalog.people_tables import refresh_token, signing_key, token_family
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import IntegrityError, LoginFailedError, NotFoundError, SealedError
from synqx_dagster.people.identity import Client
from synqx_dagster.people.refresh import GRACE
from synqx_dagster.people.roles import Role
from synqx_dagster.people.service import People, TokenPair
from synqx_dagster.people.signing_keys import SigningKey
from synqx_dagster.settings import Settings
from synqx_dagster.vault import kdf
from synqx_dagster_tests.fix_catalog import CHEAP_POLICY
from synqx_dagster_tests.fix_people import CLIENT, add_user, password_of
from synqx_dagster_tests.integration.catalog.processes import run_at_once


def logged_in(people: People, name: str = "ann") -> TokenPair:
    if not people.accounts.page(search=name)[0]:
        add_user(people, name, Role.EDITOR)
    return people.issue_tokens(people.login(name, password_of(name), CLIENT).identity, CLIENT)


# --- access tokens --------------------------------------------------------------------------------------------------


def test_a_token_says_all_that_it_must_and_nothing_of_roles(any_people: People, any_catalog: Catalog) -> None:
    token = logged_in(any_people).access_token
    claims = jwt.decode(token, options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid"}
    assert claims["exp"] - claims["iat"] == 600
    assert any_catalog.catalog_id in claims["iss"]
    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["typ"]) == ("HS256", "at+jwt")
    found = any_people.identify_bearer(token)
    assert found is not None
    assert (str(found.user_id), found.role, found.method) == (claims["sub"], Role.EDITOR, "token")


def forge(people: People, token: str, header: dict[str, Any], **claims: Any) -> str:
    """The token with other claims, signed by the right key."""
    original = jwt.get_unverified_header(token)
    key = people.access_tokens.keys.find(original["kid"])
    assert key is not None
    known = jwt.decode(token, options={"verify_signature": False})
    payload = {name: value for name, value in {**known, **claims}.items() if value is not None}
    return jwt.encode(payload, key.secret, "HS256", headers={**original, **header})


NOW = int(datetime.now(UTC).timestamp())


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 60},
        {"nbf": NOW + 3600},
        {"iat": NOW + 3600},
        {"iss": "urn:synqx:another"},
        {"aud": "urn:synqx:another:api"},
        {"aud": ["urn:synqx:another:api"]},
        {"sub": "00000000-0000-4000-8000-000000000000"},
        {"sub": "no id"},
        {"sid": "00000000-0000-4000-8000-000000000000"},
        {"sid": 5},
        *({name: None} for name in ("iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid")),
    ],
)
def test_claims_that_are_wrong_or_missing_are_refused(people: People, claims: dict[str, Any]) -> None:
    token = logged_in(people).access_token
    assert people.identify_bearer(forge(people, token, {})) is not None
    assert people.identify_bearer(forge(people, token, {}, **claims)) is None


def test_only_the_one_type_and_algorithm_is_taken(people: People) -> None:
    token = logged_in(people).access_token
    key = people.access_tokens.keys.find(jwt.get_unverified_header(token)["kid"])
    assert key is not None
    claims = jwt.decode(token, options={"verify_signature": False})
    header = jwt.get_unverified_header(token)
    kid_and_type = {"kid": header["kid"], "typ": "at+jwt"}
    forged = [
        jwt.encode(claims, None, "none", headers=kid_and_type),
        jwt.encode(claims, key.secret * 2, "HS512", headers=kid_and_type),
        jwt.encode(claims, key.secret, "HS256", headers={**kid_and_type, "typ": "JWT"}),
        jwt.encode(claims, key.secret, "HS256", headers={"typ": "at+jwt"}),
        jwt.encode(claims, key.secret, "HS256", headers={**kid_and_type, "kid": "another"}),
        jwt.encode(claims, b"k" * 32, "HS256", headers=kid_and_type),
        token[:-2],
        token + "=",
        f"{token}.{token}",
    ]
    assert [people.identify_bearer(item) for item in forged] == [None] * len(forged)


def _part(document: str) -> str:
    return base64.urlsafe_b64encode(document.encode("utf-8", "surrogatepass")).decode().rstrip("=")


@pytest.mark.parametrize(
    "header",
    [
        "[" * 1200,
        '{"a":' * 400,
        "null",
        "[]",
        '"text"',
        '{"alg": "HS256", "typ": "at+jwt", "kid": 5}',
        '{"alg": "HS256", "typ": "at+jwt", "kid": {"a": 1}}',
        '{"alg": ["HS256"], "typ": "at+jwt", "kid": "x"}',
        '{"alg": "HS256", "typ": "at+jwt", "kid": "x\x00y"}',
        '{"alg": "HS256", "typ": "at+jwt", "kid": "\\ud800"}',
        '{"alg": "HS256", "typ": "at+jwt", "kid": "' + "x" * 1000 + '"}',
        '{"alg": "HS256", "typ": "at+jwt", "kid": "x", "crit": ["exp"]}',
        '{"alg": 1e999}',
    ],
)
def test_no_header_of_a_stranger_breaks_anything(any_people: People, header: str) -> None:
    for payload in ("{}", "[" * 500, "\ud800"):
        assert any_people.identify_bearer(f"{_part(header)}.{_part(payload)}.{_part('x')}") is None


@given(st.text())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_breaks_anything(people: People, text: str) -> None:
    assert people.identify_bearer(text) is None
    assert people.identify_session(text) is None
    assert people.identify_bearer(f"synqx_{text}") is None


def test_a_logout_ends_the_token_that_it_came_with(any_people: People, any_catalog: Catalog) -> None:
    first, second = logged_in(any_people), logged_in(any_people)
    identity = any_people.identify_bearer(first.access_token)
    assert identity is not None
    any_people.logout(identity)
    assert any_people.identify_bearer(first.access_token) is None
    with pytest.raises(LoginFailedError):
        any_people.refresh(first.refresh_token, CLIENT)
    assert any_people.identify_bearer(second.access_token) is not None


# --- refresh tokens -------------------------------------------------------------------------------------------------


def actions(catalog: Catalog) -> list[str]:
    return [entry.event.action for entry in AuditTrail(catalog).iter_entries()]


def age(catalog: Catalog, by: timedelta) -> None:
    """Let every use of a token be longer ago."""
    with catalog.write() as connection:
        rows = connection.execute(sa.select(refresh_token).where(refresh_token.c.used_at.is_not(None))).all()
        for row in rows:
            connection.execute(
                sa.update(refresh_token)
                .where(refresh_token.c.token_hash == row.token_hash)
                .values(used_at=row.used_at - by)
            )


def test_a_token_is_good_once_and_its_reuse_ends_the_login(any_people: People, any_catalog: Catalog) -> None:
    first = logged_in(any_people)
    other = logged_in(any_people)
    second = any_people.refresh(first.refresh_token, CLIENT)
    third = any_people.refresh(second.refresh_token, CLIENT)
    assert any_people.identify_bearer(third.access_token) is not None
    age(any_catalog, GRACE + timedelta(seconds=1))
    with pytest.raises(LoginFailedError):
        any_people.refresh(first.refresh_token, Client("198.51.100.1"))
    for pair in (first, second, third):
        assert any_people.identify_bearer(pair.access_token) is None
        with pytest.raises(LoginFailedError):
            any_people.refresh(pair.refresh_token, CLIENT)
    assert any_people.identify_bearer(other.access_token) is not None
    [event] = [entry.event for entry in AuditTrail(any_catalog).iter_entries() if entry.event.action == "token.reuse"]
    assert (event.outcome, event.actor, event.address) == ("denied", "ann", "198.51.100.1")


def test_a_request_that_was_sent_twice_is_no_theft(any_people: People, any_catalog: Catalog) -> None:
    first = logged_in(any_people)
    second = any_people.refresh(first.refresh_token, CLIENT)
    with pytest.raises(LoginFailedError):
        any_people.refresh(first.refresh_token, CLIENT)
    assert any_people.identify_bearer(second.access_token) is not None
    any_people.refresh(second.refresh_token, CLIENT)
    assert "token.reuse" not in actions(any_catalog)


def test_of_processes_that_refresh_at_once_exactly_one_wins(any_people: People, any_catalog: Catalog) -> None:
    pair = logged_in(any_people)
    results = run_at_once(_refresh, any_catalog.settings, pair.refresh_token, count=4)
    won = [result for result in results if result is not None]
    assert len(won) == 1
    assert any_people.refresh(won[0], CLIENT).access_token


def _refresh(config: Settings, token: str, _number: int, meet: Callable[[], object]) -> str | None:
    kdf.DEFAULT_POLICY = CHEAP_POLICY
    with Catalog.open(config) as catalog:
        people = People(catalog)
        # Before they meet: to open the vault takes a while.
        catalog.unseal()
        meet()
        try:
            return people.refresh(token, CLIENT).refresh_token
        except LoginFailedError:
            return None


def test_a_login_cannot_be_renewed_for_ever(any_people: People, any_catalog: Catalog) -> None:
    pair = logged_in(any_people)
    renewed = any_people.refresh(pair.refresh_token, CLIENT)
    assert renewed.refresh_expires_at == pair.refresh_expires_at
    with any_catalog.write() as connection:
        connection.execute(sa.update(token_family).values(expires_at=datetime.now(UTC) - timedelta(days=2)))
    with pytest.raises(LoginFailedError):
        any_people.refresh(renewed.refresh_token, CLIENT)
    logged_in(any_people)
    # And leaves nothing behind.
    with any_catalog.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(token_family)).scalar_one() == 1
        assert connection.execute(sa.select(sa.func.count()).select_from(refresh_token)).scalar_one() == 1


# --- signing keys -----------------------------------------------------------------------------------------------------


def key_ids(catalog: Catalog) -> list[str]:
    with catalog.read() as connection:
        return list(connection.execute(sa.select(signing_key.c.key_id).order_by(signing_key.c.key_number)).scalars())


@pytest.mark.slow
def test_processes_that_need_a_key_at_once_make_one(any_people: People, any_catalog: Catalog) -> None:
    add_user(any_people, "ann", Role.VIEWER)
    tokens = run_at_once(_issue, any_catalog.settings, count=3)
    assert len(key_ids(any_catalog)) == 1
    assert all(any_people.identify_bearer(token) is not None for token in tokens)


def _issue(config: Settings, _number: int, meet: Callable[[], object]) -> str:
    kdf.DEFAULT_POLICY = CHEAP_POLICY
    with Catalog.open(config) as catalog:
        people = People(catalog)
        user = people.accounts.get_by_name("ann")
        catalog.unseal()
        meet()
        return people.issue_tokens(user.identity("session"), CLIENT).access_token


def test_keys_are_sealed_at_their_place(any_people: People, any_catalog: Catalog) -> None:
    token = logged_in(any_people).access_token
    any_people.access_tokens.keys.rotate()
    first, second = key_ids(any_catalog)
    with any_catalog.write() as connection:
        rows = connection.execute(sa.select(signing_key).order_by(signing_key.c.key_number)).all()
        connection.execute(
            sa.update(signing_key).where(signing_key.c.key_id == second).values(envelope=rows[0].envelope)
        )
    with pytest.raises(IntegrityError):
        People(any_catalog).access_tokens.keys.find(second)
    assert People(any_catalog).identify_bearer(token) is not None
    assert first != second


def test_a_key_that_was_replaced_verifies_as_long_as_a_token_lives(any_people: People, any_catalog: Catalog) -> None:
    old = logged_in(any_people).access_token
    made = any_people.access_tokens.keys.rotate()
    assert [key.state for key in any_people.access_tokens.keys.list()] == ["signs", "verifies"]
    assert any_people.access_tokens.keys.list()[0] == made
    new = logged_in(any_people).access_token
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    other = People(any_catalog)
    assert any_people.identify_bearer(old) is not None
    assert other.identify_bearer(old) is not None
    with any_catalog.write() as connection:
        connection.execute(
            sa.update(signing_key)
            .where(signing_key.c.retired_at.is_not(None))
            .values(retired_at=datetime.now(UTC) - timedelta(minutes=11))
        )
    for people in (any_people, other):
        assert people.access_tokens.keys.find(jwt.get_unverified_header(old)["kid"]) is None
        assert people.identify_bearer(new) is not None
        assert [key.state for key in people.access_tokens.keys.list()] == ["signs", "over"]


def test_a_retired_key_verifies_nothing_from_then_on_in_any_process(any_people: People, any_catalog: Catalog) -> None:
    pair = logged_in(any_people)
    other = People(any_catalog)
    # Both have the key open.
    assert any_people.identify_bearer(pair.access_token) is not None
    assert other.identify_bearer(pair.access_token) is not None
    (key,) = any_people.access_tokens.keys.list()
    stolen = any_people.access_tokens.keys.find(key.key_id)
    assert stolen is not None
    retired = other.access_tokens.keys.retire(key.key_id[:8])
    assert retired.key_id == key.key_id
    for people in (any_people, other):
        assert people.identify_bearer(pair.access_token) is None
        assert people.identify_bearer(forge_with(stolen, pair.access_token)) is None
    # Another one signs, under a number of its own, and the login goes on.
    with any_catalog.read() as connection:
        assert connection.execute(sa.select(signing_key.c.key_number)).scalars().all() == [2]
    renewed = any_people.refresh(pair.refresh_token, CLIENT)
    assert other.identify_bearer(renewed.access_token) is not None
    events = [entry.event for entry in AuditTrail(any_catalog).page(limit=2)[0]]
    assert ("token.retire_signing_key", key.key_id) in [(event.action, event.target) for event in events]


def forge_with(key: SigningKey, token: str) -> str:
    """What somebody signs who has got hold of a key."""
    claims = jwt.decode(token, options={"verify_signature": False})
    headers = {"kid": key.key_id, "typ": "at+jwt"}
    return jwt.encode({**claims, "jti": "forged"}, key.secret, "HS256", headers=headers)


def test_a_key_that_is_over_is_retired_and_one_that_is_not_there_is_not(any_people: People) -> None:
    keys = any_people.access_tokens.keys
    logged_in(any_people)
    keys.rotate()
    signs, replaced = keys.list()
    assert keys.retire(replaced.key_id).key_id == replaced.key_id
    assert [key.key_id for key in keys.list()] == [signs.key_id]
    for wrong in (replaced.key_id, "", signs.key_id[:3], "not an id"):
        with pytest.raises(NotFoundError, match="There is no signing key"):
            keys.retire(wrong)
    assert [key.key_id for key in keys.list()] == [signs.key_id]


def test_while_the_vault_is_sealed_the_key_that_signs_is_not_replaced(people: People, catalog: Catalog) -> None:
    logged_in(people)
    (key,) = people.access_tokens.keys.list()
    catalog.vault.seal()
    for act in (people.access_tokens.keys.rotate, lambda: people.access_tokens.keys.retire(key.key_id)):
        with pytest.raises(SealedError):
            act()
    assert people.access_tokens.keys.list() == [key]


def test_an_old_key_is_followed_by_a_new_one(any_people: People, any_catalog: Catalog) -> None:
    logged_in(any_people)
    with any_catalog.write() as connection:
        connection.execute(sa.update(signing_key).values(created_at=datetime.now(UTC) - timedelta(days=91)))
    pair = logged_in(any_people)
    assert len(key_ids(any_catalog)) == 2
    assert any_people.identify_bearer(pair.access_token) is not None


def test_signing_keys_go_with_a_rotation_of_the_vault(any_people: People, any_catalog: Catalog) -> None:
    pair = logged_in(any_people)
    with any_catalog.read() as connection:
        before = connection.execute(sa.select(signing_key.c.envelope)).scalar_one()
    assert any_catalog.vault.rotate() == 1
    with any_catalog.read() as connection:
        after = connection.execute(sa.select(signing_key.c.envelope)).scalar_one()
    assert before != after
    assert People(any_catalog).identify_bearer(pair.access_token) is not None
    assert any_people.identify_bearer(pair.access_token) is not None
    # The generation of before is dropped by a rotation a day later: this process has the old envelope all the same.
    storage = any_catalog.vault._storage
    state = storage.load()
    assert state is not None
    any_catalog.vault._clock = lambda: datetime.now(UTC) + timedelta(days=2)
    assert any_catalog.vault.rotate() == 1
    assert any_people.identify_bearer(pair.access_token) is not None


def test_a_document_of_claims_is_what_json_says(people: People) -> None:
    payload = logged_in(people).access_token.split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sid"]
