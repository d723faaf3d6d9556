"""Connections as resources."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from synqx_dagster.connectors import registry
from synqx_dagster.defs.resources import ConnectionResource, build_resource
from synqx_dagster.errors import SealedError
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster_tests.unit.defs.fakes import FakeCatalog, FakeVault, connection, snapshot_of


class FakeConnector:
    """Counts how often it is closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeConnector]:
    connectors: list[FakeConnector] = []

    def make_connector(record: Any, resolve_secret: Any, *, host_policy: HostPolicy) -> FakeConnector:
        assert resolve_secret(record, "password") == "geheim"
        assert isinstance(host_policy, HostPolicy)
        connectors.append(FakeConnector())
        return connectors[-1]

    monkeypatch.setattr(registry, "make_connector", make_connector)
    return connectors


def catalog_of(**vault: Any) -> Any:
    return FakeCatalog({1: snapshot_of()}, vault=FakeVault(**vault))


SEALED = connection("shop", password={"sealed": True, "version": 1})


def test_nothing_is_resolved_before_it_is_used(made):
    catalog = catalog_of()
    with dg.build_resources({"shop": build_resource(SEALED, lambda: catalog)}) as resources:
        assert repr(resources.shop) == "ConnectionResource('shop')"
        assert catalog.reads == []
        assert catalog.vault.attempts == 0
        assert made == []


def test_a_connector_is_made_once_and_closed_at_the_end(made):
    catalog = catalog_of()
    with dg.build_resources({"shop": build_resource(SEALED, lambda: catalog)}) as resources:
        assert resources.shop.connector is resources.shop.connector
        (connector,) = made
        assert connector.closed == 0
    assert connector.closed == 1
    assert "geheim" not in repr(vars(resources.shop))


def test_a_sealed_vault_makes_no_connector(made):
    resource = ConnectionResource(SEALED, lambda: catalog_of(opens=False))
    with pytest.raises(SealedError):
        _ = resource.connector
    assert made == []


def test_a_connection_takes_no_run_config():
    schema = build_resource(SEALED, lambda: catalog_of()).config_schema
    assert schema.config_type.fields == {}
    assert not schema.as_field().is_required
