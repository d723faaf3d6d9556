"""TLS for connections: which mode is in force, whether the files can be used, and what went wrong, in plain words.

Guarantee: a server on another machine is verified, name included, unless the connection itself says otherwise.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from synqx_dagster.connectors.key_files import check_private_file
from synqx_dagster.connectors.protocol import ConnectionConfig, TlsConfig
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.connection import TlsMode
from synqx_dagster.model.host_policy import is_local

MODES: tuple[TlsMode, ...] = get_args(TlsMode)

#: Where systems keep the certificates that they trust. Drivers' wheels carry an OpenSSL that looks elsewhere.
_CERTIFICATE_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True)
class TlsChoice:
    """The TLS that a connection asks for.

    Attributes:
        is_default: Nobody chose the mode.
        ca_file: Authorities to trust; None for the system's.
    """

    mode: TlsMode
    is_default: bool
    settings: TlsConfig

    @property
    def verifies(self) -> bool:
        """Whether the server must prove who it is."""
        return self.mode.startswith("verify-")

    @property
    def ca_file(self) -> str | None:
        """The file of the authorities to trust, None for the system's."""
        given = self.settings.ca_file
        return str(Path(given).expanduser()) if given is not None and given != "system" else None


def choose_tls(config: ConnectionConfig, legacy: TlsConfig | None = None) -> TlsChoice:
    """The TLS in force.

    Args:
        legacy: What the driver's own options say (``sslmode`` and its like), which older definitions use; None without.
    """
    settings = config.tls or legacy or TlsConfig()
    if settings.mode is not None:
        return TlsChoice(settings.mode, False, settings)
    verified = settings.ca_file is not None or not is_local(config.host or "localhost")
    return TlsChoice("verify-full" if verified else "prefer", True, settings)


def check_tls(config: ConnectionConfig, options: Mapping[str, str]) -> list[str]:
    """What is wrong with how a connection says its TLS, found without looking at files.

    Args:
        options: The driver's own options for TLS, and the field of ``tls`` that each stands for.
    """
    given = [name for name in options if name in config.options]
    problems = []
    if config.tls is not None and given:
        problems.append(
            f"options.{given[0]}: the connection has tls, so write tls.{options[given[0]]} there instead of it"
        )
    settings = config.tls
    if settings is not None and (config.host or "").startswith(("/", "@")) and settings.mode not in (None, "disable"):
        problems.append("tls.mode: a Unix socket stays on this machine and has no TLS")
    return problems


def check_files(choice: TlsChoice, connection: str) -> None:
    """Refuse files that cannot be used, before anything is sent.

    Raises:
        ConfigurationError: A file is missing, is no PEM, a key may be read by others, or does not fit its certificate.
    """
    if choice.mode == "disable":
        return
    settings = choice.settings
    place = f"connection {connection!r}: tls"
    if choice.ca_file is not None:
        _check_readable(choice.ca_file, f"{place}.ca_file")
        try:
            ssl.create_default_context(cafile=choice.ca_file)
        except ssl.SSLError:
            raise ConfigurationError(
                f"{place}.ca_file: {choice.ca_file} holds no certificate", hint="it must be PEM"
            ) from None
    if settings.cert_file is not None:
        _check_readable(settings.cert_file, f"{place}.cert_file")
    if settings.key_file is not None:
        check_private_file(settings.key_file, f"{place}.key_file")
    _load_client_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), settings, place)


def _check_readable(file: str, place: str) -> None:
    path = Path(file).expanduser()
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ConfigurationError(f"{place}: the file {path} cannot be read: {error.strerror}") from error


def _load_client_certificate(context: ssl.SSLContext, settings: TlsConfig, place: str) -> None:
    if settings.cert_file is None or settings.key_file is None:
        return
    certificate, key = Path(settings.cert_file).expanduser(), Path(settings.key_file).expanduser()
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=settings.key_password or "")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"{place}: the key {key} does not belong to {certificate}") from None
        raise ConfigurationError(
            f"{place}: {certificate} and {key} cannot be read as a certificate and its key",
            hint="both are PEM; an encrypted key needs tls.key_password"
            if settings.key_password is None
            else "both are PEM; is tls.key_password right?",
        ) from None


