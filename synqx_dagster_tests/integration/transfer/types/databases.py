"""Databases of the matrix: how each makes the cases' table, and what its own server says is in a table.

The engine and its drivers have no part in this: texts come from the servers' own output functions.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect
from synqx_dagster_tests.integration.transfer.types.cases import Case, Kind

TABLE = "every"
QUARANTINE = "_synqx_quarantine"

Texts = dict[int, tuple[str | None, ...]]


@dataclass(frozen=True)
class Read:
    """A column as it is asked for: its name, what its values mean, and the expression that gives their text."""

    column: str
    kind: Kind
    text: str | None = None


class Database(Protocol):
    """One database of the matrix."""

    family: ClassVar[str]

    @property
    def config(self) -> ConnectionConfig:
        """How a connector reaches it."""
        ...

    def quote(self, name: str) -> str:
        """A name in this database's quotes."""
        ...

    def relation(self, table: str) -> str:
        """What stands behind FROM for a table."""
        ...

    def run(self, *statements: str) -> None:
        """Run statements as they are."""
        ...

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of one query."""
        ...

    def column_types(self, table: str) -> list[tuple[str, str]]:
        """Names and types of a table's columns as the server spells them."""
        ...

    def text(self, expression: str, kind: Kind) -> str:
        """An expression that gives the server's text of a value; of a binary one hexadecimal digits."""
        ...


def column_names(cases: Sequence[Case]) -> list[str]:
    """The columns of the table of cases, in order."""
    return [f"c{number}" for number in range(len(cases))]


def fill(database: Database, cases: Sequence[Case], table: str = TABLE) -> None:
    """A table with a column for each case; each value has a row of its own, in which all else is NULL."""
    names = column_names(cases)
    columns = ", ".join(f"{name} {case.type}" for name, case in zip(names, cases, strict=True))
    database.run(f"create table {table} (id int not null primary key, {columns})")
    for name, case in zip(names, cases, strict=True):
        database.run(*(statement.format(table=table, column=name) for statement in case.later))
    statements = [f"insert into {table} (id) values (0)"]
    for (column, value), row in row_numbers(cases).items():
        sql = cases[column].values[value].sql
        made = f"({sql})::{cases[column].type}" if database.family == "postgresql" else sql
        statements.append(f"insert into {table} (id, {names[column]}) values ({row}, {made})")
    database.run(*statements)


def row_numbers(cases: Sequence[Case]) -> dict[tuple[int, int], int]:
    """The row of each value, by the numbers of its case and of itself; row 0 is NULL throughout."""
    places = [(column, value) for column, one in enumerate(cases) for value in range(len(one.values))]
    return {place: row for row, place in enumerate(places, start=1)}


def read_texts(database: Database, reads: Sequence[Read], table: str = TABLE) -> Texts:
    """Every value of a table as its own server's text, by row."""
    if isinstance(database, Files) and database.file_format == "jsonl":
        return database.read_lines(reads, table)
    expressions = []
    for read in reads:
        name = database.quote(read.column)
        text = read.text.format(*[name] * read.text.count("{}")) if read.text else name
        expressions.append(database.text(text, read.kind) if read.text is None else text)
    listed = ", ".join(["id", *expressions])
    return {
        int(row[0]): tuple(map(_as_text, row[1:]))
        for row in database.rows(f"select {listed} from {database.relation(table)}")
    }


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)


def read_quarantine(database: Database) -> dict[int, tuple[str, str]]:
    """Column and reason of every quarantined row, by its key; the row itself has it where no key was known."""
    select = f"select column_name, reason, coalesce(source_key, source_row) from {QUARANTINE}"
    if isinstance(database, Files):
        # It lies beside the data, in a form that is the connector's own business.
        connector = connect(database.config)
        with connector.write() as session:
            rows = session.fetch_all(select)
        connector.close()
    else:
        rows = database.rows(select)
    return {int(json.loads(str(key))["id"]): (str(column), str(reason)) for column, reason, key in rows}


