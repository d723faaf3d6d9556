"""Access tokens: JWTs that live ten minutes, signed by a key of the vault (RFC 7519, RFC 8725, RFC 9068).

Guarantee: a token is taken only with the one algorithm, of the one type, from this catalog for this catalog, within
its time; whoever it names is looked up by the caller, so that what became of them meanwhile counts.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import jwt

from synqx_dagster.people.signing_keys import SigningKeys

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

LIFETIME = timedelta(minutes=10)

#: What the clocks of two machines may differ by.
LEEWAY = timedelta(seconds=5)

_ALGORITHM = "HS256"
_TYPE = "at+jwt"
_MAX_CHARACTERS = 2048
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CLAIMS = ("iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid")


@dataclass(frozen=True)
class AccessClaims:
    """Whom a token names, and which login it came of."""

    user_id: UUID
    family_id: UUID
    token_id: str


class AccessTokens:
    """Signs and verifies the access tokens of one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._keys = SigningKeys(catalog, verify_replaced=LIFETIME + LEEWAY)
        self._issuer = f"urn:synqx:{catalog.catalog_id}"
        self._audience = f"urn:synqx:{catalog.catalog_id}:api"

    @property
    def keys(self) -> SigningKeys:
        """What signs them."""
        return self._keys

    def issue(self, user_id: UUID, family_id: UUID) -> str:
        """A new token.

        Raises:
            SealedError: The vault is sealed.
        """
        key = self._keys.active()
        now = datetime.now(UTC)
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(user_id),
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME,
            "jti": str(uuid.uuid4()),
            "sid": str(family_id),
        }
        return jwt.encode(claims, key.secret, algorithm=_ALGORITHM, headers={"kid": key.key_id, "typ": _TYPE})

    def verify(self, token: str) -> AccessClaims | None:
        """What a token says; None where it is none, or not valid any more.

        Raises:
            SealedError: It may be one, and the vault is sealed.
        """
        if len(token) > _MAX_CHARACTERS or _FORM.fullmatch(token) is None:
            return None
        try:
            header = jwt.get_unverified_header(token)
            key_id = header.get("kid")
            if header.get("alg") != _ALGORITHM or header.get("typ") != _TYPE or not isinstance(key_id, str):
                return None
            key = self._keys.find(key_id[:36])
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key.secret,
                algorithms=[_ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY,
                options={"require": list(_CLAIMS), "strict_aud": True},
            )
            return AccessClaims(UUID(claims["sub"]), UUID(claims["sid"]), str(claims["jti"]))
        except (jwt.PyJWTError, ValueError, AttributeError, TypeError, RecursionError):
            # A stranger writes the header: whatever it does to a parser, it is no token.
            return None
