"""Authorities, and certificates of every kind that a server or a client may show."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; writes all files into one directory, keys with mode 0600."""

    def __init__(self, directory: Path, name: str, *, owner: str | None = None) -> None:
        self._directory = directory
        self._owner = owner
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._start(self._name, self._key, days=(-1, 2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = self._write(f"{name}-ca.pem", certificate.public_bytes(_PEM), 0o644)

    def issue(
        self,
        common_name: str,
        *,
        names: tuple[str, ...] = (),
        days: tuple[float, float] = (-1, 2),
        file_name: str | None = None,
        password: str | None = None,
    ) -> CertificateFiles:
        """A certificate for names or addresses (of a server) or for a user, valid from and to so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._start(subject, key, days=days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        file_name = file_name or common_name
        encryption: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        )
        secret = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption)
        return CertificateFiles(
            self._write(f"{file_name}.pem", signed.public_bytes(_PEM), 0o644),
            self._write(f"{file_name}-key.pem", secret, 0o600),
        )

    def _start(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: tuple[float, float]
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
        )

    def _write(self, name: str, content: bytes, mode: int) -> Path:
        path = self._directory / name
        path.write_bytes(content)
        path.chmod(mode)
        if self._owner is not None:
            shutil.chown(path, self._owner)
        return path


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
