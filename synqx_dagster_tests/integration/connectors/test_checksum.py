"""Every database digests any row as a few lines of Python do, and rows that differ get digests that differ."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.checksum import (
    PORTABLE,
    ChecksumForm,
    ChecksumReadSession,
    ChecksumValue,
    duckdb_digest,
    duckdb_text,
)
from synqx_dagster.connectors.mysql_values import to_literal
from synqx_dagster.connectors.protocol import ConnectionConfig, carrier_type, untrusted_text
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind
from synqx_dagster_tests.fix_mysql import MysqlServer
from synqx_dagster_tests.fix_postgresql import PostgresqlServer
from synqx_dagster_tests.integration.transfer.loading import connect

pytestmark = pytest.mark.mysql

Row = tuple[Any, ...]

#: Kind and form of each column of a row, and how the servers spell its type.
COLUMNS: list[tuple[TypeKind, ChecksumForm, dict[str, str]]] = [
    ("bigint", "integer", {"postgresql": "bigint", "mysql": "signed", "duckdb": "BIGINT"}),
    ("decimal", "decimal", {"postgresql": "numeric", "mysql": "decimal(30,10)", "duckdb": "DECIMAL(30,10)"}),
    ("string", "text", {"postgresql": "text", "mysql": "char", "duckdb": "VARCHAR"}),
    ("string", "text", {"postgresql": "text", "mysql": "char", "duckdb": "VARCHAR"}),
    ("binary", "binary", {"postgresql": "bytea", "mysql": "binary", "duckdb": "BLOB"}),
    ("boolean", "boolean", {"postgresql": "boolean", "mysql": "signed", "duckdb": "BOOLEAN"}),
    ("float", "float", {"postgresql": "float8", "duckdb": "DOUBLE"}),
]

#: NUL is no character of PostgreSQL's, a surrogate none at all. Signs that frame a row's text come often.
_texts = st.text(
    st.one_of(st.sampled_from("~,:0123 '\"\\"), st.characters(blacklist_categories=["Cs"], min_codepoint=1))
)
_decimals = st.decimals(-(10**19), 10**19, places=10, allow_nan=False)


def _rows(columns: int) -> st.SearchStrategy[Row]:
    values = [
        st.integers(-(2**63) + 1, 2**63 - 1),
        _decimals,
        _texts,
        _texts,
        st.binary(max_size=40),
        st.booleans(),
        st.floats(allow_nan=True),
    ]
    return st.tuples(*(st.none() | value for value in values[:columns]))


def reference_text(value: Any, form: ChecksumForm) -> str:
    """A value as it stands in a row's text."""
    match value, form:
        case None, _:
            return "~"
        case _, "decimal":
            text = format(value, "f")
            text = text.rstrip("0").rstrip(".") if "." in text else text
            return "0" if text in ("-0", "") else text
        case _, "float":
            return "7ff8000000000000" if value != value else struct.pack(">d", value).hex()
        case _, "boolean":
            return "true" if value else "false"
        case _, "binary":
            return str(value.hex())
        case _, "text":
            return f"{len(value)}:{value}"
        case _:
            return str(value)


def reference_row(row: Row) -> str:
    return ",".join(reference_text(value, form) for value, (_, form, _) in zip(row, COLUMNS, strict=False))


def reference_digest(row: Row) -> int:
    return int(hashlib.md5(reference_row(row).encode()).hexdigest()[:15], 16)


def _literal(value: Any, family: str, type_: str) -> str:
    if value is None:
        return f"CAST(NULL AS {type_})"
    if isinstance(value, bytes):
        text = {"postgresql": f"'\\x{value.hex()}'", "duckdb": f"from_hex('{value.hex()}')"}.get(
            family, f"x'{value.hex()}'"
        )
    elif isinstance(value, str):
        text = to_literal(value) if family == "mysql" else "'" + value.replace("'", "''") + "'"
    elif isinstance(value, bool):
        text = str(int(value)) if family == "mysql" else str(value).lower()
    elif isinstance(value, float):
        text = f"'{value!r}'"
    else:
        text = format(value, "f") if isinstance(value, Decimal) else str(value)
        text = f"'{text}'"
    return f"CAST({text} AS {type_})"


def _values(row: Row, family: str) -> list[ChecksumValue]:
    return [
        ChecksumValue(_literal(value, family, types[family]), Column("c", DataType(kind)), form)
        for value, (kind, form, types) in zip(row, COLUMNS, strict=False)
    ]


Digest = Callable[[Row], int]


@pytest.fixture(scope="module", params=["postgresql", "mysql", "duckdb"])
def digest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ChecksumReadSession, Digest]]:
    """What a database makes of a row."""
    family: str = request.param
    with _opened(family, request, tmp_path_factory.mktemp("checksum")) as session:
        assert isinstance(session, ChecksumReadSession)
        session.checksum_schemes()

        def compute(row: Row) -> int:
            return int(session.fetch_value(f"SELECT {session.checksum_digest(PORTABLE, _values(row, family))}"))

        yield family, session, compute


@contextmanager
def _opened(family: str, request: pytest.FixtureRequest, directory: Path) -> Iterator[Any]:
    if family == "duckdb":
        import duckdb

        path = directory / "checksum.duckdb"
        duckdb.connect(str(path)).close()
        config = ConnectionConfig("checksum", "duckdb", database=str(path))
    elif family == "mysql":
        server: MysqlServer = request.getfixturevalue("mysql_server")
        mysql = server.create_database()
        request.addfinalizer(mysql.drop)
        config = mysql.config()
    else:
        postgresql: PostgresqlServer = request.getfixturevalue("postgresql_server")
        database = postgresql.create_database()
        request.addfinalizer(database.drop)
        config = database.config()
    with closing(connect(config)) as connector, connector.read() as session:
        yield session


