"""Where definitions are looked for when no path is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster.cli.definitions import find_definition_paths
from synqx_dagster.errors import ConfigurationError


def test_given_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    assert find_definition_paths([Path("x.yaml")], tmp_path) == [Path("x.yaml")]


def test_the_directory_comes_first(tmp_path: Path) -> None:
    (tmp_path / "definitions").mkdir()
    (tmp_path / "a.yaml").write_text("kind: schema\n")

    assert find_definition_paths([], tmp_path) == [tmp_path / "definitions"]


def test_only_files_with_a_kind_are_taken(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("# mine\n---\nkind : schema\n")
    (tmp_path / "a.yaml").write_bytes(b"\xffdescription: x\nkind: schema\n")
    (tmp_path / "dagster.yaml").write_text("run_coordinator:\n  kind: nothing of ours\n")
    (tmp_path / "notes.txt").write_text("kind: schema\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.yaml").write_text("kind: schema\n")

    assert find_definition_paths([], tmp_path) == [tmp_path / "a.yaml", tmp_path / "b.yml"]


def test_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no definitions here"):
        find_definition_paths([], tmp_path)
