"""TLS as PyMySQL takes it, by MySQL's own names or by those that all connectors share."""

from __future__ import annotations

from typing import Any

from synqx_dagster.connectors.protocol import ConnectionConfig, TlsConfig
from synqx_dagster.connectors.tls import TlsChoice, choose_tls, make_context
from synqx_dagster.model.connection import TlsMode

#: MySQL's names, which older definitions have among their options, and what they are called in ``tls``.
TLS_OPTIONS = {"ssl_mode": "mode", "ssl_ca": "ca_file", "ssl_cert": "cert_file", "ssl_key": "key_file"}

#: MySQL's modes, and those that all connectors share.
SSL_MODES: dict[str, TlsMode] = {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
}


def choose(config: ConnectionConfig) -> TlsChoice:
    """The TLS in force for a MySQL connection."""
    if "unix_socket" in config.options and config.tls is None and "ssl_mode" not in config.options:
        return TlsChoice("disable", True, TlsConfig())
    given: dict[str, Any] = {
        field: str(config.options[name]) for name, field in TLS_OPTIONS.items() if name in config.options
    }
    if "mode" in given:
        given["mode"] = SSL_MODES[given["mode"]]
    return choose_tls(config, TlsConfig(**given) if given else None)


def tls_arguments(choice: TlsChoice, connection: str) -> dict[str, Any]:
    """PyMySQL's arguments for a choice.

    Raises:
        ConfigurationError: A file cannot be used.
    """
    if choice.mode == "disable":
        return {"ssl_disabled": True}
    if choice.mode == "prefer" and choice.settings.cert_file is None:
        return {}  # The driver's own default: TLS if the server offers it.
    return {"ssl": make_context(choice, connection)}
