"""What a connector from a package of its own promises, by the documented example: found, checked, read, never written.

The promises of a read-only source are tested here on the example and, as a control, on DuckDB's connector; those that
need a target are in the modules beside this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synqx_dagster.connectors import registry
from synqx_dagster.connectors.protocol import (
    ConnectionConfig,
    Connector,
    ReadLimits,
    ReadSession,
    WriteSession,
    carrier_type,
)
from synqx_dagster.errors import BadRowsError, DatabaseError, HostRefusedError, PlanError, RetryableError, SynqxError
from synqx_dagster.model import Mapping
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster.model.table import TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest
from synqx_dagster_tests.contract.loading import Rows, column, read_all, read_with
from synqx_dagster_tests.contract.loading import load as write_rows
from synqx_dagster_tests.fix_cli import PACKAGE_ROOT, Project
from synqx_dagster_tests.fix_plugin import EXAMPLE, TOKEN, ExportService

CUSTOMER = TableName("customer")
COLUMNS = (column("id", "bigint", nullable=False), column("name", "string"), column("paid", "decimal(12,2)"))
ROWS: list[tuple[Any, ...]] = [
    (1, "Zoë 😀 'x' \"y\" \\ \t", "1234567890.05"),
    (2, "", "-0.50"),
    (2**63 - 1, None, None),
]

Seed = Callable[[list[tuple[Any, ...]]], None]


def make(config: ConnectionConfig) -> Connector:
    connector: Connector = registry.connector_class(config.db_type)(config)  # type: ignore[call-arg]  # a protocol
    return connector


def as_lines(rows: list[tuple[Any, ...]]) -> str:
    """Rows of `COLUMNS`; decimals as JSON numbers with all their digits."""
    lines = []
    for number, name, paid in rows:
        lines.append(f'{{"id": {number}, "name": {json.dumps(name)}, "paid": {paid or "null"}}}\n')
    return "".join(lines)


@pytest.fixture(params=["ndjson", "duckdb"])
def source(
    request: pytest.FixtureRequest, plugin: Path, export_service: ExportService, tmp_path: Path
) -> Iterator[tuple[Connector, Seed]]:
    """A source without tables, and how it comes to have rows."""
    if request.param == "duckdb":
        connector = make(ConnectionConfig("lake", "duckdb", database=str(tmp_path / "lake.duckdb")))

        def seed(rows: list[tuple[Any, ...]]) -> None:
            write_rows(connector, Rows(COLUMNS, rows), table=CUSTOMER, key=())

    else:
        connector = make(export_service.config("customer"))

        def seed(rows: list[tuple[Any, ...]]) -> None:
            export_service.put("customer", as_lines(rows))

    yield connector, seed
    connector.close()


GUIDE = EXAMPLE.parents[1] / "docs" / "writing-a-connector.md"


@pytest.mark.parametrize("seam", [Connector, ReadSession, WriteSession])
def test_the_guide_explains_every_method(seam: type) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    names = [name for name in {**vars(seam), **seam.__annotations__} if not name.startswith("_")]
    assert len(names) > 5
    assert [name for name in names if f"`{name}`" not in text] == []


# --- found and checked ----------------------------------------------------------------------------------------------


def test_it_is_found_by_its_entry_point(plugin: Path) -> None:
    assert registry.connector_types()["ndjson"] == "synqx_connector_ndjson.connector:NdjsonConnector"
    found = registry.connector_class("ndjson")
    assert found.db_type == "ndjson"
    assert registry.dialect_of("ndjson") == "duckdb"
    assert not registry.capabilities_of("ndjson").writes
    assert isinstance(make(ConnectionConfig("c", "ndjson")), Connector)


def test_without_its_package_its_name_is_unknown() -> None:
    registry._connector_types.cache_clear()
    assert "ndjson" not in registry.connector_types()


def test_a_plugin_does_not_replace_a_built_in_connector(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (info,) = plugin.glob("*.dist-info")
    entries = info / "entry_points.txt"
    before = entries.read_text(encoding="utf-8")
    entries.write_text(before + "sqlite = synqx_connector_ndjson.connector:NdjsonConnector\n", encoding="utf-8")
    try:
        registry._connector_types.cache_clear()
        assert registry.connector_class("sqlite").__name__ == "SqliteConnector"
    finally:
        entries.write_text(before, encoding="utf-8")


def test_a_configuration_is_checked_without_connecting(source: tuple[Connector, Seed]) -> None:
    connector, _ = source
    cls = type(connector)
    assert cls.check_config(connector.config) == []
    odd = replace(connector.config, options={**connector.config.options, "no_such_option": "x"})
    assert any("no_such_option" in problem for problem in cls.check_config(odd))
    assert cls.check_config(ConnectionConfig("empty", connector.db_type))


# --- reading --------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were(source: tuple[Connector, Seed]) -> None:
    connector, seed = source
    seed(ROWS)
    with connector.read() as session:
        columns = session.find_columns(CUSTOMER)
        assert columns is not None
        assert [(item.name, str(item.data_type)) for item in columns] == [
            ("id", "bigint"),
            ("name", "string"),
            ("paid", "decimal(12,2)"),
        ]
        assert [item.nullable for item in columns] == [False, True, True]
        for item in columns:
            encoded = session.encode("x", item.data_type, item.native_type)
            assert encoded.arrow_type == carrier_type(item.data_type)
        assert session.find_columns(TableName("missing")) is None
        assert read_with(connector, session, CUSTOMER) == ROWS


def test_batches_are_as_small_as_asked_and_lose_nothing(source: tuple[Connector, Seed]) -> None:
    connector, seed = source
    rows: list[tuple[Any, ...]] = [(number, f"n{number}", "1.00") for number in range(2_500)]
    rows[0] = (0, "n0", "1234567890.05")
    seed(rows)
    assert read_all(connector, CUSTOMER, batch_rows=700) == rows


def test_limits_end_a_read_early(source: tuple[Connector, Seed]) -> None:
    connector, seed = source
    seed([(number, "x" * 1_000, "1.05") for number in range(3_000)])
    schema = pa.schema([pa.field("name", pa.string())])
    for limits, most in ((ReadLimits(max_rows=10), 10), (ReadLimits(max_bytes=50_000), 2_048)):
        with connector.read(limits) as session:
            sql = f"SELECT name FROM {connector.qualify(CUSTOMER)}"
            read = sum(batch.num_rows for batch in session.iter_batches(sql, schema, batch_rows=1_000))
        assert 0 < read <= most


def test_a_query_is_described_by_its_own_names(source: tuple[Connector, Seed]) -> None:
    connector, seed = source
    seed(ROWS)
    with connector.read() as session:
        described = session.describe_query('SELECT name AS "Full Name", id, paid * 2 AS twice FROM customer')
        assert [item.name for item in described] == ["Full Name", "id", "twice"]
        assert described[0].data_type == DataType("string")
        assert session.fetch_value("SELECT count(*) FROM customer WHERE id > 1") == 2
        with pytest.raises(SynqxError):
            session.fetch_value("SELECT nothing FROM there_is_no_such_table")


def test_a_query_reaches_no_file(source: tuple[Connector, Seed]) -> None:
    connector, seed = source
    seed(ROWS)
    with connector.read() as session, pytest.raises(SynqxError) as caught:
        session.fetch_value("SELECT content FROM read_text('/etc/hostname')")
    assert "permission" in str(caught.value).lower() or isinstance(caught.value, DatabaseError)


def test_what_is_there_is_discovered(source: tuple[Connector, Seed]) -> None:
    connector, seed = source
    seed(ROWS)
    found = connector.discover()
    assert [item.table.name for item in found] == ["customer"]
    assert [item.name for item in found[0].columns] == ["id", "name", "paid"]


def test_a_connection_that_works_says_so(source: tuple[Connector, Seed]) -> None:
    connector, seed = source
    seed(ROWS)
    report = connector.test()
    assert report.ok, report.message
    assert report.server_version
    assert report.can_read
    assert report.can_write is connector.capabilities.writes
    connector.close()
    assert read_all(connector, CUSTOMER) == ROWS


def test_a_nul_is_never_part_of_a_name(source: tuple[Connector, Seed]) -> None:
    with pytest.raises(SynqxError):
        source[0].quote("a\0b")


# --- what is the example's own --------------------------------------------------------------------------------------


def test_a_session_fetches_a_table_once_and_stays_with_it(plugin: Path, export_service: ExportService) -> None:
    connector = make(export_service.config("customer", "other"))
    export_service.put("customer", as_lines(ROWS))
    with connector.read() as session:
        assert session.fetch_value("SELECT count(*) FROM customer") == 3
        export_service.put("customer", as_lines(ROWS[:1]))
        assert len(read_with(connector, session, CUSTOMER)) == 3
    assert export_service.asked == ["/v1/export/customer.ndjson"]
    assert len(read_all(connector, CUSTOMER)) == 1


def test_it_cannot_be_written_to(plugin: Path, export_service: ExportService) -> None:
    connector = make(export_service.config("customer"))
    with pytest.raises(PlanError, match="read only"):
        connector.write()
    with pytest.raises(PlanError, match="read only"):
        connector.native_type(COLUMNS[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1}\nsecret\n', "line 2 is not a JSON object"),
        ('{"id": secret}\n', "line 1 is not JSON"),
        ("\n\n", "no line"),
    ],
)
def test_an_export_that_is_not_what_it_should_be_is_refused(
    plugin: Path, export_service: ExportService, text: str, message: str
) -> None:
    export_service.put("customer", text)
    connector = make(export_service.config("customer"))
    with pytest.raises(SynqxError, match=message) as caught, connector.read() as session:
        session.find_columns(CUSTOMER)
    assert "secret" not in str(caught.value)


def test_a_service_that_fails_says_how(plugin: Path, export_service: ExportService) -> None:
    connector = make(export_service.config("customer"))
    assert "does not exist" in connector.test().message
    export_service.put("customer", as_lines(ROWS))
    export_service.missing_bytes = 5
    with pytest.raises(RetryableError), connector.read() as session:
        session.find_columns(CUSTOMER)
    export_service.missing_bytes, export_service.status = 0, 503
    with pytest.raises(RetryableError, match="busy"), connector.read() as session:
        session.find_columns(CUSTOMER)
    report = make(replace(connector.config, password="wrong")).test()
    assert (report.ok, report.reason) == (False, "authentication")
    report = make(replace(connector.config, port=1)).test()
    assert (report.ok, report.reason) == (False, "refused")


def test_the_operators_hosts_are_respected(plugin: Path, export_service: ExportService) -> None:
    config = replace(
        export_service.config("customer"),
        host_policy=HostPolicy.from_environment({"SYNQX_DENIED_HOSTS": "127.0.0.0/8"}),
    )
    with pytest.raises(HostRefusedError), make(config).read() as session:
        session.find_columns(CUSTOMER)
    assert export_service.asked == []


def test_a_load_from_it_is_like_any_other(plugin: Path, export_service: ExportService, tmp_path: Path) -> None:
    export_service.put("customer", as_lines(ROWS))
    target = make(ConnectionConfig("lake", "duckdb", database=str(tmp_path / "lake.duckdb")))
    mapping = Mapping.model_validate(
        {
            "name": "customers",
            "source_connection": "portal",
            "source_table": "customer",
            "target_connection": "lake",
            "target_table": "customer",
        }
    )
    result = run_load(LoadRequest(mapping, None, make(export_service.config("customer")), target, "run-1", "load-1"))
    assert (result.rows_in, result.rows_out, result.target_row_count) == (3, 3, 3)
    assert read_all(target, CUSTOMER) == ROWS
    broken = as_lines(ROWS) + '{"id": 4, "name": 5}\n'
    export_service.put("customer", broken)
    with pytest.raises(SynqxError):
        run_load(LoadRequest(mapping, None, make(export_service.config("customer")), target, "run-2", "load-2"))
    assert read_all(target, CUSTOMER) == ROWS


def test_a_line_that_breaks_off_loads_nothing(plugin: Path, export_service: ExportService, tmp_path: Path) -> None:
    export_service.put("customer", as_lines(ROWS)[:-5])
    connector = make(export_service.config("customer"))
    with pytest.raises(BadRowsError, match="line 3"), connector.read() as session:
        session.find_columns(CUSTOMER)


@pytest.mark.slow
def test_the_command_line_takes_it_as_documented(plugin: Path, export_service: ExportService, project: Project) -> None:
    export_service.put(
        "orders",
        [
            {"id": 1, "total": 9.5, "customer": "ann", "paid": True},
            {"id": 2, "total": 1.25, "customer": "bob", "paid": False},
        ],
    )
    export_service.put("customers", [{"id": 1}])
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    yaml = text.partition("```yaml\n")[2].partition("```")[0]
    yaml = yaml.replace("host: data.example.org", f"host: 127.0.0.1\nport: {export_service.port}")
    project.write("definitions/portal.yaml", yaml)
    project.environment["PORTAL_TOKEN"] = TOKEN
    for arguments in (("apply",), ("connections", "test", "portal")):
        outcome = project(*arguments)
        assert outcome.exit_code == 0, outcome.output
    outcome = project.process("run", "open_orders", extra={"PYTHONPATH": f"{PACKAGE_ROOT}:{plugin}"})
    assert outcome.exit_code == 0, outcome.output
    target = make(ConnectionConfig("lake", "duckdb", database=str(project.directory / "lake.duckdb")))
    assert read_all(target, TableName("open_orders")) == [(2, "1.25", "bob")]


def test_the_examples_own_tests_pass(plugin_directory: Path) -> None:
    path = f"{PACKAGE_ROOT}:{plugin_directory}"
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(EXAMPLE),
            str(EXAMPLE / "tests"),
        ],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
