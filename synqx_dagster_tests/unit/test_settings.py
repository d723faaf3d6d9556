"""Settings: who wins, what is relative to what, and what never shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.settings import load_settings


def test_the_environment_wins_over_the_file_and_empty_counts_as_unset(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SYNQX_HOME=from-file\nSYNQX_MASTER_PASSWORD=of-the-file\n")
    settings = load_settings({"SYNQX_HOME": "from-environment", "SYNQX_MASTER_PASSWORD": ""}, tmp_path)
    assert settings.home == tmp_path / "from-environment"
    assert settings.master_password is not None
    assert settings.master_password.get_secret_value() == "of-the-file"


def test_the_home_is_dagsters_or_beside_the_project(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path).home == tmp_path / ".synqx"
    assert load_settings({"DAGSTER_HOME": "/d"}, tmp_path).home == Path("/d")
    both = load_settings({"DAGSTER_HOME": "/d", "SYNQX_HOME": "/s"}, tmp_path)
    assert (both.home, both.dagster_home) == (Path("/s"), Path("/d"))
    assert both.catalog_url == "sqlite:////s/catalog.db"


def test_every_setting_stands_in_the_example_and_in_the_documentation(tmp_path: Path) -> None:
    class Asked(dict[str, str]):
        def get(self, name, default=None):  # type: ignore[no-untyped-def]
            self[name] = ""
            return default

    asked = Asked()
    load_settings(asked, tmp_path)
    assert "SYNQX_HOME" in asked
    root = Path(__file__).parents[2]
    example = re.findall(r"^#([A-Z][A-Z0-9_]*)=", (root / ".env.example").read_text(), re.MULTILINE)
    assert sorted(example) == sorted([*asked, "SHOP_PASSWORD"])
    rows = [line for line in (root / "docs" / "cli.md").read_text().splitlines() if line.startswith("| `")]
    assert {name for name in asked if not any(f"`{name}`" in row for row in rows)} == set()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///x.db", "sqlite:///{directory}/x.db"),
        ("sqlite:////abs/x.db", "sqlite:////abs/x.db"),
        ("sqlite+pysqlite:///x.db", "sqlite+pysqlite:///{directory}/x.db"),
        ("postgresql:///x", "postgresql:///x"),
        ("postgresql://h/x.db", "postgresql://h/x.db"),
    ],
)
def test_a_relative_sqlite_file_lies_in_the_project(tmp_path: Path, url: str, expected: str) -> None:
    settings = load_settings({"SYNQX_CATALOG_URL": url}, tmp_path)
    assert settings.catalog_url == expected.format(directory=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://etl:hunter2@db/catalog",
        "postgresql://etl:hunter2@db/catalog?sslmode=require&password=hunter2",
        "postgresql://etl:hun@ter2@db/catalog",
        "postgresql://etl:hunter2?hunter2@db/catalog",
        "postgresql://etl:hunter2?ter2/hunter2@db/catalog?sslmode=require",
        "postgresql://:ter2?hunter2@db/catalog",
        "postgresql://db?password=hunter2@x",
        "postgresql://db/catalog?password=hunter2",
        "postgresql:etl:hunter2@db",
        "hunter2",
    ],
)
def test_no_password_shows(url: str) -> None:
    settings = load_settings({"SYNQX_CATALOG_URL": url, "SYNQX_MASTER_PASSWORD": "hunter2"}, Path("/project"))
    for shown in (repr(settings), settings.display_catalog_url):
        assert "hunter2" not in shown
        assert "ter2" not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://etl:hun?ter2@db:5432/catalog?sslmode=require", "postgresql://etl:***@db:5432/catalog"),
        ("postgresql://db:5432/catalog?sslmode=require", "postgresql://db:5432/catalog"),
        ("postgresql://db/catalog?user=me@example.org", "postgresql://db/catalog"),
        ("sqlite:////home/me@example.org/catalog.db", "sqlite:////home/me@example.org/catalog.db"),
    ],
)
def test_what_is_no_password_shows(url: str, shown: str) -> None:
    assert load_settings({"SYNQX_CATALOG_URL": url}, Path("/project")).display_catalog_url == shown


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SYNQX_HOME=\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"\.env"):
        load_settings({}, tmp_path)


def test_the_lists_of_hosts_are_read_and_a_broken_one_stops_everything(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SYNQX_ALLOWED_HOSTS=db.example.org 10.0.0.0/8\n")
    policy = load_settings({}, tmp_path).host_policy
    assert policy.allows_name("db.example.org")
    assert not policy.allows_name("other.example.org")
    assert not load_settings({}, tmp_path / "elsewhere").host_policy.has_allow_list
    with pytest.raises(ConfigurationError, match="SYNQX_DENIED_HOSTS"):
        load_settings({"SYNQX_DENIED_HOSTS": "10.0.0.1/8"}, tmp_path)


def test_log_format_and_retention(tmp_path: Path) -> None:
    plain = load_settings({}, tmp_path)
    assert (plain.log_format, plain.run_retention_days, plain.run_keep_last) == ("text", None, 10)
    environ = {"SYNQX_LOG_FORMAT": "json", "SYNQX_RUN_RETENTION_DAYS": "90", "SYNQX_RUN_KEEP_LAST": "0"}
    chosen = load_settings(environ, tmp_path)
    assert (chosen.log_format, chosen.run_retention_days, chosen.run_keep_last) == ("json", 90, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SYNQX_LOG_FORMAT", "JSON "),
        ("SYNQX_RUN_RETENTION_DAYS", "0"),
        ("SYNQX_RUN_RETENTION_DAYS", "-1"),
        ("SYNQX_RUN_RETENTION_DAYS", "90d"),
        ("SYNQX_RUN_RETENTION_DAYS", "9" * 5000),
        ("SYNQX_RUN_KEEP_LAST", "²"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load_settings({name: value}, tmp_path)


@pytest.mark.parametrize("url", ["redis://:hunter2@redis.example:6379/0", "rediss://etl:hunter2@[::1]/1"])
def test_the_url_of_a_redis_is_read_and_does_not_show(url: str, tmp_path: Path) -> None:
    settings = load_settings({"SYNQX_CELERY_BROKER": url}, tmp_path)
    assert settings.celery_broker is not None
    assert settings.celery_broker.get_secret_value() == url
    assert settings.celery_backend == settings.celery_broker
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "amqp://hunter2@rabbit.example//",
        "redis://",
        "redis://:hunter/2@redis.example:6379",
        "redis://:h@r:hunter2",
    ],
)
def test_what_is_no_url_of_a_redis_is_told_without_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SYNQX_CELERY_BACKEND is no URL of a Redis") as caught:
        load_settings({"SYNQX_CELERY_BACKEND": url}, tmp_path)
    assert "hunter" not in str(caught.value) + str(caught.value.hint)


def test_an_exchange_is_at_home_unless_somebody_names_another_place(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path).keeps_exchange_at_home
    for place in ("s3://bucket/rows", "/mnt/rows", "rows"):
        assert not load_settings({"SYNQX_EXCHANGE": place}, tmp_path).keeps_exchange_at_home


def test_the_configuration_of_pods_lies_where_the_project_does(tmp_path: Path) -> None:
    assert load_settings({"SYNQX_K8S_CONFIG": "steps.yaml"}, tmp_path).k8s_config == tmp_path / "steps.yaml"
    assert load_settings({}, tmp_path).k8s_config is None


def test_the_server_is_closed_and_plain_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    server = load_settings({}, tmp_path).server
    assert (server.registration_open, server.public_url, server.cors_origins, server.oidc) == (False, None, (), None)
    assert server.rate_limit_store is None


def test_the_servers_settings_are_read(tmp_path: Path) -> None:
    environ = {
        "SYNQX_PUBLIC_URL": "https://synqx.example.org/",
        "SYNQX_REGISTRATION": "open",
        "SYNQX_CORS_ORIGINS": "https://A.example.org, http://localhost:5173",
        "SYNQX_RATE_LIMIT_STORE": "rediss://:hunter2@redis.example/0",
        "SYNQX_LOGIN_RATE": "5",
        "SYNQX_API_RATE": "100",
        "SYNQX_SESSION_HOURS": "1",
        "SYNQX_SESSION_IDLE_HOURS": "2",
        "SYNQX_REFRESH_HOURS": "3",
        "SYNQX_OIDC_ISSUER": "https://login.example.org/realms/a/",
        "SYNQX_OIDC_CLIENT_ID": "synqx",
        "SYNQX_OIDC_CLIENT_SECRET": "hunter2",
        "SYNQX_OIDC_CREATE_ROLE": "viewer",
    }
    settings = load_settings(environ, tmp_path)
    server = settings.server
    assert "hunter2" not in repr(settings)
    assert (server.public_url, server.registration_open) == ("https://synqx.example.org", True)
    assert server.cors_origins == ("https://a.example.org", "http://localhost:5173")
    assert (server.login_rate_per_minute, server.api_rate_per_minute) == (5, 100)
    lifetimes = (server.session_lifetime, server.session_idle, server.refresh_lifetime)
    assert [item.total_seconds() for item in lifetimes] == [3600, 7200, 10800]
    assert server.oidc is not None
    assert (server.oidc.issuer, server.oidc.create_role) == ("https://login.example.org/realms/a", "viewer")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SYNQX_PUBLIC_URL", "synqx.example.org"),
        ("SYNQX_PUBLIC_URL", "ftp://synqx.example.org"),
        ("SYNQX_PUBLIC_URL", "https://user:hunter2@synqx.example.org"),
        ("SYNQX_PUBLIC_URL", "https://synqx.example.org/path"),
        ("SYNQX_PUBLIC_URL", "https://synqx.example.org:x"),
        ("SYNQX_REGISTRATION", "yes"),
        ("SYNQX_CORS_ORIGINS", "*"),
        ("SYNQX_CORS_ORIGINS", "https://a.example.org https://b.example.org/x"),
        ("SYNQX_CORS_ORIGINS", "null"),
        ("SYNQX_LOGIN_RATE", "0"),
        ("SYNQX_API_RATE", "1e3"),
        ("SYNQX_SESSION_HOURS", "-1"),
        ("SYNQX_SESSION_IDLE_HOURS", "9999999"),
        ("SYNQX_REFRESH_HOURS", "8761"),
        ("SYNQX_RATE_LIMIT_STORE", "memory://hunter2"),
        ("SYNQX_OIDC_ISSUER", "https://login.example.org"),
        ("SYNQX_OIDC_CLIENT_ID", "synqx"),
    ],
)
def test_a_setting_of_the_server_that_cannot_be_meant_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings({name: value}, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_provider_speaks_tls_and_makes_no_admins(tmp_path: Path) -> None:
    environ = {"SYNQX_OIDC_ISSUER": "http://login.example.org", "SYNQX_OIDC_CLIENT_ID": "synqx"}
    with pytest.raises(ConfigurationError, match="SYNQX_OIDC_ISSUER"):
        load_settings(environ, tmp_path)
    environ["SYNQX_OIDC_ISSUER"] = "https://login.example.org"
    with pytest.raises(ConfigurationError, match="SYNQX_OIDC_CREATE_ROLE"):
        load_settings({**environ, "SYNQX_OIDC_CREATE_ROLE": "admin"}, tmp_path)
