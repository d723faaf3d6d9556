"""A server whose vault is sealed, as browsers see it: what they are told, and how whoever has the password opens it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.instance import prepare_instance
from synqx_dagster.errors import RetryableError
from synqx_dagster.gateway.server import open_gateway
from synqx_dagster.people.roles import Role
from synqx_dagster.vault import VaultState
from synqx_dagster.vault.storage import update_state
from synqx_dagster_tests.browsers import chromium, wait_for_words
from synqx_dagster_tests.fix_gateway import Caller, GatewayServer, make_project, password_of, running, wait_until

MASTER = "correct horse battery staple"


@contextmanager
def database_url(url: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        yield


@pytest.fixture(scope="module")
def started_without_password() -> Iterator[GatewayServer]:
    """A server of a vault with a master password, which nobody has given it."""
    with tempfile.TemporaryDirectory(prefix="synqx-gw-", dir="/tmp") as name:
        directory = Path(name)
        settings = make_project(directory)
        with Catalog.open(settings) as catalog:
            catalog.unseal().change_password(SecretStr(MASTER))
        settings = replace(settings, key_file=None)
        prepare_instance(settings)
        with (
            database_url("postgresql://nobody@127.0.0.1:1/nothing"),
            open_gateway(settings) as gateway,
            running(gateway) as base,
        ):
            yield GatewayServer(base, settings, gateway, gateway.instance)
            # What `unlock` has left in memory for other processes goes, too.
            gateway.context.catalog.vault.seal()


@pytest.fixture
def server(started_without_password: GatewayServer) -> GatewayServer:
    """The same, sealed by an operator for each test, and with no wrong password counted."""
    vault = started_without_password.gateway.context.catalog.vault
    update_state(vault._storage, VaultState.without_failures)
    vault.seal()
    started_without_password.people.throttle._limiters[0].storage.reset()
    return started_without_password


def acts(server: GatewayServer) -> list[tuple[str, str, str, str]]:
    """The latest acts on the vault, the newest first: what, its outcome, by whom, from where."""
    events = [entry.event for entry in server.trail.page(limit=10)[0] if entry.event.action.startswith("vault.")]
    return [(event.action, event.outcome, event.actor, event.address) for event in events]


def test_a_server_that_was_started_without_the_password_is_unlocked(
    started_without_password: GatewayServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = started_without_password
    nobody = server.nobody()
    assert nobody.get("/").json()["status"] == "sealed"
    assert "The vault is sealed: until it is unlocked" in nobody.page("/login").text
    assert "An operator" not in nobody.page("/unlock").text
    before = acts(server)
    assert nobody.form("/unlock", password=MASTER).status_code == 303
    assert nobody.get("/").json()["status"] == "ready"
    # Nobody's seal was lifted, and it is in the trail all the same.
    assert acts(server) == [("vault.unlock", "allowed", "anonymous", "127.0.0.1"), *before]
    # What waited for it is done: the connection of DATABASE_URL is tried.
    wait_until(lambda: "'Default Postgres' was not made" in caplog.text)


def test_the_login_page_says_it_and_leads_to_the_form(server: GatewayServer) -> None:
    nobody = server.nobody()
    page = nobody.page("/login?next=/jobs")
    assert page.status_code == 200
    assert "The vault is sealed: until it is unlocked" in page.text
    # Why it is, strangers need not know.
    assert "An operator" not in page.text + nobody.page("/unlock").text
    assert 'href="/unlock?next=/jobs"' in page.text
    form = nobody.page("/unlock?next=/jobs")
    assert form.status_code == 200
    assert 'action="/unlock"' in form.text
    assert "synqx unlock" in form.text
    assert "<script" not in form.text
    # Who is logged in is told in the web UI and on the account page.
    for path in ("/account", "/unlock"):
        assert "/unlock" in server.as_role(Role.ADMIN).page(path).text


def test_the_password_opens_it_for_everybody_and_that_is_in_the_trail(server: GatewayServer) -> None:
    answer = server.nobody().form("/unlock", password=MASTER, next="/jobs?a=b")
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == "/login?next=/jobs%3Fa%3Db&done=unlocked"
    assert server.nobody().get("/").json()["status"] == "ready"
    assert [act[0] for act in acts(server)[:2]] == ["vault.lift_seal", "vault.unlock"]
    assert acts(server)[1] == ("vault.unlock", "allowed", "anonymous", "127.0.0.1")
    assert MASTER not in answer.text
    # There is nothing to unlock now, and nothing says so any more.
    assert server.nobody().page("/unlock?next=/jobs").headers["location"] == "/jobs"
    page = server.nobody().page(answer.headers["location"])
    assert "The vault is unsealed." in page.text
    assert "/unlock" not in page.text
    assert server.nobody().form("/unlock", password="not it", next="/").status_code == 303
    assert acts(server)[0][0] == "vault.lift_seal"


def test_who_is_logged_in_goes_on_where_they_were_and_has_their_name_in_the_trail(server: GatewayServer) -> None:
    answer = server.as_role(Role.ADMIN).form("/unlock", password=MASTER, next="/account")
    assert answer.headers["location"] == "/account"
    assert acts(server)[1] == ("vault.unlock", "allowed", "admin", "127.0.0.1")


def test_wrong_passwords_are_told_counted_and_delayed(server: GatewayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock stands still: the first delay is a second, which is over soon on a busy machine.
    now = datetime.now(UTC)
    monkeypatch.setattr(server.gateway.context.catalog.vault, "_clock", lambda: now)
    nobody = server.nobody()
    wrong = nobody.form("/unlock", password="not the password", next="/jobs")
    assert wrong.status_code == 403
    assert "The master password is wrong." in wrong.text
    assert "not the password" not in wrong.text
    assert 'value="/jobs"' in wrong.text
    assert acts(server)[0] == ("vault.unlock", "failed", "anonymous", "127.0.0.1")
    answers = [nobody.form("/unlock", password="not the password") for _ in range(3)]
    assert answers[-1].status_code == 429
    assert "Too many wrong passwords" in answers[-1].text
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert server.nobody().get("/").json()["status"] == "sealed"
    # The right one waits as well: else the delay would tell which one it is.
    assert nobody.form("/unlock", password=MASTER).status_code == 429


def test_one_address_tries_so_often_and_no_more(server: GatewayServer) -> None:
    """Also where the vault itself would not even count it, and over the API together with the page."""
    nobody = server.nobody()
    for _ in range(5):
        nobody.form("/unlock", password="x")
        nobody.post("/api/v1/system/unlock", json={"master_password": "x"})
    answer = nobody.post("/api/v1/system/unlock", json={"master_password": "x"})
    assert answer.status_code == 429
    assert "from this address" in answer.json()["detail"]
    assert nobody.form("/unlock", password="x").status_code == 429
    elsewhere = server.nobody(**{"X-Forwarded-For": "203.0.113.9"})
    answer = elsewhere.post("/api/v1/system/unlock", json={"master_password": "x"})
    assert "from this address" not in answer.json()["detail"]


def test_no_other_page_and_no_open_wire(server: GatewayServer) -> None:
    nobody = server.nobody()
    before = acts(server)
    foreign = nobody.form("/unlock", {"Origin": "https://evil.example"}, password=MASTER)
    assert foreign.status_code == 403
    plain = nobody.form(
        "/unlock", {"Host": "synqx.example:3000", "Origin": "http://synqx.example:3000"}, password=MASTER
    )
    assert plain.status_code == 400
    assert "plain HTTP" in plain.text
    assert nobody.form("/unlock").status_code == 400
    assert nobody.post("/unlock", content=b"\xff", headers={"Content-Type": "text/plain"}).status_code == 400
    assert acts(server) == before
    assert nobody.get("/").json()["status"] == "sealed"


def test_what_cannot_be_entered_is_not_opened(server: GatewayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(trail: AuditTrail, event: object) -> None:
        raise RetryableError("The trail cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(AuditTrail, "record", refuse)
        answer = server.nobody().form("/unlock", password=MASTER)
    assert answer.status_code == 502
    assert "The trail cannot be written" in answer.text
    assert server.nobody().get("/").json()["status"] == "sealed"


@pytest.mark.slow
def test_a_vault_without_a_password_says_what_opens_it(gateway_server: GatewayServer) -> None:
    vault = gateway_server.gateway.context.catalog.vault
    vault.seal()
    try:
        page = gateway_server.nobody().page("/unlock")
        assert "synqx unlock --key-file" in page.text
        assert "<form" not in page.text
    finally:
        vault.unlock(key_file=gateway_server.settings.key_file, remember=False)


@pytest.mark.slow
@pytest.mark.browser
def test_it_is_unlocked_in_a_browser(server: GatewayServer, tmp_path: Path) -> None:
    screenshots = Path(os.environ.get("SYNQX_TEST_SCREENSHOTS") or tmp_path)
    with chromium(tmp_path / "profile") as window:
        window.get(f"{server.base}/account")
        wait_for_words(window, ("The vault is sealed", "Unlock it"))
        window.save_screenshot(str(screenshots / "login-sealed.png"))
        window.find_element("id", "username").send_keys("admin")
        window.find_element("id", "password").send_keys(password_of(Role.ADMIN))
        window.find_element("css selector", "button[type=submit]").click()
        wait_for_words(window, ("admin@example.com", "An operator has sealed the vault"))
        window.save_screenshot(str(screenshots / "account-sealed.png"))
        window.get(f"{server.base}/")
        wait_for_words(window, ("vault sealed",))
        window.find_element("css selector", "#synqx-account summary").click()
        window.save_screenshot(str(screenshots / "menu-sealed.png"))
        window.find_element("css selector", "#synqx-account a[href='/unlock']").click()
        wait_for_words(window, ("The vault is sealed", "Master password"))
        window.save_screenshot(str(screenshots / "unlock.png"))
        window.find_element("id", "password").send_keys("not the password")
        window.find_element("css selector", "button[type=submit]").click()
        wait_for_words(window, ("The master password is wrong.",))
        window.save_screenshot(str(screenshots / "unlock-wrong.png"))
        window.find_element("id", "password").send_keys(MASTER)
        window.find_element("css selector", "button[type=submit]").click()
        wait_for_words(window, ("admin",))
        assert "vault sealed" not in window.find_element("css selector", "#synqx-account").text
        assert Caller(server.base).get("/").json()["status"] == "ready"
        assert [entry for entry in window.get_log("browser") if "Content Security Policy" in entry["message"]] == []
