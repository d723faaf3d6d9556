"""Logins by a real OpenID provider, and by one that lies."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from synqx_dagster.api.identify import SESSION_COOKIE
from synqx_dagster.api.routes.oidc import ATTEMPT_COOKIE
from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.model.server_settings import OidcSettings
from synqx_dagster.people.accounts import NewUser, UserChange
from synqx_dagster.people.oidc import OidcProvider
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api, password_of
from synqx_dagster_tests.http_server import served
from synqx_dagster_tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider, make_provider


@pytest.fixture
def api(sqlite_api: Api) -> Api:
    """What a provider says does not depend on the backend of the catalog."""
    return sqlite_api


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    with served(make_provider(provider)) as url:
        provider.issuer = url
        yield provider


class Browser:
    """Follows redirects, and keeps cookies as a browser does; secure ones too, because 127.0.0.1 is trustworthy."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.cookies: dict[str, str] = {}

    def get(self, url: str) -> httpx.Response:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        answer = httpx.get(url, headers=headers, timeout=60)
        for header in answer.headers.get_list("set-cookie"):
            name, _, value = header.partition(";")[0].partition("=")
            assert "; Secure" in header
            assert "; HttpOnly" in header
            assert "; Path=/" in header
            assert "Domain" not in header
            self.cookies[name] = value.strip('"')
            if "Max-Age=0" in header:
                del self.cookies[name]
        return answer

    def begin(self, query: str = "") -> str:
        """Where the provider sends the browser back to."""
        there = self.get(f"{self.api.url}/api/v1/auth/oidc/login{query}")
        assert there.status_code == 303, there.text
        back = httpx.get(there.headers["Location"])
        assert back.status_code == 302, back.text
        return back.headers["Location"]

    def log_in(self, query: str = "") -> httpx.Response:
        return self.get(self.begin(query))

    def me(self) -> Any:
        return self.get(f"{self.api.url}/api/v1/auth/me").json()


def use(api: Api, provider: Provider, create_role: str | None = None, secret: str | None = CLIENT_SECRET) -> Browser:
    oidc = OidcSettings(provider.issuer, CLIENT_ID, SecretStr(secret) if secret else None, create_role)
    people = api.context.people
    people._settings = dataclasses.replace(people._settings, oidc=oidc)
    api.context.oidc = OidcProvider(oidc)
    return Browser(api)


def details(api: Api, action: str) -> list[str | None]:
    return [
        entry.event.detail for entry in AuditTrail(api.context.catalog).iter_entries() if entry.event.action == action
    ]


def test_without_a_setting_there_is_no_provider(api: Api) -> None:
    for path in ("login", "callback"):
        assert httpx.get(f"{api.url}/api/v1/auth/oidc/{path}").status_code == 404


def test_an_account_is_found_by_its_address_and_from_then_on_by_the_providers_id(api: Api, provider: Provider) -> None:
    accounts = api.context.people.accounts
    ann = accounts.create(NewUser("ann", Role.EDITOR, email="Ann@Example.org"))
    browser = use(api, provider)
    answer = browser.log_in("?next=/runs%3Fx=1")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs?x=1")
    assert set(browser.cookies) == {SESSION_COOKIE}
    me = browser.me()
    assert (me["username"], me["role"], me["method"]) == ("ann", "editor", "session")
    provider.claims["email"] = "ann.married@example.org"
    again = use(api, provider)
    assert again.log_in().headers["Location"] == "/"
    assert again.me()["id"] == str(ann.user_id)
    assert details(api, "user.link_provider") == [f"to {provider.issuer}"]
    accounts.update(ann.user_id, UserChange(disabled=True))
    assert use(api, provider).log_in().status_code == 401


def test_who_is_unknown_is_refused_or_made_as_a_setting_says(api: Api, provider: Provider) -> None:
    assert use(api, provider).log_in().status_code == 401
    browser = use(api, provider, create_role="operator")
    assert browser.log_in().status_code == 303
    me = browser.me()
    assert (me["username"], me["email"], me["role"], me["has_password"]) == (
        "ann@example.org",
        "ann@example.org",
        "operator",
        False,
    )
    assert any("no account with their address" in (text or "") for text in details(api, "user.login"))


