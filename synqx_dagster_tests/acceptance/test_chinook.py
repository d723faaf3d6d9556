"""The Chinook music shop goes from SQLite to PostgreSQL to DuckDB and from MySQL to PostgreSQL, by YAML alone.

Every row is compared as text that each server makes of it, never through the drivers that moved it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

CHINOOK = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chinook"

#: Table, its columns in order; a column of NUMERIC(10,2) ends in ``:2``, a DATETIME in ``:t``.
TABLES = {
    "Album": "AlbumId Title ArtistId",
    "Artist": "ArtistId Name",
    "Customer": "CustomerId FirstName LastName Company Address City State Country PostalCode Phone Fax Email"
    " SupportRepId",
    "Employee": "EmployeeId LastName FirstName Title ReportsTo BirthDate:t HireDate:t Address City State Country"
    " PostalCode Phone Fax Email",
    "Genre": "GenreId Name",
    "Invoice": "InvoiceId CustomerId InvoiceDate:t BillingAddress BillingCity BillingState BillingCountry"
    " BillingPostalCode Total:2",
    "InvoiceLine": "InvoiceLineId InvoiceId TrackId UnitPrice:2 Quantity",
    "MediaType": "MediaTypeId Name",
    "Playlist": "PlaylistId Name",
    "PlaylistTrack": "PlaylistId TrackId",
    "Track": "TrackId Name AlbumId MediaTypeId GenreId Composer Milliseconds Bytes UnitPrice:2",
}
ROWS = 15_607

Row = tuple[object, ...]


def checksums(fetch: Callable[[str], Iterable[Row]], *, text: str, quote: str, schema: str = "") -> dict[str, str]:
    """SHA-256 of each table's rows as its server prints them, in the order of that text.

    Args:
        text: How the server makes text of a column: a template over ``{column}``.
        quote: The server's quotation mark of names.
    """
    found = {}
    for table, listing in TABLES.items():
        names = [item.partition(":")[0] for item in listing.split()]
        columns = ", ".join(text.format(column=f"{quote}{name}{quote}", name=name) for name in names)
        rows = [tuple(row) for row in fetch(f"select {columns} from {schema}{quote}{table}{quote}")]
        lines = sorted(repr(row) for row in rows)
        found[table] = f"{len(rows)}:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"
    return found


def sqlite_checksums(path: Path) -> dict[str, str]:
    """As `checksums`; SQLite keeps a NUMERIC(10,2) as a binary number, so its own printf makes the decimals."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    found = {}
    for table, listing in TABLES.items():
        columns = [
            f"printf('%.2f', \"{name}\")" if kind == "2" else f'cast("{name}" as text)'
            for name, _, kind in (item.partition(":") for item in listing.split())
        ]
        rows = connection.execute(f'select {", ".join(columns)} from "{table}"').fetchall()
        lines = sorted(repr(row) for row in rows)
        found[table] = f"{len(rows)}:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"
    connection.close()
    return found


def mapping_documents(hop: str, source: str, target: str, source_schema: str, target_schema: str) -> str:
    """One mapping for each table and a pipeline over all of them."""
    documents = []
    for table in TABLES:
        documents.append(
            f"kind: mapping\nname: {hop} {table}\nsource_connection: {source}\n"
            f"source_table: {source_schema}{table}\ntarget_connection: {target}\n"
            f"target_table: {target_schema}.{table}\n"
        )
    nodes = "\n".join(f"  - {{node_id: {table}, config: {{mapping: {hop} {table}}}}}" for table in TABLES)
    documents.append(f"kind: pipeline\nname: {hop}\nnodes:\n{nodes}\n")
    return "\n---\n".join(documents)


class Project:
    """A directory with YAML, a home of its own, and both commands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SYNQX_", "DAGSTER_"))},
            "SYNQX_HOME": str(directory / "home"),
            "DAGSTER_HOME": str(directory / "home"),
            "SYNQX_MASTER_PASSWORD": "correct horse battery staple",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }

    def run(self, *arguments: str) -> str:
        """Run a module's command; fails with its output."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def synqx(self, *arguments: str) -> str:
        return self.run("synqx_dagster.cli.main", *arguments)

    def execute_job(self, job: str) -> None:
        self.run("dagster", "job", "execute", "-m", "synqx_dagster.definitions", "-j", job)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    if not CHINOOK.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the Chinook sample database is not at {CHINOOK}")
        pytest.skip(f"the Chinook sample database is not at {CHINOOK}")
    return Project(tmp_path)


