"""What a GraphQL request is about to do, found out before anything of it is executed.

Pure. Fragments count where they are spread, and a field behind ``@skip`` or ``@include`` counts as executed, so what
is found is at least what would be done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    parse,
    value_from_ast_untyped,
)

from synqx_dagster.errors import ConfigurationError

#: Dagster's own page sends some 2,000 in its largest query.
MAXIMUM_TOKENS = 20_000
#: Of one request, so that a denied one does not fill the trail.
MAXIMUM_MUTATIONS = 100


@dataclass(frozen=True)
class MutationField:
    """One mutation that a request wants: its name in the schema, and its arguments as far as they are known."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """The operation of a request that would be executed."""

    kind: OperationType
    mutations: tuple[MutationField, ...] = ()

    @property
    def is_query(self) -> bool:
        """Whether it only reads."""
        return self.kind is OperationType.QUERY

    @property
    def is_mutation(self) -> bool:
        """Whether it changes something."""
        return self.kind is OperationType.MUTATION

    @property
    def is_subscription(self) -> bool:
        """Whether it is a stream of answers."""
        return self.kind is OperationType.SUBSCRIPTION


def read_operation(query: object, variables: object = None, operation_name: object = None) -> Operation:
    """Find out what a request is about to do.

    Raises:
        ConfigurationError: It is no GraphQL document with exactly one operation that is meant, or it is too large.
    """
    if not isinstance(query, str):
        raise ConfigurationError("The request has no GraphQL query in `query`")
    if not isinstance(variables, Mapping | None) or not isinstance(operation_name, str | None):
        raise ConfigurationError("`variables` must be an object, and `operationName` a text")
    document = _parse(query)
    operation = _chosen(document, operation_name)
    if operation.operation is not OperationType.MUTATION:
        return Operation(operation.operation)
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    fields = []
    for field in _fields(operation.selection_set, fragments, set()):
        # `__typename` asks for nothing.
        if not field.name.value.startswith("__"):
            fields.append(MutationField(field.name.value, _arguments(field, variables or {})))
        if len(fields) > MAXIMUM_MUTATIONS:
            raise ConfigurationError(f"One request may hold {MAXIMUM_MUTATIONS} mutations, and this holds more")
    return Operation(operation.operation, tuple(fields))


def _parse(query: str) -> DocumentNode:
    try:
        return parse(query, no_location=True, max_tokens=MAXIMUM_TOKENS)
    except GraphQLError as exc:
        raise ConfigurationError(f"The GraphQL query cannot be read: {exc.message}") from exc
    except RecursionError as exc:
        raise ConfigurationError("The GraphQL query is nested too deep") from exc


def _chosen(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    named = [node for node in operations if name in (None, "") or (node.name is not None and node.name.value == name)]
    if len(named) != 1:
        raise ConfigurationError(
            "The GraphQL document must hold one operation, or `operationName` must say which of them is meant"
        )
    return named[0]


def _fields(
    selections: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode], seen: set[str]
) -> Iterator[FieldNode]:
    """Fields of an operation; what a fragment has is merged by GraphQL where it is spread twice, so once is enough."""
    for node in selections.selections:
        if isinstance(node, FieldNode):
            yield node
        elif isinstance(node, InlineFragmentNode):
            yield from _fields(node.selection_set, fragments, seen)
        elif isinstance(node, FragmentSpreadNode) and node.name.value not in seen:
            seen.add(node.name.value)
            if (fragment := fragments.get(node.name.value)) is not None:
                yield from _fields(fragment.selection_set, fragments, seen)


def _arguments(field: FieldNode, variables: Mapping[str, Any]) -> dict[str, Any]:
    return {argument.name.value: _value(argument.value, variables) for argument in field.arguments}


def _value(node: ValueNode, variables: Mapping[str, Any]) -> Any:
    try:
        return value_from_ast_untyped(node, dict(variables))
    except RecursionError:
        # Executing it fails too; for the trail its name is enough.
        return None
