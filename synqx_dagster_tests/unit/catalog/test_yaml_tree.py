"""The YAML that is read, the YAML that is refused, and what plain scalars mean."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from synqx_dagster.catalog import yaml_tree
from synqx_dagster.catalog.yaml_tree import Document, format_path, parse_documents, parse_path
from synqx_dagster.errors import Problem


@pytest.fixture(params=["libyaml", "python"] if yaml.__with_libyaml__ else ["python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: which one a machine has must not matter."""
    loaders = {"libyaml": getattr(yaml, "CSafeLoader", None), "python": yaml.SafeLoader}
    monkeypatch.setattr(yaml_tree, "_LOADER", loaders[request.param])


def read(text: str) -> Document:
    documents, problems = parse_documents(text, "a.yaml")
    assert problems == []
    assert len(documents) == 1
    return documents[0]


def refuse(text: str) -> Problem:
    _, problems = parse_documents(text, "a.yaml")
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5432", 5432),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("1.50", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        # Each of these is another value in YAML 1.1, or in what some reader makes of it.
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("True", "True"),
        ("NULL", "NULL"),
        ("017", "017"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 12:00:00", "2024-01-01 12:00:00"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("=", "="),
        ("9" * 41, "9" * 41),
        ("'5432'", "5432"),
        ('"true"', "true"),
        ("''", ""),
        ('"a\\nb"', "a\nb"),
    ],
)
def test_scalars(written: str, value: Any) -> None:
    found = read(f"key: {written}\n").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_lines_of_every_part() -> None:
    document = read("# a comment\nkind: schema\ncolumns:\n  - {name: a}\n  - name: b\n    nullable: true\n")
    assert {format_path(path): line for path, line in document.lines.items()} == {
        "": 2,
        "kind": 2,
        "columns": 3,
        "columns[0]": 4,
        "columns[0].name": 4,
        "columns[1]": 5,
        "columns[1].name": 5,
        "columns[1].nullable": 6,
    }
    missing = document.locate(("columns", 1, "data_type"))
    assert (missing.line, missing.field) == (5, "columns[1].data_type")


def test_lines_in_later_documents() -> None:
    documents, _ = parse_documents("a: 1\n---\n\nb: 2\n", "a.yaml")
    assert [document.locate((key,)).line for document, key in zip(documents, "ab", strict=True)] == [1, 4]


def test_paths_are_read_as_they_are_written() -> None:
    assert parse_path("columns[2].data_type") == ("columns", 2, "data_type")
    assert parse_path("columns.2.data_type") == ("columns", 2, "data_type")
    assert parse_path("") == ()


@pytest.mark.parametrize("text", ["", "---\n", "---\n---\n", "# nothing\n", "--- ~\n...\n---\n# no\n"])
def test_empty_documents_are_skipped(text: str) -> None:
    assert parse_documents(text, "a.yaml") == ([], [])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: &x 1\n", 1, "anchors"),
        ("a: 1\nb: &x {c: 1}\n", 2, "anchors"),
        ("&x a: 1\n", 1, "anchors"),
        ("a: *x\n", 1, "alias"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "tags"),
        ("a: !!str 1\n", 1, "tags"),
        ("a: !secret x\n", 1, "tags"),
        ("a:\n  <<: {b: 1}\n", 2, "merge keys"),
        ("? [a, b]\n: 1\n", 1, "a key must be text"),
        ('a: "\\0"\n', 1, "NUL"),
        ('"a\\0": 1\n', 1, "NUL"),
        ("b: 1\na: \x07\n", 2, "control character"),
        ("a: [1\nb: 2\n", 2, "not YAML"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: 'x\n", 2, "not YAML"),
        ("\ta: 1\n", 1, "not YAML"),
    ],
)
def test_refused(text: str, line: int, words: str) -> None:
    problem = refuse(text)
    assert words in problem.message
    assert problem.location is not None
    assert (problem.location.file, problem.location.line) == ("a.yaml", line)


def test_depth_is_bounded() -> None:
    limit = yaml_tree.MAX_DEPTH
    assert read("[" * limit + "]" * limit).value
    assert "nested" in refuse("[" * (limit + 1) + "]" * (limit + 1)).message
    assert "nested" in refuse("[" * 100_000).message


def test_count_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_tree, "MAX_VALUES", 100)
    assert "more than 100 values" in refuse("- a\n" * 200).message


def test_duplicate_keys_do_not_hide_other_problems() -> None:
    _, problems = parse_documents("a: 1\nb: {c: 1, c: {d: 1}}\na: 2\n---\nx: 1\nx: 2\n", "a.yaml")
    assert [str(problem) for problem in problems] == [
        "a.yaml:2 b.c: the key 'c' is given twice (first in line 2)",
        "a.yaml:3 a: the key 'a' is given twice (first in line 1)",
        "a.yaml:6 x: the key 'x' is given twice (first in line 5)",
    ]


def test_of_duplicate_keys_the_first_counts() -> None:
    documents, _ = parse_documents("a: 1\na: {b: 2}\nc: 3\n", "a.yaml")
    assert documents[0].value == {"a": 1, "c": 3}


def test_a_syntax_error_repeats_no_text() -> None:
    problem = refuse("password: 'hunter2\nname: x\n")
    assert "hunter2" not in str(problem)
    problem = refuse("password: {env: hunter2: x}\n@hunter2\n")
    assert "hunter2" not in str(problem)


def test_documents_before_a_syntax_error_are_kept() -> None:
    documents, problems = parse_documents("a: 1\n---\nb: [\n", "a.yaml")
    assert [document.value for document in documents] == [{"a": 1}]
    assert len(problems) == 1
