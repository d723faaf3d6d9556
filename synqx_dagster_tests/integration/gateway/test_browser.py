"""The web UI in a real browser, as a viewer, an operator and an editor: what each sees, and what they cannot do."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from synqx_dagster.people.roles import Role
from synqx_dagster_tests.browsers import chromium, wait_for_words
from synqx_dagster_tests.fix_gateway import GatewayServer, password_of
from synqx_dagster_tests.integration.gateway.test_web_ui import CANCEL, launch

pytestmark = pytest.mark.browser


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    return Path(os.environ.get("SYNQX_TEST_SCREENSHOTS") or tmp_path)


def log_in(window: Any, server: GatewayServer, role: Role, path: str = "/") -> None:
    """As a person does it: open a page, be led to the login, and be led back."""
    window.get(server.base + path)
    assert "/login?next=" in window.current_url
    window.find_element("id", "username").send_keys(role.value)
    window.find_element("id", "password").send_keys(password_of(role))
    window.find_element("css selector", "button[type=submit]").click()
    wait_for_words(window, (role.value,))
    assert window.current_url.startswith(server.base)
    assert "/login" not in window.current_url


def wait_for(window: Any, script: str, what: str, seconds: float = 90) -> Any:
    """Wait until a script in the page gives something that counts."""
    deadline = time.monotonic() + seconds
    while not (found := window.execute_script(script)):
        assert time.monotonic() < deadline, f"no {what} in {window.current_url}"
        time.sleep(0.5)
    return found


MATERIALIZE = """
const found = [...document.querySelectorAll("button")].find((button) => button.innerText.trim() === "Materialize");
return found ? [found, found.disabled] : null;
"""
#: The switches of the two that are listed, by name, once their rows are drawn; boxes for choosing rows are none.
SWITCHES = """
const found = [...document.querySelectorAll("label[class*=formatSwitch] input")];
const words = document.body.innerText;
const drawn = ["nightly", "At 02:00", "synqx_follow_catalog", "synqx_health"].every((word) => words.includes(word));
return drawn && found.length === 3 ? found.map((input) => input.disabled) : null;
"""
#: As a script of the page would send it, with all that the browser adds.
SEND = """
const done = arguments[arguments.length - 1];
const body = JSON.stringify({query: arguments[0]});
fetch("/graphql", {method: "POST", headers: {"Content-Type": "application/json"}, body})
  .then((answer) => done(answer.status));
"""


def is_disabled(window: Any) -> bool:
    """Whether the job's button is; it is drawn before the page knows the permissions."""
    time.sleep(3)
    return bool(wait_for(window, MATERIALIZE, "button to materialize")[1])


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.EDITOR])
def test_a_role_sees_what_it_may_do(window: Any, gateway_server: GatewayServer, screenshots: Path, role: Role) -> None:
    log_in(window, gateway_server, role, "/locations/synqx/jobs/copying")
    assert is_disabled(window) == (role is Role.VIEWER)
    assert window.save_screenshot(str(screenshots / f"ui-{role.value}-job.png"))
    window.get(f"{gateway_server.base}/automation")
    wait_for(window, SWITCHES, "switches")
    # The list is drawn again as its parts arrive: what counts is how it stays.
    time.sleep(5)
    assert wait_for(window, SWITCHES, "switches") == [role is not Role.EDITOR] * 3
    assert window.save_screenshot(str(screenshots / f"ui-{role.value}-automation.png"))
    assert window.execute_script(SWITCHES) == [role is not Role.EDITOR] * 3
    # What the page does not offer is refused all the same, and what it offers is not.
    window.set_script_timeout(30)
    statuses = {
        "launch": window.execute_async_script(SEND, 'mutation { terminateRun(runId: "x") { __typename } }'),
        "delete": window.execute_async_script(SEND, 'mutation { deleteRun(runId: "x") { __typename } }'),
    }
    assert statuses == {"launch": 403 if role is Role.VIEWER else 200, "delete": 403}


def test_an_operator_launches_by_the_button(window: Any, gateway_server: GatewayServer, screenshots: Path) -> None:
    queued = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
    before = {run.run_id for run in gateway_server.instance.get_runs(queued)}
    log_in(window, gateway_server, Role.OPERATOR, "/locations/synqx/jobs/copying")
    assert not is_disabled(window)
    window.execute_script(MATERIALIZE.replace("return found ? [found, found.disabled] : null", "found.click()"))
    deadline = time.monotonic() + 60
    while not (launched := [run for run in gateway_server.instance.get_runs(queued) if run.run_id not in before]):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert {run.tags["user"] for run in launched} == {"operator"}
    (run,) = launched
    window.get(f"{gateway_server.base}/runs/{run.run_id}")
    wait_for_words(window, ("Run queued", "files__two"))
    # While it waits, the page shows no log. Once it has ended it does, and it gets that over the websocket.
    gateway_server.as_role(Role.OPERATOR).data(CANCEL, run=run.run_id)
    window.get(f"{gateway_server.base}/runs/{run.run_id}")
    wait_for_words(window, ("Canceled", "RUN_CANCELED"))
    assert window.save_screenshot(str(screenshots / "ui-operator-run.png"))