def warehouse_document(database: PostgresqlDatabase) -> str:
    return (
        f"kind: connection\nname: warehouse\ndb_type: postgresql\nhost: {database.host}\nport: {database.port}\n"
        f"database: {database.name}\nusername: {database.username}\n"
    )


def lineage_of_every_asset(project: Project, hop: str) -> dict[str, set[str]]:
    """Per table, the target columns whose lineage the last materialisation recorded."""
    script = (
        "import json, dagster as dg\n"
        "with dg.DagsterInstance.get() as instance:\n"
        "    found = {}\n"
        "    for key in instance.all_asset_keys():\n"
        "        event = instance.get_latest_materialization_event(key)\n"
        "        lineage = event.asset_materialization.metadata.get('dagster/column_lineage') if event else None\n"
        "        if lineage:\n"
        "            found['/'.join(key.path)] = sorted(lineage.value.deps_by_column)\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=project.environment, capture_output=True, text=True, check=True
    )
    return {key: set(columns) for key, columns in json.loads(done.stdout.splitlines()[-1]).items() if hop in key}


def expected_columns() -> dict[str, set[str]]:
    return {table: {item.partition(":")[0] for item in listing.split()} for table, listing in TABLES.items()}


def test_sqlite_to_postgresql_to_duckdb(project: Project, postgresql: PostgresqlDatabase) -> None:
    import duckdb

    source = project.directory / "Chinook.sqlite"
    source.write_bytes((CHINOOK / "Chinook_Sqlite.sqlite").read_bytes())
    lake = project.directory / "lake.duckdb"
    documents = [
        f"kind: connection\nname: music\ndb_type: sqlite\ndatabase: {source}\n",
        warehouse_document(postgresql),
        f"kind: connection\nname: lake\ndb_type: duckdb\ndatabase: {lake}\n",
        mapping_documents("into_warehouse", "music", "warehouse", "", "chinook"),
        mapping_documents("into_lake", "warehouse", "lake", "chinook.", "chinook"),
    ]
    (project.directory / "chinook.yaml").write_text("\n---\n".join(documents))
    project.synqx("init")
    project.synqx("apply", "chinook.yaml")
    project.execute_job("into_warehouse")
    project.execute_job("into_lake")

    expected = sqlite_checksums(source)
    assert sum(int(value.partition(":")[0]) for value in expected.values()) == ROWS
    assert checksums(postgresql.execute, text="{column}::text", quote='"', schema="chinook.") == expected
    with duckdb.connect(str(lake), read_only=True) as connection:
        in_lake = checksums(
            lambda sql: connection.execute(sql).fetchall(), text="{column}::varchar", quote='"', schema="chinook."
        )
    assert in_lake == expected
    for hop in ("warehouse", "lake"):
        lineage = lineage_of_every_asset(project, f"{hop}/")
        assert {key.rpartition("/")[2]: columns for key, columns in lineage.items()} == expected_columns()


@pytest.mark.mysql
def test_mysql_to_postgresql(project: Project, postgresql: PostgresqlDatabase, mysql: MysqlDatabase) -> None:
    script = (CHINOOK / "Chinook_MySql.sql").read_text(encoding="utf-8-sig").replace("`Chinook`", f"`{mysql.name}`")
    subprocess.run(
        ["mariadb", "--no-defaults", f"--socket={mysql.server.unix_socket}", f"--user={mysql.server.username}"],
        input=script.encode(),
        env={**os.environ, "MYSQL_PWD": mysql.server.password},
        check=True,
        timeout=120,
    )
    documents = [
        f"kind: connection\nname: music\ndb_type: mysql\nhost: {mysql.server.host}\nport: {mysql.server.port}\n"
        f"database: {mysql.name}\nusername: {mysql.server.username}\npassword: {mysql.server.password!r}\n",
        warehouse_document(postgresql),
        mapping_documents("from_mysql", "music", "warehouse", "", "chinook"),
    ]
    (project.directory / "chinook.yaml").write_text("\n---\n".join(documents))
    project.synqx("init")
    project.synqx("apply", "chinook.yaml")
    project.execute_job("from_mysql")

    expected = checksums(mysql.execute, text="cast({column} as char)", quote="`")
    assert sum(int(value.partition(":")[0]) for value in expected.values()) == ROWS
    assert checksums(postgresql.execute, text="{column}::text", quote='"', schema="chinook.") == expected
    lineage = lineage_of_every_asset(project, "warehouse/")
    assert {key.rpartition("/")[2]: columns for key, columns in lineage.items()} == expected_columns()
