"""What a GraphQL request is about to do, for every way to hide it."""

from __future__ import annotations

import string

import pytest
from graphql import build_schema, execute, parse
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.gateway.operations import MAXIMUM_MUTATIONS, read_operation


def names(query: str, name: str | None = None, **variables: object) -> list[str]:
    return [field.name for field in read_operation(query, variables, name).mutations]


@pytest.mark.parametrize(
    "query",
    [
        "mutation { deleteRun(runId: 1) { __typename } }",
        "mutation { harmless: deleteRun(runId: 1) { __typename } }",
        "mutation { ... { deleteRun(runId: 1) { __typename } } }",
        "mutation { ... on Mutation { deleteRun(runId: 1) { __typename } } }",
        "mutation { ...a } fragment a on Mutation { ...b } fragment b on Mutation { deleteRun(runId: 1) { id } }",
        "mutation { deleteRun(runId: 1) @skip(if: true) { __typename } }",
        "mutation($x: Boolean!) { deleteRun(runId: 1) @include(if: $x) { __typename } }",
        "# query\n\ufeffmutation,,,{deleteRun(runId:1){id}}",
        "mutation { __typename deleteRun(runId: 1) { id } }",
    ],
)
def test_a_mutation_is_found_wherever_it_stands(query: str) -> None:
    operation = read_operation(query)
    assert operation.is_mutation
    assert [field.name for field in operation.mutations] == ["deleteRun"]


def test_of_several_operations_the_named_one_counts() -> None:
    query = "query Look { version } mutation Delete { deleteRun(runId: 1) { id } }"
    assert read_operation(query, None, "Look").is_query
    assert names(query, "Delete") == ["deleteRun"]
    for name in (None, "", "Other"):
        with pytest.raises(ConfigurationError):
            read_operation(query, None, name)


def test_arguments_are_known_with_their_variables() -> None:
    query = 'mutation ($r: String!) { deleteRun(runId: $r) { id } terminateRuns(runIds: ["a", "b"]) { id } }'
    fields = read_operation(query, {"r": "abc"}).mutations
    assert [field.arguments for field in fields] == [{"runId": "abc"}, {"runIds": ["a", "b"]}]


@pytest.mark.parametrize(
    ("query", "variables", "name"),
    [
        ("", None, None),
        ("{", None, None),
        ("fragment a on Query { version }", None, None),
        (None, None, None),
        (["{ version }"], None, None),
        ("{ version }", ["x"], None),
        ("{ version }", None, 3),
        ("{a" * 3000 + "}" * 3000, None, None),
        ("{ " + "a " * 30_000 + "}", None, None),
        ("mutation { " + "".join(f"a{n}: x " for n in range(MAXIMUM_MUTATIONS + 1)) + "}", None, None),
    ],
    ids=range(10),
)
def test_what_cannot_be_read_is_refused(query: object, variables: object, name: object) -> None:
    with pytest.raises(ConfigurationError):
        read_operation(query, variables, name)


def test_fragments_that_spread_each_other_end_soon() -> None:
    # Each spreads the next one twice: followed naively, a billion fields.
    fragments = "".join(f"fragment f{n} on Mutation {{ ...f{n + 1} ...f{n + 1} }}" for n in range(30))
    circle = "fragment f30 on Mutation { ...f0 deleteRun(runId: 1) { id } }"
    assert names("mutation { ...f0 }" + fragments + circle) == ["deleteRun"]


SCHEMA = build_schema("type Query { look: Int } type Mutation { change: Int, remove: Int }")


@given(
    st.text(alphabet=string.ascii_lowercase + '{}().:,@#! "$\n', max_size=60),
    st.sampled_from(["", "mutation ", "query "]),
)
def test_nothing_is_executed_that_was_not_found(rest: str, kind: str) -> None:
    """Whatever graphql-core executes of a document, `read_operation` has named it."""
    query = kind + "{ change " + rest + " }"
    executed: list[str] = []
    assert SCHEMA.mutation_type is not None
    for name, field in SCHEMA.mutation_type.fields.items():
        field.resolve = lambda *_, name=name: executed.append(name)
    try:
        document = parse(query)
    except Exception:  # noqa: BLE001 - what cannot be read is not executed
        return
    execute(SCHEMA, document)
    if executed:
        assert set(executed) <= set(names(query))
