"""Users of another system: every line that cannot become an account, with its number."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import InvalidInputError
from synqx_dagster.people.importing import read_users
from synqx_dagster.people.roles import Role

HASH = "$2b$12$" + "a" * 53


def read(*documents: object) -> list[object]:
    return list(read_users([json.dumps(item) for item in documents], file="users.jsonl"))


def test_what_lines_say(tmp_path: object) -> None:
    lines = [
        '{"username": "ann", "email": "ann@example.org", "role": "editor", "teams": ["data"], "disabled": true}\n',
        "\n",
        f'{{"username": "bob@example.org", "email": "bob@example.org", "password_hash": "{HASH}"}}',
        '{"username": "carl", "email": null, "teams": null, "password_hash": ""}',
    ]
    found = read_users(lines, file="users.jsonl", default_role=Role.OPERATOR)
    assert [item.line for item in found] == [1, 3, 4]
    ann, bob, carl = (item.new for item in found)
    assert (ann.role, ann.teams, ann.disabled, ann.password_hash) == (Role.EDITOR, {"data"}, True, None)
    assert (bob.role, bob.password_hash) == (Role.OPERATOR, HASH)
    assert (carl.email, carl.teams, carl.password_hash) == (None, frozenset(), None)
    assert HASH not in repr(found)


def test_every_mistake_is_listed_with_its_line_and_no_hash() -> None:
    documents = [
        {"username": "ann"},
        {"username": "ANN"},
        {"username": "a b"},
        {"username": "bob", "password": "a secret text"},
        {"username": "bob", "password_hash": "a secret text"},
        {"username": "bob", "role": "root"},
        {"username": "bob", "teams": "data"},
        {"username": "bob", "teams": [1]},
        {"username": "bob", "disabled": "no"},
        {"username": 5},
        {"email": "bob@example.org"},
        ["bob"],
        None,
    ]
    with pytest.raises(InvalidInputError) as caught:
        read(*documents)
    assert [problem.location and problem.location.line for problem in caught.value.problems] == list(range(2, 14))
    assert "a secret text" not in str(caught.value)


@given(st.text().filter(lambda text: text.strip() != ""))
def test_no_line_breaks_anything(text: str) -> None:
    with pytest.raises(InvalidInputError):
        read_users([text, "[" * 5000], file="users.jsonl")
