"""Dagster's workspace as one caller sees it: whose permissions count, and whose name their runs carry.

Private classes of Dagster's are subclassed here and in `webserver`, and nowhere else; a contract test pins them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.storage.tags import REPORTING_USER_TAG, USER_TAG
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from starlette.requests import HTTPConnection

from synqx_dagster.gateway.dagster_permissions import dagster_permissions, location_permissions
from synqx_dagster.people.identity import Client, Identity
from synqx_dagster.people.roles import Permission

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.workspace.permissions import PermissionResult

#: Who launched a run, as SynqX knows them; Dagster's own tag ``user`` shows the name in its list of runs.
USER_ID_TAG = "synqx/user_id"
METHOD_TAG = "synqx/launched_by"
REQUEST_TAG = "synqx/request_id"


@dataclass(frozen=True)
class RequestSource:
    """Who asks, and from where; what Dagster calls the source of a request context."""

    identity: Identity | None
    client: Client = field(default_factory=lambda: Client(""))

    @classmethod
    def of(cls, source: object) -> RequestSource:
        """The source of an HTTP request or a websocket, as the middleware identified it; of anything else nobody."""
        if isinstance(source, RequestSource):
            return source
        if not isinstance(source, HTTPConnection):
            return cls(None)
        state = source.scope.get("state") or {}
        client = state.get("client")
        return cls(state.get("identity"), client if isinstance(client, Client) else Client(""))

    def run_tags(self) -> dict[str, str]:
        """The tags of what this caller launches; they take the place of those that a caller sends."""
        if self.identity is None:
            return {}
        tags = {
            USER_TAG: self.identity.username,
            USER_ID_TAG: str(self.identity.user_id),
            METHOD_TAG: self.identity.method,
        }
        return {**tags, REQUEST_TAG: self.client.request_id} if self.client.request_id else tags


class GatewayRequestContext(WorkspaceRequestContext):
    """The workspace for one request. Without an identity nothing is permitted.

    Attributes:
        submitted_run_ids: Runs that were queued through this context, in their order.
    """

    def __init__(self, caller: RequestSource, **given: Any) -> None:
        super().__init__(read_only=True, **given)
        self.caller = caller
        self.submitted_run_ids: list[str] = []

    @property
    def permissions(self) -> Mapping[str, PermissionResult]:
        """Dagster's permissions, by the caller's role."""
        return dagster_permissions(self.caller.identity)

    def permissions_for_location(self, *, location_name: str) -> Mapping[str, PermissionResult]:
        """The same for each code location."""
        return location_permissions(self.caller.identity)

    @property
    def show_instance_config(self) -> bool:
        """Whether ``dagster.yaml`` is shown, in which passwords may stand."""
        identity = self.caller.identity
        return identity is not None and identity.may(Permission.INSTANCE_MANAGE)

    def get_viewer_tags(self) -> dict[str, str]:
        """Tags of backfills, which hand them on to their runs."""
        return self.caller.run_tags()

    def get_reporting_user_tags(self) -> dict[str, str]:
        """Tags of events that somebody reports without a run."""
        identity = self.caller.identity
        return {} if identity is None else {REPORTING_USER_TAG: identity.username}


class GatewayProcessContext(WorkspaceProcessContext):
    """The workspace of the process; gives each request a context of its own."""

    def create_request_context(self, source: object | None = None) -> GatewayRequestContext:
        """The workspace as whoever sends a request sees it; for no source, as nobody does."""
        return GatewayRequestContext(
            RequestSource.of(source),
            instance=self.instance,
            current_workspace=self.get_current_workspace(),
            process_context=self,
            version=self.version,
            source=source,
        )


def attribute_runs(instance: dg.DagsterInstance) -> None:
    """Have an instance write on each run who launched it, before its coordinator queues it. Idempotent.

    Every way of launching ends at the coordinator, and what callers write into tags themselves is replaced, so that
    nobody can launch in another's name. The object is kept, because Dagster asks for its class.
    """
    coordinator = instance.run_coordinator
    submit = coordinator.submit_run
    if isinstance(submit, _AttributedSubmission):
        return
    coordinator.submit_run = _AttributedSubmission(instance, submit)  # type: ignore[method-assign]  # as said above


class _AttributedSubmission:
    """In the place of a coordinator's `submit_run`."""

    def __init__(self, instance: dg.DagsterInstance, submit: Callable[[SubmitRunContext], dg.DagsterRun]) -> None:
        self._instance = instance
        self._submit = submit

    def __call__(self, context: SubmitRunContext) -> dg.DagsterRun:
        workspace = context.workspace
        if not isinstance(workspace, GatewayRequestContext):
            return self._submit(context)
        run_id = context.dagster_run.run_id
        self._instance.add_run_tags(run_id, workspace.caller.run_tags())
        tagged = self._instance.get_run_by_id(run_id)
        submitted = self._submit(context if tagged is None else context._replace(dagster_run=tagged))
        workspace.submitted_run_ids.append(run_id)
        return submitted