@pytest.mark.slow
def test_the_menu_shows_who_one_is_and_logs_out(window: Any, gateway_server: GatewayServer, screenshots: Path) -> None:
    log_in(window, gateway_server, Role.VIEWER, "/jobs")
    wait_for_words(window, ("copying", "nightly"))
    window.find_element("css selector", "#synqx-account summary").click()
    window.save_screenshot(str(screenshots / "ui-viewer-menu.png"))
    window.find_element("css selector", "#synqx-account a[href='/account']").click()
    wait_for_words(window, ("viewer@example.com", "What you may do", "this one"))
    window.save_screenshot(str(screenshots / "account.png"))
    window.back()
    wait_for_words(window, ("viewer",))
    window.find_element("css selector", "#synqx-account summary").click()
    window.find_element("css selector", "#synqx-account button").click()
    wait_for_words(window, ("You are logged out.",))
    window.get(f"{gateway_server.base}/jobs")
    assert "/login?next=/jobs" in window.current_url


def test_the_login_page_in_both_lights(window: Any, gateway_server: GatewayServer, screenshots: Path) -> None:
    window.get(f"{gateway_server.base}/login")
    grounds = []
    for light in ("light", "dark"):
        window.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": light}]}
        )
        grounds.append(window.execute_script("return getComputedStyle(document.body).backgroundColor"))
        window.save_screenshot(str(screenshots / f"login-{light}.png"))
    assert grounds[0] != grounds[1]
    window.find_element("id", "username").send_keys("nobody")
    window.find_element("id", "password").send_keys("wrong")
    window.find_element("css selector", "button").click()
    wait_for_words(window, ("The user name or the password is wrong.",))
    window.save_screenshot(str(screenshots / "login-error.png"))
    # The policy of the page stops nothing that the page itself wants.
    assert [entry for entry in window.get_log("browser") if "Content Security Policy" in entry["message"]] == []


EVIL = """<!doctype html><title>evil</title><body><script>
const target = "%s", query = 'mutation { deleteRun(runId: "%s") { __typename } }', body = JSON.stringify({query});
const log = (name, text) => { document.body.insertAdjacentText("beforeend", name + "=" + text + "; "); };
for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"]) {
  fetch(target + "/graphql", {method: "POST", mode: type === "application/json" ? "cors" : "no-cors",
    credentials: "include", headers: {"Content-Type": type}, body})
    .then((answer) => log(type, answer.type)).catch(() => log(type, "blocked"));
}
const image = new Image();
image.onerror = image.onload = () => log("get", "asked");
image.src = target + "/graphql?query=" + encodeURIComponent(query);
const socket = new WebSocket(target.replace("http", "ws") + "/graphql", "graphql-ws");
socket.onopen = () => log("socket", "OPEN");
socket.onerror = () => log("socket", "refused");
const form = document.createElement("form");
form.method = "post"; form.enctype = "text/plain"; form.action = target + "/graphql"; form.target = "frame";
const field = document.createElement("input");
field.name = body.slice(0, -1) + ',"x":"'; field.value = '"}'; form.append(field);
const frame = document.createElement("iframe");
frame.name = "frame"; frame.onload = () => log("form", "sent");
document.body.append(frame, form); form.submit();
</script>"""


def test_another_sites_page_does_nothing_in_ones_name(window: Any, gateway_server: GatewayServer) -> None:
    """A page on another port, to which the browser sends the cookie as to any of the same site."""
    run_id = launch(gateway_server.as_role(Role.ADMIN))
    page = (EVIL % (gateway_server.base, run_id)).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    log_in(window, gateway_server, Role.ADMIN)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        try:
            window.get(f"http://127.0.0.1:{evil.server_address[1]}/")
            words = wait_for_words(window, ("text/plain=", "application/json=", "get=", "socket=", "form="))
        finally:
            evil.shutdown()
    assert "socket=refused" in words
    assert "application/json=blocked" in words
    assert gateway_server.instance.get_run_by_id(run_id) is not None
    # It was the cookie that came along, and it is still good for our own page.
    window.get(f"{gateway_server.base}/account")
    wait_for_words(window, ("admin@example.com",))


@pytest.mark.slow
def test_the_page_of_the_api_needs_nothing_from_elsewhere(window, gateway_server, screenshots):
    window.get(gateway_server.base + "/docs")
    wait_for(window, "return document.querySelectorAll('.opblock-tag').length > 5", "group of routes")
    wait_for_words(window, ("SynqX", "connections", "pipelines"))
    window.save_screenshot(str(screenshots / "docs.png"))
    fetched = window.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert any("swagger-ui" in name for name in fetched)
    assert [name for name in fetched if not name.startswith((gateway_server.base, "data:"))] == []
    assert [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"] == []
