"""The whole OpenAPI document against the server: random requests that fit it and that do not, as each role.

No answer is a 500 or one that the document does not name, and none has a secret.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.control import SkipTest
from schemathesis.generation import GenerationMode
from schemathesis.openapi import from_url

from synqx_dagster.api.app import create_app
from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.identify import IdentityMiddleware
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.model import HostPolicy
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api, add_user
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.http_server import served
from synqx_dagster_tests.integration.api.records import CANARY, bodies_of, make


def never_at_a_loss(context: Any, response: Any, case: Any) -> None:
    """No answer is a 500; 501 (no catalog), 502 (a database does not answer) and 503 (sealed) are meant."""
    assert response.status_code in range(200, 500) or response.status_code in (501, 502, 503), response.text


CHECKS = [never_at_a_loss, status_code_conformance, content_type_conformance, response_schema_conformance]

#: After these nothing else would be tried: they have tests of their own.
LAST_ACTS = r"/system/(seal|init)|/auth/logout|/stream$"

UNHURRIED: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
    "phases": [hypothesis.Phase.explicit, hypothesis.Phase.generate],
    "print_blob": False,
}


@pytest.fixture
def filled(
    any_catalog: Catalog, postgresql: PostgresqlDatabase, cheap_passwords: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Api]:
    """A server with a record of each kind, that connects to this machine alone."""
    settings = replace(any_catalog.settings, host_policy=HostPolicy.parse("127.0.0.1", None))
    settings = replace(
        settings, server=replace(settings.server, api_rate_per_minute=10**9, login_rate_per_minute=10**9)
    )
    context = ApiContext(settings)
    for role in Role:
        add_user(context.people, role.value, role)
    app = create_app(context)
    with served(IdentityMiddleware(app, lambda: context.people)) as url:
        api = Api(url, context, app)
        admin = api.client(Role.ADMIN)
        postgresql.execute("create table customer (id integer primary key, name text)")
        for plural, body in bodies_of(postgresql).items():
            make(admin, plural, body)
        yield api
        for client in api.clients:
            client.close()
    context.close()


def schema_of(api: Api, *, mode: GenerationMode = GenerationMode.POSITIVE) -> Any:
    """The document that the server gives out."""
    config = schemathesis.Config()
    schema = from_url(f"{api.url}/openapi.json", config=config)
    schema.config.generation.update(modes=[mode])
    return schema.exclude(path_regex=LAST_ACTS)


def headers_of(api: Api, role: Role | None) -> dict[str, str]:
    client = api.client(role)
    return {name: value for name, value in client.headers.items() if name == "authorization"}


def assert_logged_in(api: Api, headers: dict[str, str]) -> None:
    """Whoever is thrown out gets a 401 from then on, which the document names everywhere: nothing would be tried."""
    if headers:
        assert httpx.get(f"{api.url}/api/v1/auth/me", headers=headers, timeout=60).status_code == 200


def try_everything(api: Api, role: Role | None, *, examples: int, mode: GenerationMode, seed: int = 0) -> int:
    """Send random requests to each operation; gives how many were sent."""
    sent = 0
    for result in schema_of(api, mode=mode).get_all_operations():
        # Anew for each: a token is good for ten minutes, and all of them take longer.
        headers = headers_of(api, role)
        sent += try_operation(result.ok(), headers, examples=examples, mode=mode, seed=seed)
        assert_logged_in(api, headers)
    return sent


def try_operation(operation: Any, headers: dict[str, str], *, examples: int, mode: GenerationMode, seed: int) -> int:
    """Send random requests to one operation; gives how many were sent."""
    sent = 0

    @hypothesis.settings(max_examples=examples, **UNHURRIED)
    @hypothesis.seed(seed)
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def send(case: Any, known: bool) -> None:
        nonlocal sent
        sent += 1
        if known and "ref" in (case.path_parameters or {}):
            case.path_parameters["ref"] = "1"
        response = case.call(headers=headers, timeout=60)
        case.validate_response(response, checks=CHECKS)
        assert CANARY not in response.text

    # Of a route without parameters there is no wrong request.
    with contextlib.suppress(SkipTest):
        send()
    return sent


@pytest.mark.parametrize("any_catalog_settings", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, pytest.param(GenerationMode.NEGATIVE, marks=pytest.mark.slow)]
)
def test_the_document_is_what_the_server_does(filled: Api, mode: GenerationMode) -> None:
    assert try_everything(filled, Role.EDITOR, examples=3, mode=mode) > 100


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("role", [None, *Role])
def test_the_document_is_what_the_server_does_for_each_role(
    filled: Api, role: Role | None, mode: GenerationMode
) -> None:
    assert try_everything(filled, role, examples=40, mode=mode, seed=1) > 1000


def walk(api: Api, role: Role, *, examples: int, steps: int) -> None:
    """Let requests follow each other: what one made, the next reads, changes and removes."""
    headers = headers_of(api, role)
    machine: Any = schema_of(api).as_state_machine()

    class Walk(machine):  # type: ignore[misc]  # made of the document
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": headers, "timeout": 60}

        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            case.validate_response(response, checks=CHECKS)
            assert CANARY not in response.text

    Walk.run(settings=hypothesis.settings(max_examples=examples, stateful_step_count=steps, **UNHURRIED))
    assert_logged_in(api, headers)


@pytest.mark.slow
@pytest.mark.parametrize("role", list(Role))
def test_requests_that_follow_each_other(filled: Api, role: Role) -> None:
    walk(filled, role, examples=30, steps=12)
