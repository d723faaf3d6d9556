"""What `synqx serve` is told by its environment: who may come in, from where, and for how long."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.web_address import is_loopback

_ROLES = ("viewer", "operator", "editor", "admin")
_MOST_HOURS = 24 * 365


@dataclass(frozen=True)
class OidcSettings:
    """An OpenID provider.

    Attributes:
        issuer: Its address, without a slash at the end.
        client_id: What it calls this server.
        client_secret: How this server proves that it is that client; None for a public client (PKCE alone).
        create_role: Somebody it vouches for and nobody here knows gets an account of this role; None: they are refused.
    """

    issuer: str
    client_id: str
    client_secret: SecretStr | None = None
    create_role: str | None = None


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the server.

    Attributes:
        public_url: How browsers reach it, without a slash at the end; None: as they say themselves.
        registration_open: Anybody may make themselves an account, as a viewer.
        cors_origins: Web pages of these origins may call the API.
        rate_limit_store: URL of the Redis that counts attempts and requests for all processes; None: each its own.
        api_rate_per_minute: So many requests may one caller make.
        login_rate_per_minute: So many logins may be tried for one name; from one address, five times as many.
        session_lifetime: So long a browser stays logged in.
        session_idle: So long it does without being used.
        refresh_lifetime: So long a login over the API can be renewed.
        oidc: The OpenID provider, where there is one.
        trusted_proxies: Addresses and networks of proxies that may say where a request comes from, and that it came
            over TLS.
        metrics_open: Anybody who reaches the server may read its metrics; else a key that may read runs.
    """

    public_url: str | None = None
    registration_open: bool = False
    cors_origins: tuple[str, ...] = ()
    rate_limit_store: SecretStr | None = None
    api_rate_per_minute: int = 12_000
    login_rate_per_minute: int = 10
    session_lifetime: timedelta = timedelta(hours=12)
    session_idle: timedelta = timedelta(hours=2)
    refresh_lifetime: timedelta = timedelta(days=14)
    oidc: OidcSettings | None = None
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    metrics_open: bool = False

    @classmethod
    def parse(cls, get: Callable[[str], str | None]) -> ServerSettings:
        """Read the settings.

        Args:
            get: Gives the text of a setting by its name, None where it is not set.

        Raises:
            ConfigurationError: One of them cannot be meant.
        """

        def count(name: str, default: int, most: int) -> int:
            text = get(name)
            if text is None:
                return default
            if re.fullmatch(r"[0-9]{1,6}", text) is None or not 1 <= int(text) <= most:
                raise ConfigurationError(f"{name} is {text[:40]!r}", hint=f"write a whole number from 1 to {most}")
            return int(text)

        def hours(name: str, default: timedelta) -> timedelta:
            return timedelta(hours=count(name, int(default.total_seconds() // 3600), _MOST_HOURS))

        public_url = get("SYNQX_PUBLIC_URL")
        origins = (get("SYNQX_CORS_ORIGINS") or "").replace(",", " ").split()
        return cls(
            public_url=_public_url(public_url) if public_url else None,
            registration_open=_choice("SYNQX_REGISTRATION", get("SYNQX_REGISTRATION"), ("closed", "open")) == "open",
            cors_origins=tuple(_origin("SYNQX_CORS_ORIGINS", text) for text in origins),
            rate_limit_store=redis_url("SYNQX_RATE_LIMIT_STORE", get("SYNQX_RATE_LIMIT_STORE")),
            api_rate_per_minute=count("SYNQX_API_RATE", cls.api_rate_per_minute, 999_999),
            login_rate_per_minute=count("SYNQX_LOGIN_RATE", cls.login_rate_per_minute, 999_999),
            session_lifetime=hours("SYNQX_SESSION_HOURS", cls.session_lifetime),
            session_idle=hours("SYNQX_SESSION_IDLE_HOURS", cls.session_idle),
            refresh_lifetime=hours("SYNQX_REFRESH_HOURS", cls.refresh_lifetime),
            oidc=_oidc(get),
            trusted_proxies=_networks("SYNQX_TRUSTED_PROXIES", get("SYNQX_TRUSTED_PROXIES"), cls.trusted_proxies),
            metrics_open=_choice("SYNQX_METRICS", get("SYNQX_METRICS"), ("key", "open")) == "open",
        )


def _oidc(get: Callable[[str], str | None]) -> OidcSettings | None:
    issuer, client_id = get("SYNQX_OIDC_ISSUER"), get("SYNQX_OIDC_CLIENT_ID")
    secret = get("SYNQX_OIDC_CLIENT_SECRET")
    role = get("SYNQX_OIDC_CREATE_ROLE")
    if issuer is None and client_id is None:
        return None
    if issuer is None or client_id is None:
        raise ConfigurationError("SYNQX_OIDC_ISSUER and SYNQX_OIDC_CLIENT_ID belong together; one of them is missing")
    if not _is_web_address(issuer, secure=True):
        raise ConfigurationError(
            "SYNQX_OIDC_ISSUER is no address of a provider",
            hint="write https://HOST/PATH, as the provider's discovery document names its issuer",
        )
    return OidcSettings(
        issuer=issuer.rstrip("/"),
        client_id=client_id,
        client_secret=SecretStr(secret) if secret else None,
        create_role=_choice("SYNQX_OIDC_CREATE_ROLE", role, _ROLES[:-1]) if role else None,
    )


def _choice(name: str, text: str | None, choices: tuple[str, ...]) -> str:
    if text is None:
        return choices[0]
    if text not in choices:
        raise ConfigurationError(f"{name} is {text[:40]!r}", hint=f"write {' or '.join(choices)}")
    return text


def _networks(name: str, text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return default
    found = []
    for item in text.replace(",", " ").split():
        try:
            found.append(str(ipaddress.ip_network(item, strict=False)))
        except ValueError:
            raise ConfigurationError(
                f"{name} holds {item[:80]!r}, which is no address",
                hint="write addresses or networks such as 10.0.0.5 or 10.0.0.0/24; a star is not taken, because then "
                "every client could say that it is another one",
            ) from None
    return tuple(found)


def _is_web_address(text: str, *, secure: bool) -> bool:
    try:
        parts = urlsplit(text)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return False
    if parts.username is not None or parts.query or parts.fragment or not parts.hostname or not port_fits:
        return False
    # What a browser calls a secure context: plain HTTP stays on the machine.
    return parts.scheme == "https" or (parts.scheme == "http" and (not secure or is_loopback(parts.hostname)))


def _public_url(text: str) -> str:
    if not _is_web_address(text, secure=False) or urlsplit(text).path not in ("", "/"):
        raise ConfigurationError(
            "SYNQX_PUBLIC_URL is no address of a server", hint="write https://HOST or https://HOST:PORT, without a path"
        )
    return text.rstrip("/")


def _origin(name: str, text: str) -> str:
    if not _is_web_address(text, secure=False) or urlsplit(text).path or not text.isascii():
        raise ConfigurationError(
            f"{name} holds {text[:80]!r}, which is no origin",
            hint="write https://HOST or https://HOST:PORT; a star is not taken, because cookies would go with it",
        )
    return text.lower()


def redis_url(name: str, text: str | None) -> SecretStr | None:
    """The URL of a Redis that a setting names.

    Raises:
        ConfigurationError: It is none; its text, which may hold a password, is not told.
    """
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        # Its words would be those of the URL, and so of the password.
        fits = False
    if not fits:
        raise ConfigurationError(
            f"{name} is no URL of a Redis",
            hint="write redis://:PASSWORD@HOST:6379/0, or rediss:// for TLS; special characters of the password as %40",
        )
    return SecretStr(text)
