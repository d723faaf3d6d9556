"""Connectors are found by name, and nothing is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from synqx_dagster.connectors import registry
from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import ConfigurationError, DriverMissingError
from synqx_dagster.model import Connection


def test_a_misspelt_kind_is_told_its_neighbour() -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry.connector_class("postgres")
    assert caught.value.hint == "did you mean 'postgresql'?"
    with pytest.raises(ConfigurationError, match="duckdb"):
        registry.connector_class("xyz")


@pytest.mark.parametrize("db_type", ["postgresql", "sqlite", "duckdb"])
def test_built_in_connectors_keep_the_protocol(db_type: str) -> None:
    found = registry.connector_class(db_type)
    assert found.db_type == db_type
    assert found.dialect == registry.dialect_of(db_type)
    record = Connection(name="c", db_type=db_type, database="d")
    made = registry.make_connector(record, lambda connection, name: None)
    assert isinstance(made, Connector)
    made.close()


def test_only_secrets_that_the_record_has_are_resolved() -> None:
    asked = []

    def resolve(connection: Connection, name: str) -> str | None:
        asked.append((connection.name, name))
        return "resolved"

    bare = Connection(name="bare", db_type="postgresql", database="d")
    assert registry.make_connector(bare, resolve).config.password is None
    assert asked == []
    secret = Connection.model_validate(
        {"name": "secret", "db_type": "postgresql", "database": "d", "password": {"env": "P"}}
    )
    made = registry.make_connector(secret, resolve)
    assert made.config.password == "resolved"
    assert asked == [("secret", "password")]
    assert "resolved" not in repr(made.config)


def test_a_wrong_configuration_is_refused_with_every_problem() -> None:
    record = Connection(name="c", db_type="postgresql", options={"sslmode": "maybe", "service": "x"})
    with pytest.raises(ConfigurationError) as caught:
        registry.make_connector(record, lambda connection, name: None)
    for part in ("connection 'c'", "database", "options.sslmode", "options.service"):
        assert part in str(caught.value)


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(registry.importlib, "import_module", missing)
    with pytest.raises(DriverMissingError) as caught:
        registry.connector_class("mysql")
    assert caught.value.hint == "pip install 'synqx-dagster[mysql]'"


def test_names_and_dialects_cost_no_driver() -> None:
    script = (
        "import sys; from synqx_dagster.connectors import registry;"
        " [registry.dialect_of(name) for name in registry.connector_types()];"
        " heavy = {'psycopg2', 'sqlalchemy', 'pyarrow', 'duckdb', 'pymysql', 'adbc_driver_manager', 'dagster'};"
        " print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_a_connector_module_costs_no_driver() -> None:
    script = (
        "import sys; from synqx_dagster.connectors.registry import connector_class; connector_class('postgresql');"
        " print(sorted({'psycopg2', 'sqlalchemy', 'pyarrow', 'adbc_driver_manager'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
