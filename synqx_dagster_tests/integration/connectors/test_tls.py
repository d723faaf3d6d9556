"""TLS against real servers: who is let in, who is refused, and whether the refusal says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.postgresql_connect import connect, connect_adbc
from synqx_dagster.connectors.protocol import ConnectionConfig, TlsConfig
from synqx_dagster.errors import ConfigurationError, ConnectionFailedError
from synqx_dagster_tests.certificates import Authority, CertificateFiles
from synqx_dagster_tests.fix_mysql import MysqlDatabase, MysqlServer
from synqx_dagster_tests.fix_tls import TlsPostgresql


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")


@pytest.fixture
def shown(tls_postgresql: TlsPostgresql) -> Iterator[TlsPostgresql]:
    """The server, which shows its good certificate again afterwards."""
    yield tls_postgresql
    tls_postgresql.show(tls_postgresql.good)


def why_refused(config: ConnectionConfig) -> str:
    """What both of PostgreSQL's drivers and the test of the connection say; they say the same."""
    messages = set()
    for open_connection in (connect, connect_adbc):
        with pytest.raises(ConnectionFailedError) as caught:
            open_connection(config)
        assert caught.value.reason == "tls", caught.value
        assert caught.value.hint
        messages.add(caught.value.message)
    report = PostgresqlConnector(config).test()
    assert (report.ok, report.reason) == (False, "tls")
    messages.add(report.message)
    assert len(messages) == 1, messages
    return messages.pop()


def test_a_verified_server_is_used_by_both_drivers(tls_postgresql: TlsPostgresql) -> None:
    for changes in ({}, {"mode": "verify-ca"}, {"mode": None}):
        config = tls_postgresql.config(**changes)
        with closing(connect(config)) as connection, connection.cursor() as cursor:
            cursor.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            assert cursor.fetchone() == (True,)
        with closing(connect_adbc(config)) as connection, connection.cursor() as cursor:
            cursor.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            assert cursor.fetchone() == (True,)
    report = PostgresqlConnector(tls_postgresql.config()).test()
    assert report.tls == "TLSv1.3, server verified (verify-full)"
    lowered = PostgresqlConnector(tls_postgresql.config(mode="require", ca_file=None)).test()
    assert lowered.tls == "TLSv1.3, server not verified (require)"
    assert PostgresqlConnector(tls_postgresql.config(mode="disable")).test().tls == "off"


def test_an_unknown_authority_is_named_as_such(tls_postgresql: TlsPostgresql, other_authority: Authority) -> None:
    said = why_refused(tls_postgresql.config(ca_file=str(other_authority.file)))
    assert "signed by an authority that is not trusted here" in said
    # The system's authorities do not know it, either.
    assert "not trusted" in why_refused(tls_postgresql.config(ca_file=None))


def test_a_certificate_for_another_name(tls_postgresql: TlsPostgresql) -> None:
    said = why_refused(tls_postgresql.config(host="127.0.0.1"))
    assert "for another name than '127.0.0.1'" in said
    assert "'localhost'" in said
    assert PostgresqlConnector(tls_postgresql.config(host="127.0.0.1", mode="verify-ca")).test().ok


def test_an_expired_certificate(shown: TlsPostgresql) -> None:
    shown.show(shown.authority.issue("localhost", names=("localhost",), days=(-9, -2), file_name="expired"))
    assert "the server's certificate has expired" in why_refused(shown.config())


def test_a_certificate_that_is_not_valid_yet(shown: TlsPostgresql) -> None:
    shown.show(shown.authority.issue("localhost", names=("localhost",), days=(5, 9), file_name="early"))
    assert "not valid yet" in why_refused(shown.config())


def test_a_server_without_tls(shown: TlsPostgresql) -> None:
    shown.show(None)
    for mode in ("require", "verify-full"):
        assert "offers no TLS" in why_refused(shown.config(mode=mode))
    assert PostgresqlConnector(shown.config(mode="prefer", ca_file=None)).test().tls == "off"


def test_a_client_certificate_lets_in(tls_postgresql: TlsPostgresql) -> None:
    for files, password in (
        (tls_postgresql.authority.issue("certified"), None),
        (tls_postgresql.authority.issue("certified", password="hush", file_name="locked"), "hush"),
    ):
        own = {"cert_file": str(files.certificate), "key_file": str(files.key), "key_password": password}
        config = tls_postgresql.config(username="certified", **own)
        for open_connection in (connect, connect_adbc):
            with closing(open_connection(config)) as connection, connection.cursor() as cursor:
                cursor.execute("select current_user::text")
                assert cursor.fetchone() == ("certified",)
        assert PostgresqlConnector(config).test().ok


