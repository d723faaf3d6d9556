"""Settings of one process: environment variables and a ``.env`` file, read once into a frozen value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.host_policy import ALLOWED_VARIABLE, DENIED_VARIABLE, HostPolicy
from synqx_dagster.model.server_settings import ServerSettings, redis_url

#: What SYNQX_LOG_FORMAT may be; the first one if it is not set.
LOG_FORMATS = ("text", "json")

#: More days than anybody keeps runs, and few enough to reckon with.
_MOST = 36_500


@dataclass(frozen=True)
class Settings:
    """Where SynqX keeps its state and how it unseals.

    Attributes:
        home: Directory of the default catalog and of what else SynqX writes; made by `synqx init`.
        catalog_url: SQLAlchemy URL of the catalog; may hold a password, so it does not show in `repr`. Empty where
            there is none: in a project of components.
        master_password: Opens the vault's password keyslot.
        key_file: Opens the vault's key file keyslot; without a setting, the home's ``vault.key`` if there is one.
        dagster_home: Dagster's own home; the CLI sets ``DAGSTER_HOME`` to it when that is unset.
        executor: Runs the steps of jobs: ``in_process``, ``multiprocess``, ``celery``, ``k8s``, or an executor as
            ``module:attribute``.
        celery_broker: URL of the Redis through which the executor ``celery`` reaches its workers.
        celery_backend: URL of the Redis in which these leave their results; without a setting, the broker's.
        k8s_config: YAML file with the configuration of the executor ``k8s``.
        exchange: Where steps of pipelines leave rows for each other: a directory, or a URI such as ``s3://bucket/prefix``.
        code_directory: Where the modules of functions in pipelines lie.
        host_policy: The operator's lists of hosts that connections may and may not reach.
        log_format: ``text``, or ``json``: runs and code servers write a line of JSON for each event.
        run_retention_days: After so many days the daemon deletes runs; None keeps them for ever.
        run_keep_last: How many of the last runs of each job stay all the same.
        server: What `synqx serve` is told.
    """

    home: Path
    catalog_url: str = field(repr=False)
    master_password: SecretStr | None = None
    key_file: Path | None = None
    dagster_home: Path = Path(".synqx")
    executor: str = "in_process"
    celery_broker: SecretStr | None = None
    celery_backend: SecretStr | None = None
    k8s_config: Path | None = None
    exchange: str = field(default=".synqx/exchange", repr=False)
    code_directory: Path = Path()
    host_policy: HostPolicy = field(default_factory=HostPolicy)
    log_format: str = "text"
    run_retention_days: int | None = None
    run_keep_last: int = 10
    server: ServerSettings = field(default_factory=ServerSettings)

    @property
    def generated_key_file(self) -> Path:
        """Where `synqx init --generate-key-file` puts the key file, and where it is found without a setting."""
        return self.home / "vault.key"

    @property
    def display_catalog_url(self) -> str:
        """The catalog's address without its password."""
        return without_password(self.catalog_url)

    @property
    def keeps_exchange_at_home(self) -> bool:
        """Whether rows between steps go where nobody said that another machine sees them."""
        return self.exchange == str(self.home / "exchange")


def without_password(url: str) -> str:
    """A URL as it may be shown: without password and parameters."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        # Not a URL; where a password would stand in it, nobody knows.
        return "***"
    _, at, place = rest.rpartition("@")
    user = re.split("[:?@]", rest, maxsplit=1)[0]
    if not at or rest.startswith("/") or ("/" in user and rest[len(user)] == "?"):
        return f"{scheme}://{rest.partition('?')[0]}"
    # A password may hold every other character that divides a URL, so nothing between the user and the last @ shows.
    return f"{scheme}://{user}:***@{place.partition('?')[0]}"


def load_settings(environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Settings:
    """Read the settings from the environment, then from ``.env`` in the project's directory.

    The environment wins over ``.env``; an empty variable counts as unset.

    Args:
        environ: The environment; left out, the process's own.
        directory: The project's directory; left out, the working directory.

    Raises:
        ConfigurationError: ``.env``, a list of hosts, a number, a URL or another setting cannot be read.
    """
    directory = (directory or Path.cwd()).absolute()
    environ = os.environ if environ is None else environ
    from_file = _read_env_file(directory / ".env")

    def get(name: str) -> str | None:
        return environ.get(name) or from_file.get(name) or None

    def count(name: str, *, at_least: int) -> int | None:
        text = get(name)
        if text is None:
            return None
        if re.fullmatch(r"[0-9]{1,6}", text) is None or not at_least <= int(text) <= _MOST:
            raise ConfigurationError(
                f"{name} is {text[:40]!r}", hint=f"write a whole number from {at_least} to {_MOST}"
            )
        return int(text)

    dagster_home = get("DAGSTER_HOME")
    home = Path(get("SYNQX_HOME") or dagster_home or directory / ".synqx").expanduser()
    home = home if home.is_absolute() else directory / home
    password = get("SYNQX_MASTER_PASSWORD")
    key_file = get("SYNQX_KEY_FILE")
    k8s_config = get("SYNQX_K8S_CONFIG")
    settings = Settings(
        home=home,
        catalog_url=_anchored(get("SYNQX_CATALOG_URL") or f"sqlite:///{home / 'catalog.db'}", directory),
        master_password=SecretStr(password) if password else None,
        key_file=directory / Path(key_file).expanduser() if key_file else None,
        dagster_home=directory / Path(dagster_home).expanduser() if dagster_home else home,
        executor=get("SYNQX_EXECUTOR") or "in_process",
        celery_broker=(broker := redis_url("SYNQX_CELERY_BROKER", get("SYNQX_CELERY_BROKER"))),
        celery_backend=redis_url("SYNQX_CELERY_BACKEND", get("SYNQX_CELERY_BACKEND")) or broker,
        k8s_config=directory / Path(k8s_config).expanduser() if k8s_config else None,
        exchange=_place(get("SYNQX_EXCHANGE"), home / "exchange", directory),
        code_directory=directory / Path(get("SYNQX_CODE_DIRECTORY") or ".").expanduser(),
        host_policy=HostPolicy.parse(get(ALLOWED_VARIABLE), get(DENIED_VARIABLE)),
        log_format=_log_format(get("SYNQX_LOG_FORMAT")),
        run_retention_days=count("SYNQX_RUN_RETENTION_DAYS", at_least=1),
        run_keep_last=Settings.run_keep_last if (kept := count("SYNQX_RUN_KEEP_LAST", at_least=0)) is None else kept,
        server=ServerSettings.parse(get),
    )
    if settings.key_file is None and settings.generated_key_file.is_file():
        return replace(settings, key_file=settings.generated_key_file)
    return settings


def _place(text: str | None, default: Path, directory: Path) -> str:
    """A URI as it is, a directory by its absolute path."""
    if text is not None and "://" in text:
        return text
    return str(default if text is None else directory / Path(text).expanduser())


def _log_format(text: str | None) -> str:
    if text not in (None, *LOG_FORMATS):
        raise ConfigurationError(f"SYNQX_LOG_FORMAT is {text!r}", hint=f"write {' or '.join(LOG_FORMATS)}")
    return text or LOG_FORMATS[0]


def _anchored(url: str, directory: Path) -> str:
    """A SQLite file by its absolute path: the processes of a run do not share a working directory."""
    scheme, separator, path = url.partition(":///")
    if not separator or scheme.partition("+")[0] != "sqlite" or not path or path.startswith((":memory:", "file:")):
        return url
    return f"{scheme}:///{directory / path}"


def _read_env_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path} cannot be read: {type(exc).__name__}") from exc
