"""TLS as libpq takes it, and why libpq did not come to an agreement.

psycopg2 and ADBC each carry a libpq of their own; both get the same parameters. libpq says no more than
``certificate verify failed``, so after a failure the handshake is repeated with Python's TLS, which says why.
"""

from __future__ import annotations

import re
import ssl
import struct
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.network import Endpoint, open_socket
from synqx_dagster.connectors.protocol import ConnectionConfig, TlsConfig
from synqx_dagster.connectors.tls import (
    TlsChoice,
    choose_tls,
    explain_alert,
    explain_certificate,
    explain_no_tls,
    find_system_certificates,
    make_context,
)
from synqx_dagster.errors import ConnectionFailedError, SynqxError

#: libpq's names, which older definitions have among their options, and what they are called in ``tls``.
TLS_OPTIONS = {"sslmode": "mode", "sslrootcert": "ca_file", "sslcert": "cert_file", "sslkey": "key_file"}

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

#: Source: PostgreSQL manual, Message Formats, SSLRequest.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)

_CERTIFICATE_NAME = re.compile(r'server certificate for "([^"]+)"')


def choose(config: ConnectionConfig) -> TlsChoice:
    """The TLS in force for a PostgreSQL connection."""
    given: dict[str, Any] = {
        field: str(config.options[name]) for name, field in TLS_OPTIONS.items() if name in config.options
    }
    if given.get("mode") == "allow":
        # Both take what they get and verify nothing; prefer at least asks for TLS first.
        given["mode"] = "prefer"
    return choose_tls(config, TlsConfig(**given) if given else None)


def tls_parameters(choice: TlsChoice) -> dict[str, str]:
    """libpq's parameters for a choice."""
    # Kerberos would encrypt in the place of TLS, and without a look at the server's certificate.
    parameters = {"sslmode": str(choice.mode), "gssencmode": "disable"}
    if choice.mode == "disable":
        return parameters
    settings = choice.settings
    found = choice.ca_file
    if found is None and choice.verifies:
        found = _find_certificates() if settings.ca_file is None else "system"
    for name, file in (("sslrootcert", found), ("sslcert", settings.cert_file), ("sslkey", settings.key_file)):
        if file is not None:
            parameters[name] = file if file == "system" else str(Path(file).expanduser())
    if settings.key_password is not None:
        parameters["sslpassword"] = settings.key_password
    return parameters


def _find_certificates() -> str | None:
    """The certificates to trust; None where libpq's own default (``~/.postgresql/root.crt``) is there."""
    if (Path.home() / ".postgresql" / "root.crt").exists():
        return None
    return find_system_certificates() or "system"


def explain_failure(
    config: ConnectionConfig, endpoint: Endpoint, choice: TlsChoice, message: str, *, timeout_seconds: float
) -> ConnectionFailedError | None:
    """Why a connection failed, if TLS is the reason; None if it is another.

    Args:
        message: libpq's.
    """
    found = _find_reason(config, endpoint, choice, message, timeout_seconds)
    if found is None:
        return None
    what, hint = found
    return ConnectionFailedError(
        f"connection {config.name!r}: {endpoint.host}: {what}", reason="tls", hint=hint, connection=config.name
    )


def _find_reason(
    config: ConnectionConfig, endpoint: Endpoint, choice: TlsChoice, message: str, timeout_seconds: float
) -> tuple[str, str] | None:
    if "does not support SSL" in message:
        return explain_no_tls()
    alert = explain_alert(message, has_certificate=choice.settings.cert_file is not None)
    if alert is not None:
        return alert
    if "certificate authentication failed" in message:
        return "the client's certificate is for another user", f"it must be for {config.username!r}, or be mapped to it"
    name = _CERTIFICATE_NAME.search(message)
    if name is None and "certificate verify failed" not in message:
        return None
    try:
        _shake_hands(config, endpoint, choice, timeout_seconds)
    except ssl.SSLCertVerificationError as error:
        what, hint = explain_certificate(error, endpoint.host)
        return (f"{what} (it is for {name[1]!r})" if name is not None else what), hint
    except (OSError, SynqxError):
        return None  # It fails in another way now; what libpq said stands.
    return None


def _shake_hands(config: ConnectionConfig, endpoint: Endpoint, choice: TlsChoice, timeout_seconds: float) -> None:
    context = make_context(choice, config.name)
    with open_socket(endpoint, timeout_seconds=timeout_seconds) as stream:
        stream.settimeout(timeout_seconds)
        stream.sendall(_SSL_REQUEST)
        if stream.recv(1) == b"S":
            context.wrap_socket(stream, server_hostname=endpoint.host.rstrip(".")).close()
