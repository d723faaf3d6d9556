"""The connection that a server finds ready at its first start: that of ``DATABASE_URL``, with assets for its tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import pydantic
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.connecting import make_connector_of, try_connection
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.drafting import draft_assets
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Connection, LiteralSecret, Record, TlsSettings

_log = logging.getLogger(__name__)

VARIABLE = "DATABASE_URL"
CONNECTION_NAME = "Default Postgres"
#: Who is the author of the revision.
AUTHOR = "system"
#: A database with more tables is not one to be browsed by their names.
MAX_ASSETS = 500


@dataclass(frozen=True)
class Seeded:
    """What was made; or, in words without any secret, why nothing was."""

    revision: int | None = None
    assets: int = 0
    warning: str | None = None


def seed_catalog(catalog: Catalog, environ: Mapping[str, str]) -> Seeded:
    """Make the connection of ``DATABASE_URL`` and assets for its tables, as one revision. Idempotent.

    Nothing is made where there ever was a connection of this name: who removed it does not want it back. What does not
    work is a warning, and is tried again at the next start.

    Args:
        catalog: The open catalog.
        environ: The environment of the server.
    """
    url = environ.get(VARIABLE)
    if not url or catalog.versions("connection", CONNECTION_NAME):
        return Seeded()
    try:
        connection = read_url(url)
        made = _seed(catalog, connection)
    except ValueError as error:
        # Only words of this module: a URL that cannot be read may be all password.
        made = Seeded(warning=f"{VARIABLE}: {error}")
    except SynqxError as error:
        made = Seeded(warning=f"{VARIABLE}: {error.message}")
    if made.warning is not None:
        _log.warning("The connection %r was not made: %s", CONNECTION_NAME, made.warning)
    return made


def read_url(text: str) -> Connection:
    """The connection that a URL of PostgreSQL means.

    Raises:
        ValueError: It is none; says why without a word of it.
    """
    try:
        url = sa.make_url(text)
        port: str | int | None = url.port
    except (ArgumentError, ValueError):
        raise ValueError("it is not a database URL, such as postgresql://user:password@host:5432/database") from None
    if url.drivername.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("it is not the URL of a PostgreSQL database")
    query = {name: value if isinstance(value, str) else value[0] for name, value in url.query.items()}
    host, port_text = query.get("host", url.host), query.get("port", port)
    mode, ca_file = query.get("sslmode"), query.get("sslrootcert")
    try:
        return Connection(
            name=CONNECTION_NAME,
            description=f"Made from {VARIABLE} at the first start",
            db_type="postgresql",
            host=host or None,
            port=int(port_text) if port_text is not None else None,
            database=url.database or query.get("dbname"),
            username=url.username or query.get("user"),
            password=LiteralSecret(value=SecretStr(password)) if (password := _password_of(url, query)) else None,
            tls=_tls_of(mode, ca_file),
        )
    except (pydantic.ValidationError, ValueError):
        raise ValueError("a part of it cannot be one of a connection") from None


def _password_of(url: sa.URL, query: Mapping[str, str]) -> str | None:
    return str(url.password) if url.password else query.get("password")


def _tls_of(mode: str | None, ca_file: str | None) -> TlsSettings | None:
    if mode is None and ca_file is None:
        return None
    # libpq's "allow" is its "prefer" the other way round; there is no such mode here.
    wanted = {"mode": "prefer" if mode == "allow" else mode, "ca_file": ca_file}
    return TlsSettings.model_validate({name: value for name, value in wanted.items() if value is not None})


def _seed(catalog: Catalog, connection: Connection) -> Seeded:
    report = try_connection(catalog, connection)
    if not report.ok:
        return Seeded(warning=f"{VARIABLE}: {report.message}")
    connector = make_connector_of(catalog, connection)
    try:
        tables = connector.discover()
    finally:
        connector.close()
    known = catalog.latest_snapshot().assets.values()
    drafted = draft_assets(connection.name, tables, known, default_schema=connector.capabilities.default_schema)
    assets = drafted.created[:MAX_ASSETS]
    records: tuple[Record, ...] = (connection, *assets)
    plan = plan_changes(catalog, Definitions(records))
    revision = apply_changes(catalog, plan, author=AUTHOR, reason=f"the database of {VARIABLE}")
    return Seeded(revision, len(assets))
