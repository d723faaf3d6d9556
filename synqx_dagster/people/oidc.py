"""Logins by an OpenID provider: authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0, RFC 7636).

Guarantee: somebody is vouched for only by an ID token of the one provider, for this client, signed by a key of its
own with an asymmetric algorithm, that answers the very attempt which this browser began.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt

from synqx_dagster.errors import ConfigurationError, LoginFailedError, RetryableError, SynqxError
from synqx_dagster.model.web_address import is_loopback
from synqx_dagster.people.external import ExternalIdentity

if TYPE_CHECKING:
    from authlib.integrations.requests_client import OAuth2Session

    from synqx_dagster.model.server_settings import OidcSettings

_SCOPE = "openid email"
#: Only asymmetric ones: with HS256 the client's secret would be a key, and a public key could be taken for one.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_LEEWAY_SECONDS = 60
_TIMEOUT_SECONDS = 5
_MAX_BYTES = 1024 * 1024
_KEEP_SECONDS = 3600
#: A token that names an unknown key makes us ask for the keys again, but not as often as a stranger likes.
_ASK_AGAIN_SECONDS = 60

#: Errors that a provider sends a browser back with (RFC 6749, 4.1.2.1): those that pass, and those of the client there.
_PASSING = frozenset({"server_error", "temporarily_unavailable"})
_OF_THE_CLIENT = frozenset({"invalid_request", "unauthorized_client", "unsupported_response_type", "invalid_scope"})


@dataclass(frozen=True)
class OidcAttempt:
    """A login that has begun: the browser goes to `url`, and keeps the rest until it comes back."""

    url: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)

    def check_state(self, state: str) -> None:
        """Make sure that what comes back answers this attempt.

        Raises:
            LoginFailedError: It answers another one, or none.
        """
        if not hmac.compare_digest(state.encode("utf-8", "surrogatepass"), self.state.encode()):
            raise _not_vouched("this is the answer to another login")


class OidcProvider:
    """The provider of the settings. Safe to share between threads; asks it nothing before the first login."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] | None = None
        self._metadata_at = 0.0
        self._keys: jwt.PyJWKSet | None = None
        self._keys_at = 0.0

    def begin(self, redirect_uri: str) -> OidcAttempt:
        """Begin a login.

        Raises:
            RetryableError: The provider does not answer.
            ConfigurationError: It is no OpenID provider, or Authlib is not installed.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        with self._session(redirect_uri) as session:
            url, _ = session.create_authorization_url(
                self._endpoint("authorization_endpoint"), state=state, nonce=nonce, code_verifier=verifier
            )
        return OidcAttempt(url, state, nonce, verifier)

    def finish(self, attempt: OidcAttempt, redirect_uri: str, *, state: str, code: str) -> ExternalIdentity:
        """Who it is that came back from the provider.

        Raises:
            LoginFailedError: The provider does not vouch for this attempt.
            RetryableError: It does not answer.
        """
        attempt.check_state(state)
        tokens = self._fetch_tokens(attempt, redirect_uri, code)
        claims = self._verify(tokens.get("id_token"), attempt.nonce)
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= 256:
            raise _not_vouched("its id of them is none")
        if "email" not in claims and "userinfo_endpoint" in self._discover():
            claims = self._fetch_userinfo(tokens, subject)
        email = claims.get("email")
        # Some providers write the truth as a text; anything else, 1 as well, is no word for it.
        verified = claims.get("email_verified") is True or claims.get("email_verified") == "true"
        known = isinstance(email, str) and email != "" and verified
        return ExternalIdentity(self._settings.issuer, subject, email if known else None)

    def _fetch_tokens(self, attempt: OidcAttempt, redirect_uri: str, code: str) -> dict[str, Any]:
        import requests
        from authlib.integrations.base_client import OAuthError

        with self._session(redirect_uri) as session:
            try:
                tokens = session.fetch_token(
                    self._endpoint("token_endpoint"),
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=attempt.code_verifier,
                    timeout=_TIMEOUT_SECONDS,
                    allow_redirects=False,
                )
            except OAuthError as exc:
                raise _not_vouched("it does not take the code") from exc
            except requests.RequestException as exc:
                raise self._silent() from exc
            except ValueError as exc:
                raise _not_vouched("its answer is none") from exc
        return dict(tokens)

    def _verify(self, token: object, nonce: str) -> dict[str, Any]:
        if not isinstance(token, str):
            raise _not_vouched("it sends no ID token")
        try:
            header = jwt.get_unverified_header(token)
            key = self._find_key(header.get("kid"))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(_ALGORITHMS),
                audience=self._settings.client_id,
                issuer=self._discover()["issuer"],
                leeway=_LEEWAY_SECONDS,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise _not_vouched("its ID token is not valid") from exc
        found = claims.get("nonce")
        if not isinstance(found, str) or not hmac.compare_digest(
            found.encode("utf-8", "surrogatepass"), nonce.encode()
        ):
            raise _not_vouched("its ID token answers another login")
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and "azp" not in claims:
            raise _not_vouched("its ID token is for several clients")
        if claims.get("azp", self._settings.client_id) != self._settings.client_id:
            raise _not_vouched("its ID token is for another client")
        return claims

    def _fetch_userinfo(self, tokens: dict[str, Any], subject: str) -> dict[str, Any]:
        found = self._fetch(self._endpoint("userinfo_endpoint"), bearer=str(tokens.get("access_token") or ""))
        if found.get("sub") != subject:
            raise _not_vouched("it tells of somebody else")
        return found

    # --- what the provider says of itself ---------------------------------------------------------------------

    def _discover(self) -> dict[str, Any]:
        with self._lock:
            if self._metadata is not None and time.monotonic() - self._metadata_at < _KEEP_SECONDS:
                return self._metadata
        found = self._fetch(f"{self._settings.issuer}/.well-known/openid-configuration")
        issuer = found.get("issuer")
        if not isinstance(issuer, str) or issuer.rstrip("/") != self._settings.issuer:
            raise ConfigurationError(
                "The provider calls itself by another name than SYNQX_OIDC_ISSUER",
                hint="look at `issuer` in its /.well-known/openid-configuration",
            )
        with self._lock:
            self._metadata, self._metadata_at = found, time.monotonic()
        return found

    def _endpoint(self, name: str) -> str:
        url = self._discover().get(name)
        if not isinstance(url, str) or not _is_safe(url):
            raise ConfigurationError(f"The provider of SYNQX_OIDC_ISSUER has no usable {name}")
        return url

    def _find_key(self, key_id: object) -> jwt.PyJWK:
        for ask_again in (False, True):
            found = [key for key in self._read_keys(ask_again).keys if key_id is None or key.key_id == key_id]
            if len(found) == 1 or (found and key_id is not None):
                return found[0]
        raise _not_vouched("its ID token is signed by a key that it does not publish")

    def _read_keys(self, ask_again: bool) -> jwt.PyJWKSet:
        with self._lock:
            age = time.monotonic() - self._keys_at
            if self._keys is not None and age < (_ASK_AGAIN_SECONDS if ask_again else _KEEP_SECONDS):
                return self._keys
        keys = jwt.PyJWKSet.from_dict(self._fetch(self._endpoint("jwks_uri")))
        with self._lock:
            self._keys, self._keys_at = keys, time.monotonic()
        return keys

    def _fetch(self, url: str, *, bearer: str | None = None) -> dict[str, Any]:
        import requests

        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
        try:
            with requests.get(
                url, headers=headers, timeout=_TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ) as answer:
                body = answer.raw.read(_MAX_BYTES + 1, decode_content=True)
                status = answer.status_code
        except (requests.RequestException, OSError) as exc:
            raise self._silent() from exc
        try:
            document = json.loads(body) if status == 200 and len(body) <= _MAX_BYTES else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise RetryableError(
                "The OpenID provider's answer is not what it should be", hint="look at SYNQX_OIDC_ISSUER"
            )
        return document

    def _session(self, redirect_uri: str) -> OAuth2Session:
        try:
            from authlib.integrations.requests_client import OAuth2Session
        except ImportError as exc:
            raise ConfigurationError(
                "SYNQX_OIDC_ISSUER is set, and what logs in by it is not installed", hint="install synqx-dagster[oidc]"
            ) from exc
        secret = self._settings.client_secret
        methods = self._discover().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return OAuth2Session(
            client_id=self._settings.client_id,
            client_secret=secret.get_secret_value() if secret is not None else None,
            token_endpoint_auth_method=method if secret is not None else "none",
            scope=_SCOPE,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )

    @staticmethod
    def _silent() -> RetryableError:
        return RetryableError("The OpenID provider does not answer", hint="look at SYNQX_OIDC_ISSUER, or try again")


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def refusal_of(error: str) -> SynqxError:
    """What it means that a provider sends a browser back with this error, in words that a stranger cannot choose."""
    if error in _PASSING:
        return RetryableError("The OpenID provider cannot let anybody in at the moment", hint="log in again later")
    if error in _OF_THE_CLIENT:
        return ConfigurationError(
            f"The OpenID provider does not take what this server asks of it ({error})",
            hint="an admin should compare the client of SYNQX_OIDC_CLIENT_ID there with this server's address",
        )
    if error == "access_denied":
        return LoginFailedError("The login was refused at the OpenID provider, or given up there", hint="log in again")
    return LoginFailedError("The OpenID provider did not let anybody in", hint="log in again")


def _not_vouched(reason: str) -> LoginFailedError:
    return LoginFailedError(f"The OpenID provider does not vouch for this login: {reason}", hint="log in again")
