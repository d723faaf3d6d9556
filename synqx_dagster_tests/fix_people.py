"""People for the tests: accounts of every role, and the API behind a real server."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from argon2 import Parameters
from argon2.low_level import Type
from fastapi import FastAPI
from pydantic import SecretStr

from synqx_dagster.api.app import create_app
from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.identify import IdentityMiddleware
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.people import passwords
from synqx_dagster.people.accounts import NewUser, User
from synqx_dagster.people.identity import Client
from synqx_dagster.people.roles import Role
from synqx_dagster.people.service import People
from synqx_dagster.settings import Settings
from synqx_dagster_tests.http_server import served

CHEAP_PARAMETERS = Parameters(
    type=Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=8, parallelism=1
)
CLIENT = Client("192.0.2.7", "a test", "request-1")


def password_of(username: str) -> SecretStr:
    """The password that accounts of the tests have."""
    return SecretStr(f"{username} has 4 good words")


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that cost nothing, for tests that are not about them."""
    monkeypatch.setattr(passwords, "PARAMETERS", CHEAP_PARAMETERS)


def add_user(people: People, username: str, role: Role, **more: object) -> User:
    """An account with the password of `password_of`."""
    new = NewUser(username, role, password=password_of(username), **more)  # type: ignore[arg-type]  # as given
    return people.accounts.create(new)


@pytest.fixture
def any_people(any_catalog: Catalog, cheap_passwords: None) -> People:
    """The people of an empty catalog, on each backend."""
    return People(any_catalog)


@pytest.fixture
def people(catalog: Catalog, cheap_passwords: None) -> People:
    """The people of an empty SQLite catalog."""
    return People(catalog)


@dataclass
class Api:
    """A server with one account for each role, named as the role."""

    url: str
    context: ApiContext
    app: FastAPI
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, role: Role | str | None = None, **headers: str) -> httpx.Client:
        """A client that is logged in as somebody by an access token; without a name it is nobody."""
        if role is not None:
            answer = httpx.post(
                f"{self.url}/api/v1/auth/login",
                json={"username": str(role), "password": password_of(str(role)).get_secret_value()},
                timeout=60,
            )
            assert answer.status_code == 200, answer.text
            headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        made = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60)
        self.clients.append(made)
        return made


@functools.cache
def _built_once() -> FastAPI:
    """The application of settings that say nothing of it: FastAPI takes a second to build its routes."""
    return create_app(ApiContext(Settings(home=Path(), catalog_url="")))


def shared_app(context: ApiContext) -> FastAPI:
    """The application over another context; whoever had it last has it no more.

    What it keeps for its whole life comes from the settings that a context must therefore leave as they are: origins.
    """
    assert not context.settings.server.cors_origins
    app = _built_once()
    app.state.context = context
    return app


@contextmanager
def serve_api(catalog: Catalog, make_app: Callable[[ApiContext], FastAPI] = shared_app) -> Iterator[Api]:
    """The API over a catalog; with `create_app` a test may do to the application what it likes."""
    context = ApiContext(catalog.settings)
    for role in Role:
        add_user(context.people, role.value, role)
    app = make_app(context)
    with served(IdentityMiddleware(app, lambda: context.people)) as url:
        api = Api(url, context, app)
        try:
            yield api
        finally:
            for client in api.clients:
                client.close()
    context.close()


@pytest.fixture
def api(any_catalog: Catalog, cheap_passwords: None) -> Iterator[Api]:
    """The API on each backend of the catalog."""
    with serve_api(any_catalog) as api:
        yield api


@pytest.fixture
def sqlite_api(catalog: Catalog, cheap_passwords: None) -> Iterator[Api]:
    """The API on SQLite, for what does not depend on the backend."""
    with serve_api(catalog) as api:
        yield api