def test_a_client_certificate_that_is_missing_or_refused(
    tls_postgresql: TlsPostgresql, other_authority: Authority
) -> None:
    def try_with(files: CertificateFiles) -> str:
        own = {"cert_file": str(files.certificate), "key_file": str(files.key)}
        return why_refused(tls_postgresql.config(username="certified", **own))

    assert "the connection has none" in why_refused(tls_postgresql.config(username="certified"))
    assert "does not trust the authority" in try_with(other_authority.issue("certified"))
    expired = tls_postgresql.authority.issue("certified", days=(-9, -2), file_name="expired-client")
    assert "client's certificate has expired" in try_with(expired)
    assert "for another user" in try_with(tls_postgresql.authority.issue("somebody"))


def test_a_client_key_that_others_may_read_is_not_used(tls_postgresql: TlsPostgresql) -> None:
    files = tls_postgresql.authority.issue("certified", file_name="open")
    files.key.chmod(0o644)
    config = tls_postgresql.config(username="certified", cert_file=str(files.certificate), key_file=str(files.key))
    for open_connection in (connect, connect_adbc):
        with pytest.raises(ConfigurationError, match="may be read by others"):
            open_connection(config)
    assert "may be read by others" in PostgresqlConnector(config).test().message


# --- MySQL ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mysql_authority(mysql_server: MysqlServer, tmp_path: Path) -> Iterator[Authority]:
    """An authority that the server trusts and whose certificates `show` makes it show."""
    files = [
        mysql_server.authority_file,
        mysql_server.directory / "server.pem",
        mysql_server.directory / "server-key.pem",
    ]
    before = [file.read_bytes() for file in files]
    authority = Authority(tmp_path, "right")
    show(mysql_server, authority, authority.issue("server", names=("localhost",)))
    yield authority
    for file, content in zip(files, before, strict=True):
        file.write_bytes(content)
    mysql_server.execute("FLUSH SSL", as_root=True)


def show(server: MysqlServer, authority: Authority, files: CertificateFiles) -> None:
    server.authority_file.write_bytes(authority.file.read_bytes())
    (server.directory / "server.pem").write_bytes(files.certificate.read_bytes())
    (server.directory / "server-key.pem").write_bytes(files.key.read_bytes())
    server.execute("FLUSH SSL", as_root=True)


def over_tls(mysql: MysqlDatabase, host: str = "localhost", **tls: Any) -> MysqlConnector:
    return MysqlConnector(replace(mysql.config(), host=host, tls=TlsConfig(**{"mode": "verify-full", **tls})))


def why_mysql_refused(connector: MysqlConnector, reason: str = "tls") -> str:
    report = connector.test()
    assert (report.ok, report.reason) == (False, reason), report
    assert report.hint
    with pytest.raises(ConnectionFailedError) as caught, connector.read():
        pass
    # In TLS 1.3 the client learns of it after its part is done: by the alert, or only by the end of the connection.
    assert caught.value.reason == report.reason
    return report.message


@pytest.mark.mysql
def test_mysql_verifies_its_server(mysql: MysqlDatabase, mysql_server: MysqlServer, mysql_authority: Authority) -> None:
    ca_file = str(mysql_authority.file)
    assert over_tls(mysql, ca_file=ca_file).test().tls == "TLSv1.3, server verified (verify-full)"
    assert "another name than '127.0.0.1'" in why_mysql_refused(over_tls(mysql, "127.0.0.1", ca_file=ca_file))
    assert over_tls(mysql, "127.0.0.1", mode="verify-ca", ca_file=ca_file).test().ok
    assert "not trusted here" in why_mysql_refused(over_tls(mysql))
    show(mysql_server, mysql_authority, mysql_authority.issue("old", names=("localhost",), days=(-9, -2)))
    assert "has expired" in why_mysql_refused(over_tls(mysql, ca_file=ca_file))


@pytest.mark.mysql
def test_mysql_takes_client_certificates(
    mysql: MysqlDatabase, mysql_server: MysqlServer, mysql_authority: Authority, other_authority: Authority
) -> None:
    def connector(**tls: Any) -> MysqlConnector:
        found = over_tls(mysql, ca_file=str(mysql_authority.file), **tls)
        return MysqlConnector(replace(found.config, username="certified", password="x"))

    def own(files: CertificateFiles) -> dict[str, str]:
        return {"cert_file": str(files.certificate), "key_file": str(files.key)}

    mysql_server.execute("CREATE OR REPLACE USER certified IDENTIFIED BY 'x' REQUIRE X509", as_root=True)
    mysql_server.execute("GRANT ALL ON *.* TO certified", as_root=True)
    try:
        assert connector(**own(mysql_authority.issue("me"))).test().ok
        missing = connector().test()
        assert missing.reason == "authentication"
        assert "client certificate" in (missing.hint or "")
        assert "client's certificate" in why_mysql_refused(connector(**own(other_authority.issue("me"))))
        expired = mysql_authority.issue("me", days=(-9, -2), file_name="late")
        assert "client's certificate" in why_mysql_refused(connector(**own(expired)))
    finally:
        mysql_server.execute("DROP USER certified", as_root=True)