@pytest.mark.parametrize("verified", [False, None, "false", 1, "yes"])
def test_an_address_that_the_provider_has_not_verified_says_nothing(
    api: Api, provider: Provider, verified: object
) -> None:
    api.context.people.accounts.create(NewUser("ann", Role.ADMIN, email="ann@example.org"))
    provider.claims["email_verified"] = verified
    assert use(api, provider, create_role="viewer").log_in().status_code == 401
    assert any("no verified e-mail address" in (text or "") for text in details(api, "user.login"))


def test_an_address_that_somebody_registered_for_themselves_says_nothing(api: Api, provider: Provider) -> None:
    """Else one could register with the address of somebody else, and share the account once they come."""
    people = api.context.people
    browser = use(api, provider, create_role="viewer")
    people._settings = dataclasses.replace(people._settings, registration_open=True)
    body = {"username": "mallory", "password": "four words and a half", "email": "ann@example.org"}
    assert httpx.post(f"{api.url}/api/v1/auth/register", json=body).status_code == 201
    assert browser.log_in().status_code == 401
    assert SESSION_COOKIE not in browser.cookies


def test_the_address_may_stand_in_the_userinfo(api: Api, provider: Provider) -> None:
    api.context.people.accounts.create(NewUser("ann", Role.VIEWER, email="ann@example.org"))
    provider.claims.clear()
    provider.userinfo = {"email": "ann@example.org", "email_verified": True}
    browser = use(api, provider)
    assert browser.log_in().status_code == 303
    assert browser.me()["username"] == "ann"
    provider.userinfo["sub"] = "somebody else"
    assert use(api, provider).log_in().status_code == 401


def test_a_public_client_needs_no_secret(api: Api, provider: Provider) -> None:
    provider.secret = None
    assert use(api, provider, create_role="viewer", secret=None).log_in().status_code == 303


def test_a_wrong_secret_lets_nobody_in_and_shows_nowhere(api: Api, provider: Provider) -> None:
    answer = use(api, provider, create_role="viewer", secret="another kanarienvogel").log_in()
    assert answer.status_code == 401
    assert "kanarienvogel" not in answer.text


NOW = int(time.time())


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"nonce": 5},
        {"aud": "another-client"},
        {"aud": [CLIENT_ID, "another-client"]},
        {"azp": "another-client"},
        {"iss": "https://evil.example"},
        {"exp": NOW - 3600},
        {"iat": NOW + 3600},
        {"exp": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 257},
    ],
)
def test_an_id_token_that_says_something_else_is_refused(
    api: Api, provider: Provider, claims: dict[str, object]
) -> None:
    provider.claims.update(claims)
    browser = use(api, provider, create_role="viewer")
    assert browser.log_in().status_code == 401
    assert SESSION_COOKIE not in browser.cookies


def _signed_by_another_key(provider: Provider, claims: dict[str, Any]) -> str:
    other = rsa.generate_private_key(65537, 2048)
    return jwt.encode(claims, other, "RS256", headers={"kid": provider.key_id})


def _signed_by_the_secret(provider: Provider, claims: dict[str, Any]) -> str:
    return jwt.encode(claims, CLIENT_SECRET * 2, "HS256", headers={"kid": provider.key_id})


def _signed_by_the_public_key(provider: Provider, claims: dict[str, Any]) -> str:
    import hashlib
    import hmac
    from base64 import urlsafe_b64encode
    from json import dumps

    public = provider.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    parts = [
        urlsafe_b64encode(dumps(item).encode()).rstrip(b"=") for item in ({"alg": "HS256", "kid": "key-1"}, claims)
    ]
    signature = hmac.digest(public, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, urlsafe_b64encode(signature).rstrip(b"=")]).decode()


@pytest.mark.parametrize(
    "forge",
    [
        _signed_by_another_key,
        _signed_by_the_secret,
        _signed_by_the_public_key,
        lambda provider, claims: jwt.encode(claims, None, "none", headers={"kid": provider.key_id}),
        lambda provider, claims: jwt.encode(claims, provider.key, "RS256", headers={"kid": "unknown"}),
        lambda provider, claims: "no token",
        lambda provider, claims: "",
    ],
)
def test_an_id_token_that_is_not_signed_by_the_provider_is_refused(api: Api, provider: Provider, forge: Any) -> None:
    provider.forge = lambda claims: str(forge(provider, claims))
    assert use(api, provider, create_role="viewer").log_in().status_code == 401


