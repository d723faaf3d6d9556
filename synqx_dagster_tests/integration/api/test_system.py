"""A server without a catalog, with a sealed one, and how it gets from one state to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.identify import IdentityMiddleware
from synqx_dagster.people.roles import Role
from synqx_dagster.settings import Settings
from synqx_dagster_tests.fix_people import Api, password_of, shared_app
from synqx_dagster_tests.http_server import served

MASTER = "correct horse battery staple"


@pytest.fixture
def fresh(any_catalog_settings: Settings, cheap_vault: None, cheap_passwords: None) -> Iterator[Api]:
    """A server that has no catalog yet, and no password of one."""
    settings = replace(any_catalog_settings, master_password=None, dagster_home=any_catalog_settings.home)
    context = ApiContext(settings)
    app = shared_app(context)
    with served(IdentityMiddleware(app, lambda: context.people)) as url:
        api = Api(url, context, app)
        yield api
        for client in api.clients:
            client.close()
    context.close()


def test_a_fresh_server_is_made_by_who_knows_its_token_and_by_nobody_else(fresh: Api) -> None:
    anybody = fresh.client()
    assert httpx.get(f"{fresh.url}/health").json()["catalog"] == "not_initialised"
    status = anybody.get("/system/status")
    assert (status.status_code, status.json()["initialised"]) == (501, False)
    # Nobody could log in, so to say that somebody must would be of no help.
    assert anybody.get("/connections").status_code == 501
    assert anybody.post("/auth/login", json={"username": "a", "password": "b"}).status_code == 501
    admin = {"username": "admin", "password": password_of("admin").get_secret_value()}
    body = {"setup_token": "guess", "master_password": MASTER, "admin": admin}
    assert anybody.post("/system/init", json=body).status_code == 403
    assert anybody.get("/system/status").status_code == 501
    body["setup_token"] = fresh.context.setup_token
    wrong = anybody.post("/system/init", json={**body, "admin": {**admin, "password": "short"}})
    assert wrong.status_code == 422
    assert anybody.get("/system/status").status_code == 501, "nothing was made"
    made = anybody.post("/system/init", json=body)
    assert made.status_code == 201, made.text
    assert MASTER not in made.text
    assert anybody.get("/system/status").json()["status"] == "ready"
    assert anybody.post("/system/init", json=body).status_code == 409
    assert anybody.get("/connections").status_code == 401
    assert fresh.client(Role.ADMIN).get("/connections").json()["total"] == 0


def test_a_vault_is_sealed_for_everybody_and_unlocked_by_its_password(fresh: Api) -> None:
    anybody = fresh.client()
    admin = {"username": "admin", "password": password_of("admin").get_secret_value()}
    body = {"setup_token": fresh.context.setup_token, "master_password": MASTER, "admin": admin}
    assert anybody.post("/system/init", json=body).status_code == 201
    chief = fresh.client(Role.ADMIN)
    assert anybody.post("/system/seal").status_code == 401
    assert chief.post("/system/seal").status_code == 204
    status = anybody.get("/system/status")
    assert (status.status_code, status.json()["sealed"]) == (503, True)
    assert httpx.get(f"{fresh.url}/health").json() == {**httpx.get(f"{fresh.url}/health").json(), "catalog": "sealed"}
    assert httpx.get(f"{fresh.url}/api/v1/").json()["catalog"] == "sealed"
    wrong = anybody.post("/system/unlock", json={"master_password": "wrong"})
    assert wrong.status_code == 403
    statuses = {anybody.post("/system/unlock", json={"master_password": "wrong"}).status_code for _ in range(12)}
    assert statuses <= {403, 429}
    assert 429 in statuses, "who guesses waits"
    assert "Retry-After" in anybody.post("/system/unlock", json={"master_password": "wrong"}).headers


def test_unlock_opens_what_was_sealed(fresh: Api) -> None:
    anybody = fresh.client()
    body = {"setup_token": fresh.context.setup_token, "master_password": MASTER}
    assert anybody.post("/system/init", json=body).status_code == 201
    fresh.context.catalog.vault.seal()
    assert anybody.get("/system/status").status_code == 503
    assert anybody.post("/system/unlock", json={"master_password": MASTER}).json()["status"] == "ready"
    assert anybody.get("/system/status").status_code == 200
    for wrong in ({}, {"master_password": ""}, {"master_password": MASTER, "more": 1}, {"master_password": 5}):
        answer = anybody.post("/system/unlock", json=wrong)
        assert answer.status_code == 422
        assert MASTER not in answer.text
    fresh.context.catalog.vault.seal()
