"""People for the tests: accounts of every role, and the API behind a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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


@contextmanager
def _api_of(catalog: Catalog) -> Iterator[Api]:
    context = ApiContext(catalog.settings)
    for role in Role:
        add_user(context.people, role.value, role)
    app = create_app(context)
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
    with _api_of(any_catalog) as api:
        yield api


@pytest.fixture
def sqlite_api(catalog: Catalog, cheap_passwords: None) -> Iterator[Api]:
    """The API on SQLite, for what does not depend on the backend."""
    with _api_of(catalog) as api:
        yield api
