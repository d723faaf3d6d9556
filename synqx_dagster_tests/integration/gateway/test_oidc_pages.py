"""Logins by an OpenID provider, as a browser has them: the button, and a page where something is wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from synqx_dagster.defs.instance import prepare_instance
from synqx_dagster.gateway.server import open_gateway
from synqx_dagster.model.server_settings import OidcSettings
from synqx_dagster_tests.browsers import chromium, wait_for_words
from synqx_dagster_tests.fix_gateway import GatewayServer, make_project, running
from synqx_dagster_tests.http_server import served
from synqx_dagster_tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider, make_provider

CALLBACK = "/api/v1/auth/oidc/callback"
ACCEPT = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@dataclass
class Desk:
    """A server that logs in by a provider, and the provider, which vouches for its operator."""

    server: GatewayServer
    provider: Provider

    def come_back(self, accept: dict[str, str] | None = None, **changes: str) -> httpx.Response:
        """Begin a login, go to the provider and back, as a browser does; with another query where a test says so."""
        with httpx.Client(base_url=self.server.base, timeout=60, trust_env=False) as browser:
            there = browser.get("/api/v1/auth/oidc/login?next=/account", headers=ACCEPT)
            assert there.status_code == 303, there.text
            back = httpx.get(there.headers["location"], trust_env=False).headers["location"]
            query = {**dict(httpx.URL(back).params), **changes}
            cookie = there.headers["set-cookie"].partition(";")[0]
            return browser.get(CALLBACK, params=query, headers={**(accept or ACCEPT), "Cookie": cookie})


@pytest.fixture(scope="module")
def opened_desk() -> Iterator[Desk]:
    provider = Provider()
    with tempfile.TemporaryDirectory(prefix="synqx-gw-", dir="/tmp") as name, served(make_provider(provider)) as url:
        provider.issuer = url
        settings = make_project(Path(name))
        oidc = OidcSettings(url, CLIENT_ID, SecretStr(CLIENT_SECRET))
        settings = replace(settings, server=replace(settings.server, oidc=oidc))
        prepare_instance(settings)
        with open_gateway(settings) as gateway, running(gateway) as base:
            yield Desk(GatewayServer(base, settings, gateway, gateway.instance), provider)


@pytest.fixture
def desk(opened_desk: Desk) -> Desk:
    provider = opened_desk.provider
    provider.refuses, provider.claims = None, {"email": "operator@example.com", "email_verified": True}
    provider.subject = "subject-1"
    return opened_desk


def test_the_button_leads_to_the_provider_and_back(desk: Desk) -> None:
    page = desk.server.nobody().page("/login?next=/account")
    assert 'href="/api/v1/auth/oidc/login?next=/account"' in page.text
    answer = desk.come_back()
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")


@pytest.mark.parametrize(
    ("refuses", "changes", "status", "words"),
    [
        (None, {"state": "another"}, 401, "this is the answer to another login"),
        (None, {"code": "not the code"}, 401, "it does not take the code"),
        ("access_denied", {}, 401, "refused at the OpenID provider, or given up there"),
        ("temporarily_unavailable", {}, 502, "cannot let anybody in at the moment"),
        (None, {"code": "x" * 5000}, 422, "The request has problems"),
    ],
)
def test_what_went_wrong_is_a_page_with_a_way_back(
    desk: Desk, refuses: str | None, changes: dict[str, str], status: int, words: str
) -> None:
    desk.provider.refuses = refuses
    page = desk.come_back(**changes)
    assert page.status_code == status
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert (page.headers["cache-control"], page.headers["vary"]) == ("no-store", "Accept")
    assert words in page.text
    assert 'href="/login?next=/account"' in page.text
    assert page.headers["x-request-id"] in page.text
    assert "<script" not in page.text
    assert "x" * 5000 not in page.text
    assert "synqx_session" not in page.headers.get("set-cookie", "")


def test_who_has_no_account_and_who_has_begun_no_login_are_told(desk: Desk) -> None:
    desk.provider.subject, desk.provider.claims["email"] = "subject-2", "nobody@example.com"
    page = desk.come_back()
    assert page.status_code == 401
    assert "There is no account for this login." in page.text
    assert "ask an admin for one" in page.text
    late = desk.server.nobody().page(f"{CALLBACK}?state=x&code=y")
    assert late.status_code == 401
    assert "has begun no login, or too long ago" in late.text
    assert 'href="/login?next=/"' in late.text


@pytest.mark.parametrize("accept", ["application/json", "application/problem+json, text/html;q=0.5", "*/*"])
def test_a_program_gets_a_problem(desk: Desk, accept: str) -> None:
    answer = desk.come_back({"Accept": accept}, state="another")
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert "another login" in answer.json()["detail"]


def test_a_provider_that_is_silent_is_a_page_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from synqx_dagster.people.oidc import OidcProvider

    monkeypatch.setattr(desk.server.gateway.context, "oidc", OidcProvider(OidcSettings("http://127.0.0.1:1", "x")))
    page = desk.server.nobody().page("/api/v1/auth/oidc/login?next=//evil.example")
    assert page.status_code == 502
    assert "The OpenID provider does not answer." in page.text
    assert 'href="/login?next=/"' in page.text


def test_a_server_without_a_provider_says_so(gateway_server: GatewayServer) -> None:
    page = gateway_server.nobody().page("/api/v1/auth/oidc/login")
    assert page.status_code == 404
    assert "There is no OpenID provider." in page.text


@pytest.mark.slow
@pytest.mark.browser
def test_the_button_in_a_browser(desk: Desk, tmp_path: Path) -> None:
    screenshots = Path(os.environ.get("SYNQX_TEST_SCREENSHOTS") or tmp_path)
    button = "a[href^='/api/v1/auth/oidc/login']"

    def press(window: Any) -> None:
        window.find_element("css selector", button).click()

    with chromium(tmp_path / "profile") as window:
        desk.provider.refuses = "access_denied"
        window.get(f"{desk.server.base}/account")
        window.save_screenshot(str(screenshots / "oidc-login.png"))
        press(window)
        wait_for_words(window, ("You are not logged in", "refused at the OpenID provider"))
        window.save_screenshot(str(screenshots / "oidc-denied.png"))
        desk.provider.refuses = None
        window.find_element("css selector", "a.button").click()
        wait_for_words(window, ("Continue with",))
        press(window)
        wait_for_words(window, ("operator@example.com", "What you may do"))
        assert urlsplit(window.current_url).path == "/account"
