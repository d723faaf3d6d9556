"""Where steps leave rows for each other: what is said of the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.pipelines.exchange import DATASET, Exchange


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://AKIA:hunter/2/x@bucket/rows", "s3://***@bucket/rows"),
        ("s3://AKIA:hunter@2/x@bucket/rows", "s3://***@bucket/rows"),
        ("s3://AKIA:hunter?2@bucket/rows", "s3://***"),
        ("s3://bucket/rows?secret_key=hunter2", "s3://bucket/rows"),
        ("s3://bucket/rows?secret_key=hunter2@x", "s3://***"),
        ("gopher://bucket/rows", "gopher://bucket/rows"),
    ],
)
def test_a_place_that_is_none_is_named_without_its_keys(location: str, shown: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Exchange(location)
    assert f"'{shown}' is no place" in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_a_place_is_named_without_its_keys(tmp_path: Path) -> None:
    place = Exchange("s3://AKIA:hunter2@bucket/rows?region=us-east-1&scheme=http&endpoint_override=localhost")
    assert place.location == "s3://***@bucket/rows"
    assert Exchange(str(tmp_path / "a@b?")).location == str(tmp_path / "a@b?")


@pytest.mark.parametrize("pipeline", ["orders", "Größe ж" * 20])
def test_what_a_run_stored_is_found_whatever_the_pipeline_is_called(tmp_path: Path, pipeline: str) -> None:
    place = Exchange(str(tmp_path))
    for path in ((pipeline, "one", "a"), (pipeline, "two", "a"), ("other", "one", "b")):
        folder = tmp_path / place._folder(path)
        folder.mkdir(parents=True)
        (folder / DATASET).write_text("{}")
    found = place.folders_by_run()
    assert {run: len(folders) for run, folders in found.items()} == {"one": 2, "two": 1}
    for folder in found["one"]:
        place.remove_folder(folder)
    assert place.folders_by_run() == {"two": found["two"]}
    place.remove((pipeline, "two"))
    assert place.folders_by_run() == {}
