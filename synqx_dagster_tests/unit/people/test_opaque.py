"""Opaque tokens: what is one, seen without a database."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.people.opaque import (
    API_KEY_PREFIX,
    REFRESH_PREFIX,
    SESSION_PREFIX,
    csrf_token_of,
    digest,
    is_token,
    new_token,
)

PREFIXES = (API_KEY_PREFIX, REFRESH_PREFIX, SESSION_PREFIX)


def test_a_new_token_is_one_and_none_of_another_kind() -> None:
    for prefix in PREFIXES:
        token = new_token(prefix)
        assert [is_token(token, other) for other in PREFIXES] == [other == prefix for other in PREFIXES]


def test_scanners_find_keys_by_one_expression() -> None:
    assert re.fullmatch(r"synqx_[0-9A-Za-z]{49}", new_token(API_KEY_PREFIX))


@given(st.integers(0, 54), st.characters())
def test_a_key_with_one_other_character_is_none(place: int, character: str) -> None:
    token = new_token(API_KEY_PREFIX)
    changed = token[:place] + character + token[place + 1 :]
    assert is_token(changed, API_KEY_PREFIX) == (changed == token)


@given(st.text())
def test_no_text_breaks_the_check(text: str) -> None:
    assert not is_token(API_KEY_PREFIX + text, SESSION_PREFIX)
    assert len(digest(text)) == 64
    assert len(csrf_token_of(text)) == 64


def test_tokens_differ_and_a_csrf_token_says_nothing_of_its_session() -> None:
    tokens = {new_token(SESSION_PREFIX) for _ in range(1000)}
    assert len(tokens) == 1000
    token = tokens.pop()
    assert csrf_token_of(token) == csrf_token_of(token)
    assert csrf_token_of(token) != digest(token)
    assert csrf_token_of(token) not in {csrf_token_of(other) for other in tokens}
