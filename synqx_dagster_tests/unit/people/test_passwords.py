"""Passwords: which are taken, what is kept, and hashes of other systems."""

from __future__ import annotations

import sys

import bcrypt
import pytest
from argon2 import PasswordHasher
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError, InvalidInputError
from synqx_dagster.people import passwords
from synqx_dagster_tests.fix_people import CHEAP_PARAMETERS

GOOD = SecretStr("four words and a half")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("short", "fewer than 12"),
        ("x" * 257, "more than 256"),
        ("abababababab", "different characters"),
        ("ann.miller.1", "user name"),
        ("ANN.MILLER2026", "user name"),
        ("amil@example.org1", "user name"),
        ("with a \x00 in it, and more", "not valid text"),
        ("with a \ud800 in it, and more", "not valid text"),
    ],
)
def test_what_is_not_taken(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        passwords.check_password(SecretStr(text), username="ann.miller", email="amil@example.org")
    assert reason in caught.value.problems[0].message
    assert text not in str(caught.value)


@pytest.mark.parametrize("text", ["four words and a half", "пароль из слов", "x9" * 6 + "abc", "ann.miller likes tea"])
def test_what_is_taken(text: str) -> None:
    passwords.check_password(SecretStr(text), username="ann.miller", email="a@b.example")


def test_the_parameters_are_those_of_the_rfc_and_stand_in_the_hash() -> None:
    stored = passwords.hash_password(GOOD)
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.verify_password(GOOD, stored)
    assert not passwords.verify_password(SecretStr("four words and a halt"), stored)
    assert not passwords.needs_rehash(stored)


def test_a_hash_of_other_parameters_verifies_and_is_made_anew(cheap_passwords: None) -> None:
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash("four words and a half")
    assert passwords.verify_password(GOOD, old)
    assert passwords.needs_rehash(old)
    assert not passwords.needs_rehash(passwords.hash_password(GOOD))


@pytest.mark.parametrize("prefix", [b"2b", b"2a", b"2y"])
def test_a_hash_of_bcrypt_verifies_and_is_made_anew(prefix: bytes) -> None:
    stored = bcrypt.hashpw(b"four words and a half", bcrypt.gensalt(4)).replace(b"$2b$", b"$" + prefix + b"$").decode()
    passwords.check_imported_hash(stored)
    assert passwords.verify_password(GOOD, stored)
    assert not passwords.verify_password(SecretStr("four words and a halt"), stored)
    assert passwords.needs_rehash(stored)


def test_bcrypt_reads_72_bytes_as_the_system_did_that_made_the_hash() -> None:
    long = "ä" * 40 + "and more"
    stored = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    assert passwords.verify_password(SecretStr(long), stored)
    assert passwords.verify_password(SecretStr("ä" * 36), stored)
    assert not passwords.verify_password(SecretStr("ä" * 35), stored)


def test_a_nul_does_not_end_a_password_of_bcrypt() -> None:
    stored = bcrypt.hashpw(b"four words", bcrypt.gensalt(4)).decode()
    assert not passwords.verify_password(SecretStr("four words\x00and"), stored)


def test_accents_are_the_same_however_a_keyboard_writes_them(cheap_passwords: None) -> None:
    stored = passwords.hash_password(SecretStr("caf\u00e9 with four words"))
    assert passwords.verify_password(SecretStr("cafe\u0301 with four words"), stored)


def test_for_nobody_a_password_is_verified_all_the_same(cheap_passwords: None, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    matches = passwords._matches_argon2

    def seen(stored: str, text: str) -> bool:
        verified.append(stored)
        return matches(stored, text)

    monkeypatch.setattr(passwords, "_matches_argon2", seen)
    for text in ("some password", "x" * 1000, "\ud800"):
        assert not passwords.verify_password(SecretStr(text), None)
    assert not passwords.verify_password(SecretStr("x" * 1000), passwords.hash_password(GOOD))
    parameters = passwords.hash_password(GOOD).split("$")[3]
    assert [stored.split("$")[3] for stored in verified] == [parameters] * 4


@given(st.text(max_size=300))
@settings(max_examples=50)
def test_no_text_breaks_verification(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "PARAMETERS", CHEAP_PARAMETERS)
        assert not passwords.verify_password(SecretStr(text), passwords.hash_password(GOOD)) or text == GOOD


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "plain text",
        "$2b$31$" + "a" * 53,
        "$2b$03$" + "a" * 53,
        "$2x$04$" + "a" * 53,
        "$1$salt$hash",
        "$argon2id$v=19$m=2097152,t=1,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=8,t=999,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNo",
        "{SHA}" + "a" * 28,
    ],
)
def test_what_is_no_hash_that_a_login_can_verify_is_refused(stored: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        passwords.check_imported_hash(stored)
    assert not stored or stored not in str(caught.value)


def test_a_stored_hash_that_was_damaged_opens_nothing(cheap_passwords: None) -> None:
    for stored in ("", "$argon2id$v=19$m=8,t=1,p=1$xx", "$2b$04$short", "anything"):
        assert not passwords.verify_password(GOOD, stored)


def test_without_bcrypt_its_hashes_are_not_taken_and_open_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored = bcrypt.hashpw(b"four words and a half", bcrypt.gensalt(4)).decode()
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="not installed"):
        passwords.check_imported_hash(stored)
    # The answer is that to a wrong password: who asks must not learn whose hash it is.
    assert not passwords.verify_password(GOOD, stored)
    assert "install synqx-dagster[bcrypt]" in caplog.text