def test_a_new_key_of_the_provider_is_found(api: Api, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = use(api, provider, create_role="viewer")
    assert browser.log_in().status_code == 303
    provider.key, provider.key_id = rsa.generate_private_key(65537, 2048), "key-2"
    assert browser.log_in().status_code == 401, "asked again for each token of a stranger"
    monkeypatch.setattr("synqx_dagster.people.oidc._ASK_AGAIN_SECONDS", 0)
    assert browser.log_in().status_code == 303
    assert provider.asked.count("discovery") == 1


def test_a_login_is_finished_once_and_by_the_browser_that_began_it(api: Api, provider: Provider) -> None:
    browser = use(api, provider, create_role="viewer")
    back = browser.begin()
    attempt = dict(browser.cookies)
    # Another browser, which an attacker sends to the end of their own login.
    assert Browser(api).get(back).status_code == 401
    other = Browser(api)
    other.begin()
    assert other.get(back).status_code == 401
    assert browser.get(back).status_code == 303
    browser.cookies = attempt
    assert browser.get(back).status_code == 401


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 401),
        ("?error=access_denied&state=x", 401),
        ("?code=x", 401),
        ("?code=x&state=x", 401),
        # No query holds a NUL, wherever it goes.
        ("?state=%00&code=%00", 400),
    ],
)
def test_what_comes_back_without_a_login_is_refused(api: Api, provider: Provider, query: str, status: int) -> None:
    browser = use(api, provider, create_role="viewer")
    browser.begin()
    assert browser.get(f"{api.url}/api/v1/auth/oidc/callback{query}").status_code == status
    browser.cookies[ATTEMPT_COOKIE] = "a.b.c.!"
    assert browser.get(f"{api.url}/api/v1/auth/oidc/callback{query}").status_code == status


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        ("access_denied", 401, "refused at the OpenID provider"),
        ("login_required", 401, "did not let anybody in"),
        ("server_error", 502, "at the moment"),
        ("unauthorized_client", 422, "unauthorized_client"),
        ("<b>anything</b>", 401, "did not let anybody in"),
    ],
)
def test_an_error_of_the_provider_says_what_it_means(
    api: Api, provider: Provider, error: str, status: int, words: str
) -> None:
    provider.refuses = error
    browser = use(api, provider, create_role="viewer")
    answer = browser.log_in()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]
    assert "<b>" not in answer.text
    # To a browser that has begun no such login nothing is said of it.
    url = f"{api.url}/api/v1/auth/oidc/callback?error={error}&state=x"
    assert "another login" in browser.get(url).json()["detail"]
    assert SESSION_COOKIE not in browser.cookies


@pytest.mark.parametrize(
    "target",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a%0d%0aSet-Cookie:x=y", "x"],
)
def test_afterwards_nobody_is_sent_elsewhere(api: Api, provider: Provider, target: str) -> None:
    answer = use(api, provider, create_role="viewer").log_in(f"?next={target}")
    assert answer.headers["Location"] == "/"


def test_a_provider_that_is_silent_or_calls_itself_otherwise(api: Api, provider: Provider) -> None:
    browser = use(api, provider)
    provider.issuer = "https://login.example.org"
    answer = browser.get(f"{api.url}/api/v1/auth/oidc/login")
    assert answer.status_code == 422
    assert "SYNQX_OIDC_ISSUER" in answer.json()["detail"]
    oidc = OidcSettings("http://127.0.0.1:1", CLIENT_ID)
    api.context.oidc = OidcProvider(oidc)
    assert browser.get(f"{api.url}/api/v1/auth/oidc/login").status_code == 502


def test_with_a_provider_passwords_go_on(api: Api, provider: Provider) -> None:
    use(api, provider)
    people = api.context.people
    assert people.login("viewer", password_of("viewer"), _client()).identity.username == "viewer"


def _client() -> Any:
    from synqx_dagster_tests.fix_people import CLIENT

    return CLIENT