def make_context(choice: TlsChoice, connection: str) -> ssl.SSLContext:
    """What Python's own TLS needs for a choice other than ``disable``.

    Raises:
        ConfigurationError: As `check_files`.
    """
    check_files(choice, connection)
    context = ssl.create_default_context(cafile=choice.ca_file or find_system_certificates())
    # From 3.13 on Python refuses what a database server signs for itself, which lacks key identifiers. A connection
    # means the same on every Python, and the same as to libpq.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = choice.mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if choice.verifies else ssl.CERT_NONE
    _load_client_certificate(context, choice.settings, f"connection {connection!r}: tls")
    return context


def find_system_certificates() -> str | None:
    """The file of certificates that this system trusts; None when it is nowhere usual."""
    candidates = (ssl.get_default_verify_paths().cafile, *_CERTIFICATE_BUNDLES)
    return next((path for path in candidates if path and Path(path).is_file()), None)


def describe_tls(version: str, choice: TlsChoice, *, tunnel_host: str | None = None) -> str:
    """What is in use, for people: ``TLSv1.3, server verified (verify-full)``.

    Args:
        version: As the server says it, ``off`` without TLS.
    """
    how = {"verify-full": "server verified", "verify-ca": "authority verified, name not"}
    text = "off" if version == "off" else f"{version}, {how.get(choice.mode, 'server not verified')} ({choice.mode})"
    return text if tunnel_host is None else f"{text}, inside SSH as far as {tunnel_host}"


# --- what went wrong -----------------------------------------------------------------------------------------------

#: OpenSSL's reasons for refusing a server's certificate. Source: x509_vfy.h, X509_V_ERR_*.
_NOT_YET_VALID = (9,)
_EXPIRED = (10,)
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21, 24, 27)
_OTHER_NAME = (62, 64)

_NO_TLS = (
    "the server offers no TLS",
    "turn it on there; on a network that you trust, lower tls: {mode: prefer} or disable",
)


def explain_no_tls() -> tuple[str, str]:
    """What to say of a server without TLS: what is wrong, and what to do."""
    return _NO_TLS


def explain_certificate(error: ssl.SSLCertVerificationError, host: str) -> tuple[str, str]:
    """Why a server's certificate was refused: what is wrong, and what to do."""
    code = error.verify_code
    if code in _EXPIRED:
        return "the server's certificate has expired", "renew it there; is this machine's clock right?"
    if code in _NOT_YET_VALID:
        return "the server's certificate is not valid yet", "is this machine's clock right?"
    if code in _UNKNOWN_AUTHORITY:
        return (
            "the server's certificate is signed by an authority that is not trusted here",
            "tls: {ca_file: PATH} names the authority; if it should be a public one, somebody may be in between",
        )
    if code in _OTHER_NAME or "match" in error.verify_message:
        return (
            f"the server's certificate is for another name than {host!r}",
            "write host as the certificate has it; verify-ca would accept any name of the same authority",
        )
    return f"the server's certificate is refused: {error.verify_message}", "check the certificate there"


def explain_alert(text: str, *, has_certificate: bool) -> tuple[str, str] | None:
    """What an alert of the server's means, about the client's certificate in the main; None when it is unknown.

    Args:
        text: OpenSSL's reason, in any of its spellings.
        has_certificate: Whether the client had a certificate to show.
    """
    words = text.lower().replace("_", " ")
    missing = (
        "the server wants a client certificate, and the connection has none",
        "tls: {cert_file: PATH, key_file: PATH}",
    )
    if "certificate required" in words or "valid client certificate" in words:
        if not has_certificate:
            return missing
        return "the server refused the client's certificate", "ask its operator which authority must have signed it"
    if "alert certificate expired" in words:
        return "the client's certificate has expired", "renew tls.cert_file"
    if "alert certificate revoked" in words:
        return "the client's certificate was revoked", "get a new one for tls.cert_file"
    if any(f"alert {what}" in words for what in ("unknown ca", "bad certificate", "unsupported certificate")):
        return (
            "the server does not trust the authority that signed the client's certificate",
            "ask its operator which authority must have signed tls.cert_file",
        )
    if "alert handshake failure" in words and not has_certificate:
        return missing
    if "alert protocol version" in words or "unsupported protocol" in words:
        return "the server speaks no TLS version that is still safe", "TLS 1.2 or newer is needed there"
    return None
