"""A desk for each test."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from synqx_dagster.catalog.store import Catalog
from synqx_dagster_tests.fix_receivers import WebReceiver
from synqx_dagster_tests.integration.alerts.desk import Desk


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as opened:
        yield opened


@pytest.fixture
def desk(catalog: Catalog, instance: dg.DagsterInstance, web_receiver: WebReceiver) -> Desk:
    return Desk(catalog, instance, web_receiver)
