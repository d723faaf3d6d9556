"""What is exported is read back as the same records, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import given, settings

from synqx_dagster.catalog.documents import read_documents, write_documents
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.model import Record, SealedSecret
from synqx_dagster_tests.unit.catalog import records


def read_text(text: str, directory: Path) -> tuple[Record, ...]:
    file = directory / "export.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    return read_documents([file]).records


@settings(max_examples=150, deadline=None)
@given(declared=records.any_records())
def test_reads_what_it_wrote(declared: list[Record], tmp_path_factory: object) -> None:
    snapshot = CatalogSnapshot.from_records(1, declared)
    text = write_documents(snapshot)
    assert read_text(text, tmp_path_factory.mktemp("export")) == tuple(snapshot.iter_records())  # type: ignore[attr-defined]


@settings(max_examples=50, deadline=None)
@given(declared=records.any_records())
def test_another_reader_finds_the_same_texts(declared: list[Record]) -> None:
    """A YAML 1.1 reader must take names for text, too: `no` is a name, not False."""
    snapshot = CatalogSnapshot.from_records(1, declared)
    documents = list(yaml.safe_load_all(write_documents(snapshot)))
    assert [document["name"] for document in documents] == [record.name for record in snapshot.iter_records()]


def test_is_readable() -> None:
    snapshot = CatalogSnapshot.from_records(
        1,
        [
            records.mapping(
                source_query="select id\nfrom customer\nwhere id > 0",
                column_mappings=[{"type": "direct", "source_columns": ["id"], "target_fields": ["no"]}],
            ),
            records.connection(password={"env": "SHOP_PASSWORD"}),
        ],
    )
    snapshot = CatalogSnapshot.from_records(2, [*reversed(list(snapshot.iter_records()))])
    assert write_documents(snapshot) == (
        "---\n"
        "kind: connection\n"
        "name: shop\n"
        "db_type: duckdb\n"
        "database: /data/shop.duckdb\n"
        "password: {env: SHOP_PASSWORD}\n"
        "---\n"
        "kind: mapping\n"
        "name: customers\n"
        "source_connection: shop\n"
        "source_query: |-\n"
        "  select id\n"
        "  from customer\n"
        "  where id > 0\n"
        "target_connection: warehouse\n"
        "target_table: customers\n"
        "column_mappings:\n"
        "  - type: direct\n"
        "    source_columns: [id]\n"
        "    target_fields: ['no']\n"
    )


def test_a_sealed_secret_is_a_mark(tmp_path: Path) -> None:
    sealed = records.connection().model_copy(update={"password": SealedSecret(version=7)})
    text = write_documents(CatalogSnapshot.from_records(1, [sealed]))
    assert "password: {sealed: true}" in text
    assert "7" not in text
    (record,) = read_text(text, tmp_path)
    assert record == sealed.model_copy(update={"password": SealedSecret()})


def test_an_empty_catalog_is_empty_text() -> None:
    assert write_documents(CatalogSnapshot(0)) == ""
