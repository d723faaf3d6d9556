"""Which TLS is in force, and which files are refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors import mysql_tls, postgresql_tls
from synqx_dagster.connectors.key_files import check_private_file
from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, SshTunnelConfig, TlsConfig
from synqx_dagster.connectors.registry import check_config
from synqx_dagster.connectors.tls import check_files, describe_tls, make_context
from synqx_dagster.errors import ConfigurationError
from synqx_dagster_tests.certificates import Authority

TUNNEL = SshTunnelConfig("bastion.example", "me", "ssh-ed25519 AAAA", password="hush")


def config(db_type: str = "postgresql", host: str | None = "db.example", **fields: Any) -> ConnectionConfig:
    return ConnectionConfig("c", db_type, host=host, database="d", username="u", **fields)


@pytest.mark.parametrize("choose", [postgresql_tls.choose, mysql_tls.choose], ids=["postgresql", "mysql"])
@pytest.mark.parametrize(
    ("host", "tls", "mode"),
    [
        ("localhost", None, "prefer"),
        ("127.0.0.1", None, "prefer"),
        (None, None, "prefer"),
        ("db.example", None, "verify-full"),
        ("10.0.0.5", None, "verify-full"),
        ("db.example", TlsConfig(mode="require"), "require"),
        ("db.example", TlsConfig(ca_file="ca.pem"), "verify-full"),
        ("localhost", TlsConfig(ca_file="ca.pem"), "verify-full"),
        ("localhost", TlsConfig(mode="verify-ca", ca_file="ca.pem"), "verify-ca"),
        ("db.example", TlsConfig(mode="disable"), "disable"),
    ],
)
def test_another_machine_is_verified_unless_told_otherwise(
    choose: Any, host: str | None, tls: TlsConfig | None, mode: str
) -> None:
    assert choose(config(host=host, tls=tls)).mode == mode
    # A tunnel ends at its server; what lies behind is another machine all the same.
    assert choose(config(host=host, tls=tls, ssh_tunnel=TUNNEL)).mode == mode


def test_the_drivers_own_names_mean_the_same() -> None:
    chosen = postgresql_tls.choose(config(options={"sslmode": "require", "sslrootcert": "x"}))
    assert (chosen.mode, chosen.settings.ca_file) == ("require", "x")
    assert mysql_tls.choose(config(options={"ssl_mode": "verify_ca"})).mode == "verify-ca"
    assert mysql_tls.choose(config(host=None, options={"unix_socket": "/s"})).mode == "disable"


def test_one_way_to_say_it_at_a_time() -> None:
    for db_type, connector, option in (
        ("postgresql", PostgresqlConnector, {"sslmode": "require"}),
        ("mysql", MysqlConnector, {"ssl_mode": "required"}),
    ):
        both = config(db_type, tls=TlsConfig(mode="verify-full"), options=option)
        (problem,) = connector.check_config(both)
        assert "tls.mode" in problem
    (problem,) = PostgresqlConnector.check_config(config(host="/run/pg", tls=TlsConfig(mode="require")))
    assert problem.startswith("tls.mode: ")


def test_connectors_that_cannot_secure_refuse_to_be_asked_to() -> None:
    asked = ConnectionConfig("c", "sqlite", database="/tmp/x.db", tls=TlsConfig(), ssh_tunnel=TUNNEL)
    assert {problem.partition(":")[0] for problem in check_config(asked)} == {"tls", "ssh_tunnel"}


@pytest.mark.parametrize(
    ("connector", "option", "near"),
    [
        (PostgresqlConnector, "ssl_mode", "sslmode"),
        (PostgresqlConnector, "statement_timeout", "statement_timeout_seconds"),
        (MysqlConnector, "sslmode", "ssl_mode"),
        (MysqlConnector, "connect_timeout", "connect_timeout_seconds"),
    ],
)
def test_an_unknown_option_names_the_nearest(connector: Any, option: str, near: str) -> None:
    (problem,) = connector.check_config(config(connector.db_type, options={option: "x"}))
    assert problem.startswith(f"options.{option}: ")
    assert f"did you mean {near!r}?" in problem


@pytest.mark.parametrize(
    "option",
    [
        "service",
        "passfile",
        "options",
        "sslcrl",
        "requiressl",
        "hostaddr",
        "host",
        "password",
        "gssencmode",
        "replication",
    ],
)
def test_what_could_read_files_or_lead_elsewhere_is_no_option_of_postgresql(option: str) -> None:
    assert any(f"options.{option}" in text for text in PostgresqlConnector.check_config(config(options={option: "x"})))


@pytest.mark.parametrize(
    "option",
    ["init_command", "local_infile", "read_default_file", "read_default_group", "host", "sql_mode", "bind_address"],
)
def test_what_could_read_files_or_run_statements_is_no_option_of_mysql(option: str) -> None:
    asked = config("mysql", options={option: "x"})
    assert any(f"options.{option}" in text for text in MysqlConnector.check_config(asked))


# --- files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "right")


def test_files_that_fit_are_taken(authority: Authority) -> None:
    plain = authority.issue("me")
    locked = authority.issue("also me", password="hush")
    for files, password in ((plain, None), (plain, "not needed"), (locked, "hush")):
        settings = TlsConfig("verify-full", str(authority.file), str(files.certificate), str(files.key), password)
        chosen = postgresql_tls.choose(config(tls=settings))
        check_files(chosen, "c")
        assert make_context(chosen, "c").check_hostname
        assert "hush" not in repr(chosen)


def test_files_that_do_not_fit_are_refused_with_what_to_do(authority: Authority, tmp_path: Path) -> None:
    files, other = authority.issue("me"), authority.issue("other")
    locked = authority.issue("locked", password="hush")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    junk.chmod(0o600)
    good = {"ca_file": str(authority.file), "cert_file": str(files.certificate), "key_file": str(files.key)}
    for change, says in (
        ({"ca_file": "/nowhere/ca.pem"}, "tls.ca_file: the file /nowhere/ca.pem cannot be read: No such file"),
        ({"ca_file": str(junk)}, "holds no certificate"),
        ({"cert_file": "/nowhere/me.pem"}, "tls.cert_file"),
        ({"key_file": "/nowhere/key.pem"}, "tls.key_file"),
        ({"key_file": str(other.key)}, "does not belong to"),
        ({"key_file": str(junk)}, "cannot be read as a certificate and its key"),
        ({"cert_file": str(locked.certificate), "key_file": str(locked.key)}, "needs tls.key_password"),
        (
            {"cert_file": str(locked.certificate), "key_file": str(locked.key), "key_password": "wrong-canary"},
            "is tls.key_password right",
        ),
    ):
        chosen = postgresql_tls.choose(config(tls=TlsConfig(mode="verify-full", **{**good, **change})))
        with pytest.raises(ConfigurationError) as caught:
            check_files(chosen, "c")
        assert says in str(caught.value)
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o610])
def test_a_key_that_others_may_read_is_refused(authority: Authority, mode: int) -> None:
    key = authority.issue("me").key
    check_private_file(str(key), "here")
    key.chmod(mode)
    with pytest.raises(ConfigurationError, match="may be read by others") as caught:
        check_private_file(str(key), "here")
    assert caught.value.hint == f"chmod 600 {key}"


def test_what_is_in_use_is_said() -> None:
    verified = postgresql_tls.choose(config())
    assert describe_tls("TLSv1.3", verified) == "TLSv1.3, server verified (verify-full)"
    assert describe_tls("off", verified, tunnel_host="b") == "off, inside SSH as far as b"
    assert describe_tls("TLSv1.3", postgresql_tls.choose(config(host=None))).endswith("server not verified (prefer)")
