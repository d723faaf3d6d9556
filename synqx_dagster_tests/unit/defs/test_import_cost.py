"""Loading the definitions imports no driver and nothing that only a load needs."""

import subprocess
import sys

HEAVY = ["psycopg2", "pymysql", "duckdb", "adbc_driver_postgresql", "adbc_driver_manager", "pyarrow"]


def test_definitions_import_no_drivers():
    code = f"import sys, synqx_dagster.definitions; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_building_every_definition_imports_no_drivers():
    code = f"""
import sys
from synqx_dagster.defs.repository import CatalogRepository, CatalogRepositoryData
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.unit.defs.fakes import FakeCatalog, connection, mapping, snapshot_of
kinds = ("postgresql", "mysql", "sqlite", "duckdb")
records = [connection(kind, kind) for kind in kinds]
records += [mapping(kind, target_connection=kind, source_query="select id from orders") for kind in kinds]
catalog = FakeCatalog({{1: snapshot_of(*records)}})
data = CatalogRepositoryData(load_settings({{}}), 1, lambda: catalog)
repository = CatalogRepository("__repository__", repository_data=data)
repository.load_all_definitions()
assert len(repository.asset_graph.executable_asset_keys) == 4, data._problems
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
