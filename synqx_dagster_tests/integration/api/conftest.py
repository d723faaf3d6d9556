"""The catalogs that the API's tests run over."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster.settings import Settings
from synqx_dagster_tests.fix_catalog import settings_on


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def any_catalog_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """On each backend, of which one is enough in between: what differs is tested in the catalog's own tests."""
    return settings_on(request, tmp_path)
