"""Random requests for runs, lineage, agents and search that are there: each answer is one that the document names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.control import SkipTest
from schemathesis.generation import GenerationMode
from schemathesis.openapi import from_url

from synqx_dagster.people.roles import Role
from synqx_dagster_tests.integration.api.hub import Hub, open_hub
from synqx_dagster_tests.integration.api.test_openapi import CHECKS, UNHURRIED, headers_of


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with open_hub(tmp_path_factory.mktemp("hub")) as opened:
        yield opened


def try_hub(hub: Hub, mode: GenerationMode, examples: int) -> int:
    """Send random requests, three of four about what is there; gives how many were sent."""
    schema = from_url(f"{hub.url}/openapi.json", config=schemathesis.Config())
    schema.config.generation.update(modes=[mode])
    headers = headers_of(hub, Role.ADMIN)
    known = {"run_id": list(hub.runs.values()), "asset": ["customers", "shop/customer"], "ref": ["Customer care"]}
    sent = 0
    for result in schema.include(path_regex="/(runs|lineage|agents|analytics|search)").get_all_operations():
        operation = result.ok()

        @hypothesis.settings(max_examples=examples, **UNHURRIED)
        @hypothesis.seed(3)
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode), choice=st.integers(0, 3))
        def send(case: Any, choice: int) -> None:
            nonlocal sent
            sent += 1
            for name in known.keys() & (case.path_parameters or {}).keys() if choice else ():
                case.path_parameters[name] = known[name][choice % len(known[name])]
            response = case.call(headers=headers, timeout=60)
            case.validate_response(response, checks=CHECKS)

        # Of a route without parameters there is no wrong request.
        with contextlib.suppress(SkipTest):
            send()
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_about_what_is_there_are_those_of_the_document(hub: Hub, mode: GenerationMode) -> None:
    assert try_hub(hub, mode, examples=4) > 40


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_many_answers_are_those_of_the_document(hub: Hub, mode: GenerationMode) -> None:
    assert try_hub(hub, mode, examples=60) > 500
