"""The pages of SynqX itself: logging in and out, the account, and what is told before anybody can log in."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from synqx_dagster.api.identify import SESSION_COOKIE
from synqx_dagster.gateway.server import open_gateway
from synqx_dagster.people.roles import Role
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.fix_gateway import Caller, GatewayServer, cookie_of, make_project, password_of, running
from synqx_dagster_tests.fix_people import CLIENT

WRONG = "The user name or the password is wrong."


def rendered(answer: httpx.Response) -> str:
    """A page without what differs between two of the same."""
    return re.sub(r'value="[^"]*"', "", answer.text)


# --- the login page -----------------------------------------------------------------------------------------------


def test_the_login_page_needs_nothing_from_elsewhere_and_no_script(gateway_server: GatewayServer) -> None:
    page = gateway_server.nobody().page("/login")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'")
    assert "unsafe" not in policy
    assert "<script" not in page.text
    assert not [tag for tag in re.findall(r"<[^>]*>", page.text) if re.search(r"\son\w+=", tag)]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    for address in loaded:
        assert address.startswith("/_synqx/")
        assert gateway_server.nobody().get(address).status_code == 200
    assert page.headers["cache-control"] == "no-store"
    for name in ("x-frame-options", "x-content-type-options", "referrer-policy", "permissions-policy"):
        assert name in page.headers
    assert gateway_server.nobody().get("/_synqx/..%2frendering.py").status_code == 404


def test_a_login_sets_a_cookie_that_only_this_server_gets(gateway_server: GatewayServer) -> None:
    answer = gateway_server.nobody().form(
        "/login", username="Viewer@Example.com", password=password_of(Role.VIEWER), next="/runs?a=b"
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/runs?a=b"
    header = answer.headers["set-cookie"]
    assert header.startswith(f"{SESSION_COOKIE}=")
    attributes = {part.strip().lower() for part in header.split(";")[1:]}
    assert {"secure", "httponly", "samesite=lax", "path=/"} <= attributes
    assert not any(part.startswith("domain") for part in attributes)
    assert (
        Caller(gateway_server.base, cookie=cookie_of(answer)).page("/login?next=/jobs").headers["location"] == "/jobs"
    )


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(gateway_server: GatewayServer) -> None:
    nobody = gateway_server.nobody()
    wrong = nobody.form("/login", username="viewer", password="wrong", next="/")
    unknown = nobody.form("/login", username="nemo", password="wrong", next="/")
    assert wrong.status_code == unknown.status_code == 401
    assert WRONG in wrong.text
    assert rendered(wrong) == rendered(unknown)
    assert "set-cookie" not in wrong.headers
    assert 'value="viewer"' in wrong.text  # the name stays, the password does not
    assert "wrong" not in re.findall(r'value="([^"]*)"', wrong.text)


@pytest.mark.parametrize(
    "there",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/login?next=/login",
        "/logout",
        "/a\r\nSet-Cookie: x=y",
        " /x",
        "/" + "a" * 5000,
        "/é",
        "",
    ],
)
def test_the_login_leads_to_no_other_site(gateway_server: GatewayServer, there: str) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    answer = viewer.get("/login", params={"next": there})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "text", ['"><script>alert(1)</script>', "{{ 7 * 7 }}", "<b>x</b>", "\u202e\x07", "' or 1=1 --", "x" * 400]
)
def test_what_is_typed_is_shown_as_text(gateway_server: GatewayServer, text: str) -> None:
    answer = gateway_server.nobody().form("/login", username=text, password="x", next='/"><script>')
    assert answer.status_code in (401, 429)
    assert "<script" not in answer.text
    assert "<b>" not in answer.text
    assert "49" not in re.findall(r'value="([^"]*)"', answer.text)


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b'{"username": "viewer"}', "application/json"),
        (b"username=viewer", "text/plain"),
        (b"a=" + b"x" * 20_000, "application/x-www-form-urlencoded"),
        (b"&".join(b"a%d=1" % n for n in range(30)), "application/x-www-form-urlencoded"),
        (b"username=%00&password=x", "application/x-www-form-urlencoded"),
        (b"username=%ff%fe&password=x", "application/x-www-form-urlencoded"),
        (b"\xff", "application/x-www-form-urlencoded"),
    ],
    ids=range(7),
)
def test_what_no_form_sends_is_refused(gateway_server: GatewayServer, content: bytes, media_type: str) -> None:
    answer = gateway_server.nobody().post("/login", content=content, headers={"Content-Type": media_type})
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


def test_no_other_page_logs_its_visitor_in_or_out(gateway_server: GatewayServer) -> None:
    fields = {"username": "viewer", "password": password_of(Role.VIEWER)}
    foreign = {"Origin": "https://evil.example"}
    answer = gateway_server.nobody().form("/login", foreign, **fields)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    viewer = gateway_server.login(Role.VIEWER)
    assert viewer.form("/logout", foreign).status_code == 403
    assert viewer.get("/logout").headers["location"] == "/account"
    assert viewer.page("/account").status_code == 200


def test_logging_out_ends_the_session_and_not_only_the_cookie(gateway_server: GatewayServer) -> None:
    viewer = gateway_server.login(Role.VIEWER)
    answer = viewer.form("/logout")
    assert answer.headers["location"] == "/login?done=logout"
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert viewer.page("/").status_code == 303
    assert "You are logged out." in gateway_server.nobody().page("/login?done=logout").text


def test_a_login_ends_the_session_that_the_browser_had(gateway_server: GatewayServer) -> None:
    """A session that somebody else has put into the browser is not taken over."""
    before = gateway_server.login(Role.VIEWER)
    answer = before.form("/login", username="operator", password=password_of(Role.OPERATOR))
    assert cookie_of(answer) != before.cookie
    assert before.page("/account").status_code == 303


# --- where a login can work -----------------------------------------------------------------------------------------


def test_over_plain_http_from_elsewhere_the_page_says_why_it_cannot_work(gateway_server: GatewayServer) -> None:
    host = {"Host": "synqx.example:3000"}
    page = gateway_server.nobody().get("/login", headers=host)
    assert "HTTPS" in page.text
    fields = {"username": "viewer", "password": password_of(Role.VIEWER)}
    answer = gateway_server.nobody().form("/login", {**host, "Origin": "http://synqx.example:3000"}, **fields)
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


def test_behind_a_proxy_with_tls_it_works_and_asks_for_tls(gateway_server: GatewayServer) -> None:
    proxied = {"Host": "synqx.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    page = gateway_server.nobody().get("/login", headers=proxied)
    assert "HTTPS" not in page.text
    assert page.headers["strict-transport-security"] == "max-age=31536000"
    fields = {"username": "viewer", "password": password_of(Role.VIEWER)}
    answer = gateway_server.nobody().form("/login", {**proxied, "Origin": "https://synqx.example"}, **fields)
    assert answer.status_code == 303
    caller = Caller(gateway_server.base, cookie=cookie_of(answer))
    assert "203.0.113.9" in caller.get("/account", headers=proxied).text


# --- one-time links -----------------------------------------------------------------------------------------------


def test_a_link_logs_in_once_and_from_this_machine_alone(gateway_server: GatewayServer) -> None:
    nobody = gateway_server.nobody()
    token = gateway_server.gateway.links.issue("editor")
    elsewhere = {"X-Forwarded-For": "203.0.113.9"}
    assert nobody.get("/login", params={"token": token}, headers=elsewhere).status_code == 403
    answer = nobody.get("/login", params={"token": token, "next": "/jobs"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/jobs"
    assert answer.headers["referrer-policy"] == "no-referrer"
    page = Caller(gateway_server.base, cookie=cookie_of(answer)).page("/account")
    assert "<h1>editor</h1>" in page.text
    again = nobody.get("/login", params={"token": token})
    assert again.status_code == 403
    assert "used already" in again.text
    assert token not in again.text
    events = [entry.event for entry in gateway_server.trail.page(limit=10)[0] if entry.event.action == "user.login"]
    assert (events[0].actor, events[0].detail) == ("editor", "by a one-time link")


# --- the account ----------------------------------------------------------------------------------------------------


def test_the_account_shows_who_one_is(gateway_server: GatewayServer) -> None:
    page = gateway_server.as_role(Role.OPERATOR).page("/account")
    assert "<h1>operator</h1>" in page.text
    assert "operator@example.com" in page.text
    assert "this one" in page.text
    assert "<script" not in page.text
    assert gateway_server.nobody().page("/account").headers["location"] == "/login?next=/account"
    assert gateway_server.nobody().form("/account/password").status_code == 401


def test_a_key_is_shown_once_and_works_until_it_is_revoked(gateway_server: GatewayServer) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    made = viewer.form("/account/keys", name="nightly <check>", scopes="run", days="30")
    assert made.status_code == 201
    (key,) = re.findall(r'id="new-key">([^<]+)<', made.text)
    program = gateway_server.nobody(Authorization=f"Bearer {key}")
    assert program.get("/graphql", params={"query": "{ version }"}).status_code == 200
    page = viewer.page("/account")
    assert key not in page.text
    assert "nightly &lt;check&gt;" in page.text
    # A viewer's key cannot run, whatever was chosen.
    assert "runs:launch" not in page.text
    (address,) = re.findall(r'action="(/account/keys/[^"]+/revoke)"', page.text)
    assert gateway_server.as_role(Role.EDITOR).form(address).status_code == 409
    assert viewer.form(address).headers["location"] == "/account?done=revoked"
    assert program.get("/graphql", params={"query": "{ version }"}).status_code == 401


@pytest.mark.parametrize("fields", [{"days": "0"}, {"days": "x"}, {"days": "99999"}, {"name": ""}, {"scopes": "?"}])
def test_a_key_that_cannot_be_meant_is_refused(gateway_server: GatewayServer, fields: dict[str, str]) -> None:
    answer = gateway_server.as_role(Role.VIEWER).form(
        "/account/keys", **{"name": "a key", "scopes": "read", "days": "1", **fields}
    )
    assert answer.status_code == 422
    assert "new-key" not in answer.text


def test_a_program_does_not_use_the_account_page(gateway_server: GatewayServer) -> None:
    admin = gateway_server.people.accounts.get_by_name("admin").identity("session")
    key = gateway_server.people.keys.create(admin, "all", admin.permissions, None).key
    program = gateway_server.nobody(Authorization=f"Bearer {key}")
    assert program.form("/account/keys", name="another", scopes="all", days="1").status_code == 403


def test_sessions_are_ended_one_by_one(gateway_server: GatewayServer) -> None:
    first, second = gateway_server.login(Role.ADMIN), gateway_server.login(Role.ADMIN)
    addresses = re.findall(r'action="(/account/sessions/[^"]+/end)"', first.page("/account").text)
    assert gateway_server.as_role(Role.VIEWER).form(addresses[0]).status_code == 409
    for address in addresses:
        first.form(address)
    assert second.page("/account").status_code == 303
    gateway_server.forget(Role.ADMIN)


def test_of_many_sessions_the_ones_used_last_are_shown(gateway_server: GatewayServer) -> None:
    people = gateway_server.people
    viewer = gateway_server.login(Role.VIEWER)
    identity = people.accounts.get_by_name("viewer").identity("session")
    _, there = people.sessions.page(identity.user_id)
    opened = [people.open_session(identity, CLIENT) for _ in range(52 - there)]
    try:
        page = viewer.page("/account").text
        assert len(re.findall(r'action="/account/sessions/[^"]+/end"', page)) == 50
        assert "And 2 more that were used longer ago" in page
    finally:
        for browser in opened:
            people.close_session(browser.token)
    assert "more that were used longer ago" not in viewer.page("/account").text


def test_a_new_password_ends_every_login(gateway_server: GatewayServer) -> None:
    caller, other = gateway_server.login(Role.EDITOR), gateway_server.login(Role.EDITOR)
    old, new = password_of(Role.EDITOR), "another long password of editor"
    differ = caller.form("/account/password", current=old, new=new, again=new + "x")
    assert differ.status_code == 422
    wrong = caller.form("/account/password", current="x", new=new, again=new)
    assert "The current password is wrong" in wrong.text
    short = caller.form("/account/password", current=old, new="short", again="short")
    assert short.status_code == 422
    done = caller.form("/account/password", current=old, new=new, again=new)
    assert done.headers["location"] == "/login?done=password"
    try:
        assert caller.page("/account").status_code == other.page("/account").status_code == 303
    finally:
        again = gateway_server.nobody().form("/login", username="editor", password=new)
        Caller(gateway_server.base, cookie=cookie_of(again)).form("/account/password", current=new, new=old, again=old)
        gateway_server.forget(Role.EDITOR)


# --- the server's state ---------------------------------------------------------------------------------------------


def test_a_server_without_a_catalog_says_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = load_settings({"SYNQX_HOME": str(home), "DAGSTER_HOME": str(home)}, tmp_path)
    with open_gateway(settings) as gateway, running(gateway) as base:
        nobody = Caller(base)
        for path in ("/", "/login", "/runs"):
            page = nobody.page(path)
            assert page.status_code == 503
            assert "synqx init --admin" in page.text
        assert nobody.get("/").json()["status"] == "not_initialised"
        assert nobody.get("/api/v1/system/status").status_code == 501
        assert nobody.get("/graphql?query={version}").status_code == 401
        assert nobody.form("/login", username="a", password="b").status_code == 503
        assert not (home / "catalog.db").exists()
        # And with one, without a restart.
        project = tmp_path / "project"
        project.mkdir()
        made = make_project(project)
        made.home.joinpath("catalog.db").rename(home / "catalog.db")
        made.home.joinpath("vault.key").rename(home / "vault.key")
        answer = nobody.form("/login", username="viewer", password=password_of(Role.VIEWER))
        assert answer.status_code == 303


def test_a_sealed_vault_lets_people_in_and_tells_them(gateway_server: GatewayServer) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    vault = gateway_server.gateway.context.catalog.vault
    vault.seal()
    try:
        assert viewer.get("/").json()["status"] == "sealed"
        assert "An operator has sealed the vault" in viewer.page("/").text
        assert "An operator has sealed the vault" in viewer.page("/account").text
        assert gateway_server.login(Role.OPERATOR).page("/").status_code == 200
    finally:
        vault.unlock(key_file=gateway_server.settings.key_file, remember=False)
    assert "An operator has sealed the vault" not in viewer.page("/").text