_settings = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_settings
@given(row=_rows(7))
def test_a_database_digests_as_the_definition_says(digest: tuple[str, ChecksumReadSession, Digest], row: Row) -> None:
    family, _, compute = digest
    # MySQL cannot spell a float, and so digests no table that has one.
    row = row[:6] if family == "mysql" else row
    assert compute(row) == reference_digest(row)


def test_mysql_says_that_it_cannot_spell_a_float(digest: tuple[str, ChecksumReadSession, Digest]) -> None:
    family, session, _ = digest
    text = session.checksum_text(ChecksumValue("1e0", Column("x", DataType("float")), "float"))
    assert (text is None) == (family == "mysql")


@settings(max_examples=60, deadline=None)
@given(row=_rows(7))
def test_the_engine_digests_what_it_reads_alike(row: Row) -> None:
    """Over carriers, and over the text of what is not trusted to be a value of its type."""
    import duckdb
    import pyarrow as pa

    trusted, doubtful = [], []
    arrays = []
    for number, (value, (kind, form, _)) in enumerate(zip(row, COLUMNS, strict=True)):
        carrier = carrier_type(DataType(kind))
        plain = format(value, "f") if isinstance(value, Decimal) else value
        arrays += [pa.array([plain], carrier), _as_text(plain, carrier)]
        trusted.append((duckdb_text(f"c{number}", carrier, form), form))
        text_type = carrier if kind == "binary" else untrusted_text()
        doubtful.append((duckdb_text(f"t{number}", text_type, form), form))
    names = [f"{letter}{number}" for number in range(len(COLUMNS)) for letter in "ct"]
    with duckdb.connect() as connection:
        connection.register("rows", pa.table(arrays, names))
        (found,) = connection.execute(
            f"SELECT {duckdb_digest(trusted)}, {duckdb_digest(doubtful)} FROM rows"
        ).fetchall()
    assert found == (reference_digest(row), reference_digest(row))


def _as_text(value: Any, carrier: Any) -> Any:
    import pyarrow as pa

    if isinstance(value, bytes) or value is None:
        return pa.array([value], carrier if pa.types.is_binary(carrier) else untrusted_text())
    return pa.array([str(value).lower() if isinstance(value, bool) else str(value)], untrusted_text())


@settings(max_examples=300, deadline=None)
@given(first=_rows(7), second=_rows(7))
def test_rows_that_differ_have_texts_that_differ(first: Row, second: Row) -> None:
    same = all(_same(one, other) for one, other in zip(first, second, strict=True))
    assert (reference_row(first) == reference_row(second)) == same


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(">d", one) == struct.pack(">d", other) or (one != one and other != other)
    return type(one) is type(other) and one == other


@_settings
@given(first=_rows(7), second=_rows(7))
def test_postgresqls_own_digest_tells_rows_apart(postgresql_session: Any, first: Row, second: Row) -> None:
    scheme = postgresql_session.checksum_schemes()[0]
    assert scheme.startswith("postgresql:")
    digests = [
        postgresql_session.fetch_value(
            f"SELECT {postgresql_session.checksum_digest(scheme, _values(row, 'postgresql'))}"
        )  # type: ignore[attr-defined]
        for row in (first, second)
    ]
    assert (digests[0] == digests[1]) == (reference_row(first) == reference_row(second))


@pytest.fixture(scope="module")
def postgresql_session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with _opened("postgresql", request, tmp_path_factory.mktemp("checksum")) as session:
        yield session


@pytest.mark.parametrize(
    ("one", "other", "form", "kind"),
    [
        ("1::int8", "4294967296::int8", "integer", "bigint"),
        ("-1::int8", "1::int8", "integer", "bigint"),
        ("-1.5::numeric", "1.5::numeric", "decimal", "decimal"),
        ("'NaN'::numeric", "'Infinity'::numeric", "decimal", "decimal"),
        ("'Infinity'::numeric", "'-Infinity'::numeric", "decimal", "decimal"),
        ("0.0::float8", "'-0.0'::float8", "float", "float"),
        ("'infinity'::date", "'-infinity'::date", "plain", "date"),
        ("'infinity'::timestamp", "'-infinity'::timestamp", "plain", "timestamp"),
        ("'2000-01-01 00:00:00.000001'::timestamp", "'2000-01-01 01:11:34.967296'::timestamp", "plain", "timestamp"),
        ("'24:00:00'::time", "'00:00:00'::time", "plain", "time"),
        ("''::text", "null::text", "text", "string"),
        ("'a '::text", "'a'::text", "text", "string"),
    ],
)
def test_postgresqls_own_digest_is_not_fooled_by_its_hash_functions(
    postgresql_session: Any, one: str, other: str, form: ChecksumForm, kind: TypeKind
) -> None:
    column = Column("c", DataType(kind))
    for scheme in postgresql_session.checksum_schemes():
        found = [
            postgresql_session.fetch_value(
                f"SELECT {postgresql_session.checksum_digest(scheme, [ChecksumValue(f'({sql})', column, form)])}"
            )
            for sql in (one, other)
        ]
        assert found[0] != found[1], scheme


def test_numbers_are_the_same_whatever_their_scale(postgresql_session: Any) -> None:
    column = Column("c", DataType("decimal"))
    for scheme in postgresql_session.checksum_schemes():
        found = {
            postgresql_session.fetch_value(
                f"SELECT {postgresql_session.checksum_digest(scheme, [ChecksumValue(sql, column, 'decimal')])}"
            )
            for sql in ("1.5::numeric", "1.500::numeric", "CAST('1.5' AS numeric(40,20))")
        }
        assert len(found) == 1, scheme
