"""What the cases share: servers, source tables, working directories, and the contents that targets must have."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.case import Outcome, say
from benchmarks.measure import RunFailedError, run_measured
from benchmarks.peers import Peers
from benchmarks.servers import SOURCE, TARGET, Mariadb, Postgresql, running_mariadb, running_postgresql

#: Scale 1: the table of the bars.
ROWS = 3_000_000
_ROWS_PER_TPCH_SCALE = 6_000_000

#: As TPC-H has it, but for its keys: no tool builds an index in the copies.
COLUMNS = {
    "l_orderkey": "bigint",
    "l_partkey": "bigint",
    "l_suppkey": "bigint",
    "l_linenumber": "integer",
    "l_quantity": "numeric(15, 2)",
    "l_extendedprice": "numeric(15, 2)",
    "l_discount": "numeric(15, 2)",
    "l_tax": "numeric(15, 2)",
    "l_returnflag": "char(1)",
    "l_linestatus": "char(1)",
    "l_shipdate": "date",
    "l_commitdate": "date",
    "l_receiptdate": "date",
    "l_shipinstruct": "char(25)",
    "l_shipmode": "char(10)",
    "l_comment": "varchar(44)",
}

#: The same number in PostgreSQL and in DuckDB, whatever types a tool chose for the target's columns: rows, keys, money,
#: and the bytes of texts and dates. Blanks that only pad a char(n) do not count.
_DIGEST = """
select count(*), sum(cast(l_orderkey as decimal(38, 0))), sum(cast(l_extendedprice as decimal(38, 2))),
    sum(cast(l_quantity as decimal(38, 2))), sum(cast({hash} as decimal(38, 0)))
from {relation}
"""
_HASHED = (
    "concat_ws('|', rtrim(cast(l_returnflag as varchar)), rtrim(cast(l_shipinstruct as varchar)),"
    " rtrim(cast(l_shipmode as varchar)), cast(l_comment as varchar), cast(cast(l_shipdate as date) as varchar),"
    " cast(cast(l_receiptdate as date) as varchar))"
)
Digest = tuple[Any, ...]


def create_lineitem(name: str, **types: str) -> str:
    """The statement that creates a table of lineitem's columns, some of them of other types."""
    columns = ", ".join(f"{column} {types.get(column, kind)} not null" for column, kind in COLUMNS.items())
    return f"create table {name} ({columns})"


@dataclass
class Lab:
    """One run of the benchmarks. Servers start when the first case asks for them."""

    scale: float
    directory: Path
    peers: Peers
    _stack: ExitStack = field(default_factory=ExitStack)
    _made: set[str] = field(default_factory=set)

    @property
    def rows(self) -> int:
        return round(ROWS * self.scale)

    @cached_property
    def postgresql(self) -> Postgresql:
        return self._stack.enter_context(running_postgresql())

    @cached_property
    def mariadb(self) -> Mariadb:
        return self._stack.enter_context(running_mariadb())

    @cached_property
    def lineitem_file(self) -> Path:
        """lineitem as CSV, about as many rows as asked for: TPC-H's orders have one to seven."""
        directory = self.directory / "tpch"
        directory.mkdir()
        say(f"making {self.rows:,} rows of lineitem")
        generate = [str(Path(sys.executable).parent / "tpchgen-cli"), "csv", "--tables", "lineitem"]
        generate += ["-s", f"{self.rows / _ROWS_PER_TPCH_SCALE:.6f}", "--output-dir", str(directory)]
        subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
        return directory / "lineitem.csv"

    def close(self) -> None:
        """Stop the servers."""
        self._stack.close()

    def make_once(self, name: str, make: Callable[[], None]) -> None:
        """Make a source table that several cases may read."""
        if name not in self._made:
            make()
            self._made.add(name)

    def need_lineitem(self) -> tuple[int, int]:
        """Have ``lineitem`` in PostgreSQL; gives its rows and bytes."""

        def make() -> None:
            self.postgresql.execute(SOURCE, create_lineitem("lineitem"))
            self.postgresql.copy_in(SOURCE, "copy lineitem from stdin (format csv, header)", self.lineitem_file)

        self.make_once("lineitem", make)
        return self.describe("lineitem")

    def describe(self, table: str) -> tuple[int, int]:
        """A source table's rows and bytes, after bringing it to rest and into memory."""
        self.postgresql.settle(SOURCE)
        self.postgresql.execute(SOURCE, f"select sum(hashtext(t::text)) from {table} as t")
        ((rows, size),) = self.postgresql.execute(SOURCE, f"select count(*), pg_table_size('{table}') from {table}")
        return rows, size

    def log(self, name: str) -> Path:
        """Where a tool's messages go; kept until the end of the benchmarks."""
        path = self.directory / "logs" / f"{name.replace(' ', '-').replace(',', '')}.log"
        path.parent.mkdir(exist_ok=True)
        return path

    def fresh_directory(self, *parts: str) -> Path:
        """An empty directory."""
        path = self.directory.joinpath(*parts)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def drop_schema(self, *schemas: str) -> Callable[[], None]:
        """A preparation: the target has nothing of an earlier load, and the server is at rest."""

        def prepare() -> None:
            statements = [f"drop schema if exists {schema} cascade" for schema in schemas]
            self.postgresql.execute(TARGET, *statements, "checkpoint")

        return prepare

    def digest(self, database: str, relation: str) -> Digest:
        """What PostgreSQL says of lineitem's content in a table."""
        return postgresql_digest(self.postgresql, database, relation)

    def check_copy(self, expected: Digest, relation: str) -> Callable[[], None]:
        """A check: a table of the target holds what is expected."""
        return lambda: compare(expected, self.digest(TARGET, relation))


def postgresql_digest(server: Postgresql, database: str, relation: str) -> Digest:
    """Rows, sums and hashes of a table or subquery."""
    hashed = f"('x' || left(md5({_HASHED}), 8))::bit(32)::bigint"
    (row,) = server.execute(database, _DIGEST.format(hash=hashed, relation=relation))
    return tuple(row)


def duckdb_digest(database: Path | None, relation: str) -> Digest:
    """The same of a table in a DuckDB file, or of what DuckDB reads."""
    import duckdb

    hashed = f"cast('0x' || left(md5({_HASHED}), 8) as bigint)"
    try:
        with closing(duckdb.connect(str(database or ":memory:"), read_only=database is not None)) as connection:
            row = connection.execute(_DIGEST.format(hash=hashed, relation=relation)).fetchone()
    except duckdb.Error as exc:
        raise RunFailedError(f"the target cannot be read: {exc}") from exc
    return tuple(row or ())


def compare(expected: object, found: object) -> None:
    """Hold what must be there against what is.

    Raises:
        RunFailedError: They differ.
    """
    if expected != found:
        raise RunFailedError(f"the target holds {found}, not {expected}")


def run_pipe(lab: Lab, name: str, reader: list[str], writer: list[str], environment: dict[str, str]) -> Outcome:
    """Run ``reader | writer`` as a shell would."""
    script = 'set -o pipefail; n=$1; shift; "${@:1:n}" | "${@:n+1}"'
    command = ["bash", "-c", script, "pipe", str(len(reader)), *reader, *writer]
    usage = run_measured(command, log=lab.log(name), environment=environment)
    return Outcome(usage.seconds, usage.seconds, usage.peak_memory_bytes)


@contextmanager
def open_lab(scale: float, directory: Path, peers: Peers) -> Iterator[Lab]:
    """A lab whose servers end with it."""
    lab = Lab(scale, directory, peers)
    try:
        yield lab
    finally:
        lab.close()
