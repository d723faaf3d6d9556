"""Words of texts: what is cut out of a text is what a query for it is cut into."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.catalog.search_index import as_vector
from synqx_dagster.catalog.words import (
    MAX_WORD_CHARACTERS,
    clean_text,
    cut_around,
    iter_words,
    mark_words,
    query_words,
)

TEXT = st.text(st.characters(codec=None), max_size=60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("analytics.customer_address", ["analytics", "customer", "address"]),
        ("customerEmail", ["customeremail", "customer", "email"]),
        ("HTTPServer2", ["httpserver2", "http", "server", "2"]),
        ("Café, ÉCOLE", ["cafe", "ecole"]),
        ("cafe\u0301", ["cafe"]),
        ("Straße", ["strasse"]),
        ("ﬁeld ½", ["field", "1", "2"]),
        ("東京 вода", ["東京", "вода"]),
        ("'; drop table -- \x00 \ud800", ["drop", "table"]),
        ("x" * 200, ["x" * MAX_WORD_CHARACTERS]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert list(iter_words(text)) == words


@given(TEXT)
def test_each_word_of_a_text_and_each_beginning_of_it_is_among_the_texts_words(text: str) -> None:
    indexed = list(iter_words(text))
    for run in re.findall(r"\w+", text):
        for stop in range(1, len(run) + 1):
            for asked in query_words(run[:stop], 1000):
                assert any(word.startswith(asked) for word in indexed), (run[:stop], asked)


@given(TEXT)
def test_words_are_letters_and_digits_alone(text: str) -> None:
    for word in [*iter_words(text), *query_words(text, 1000)]:
        assert word.isalnum()
        assert 0 < len(word) <= MAX_WORD_CHARACTERS
        assert word == word.lower() or not word.isascii()


@given(TEXT, TEXT)
def test_the_pieces_of_a_marked_text_make_it_up(text: str, query: str) -> None:
    parts = mark_words(text, query_words(query, 10))
    assert "".join(part.text for part in parts) == text
    assert all(part.text for part in parts)


@given(TEXT)
def test_what_is_looked_for_is_marked(text: str) -> None:
    for word in iter_words(text):
        assert any(part.is_match for part in mark_words(text, [word]))


def test_a_text_is_cut_around_what_was_found() -> None:
    text = "one " * 100 + "needle " + "two " * 100
    cut = cut_around(text, ["needle"], 80)
    assert "needle" in cut
    assert cut.startswith("…")
    assert cut.endswith("…")
    assert len(cut) <= 82
    assert cut_around("short needle", ["needle"], 80) == "short needle"
    assert cut_around(text, ["nothing"], 80).startswith("one one")


@given(TEXT, TEXT, st.integers(10, 100))
def test_a_cut_text_is_a_piece_of_it(text: str, query: str, characters: int) -> None:
    cut = cut_around(text, query_words(query, 10), characters)
    assert cut.strip("…").strip() in text
    assert len(cut) <= max(characters + 2, len(text) if len(text) <= characters else 0)


@given(TEXT)
def test_clean_text_is_text_that_a_database_keeps(text: str) -> None:
    cleaned = clean_text(text)
    assert "\x00" not in cleaned
    cleaned.encode()
    assert list(iter_words(cleaned)) == list(iter_words(text))


def test_a_vector_keeps_to_the_limits_of_postgresql() -> None:
    vector = as_vector([["title"], ["name"] * 50, [f"word{number}" for number in range(100_000)]])
    assert vector.startswith("'title':1A 'name':2B,3B,")
    assert vector.count("B") == 8
    assert len(vector.encode()) < 1_000_000
    assert max(int(place) for place in re.findall(r"(\d+)[ABC]", vector)) <= 16_383
