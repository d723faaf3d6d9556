"""What a files connection may be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster.connectors.files_options import FilesOptions, check_options
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.connection import OptionValue


def config(database: str | None = "exports", **options: OptionValue) -> ConnectionConfig:
    return ConnectionConfig("files", "files", database=database, options=options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"delimeter": ";"}, "options.delimeter: did you mean delimiter?"),
        ({"format": "xml"}, "options.format: write parquet, csv or jsonl"),
        ({"format": "csv", "compression": "snappy"}, "snappy is for parquet alone"),
        ({"encoding": "ebcdic"}, "options.encoding"),
        ({"header": "yes"}, "options.header: write true or false"),
        ({"delimiter": '"'}, "options.delimiter"),
        ({"delimiter": "'", "quote": "'"}, "must differ"),
        ({"region": "eu-central-1"}, "options.region: is for object stores"),
        ({"memory_limit": "much"}, "options.memory_limit"),
        ({"threads": 0}, "options.threads"),
    ],
)
def test_what_means_nothing_is_a_problem(options: dict[str, OptionValue], problem: str) -> None:
    assert any(problem in found for found in check_options(config(**options)))
    with pytest.raises(ConfigurationError):
        FilesOptions.parse(config(**options))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/x", "write file:///directory or s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "an access key goes into username and password"),
        ("s3://bucket/a/../b", "must not hold empty parts"),
        ("s3://B", "the bucket's name"),
        ("file://host/x", "write file:///directory"),
    ],
)
def test_a_url_is_a_place_and_nothing_else(url: str, problem: str) -> None:
    found = check_options(config(None, url=url))
    assert any(problem in item for item in found)
    assert "secret" not in str(found).replace("username and password", "")


def test_places_are_understood() -> None:
    assert FilesOptions.parse(config("/data/x")).root == Path("/data/x")
    assert FilesOptions.parse(config(None, url="file:///data/with%20blank")).root == Path("/data/with blank")
    store = FilesOptions.parse(config(None, url="s3://bucket/a/b/", endpoint="https://minio:9000"))
    assert store.s3 is not None
    assert (store.s3.bucket, store.prefix, store.s3.path_style, store.root) == ("bucket", "a/b", True, None)
    assert check_options(ConnectionConfig("empty", "files"))
    assert any("either" in problem for problem in check_options(config("x", url="file:///y")))


def test_extensions_tell_format_and_compression() -> None:
    assert FilesOptions.parse(config()).extension == "parquet"
    assert FilesOptions.parse(config(format="csv", compression="gzip")).extension == "csv.gz"
    assert FilesOptions.parse(config(format="jsonl", compression="zstd")).extension == "jsonl.zst"


@pytest.mark.parametrize("options", [{"quote": ""}, {"encoding": "latin-1"}, {"header": False}])
def test_what_could_not_be_read_again_is_not_written(options: dict[str, OptionValue]) -> None:
    assert FilesOptions.parse(config(format="csv", **options)).why_read_only
    assert FilesOptions.parse(config(format="parquet", **options)).why_read_only is None
