"""Where steps leave rows for each other: what is said of the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.pipelines.exchange import Exchange


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
