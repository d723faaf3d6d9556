"""Every mutation of Dagster's schema behind a permission and the audit trail, at the resolver itself.

Here, and not only where requests come in, because here every way leads: HTTP, a websocket, and the API's own calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dagster_graphql.schema.errors import GrapheneError
from graphql import GraphQLError, GraphQLField, GraphQLResolveInfo, GraphQLSchema

from synqx_dagster.errors import SynqxError
from synqx_dagster.gateway.dagster_permissions import mutation_needs
from synqx_dagster.gateway.mutation_trail import MutationTrail
from synqx_dagster.gateway.operations import MutationField, Operation
from synqx_dagster.gateway.workspace import GatewayRequestContext, RequestSource

#: Answers that are lists of answers, one for each thing.
_LISTS = ("launchMultipleRunsResult", "terminateRunResults")


def find_refusal(caller: RequestSource, mutations: Sequence[MutationField]) -> str | None:
    """Why somebody must not do all of this; None if they may. One that is refused refuses the whole request."""
    if caller.identity is None:
        return "Nobody is logged in"
    for mutation in mutations:
        needed, _ = mutation_needs(mutation.name)
        if not caller.identity.may(needed):
            who = f"the role {caller.identity.role.value}, or this key,"
            return f"{mutation.name} needs the permission {needed.value}, which {who} does not have"
    return None


def refuse(trail: MutationTrail, caller: RequestSource, operation: Operation) -> str | None:
    """As `find_refusal`, and put what was refused into the trail."""
    refusal = find_refusal(caller, operation.mutations)
    if refusal is not None:
        trail.deny(caller, operation.mutations, refusal)
    return refusal


def guard_mutations(schema: GraphQLSchema, trail: MutationTrail) -> None:
    """Put the resolver of every mutation behind its permission and the trail."""
    assert schema.mutation_type is not None, "Dagster's schema has mutations"
    for name, field in schema.mutation_type.fields.items():
        field.resolve = _guarded(name, field, trail)


def _guarded(name: str, field: GraphQLField, trail: MutationTrail) -> Callable[..., Any]:
    resolve = field.resolve
    assert resolve is not None, f"the mutation {name} has no resolver"
    # Resolvers have Python's names for some arguments.
    schema_names = {argument.out_name or argument_name: argument_name for argument_name, argument in field.args.items()}

    def resolve_guarded(root: Any, info: GraphQLResolveInfo, **arguments: Any) -> Any:
        context = info.context
        if not isinstance(context, GatewayRequestContext):
            raise GraphQLError("Mutations need a caller")
        mutation = MutationField(name, {schema_names.get(key, key): value for key, value in arguments.items()})
        if (refusal := find_refusal(context.caller, [mutation])) is not None:
            trail.deny(context.caller, [mutation], refusal)
            raise GraphQLError(refusal)
        try:
            trail.begin(context.caller, mutation)
        except SynqxError as exc:
            # Without the words of a database, which are for the log.
            raise GraphQLError("The audit trail cannot be written, so nothing was done") from exc
        return _followed(context, trail, mutation, lambda: resolve(root, info, **arguments))

    return resolve_guarded


def _followed(
    context: GatewayRequestContext, trail: MutationTrail, mutation: MutationField, act: Callable[[], Any]
) -> Any:
    """The result of a mutation, or what will be it; in both cases the trail learns what came of it."""
    before = len(context.submitted_run_ids)

    def end(failure: str | None) -> None:
        trail.end(context.caller, mutation, run_ids=context.submitted_run_ids[before:], failure=failure)

    async def await_and_end(pending: Awaitable[Any]) -> Any:
        try:
            result = await pending
        except BaseException as exc:
            end(type(exc).__name__)
            raise
        end(find_failure(result))
        return result

    try:
        result = act()
    except BaseException as exc:
        end(type(exc).__name__)
        raise
    if inspect.isawaitable(result):
        return await_and_end(result)
    end(find_failure(result))
    return result


def find_failure(result: object) -> str | None:
    """The kind of failure that a mutation answers with; its message may hold more than a trail should."""
    for name in _LISTS:
        items = getattr(result, name, None)
        if isinstance(items, list):
            kinds = {kind for item in items if (kind := find_failure(item)) is not None}
            return ", ".join(sorted(kinds)) or None
    meta = getattr(type(result), "_meta", None)
    if meta is None:
        return None
    is_error = GrapheneError in getattr(meta, "interfaces", ())
    return str(meta.name) if is_error or str(meta.name).endswith("Failure") else None
