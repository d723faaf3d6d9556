"""What the catalog's checks say of records, as texts."""

from __future__ import annotations

from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.model import Record
from synqx_dagster_tests.unit.catalog.records import definitions


def problems_of(*declared: Record, known: CatalogSnapshot | None = None, prune: bool = False) -> list[str]:
    """What is wrong with records that are declared, beside those that the catalog knows."""
    return [str(problem) for problem in check_definitions(definitions(*declared), known=known, prune=prune)]


def catalog_of(*records: Record) -> CatalogSnapshot:
    """A catalog that holds these."""
    return CatalogSnapshot.from_records(1, records)
