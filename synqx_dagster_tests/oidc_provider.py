"""A small OpenID provider that speaks the real protocol: discovery, authorization codes with PKCE, RS256, userinfo."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from jwt.algorithms import RSAAlgorithm

CLIENT_ID = "synqx-test"
CLIENT_SECRET = "kanarienvogel of the provider"


@cache
def _usual_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@dataclass
class Grant:
    """What a code was given out for."""

    redirect_uri: str
    challenge: str
    nonce: str


@dataclass
class Provider:
    """The provider's state, and what a test makes it do wrong.

    Attributes:
        subject: Who logs in there.
        claims: Beside the usual ones, in the ID token; None removes one.
        userinfo: What it tells of them elsewhere.
        forge: Makes the ID token in place of the provider.
        refuses: Sends browsers back with this error, and lets nobody in.
    """

    issuer: str = ""
    subject: str = "subject-1"
    claims: dict[str, Any] = field(default_factory=lambda: {"email": "ann@example.org", "email_verified": True})
    userinfo: dict[str, Any] = field(default_factory=dict)
    forge: Callable[[dict[str, Any]], str] | None = None
    refuses: str | None = None
    secret: str | None = CLIENT_SECRET
    key: rsa.RSAPrivateKey = field(default_factory=_usual_key)
    key_id: str = "key-1"
    grants: dict[str, Grant] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def sign(self, claims: dict[str, Any]) -> str:
        """An ID token."""
        return jwt.encode(claims, self.key, "RS256", headers={"kid": self.key_id})

    def id_token(self, grant: Grant) -> str:
        now = int(time.time())
        usual = {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": grant.nonce,
        }
        claims = {name: value for name, value in {**usual, **self.claims}.items() if value is not None}
        return self.forge(claims) if self.forge is not None else self.sign(claims)

    def takes(self, request: Request, form: dict[str, str]) -> bool:
        """Whether a client has proven who it is."""
        if self.secret is None:
            return form.get("client_id") == CLIENT_ID
        expected = base64.b64encode(f"{CLIENT_ID}:{self.secret}".encode()).decode()
        return request.headers.get("authorization") == f"Basic {expected}"


def make_provider(provider: Provider) -> FastAPI:
    """The provider as an application; `provider.issuer` is set once its address is known."""
    app = FastAPI()

    @app.get("/.well-known/openid-configuration")
    def discovery() -> dict[str, Any]:
        provider.asked.append("discovery")
        return {
            "issuer": provider.issuer,
            "authorization_endpoint": f"{provider.issuer}/authorize",
            "token_endpoint": f"{provider.issuer}/token",
            "jwks_uri": f"{provider.issuer}/jwks",
            "userinfo_endpoint": f"{provider.issuer}/userinfo",
        }

    @app.get("/jwks")
    def keys() -> dict[str, Any]:
        provider.asked.append("jwks")
        public = json.loads(RSAAlgorithm.to_jwk(provider.key.public_key()))
        return {"keys": [{**public, "kid": provider.key_id, "use": "sig", "alg": "RS256"}]}

    @app.get("/authorize")
    def authorize(request: Request) -> RedirectResponse:
        asked = request.query_params
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert "openid" in asked["scope"].split()
        assert asked["code_challenge_method"] == "S256"
        if provider.refuses is not None:
            query = urlencode({"error": provider.refuses, "state": asked["state"]})
            return RedirectResponse(f"{asked['redirect_uri']}?{query}", 302)
        code = secrets.token_urlsafe(16)
        provider.grants[code] = Grant(asked["redirect_uri"], asked["code_challenge"], asked["nonce"])
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 302)

    @app.post("/token")
    async def token(request: Request) -> JSONResponse:
        from urllib.parse import parse_qsl

        form = dict(parse_qsl((await request.body()).decode()))
        grant = provider.grants.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        fits = (
            grant is not None
            and grant.redirect_uri == form.get("redirect_uri")
            and grant.challenge == base64.urlsafe_b64encode(challenge).decode().rstrip("=")
            and provider.takes(request, form)
        )
        if not fits or grant is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse(
            {"access_token": "access", "token_type": "Bearer", "expires_in": 300, "id_token": provider.id_token(grant)}
        )

    @app.get("/userinfo")
    def userinfo(request: Request) -> JSONResponse:
        provider.asked.append("userinfo")
        if request.headers.get("authorization") != "Bearer access":
            return JSONResponse({"error": "invalid_token"}, 401)
        return JSONResponse({"sub": provider.subject, **provider.userinfo})

    return app