@dataclass
class Postgresql:
    """A PostgreSQL database whose own settings are nothing like those that a session of the engine needs."""

    database: PostgresqlDatabase
    zone: str = "Pacific/Apia"
    family: ClassVar[str] = "postgresql"

    def __post_init__(self) -> None:
        name = self.database.name
        self.database.execute(f"alter database \"{name}\" set TimeZone = '{self.zone}'")
        self.database.execute(f"alter database \"{name}\" set DateStyle = 'German'")
        self.database.execute(f"alter database \"{name}\" set IntervalStyle = 'sql_standard'")
        self.database.execute(f'alter database "{name}" set extra_float_digits = -5')
        self.database.execute(f"alter database \"{name}\" set bytea_output = 'escape'")

    @property
    def config(self) -> ConnectionConfig:
        return self.database.config(self.database.name)

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def relation(self, table: str) -> str:
        return self.quote(table)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        settings = (
            "set TimeZone = 'UTC'; set DateStyle = ISO; set IntervalStyle = postgres; set extra_float_digits = 1;"
            " set bytea_output = 'hex'"
        )
        with closing(self.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(settings)
            yield cursor

    def run(self, *statements: str) -> None:
        with self._cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def column_types(self, table: str) -> list[tuple[str, str]]:
        sql = f"select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = '{table}'::regclass"
        return [(name, spelt) for name, spelt in self.rows(f"{sql} and attnum > 0 order by attnum")]

    def text(self, expression: str, kind: Kind) -> str:
        return f"{expression}::text"


@dataclass
class Mysql:
    """A MySQL or MariaDB database."""

    database: MysqlDatabase
    family: ClassVar[str] = "mysql"

    @property
    def config(self) -> ConnectionConfig:
        return self.database.config(self.database.name)

    def quote(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def relation(self, table: str) -> str:
        return self.quote(table)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with closing(self.database.connect()) as connection, connection.cursor() as cursor:
            # Without a strict mode, so that the zero dates of older applications can be had.
            cursor.execute("set session sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
            yield cursor

    def run(self, *statements: str) -> None:
        with self._cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def column_types(self, table: str) -> list[tuple[str, str]]:
        return [(str(row[0]), str(row[1])) for row in self.rows(f"show columns from {table}")]

    def text(self, expression: str, kind: Kind) -> str:
        if kind == "binary":
            return f"hex({expression})"
        if kind in ("real", "float"):
            return f"cast({expression} * 1e0 as char)"
        return f"convert({expression} using utf8mb4)"


@dataclass
class Duckdb:
    """A DuckDB file."""

    path: Path
    family: ClassVar[str] = "duckdb"

    @property
    def config(self) -> ConnectionConfig:
        return ConnectionConfig(name="duckdb", db_type="duckdb", database=str(self.path))

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def relation(self, table: str) -> str:
        return self.quote(table)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        import duckdb

        with duckdb.connect(str(self.path)) as connection:
            yield connection

    def run(self, *statements: str) -> None:
        with self._connection() as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            return list(connection.execute(sql).fetchall())

    def column_types(self, table: str) -> list[tuple[str, str]]:
        sql = f"select column_name, data_type from duckdb_columns() where table_name = '{table}' order by column_index"
        return [(name, spelt) for name, spelt in self.rows(sql)]

    def text(self, expression: str, kind: Kind) -> str:
        return f"hex({expression})" if kind == "binary" else f"cast({expression} as varchar)"


@dataclass
class Sqlite:
    """A SQLite file."""

    path: Path
    family: ClassVar[str] = "sqlite"

    @property
    def config(self) -> ConnectionConfig:
        return ConnectionConfig(name="sqlite", db_type="sqlite", database=str(self.path))

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def relation(self, table: str) -> str:
        return self.quote(table)

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.text_factory = lambda value: value.decode(errors="backslashreplace")
            return connection.execute(sql).fetchall()

    def column_types(self, table: str) -> list[tuple[str, str]]:
        return [(name, spelt) for name, spelt in self.rows(f"select name, type from pragma_table_info('{table}')")]

    def text(self, expression: str, kind: Kind) -> str:
        if kind == "binary":
            return f"case when {expression} is not null then hex({expression}) end"
        if kind in ("real", "float", "number"):
            # SQLite's own text of a REAL loses digits; the value itself comes as the eight bytes that are stored.
            return expression
        return f"cast({expression} as text)"


@dataclass
class Files:
    """A directory of files of one format, as DuckDB reads them by itself."""

    directory: Path
    file_format: Literal["parquet", "csv", "jsonl"]
    family: ClassVar[str] = "files"

    @property
    def config(self) -> ConnectionConfig:
        options = {"format": self.file_format}
        return ConnectionConfig(name="files", db_type="files", database=str(self.directory), options=options)

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def relation(self, table: str) -> str:
        """The files of a table: one, or the parts of a directory; not what is being written beside them."""
        place = self.directory / table
        paths = sorted(place.glob(f"*.{self.file_format}*")) if place.is_dir() else [*self.directory.glob(f"{table}.*")]
        listed = ", ".join(f"'{path}'" for path in paths)
        match self.file_format:
            case "parquet":
                return f"read_parquet([{listed}])"
            case "csv":
                return (
                    f"read_csv([{listed}], all_varchar = true, header = true, quote = '\"', allow_quoted_nulls = false,"
                    " max_line_size = 8000000)"
                )
            case _:
                # A line is a column; DuckDB's own reader would round numbers.
                lines = "unnest(string_split(rtrim(content, chr(10)), chr(10)))"
                return f"(select {lines} as line from read_text([{listed}]))"

    def run(self, *statements: str) -> None:
        raise AssertionError("files are written by loads only")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        import duckdb

        with duckdb.connect() as connection:
            return list(connection.execute(sql).fetchall())

    def column_types(self, table: str) -> list[tuple[str, str]]:
        return [(str(row[0]), str(row[1])) for row in self.rows(f"describe select * from {self.relation(table)}")]

    def text(self, expression: str, kind: Kind) -> str:
        # Elsewhere bytes are text already.
        is_binary = kind == "binary" and self.file_format == "parquet"
        return f"hex({expression})" if is_binary else f"cast({expression} as varchar)"

    def read_lines(self, reads: Sequence[Read], table: str) -> Texts:
        """JSON lines: the text of strings, and of numbers the digits as they stand there."""
        found: Texts = {}
        for (line,) in self.rows(f"select line from {self.relation(table)}"):
            values = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
            texts = (values[read.column] for read in reads)
            found[int(values["id"])] = tuple(str(text).lower() if isinstance(text, bool) else text for text in texts)
        return found
