"""Runs that the API starts and ends, by Dagster's own mutations: its checks, its queue, the caller's permissions.

What a caller must not do in the web UI they must not do here either, because it is the same code that refuses it, and
the same entries in the trail and tags on the run that say who did it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from synqx_dagster.api.run_control import LaunchRequest
from synqx_dagster.audit.actor import find_actor
from synqx_dagster.errors import ConfigurationError, ConflictError, NotFoundError, RetryableError
from synqx_dagster.gateway.workspace import GatewayProcessContext, RequestSource
from synqx_dagster.people.identity import Client, Identity

if TYPE_CHECKING:
    from dagster._core.remote_representation.external import RemoteRepository

#: Dagster's name for the job of assets that no job of its own runs.
_ASSET_JOB = "__ASSET_JOB"
_PARTITION_TAG = "dagster/partition"

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message }
    ... on RunConfigValidationInvalid { errors { message } } }
}
"""
_REEXECUTE = """
mutation Reexecute($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } }
    ... on Error { message } }
}
"""
_TERMINATE = """
mutation Terminate($run: String!) {
  terminateRun(runId: $run) { __typename ... on TerminateRunFailure { message } ... on Error { message } }
}
"""

#: Answers of Dagster's that mean that it does not know what was named.
_NOT_FOUND = frozenset(
    {
        "PipelineNotFoundError",
        "RunNotFoundError",
        "InvalidSubsetError",
        "PartitionKeysNotFoundError",
        "AssetNotFoundError",
    }
)


class Executor(Protocol):
    """Executes GraphQL as somebody; `synqx_dagster.gateway.webserver.GatewayWebserver` does."""

    def execute_in_process(self, caller: RequestSource, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer an operation with its ``data`` and ``errors``."""
        ...


class DagsterRunControl:
    """Implements `synqx_dagster.api.run_control.RunControl`. Safe to share between threads.

    Args:
        executor: What executes Dagster's mutations.
        process_context: Where jobs and assets are looked up.
    """

    def __init__(self, executor: Executor, process_context: GatewayProcessContext) -> None:
        self._executor = executor
        self._process_context = process_context

    def launch(self, request: LaunchRequest, identity: Identity) -> str:
        """Queue a run, and give its id.

        Raises:
            NotFoundError: No code location has such a job or such assets (yet).
            RetryableError: The code server does not answer.
            ConfigurationError: Dagster refuses the run; says why.
        """
        location, repository, job = self._find(request)
        tags = dict(request.tags)
        if request.partition_key is not None:
            tags[_PARTITION_TAG] = request.partition_key
        selector: dict[str, Any] = {
            "repositoryLocationName": location,
            "repositoryName": repository,
            "jobName": job,
        }
        if request.asset_keys:
            selector["assetSelection"] = [{"path": list(path)} for path in request.asset_keys]
            selector["assetCheckSelection"] = None
        params = {
            "selector": selector,
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        return _run_id(self._execute(identity, "launchRun", _LAUNCH, {"params": params}))

    def cancel(self, run_id: str, identity: Identity) -> None:
        """Ask a run to end.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: It has ended already.
        """
        self._require_run(run_id)
        answer = self._execute(identity, "terminateRun", _TERMINATE, {"run": run_id})
        if answer["__typename"] == "TerminateRunFailure":
            raise ConflictError(f"The run {run_id} cannot be cancelled: {answer['message']}")
        _expect(answer, "TerminateRunSuccess")

    def reexecute(self, run_id: str, identity: Identity, *, from_failure: bool) -> str:
        """Queue a run that does an ended one again, whole or from its failed steps on; gives the new run's id.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: It has not ended, or nothing of it failed.
        """
        run = self._require_run(run_id)
        if not run.is_finished:
            raise ConflictError(f"The run {run_id} has not ended yet", hint="cancel it, or wait for its end")
        if from_failure and not run.is_failure_or_canceled:
            raise ConflictError(f"Nothing of the run {run_id} failed", hint="re-execute it from its start")
        strategy = "FROM_FAILURE" if from_failure else "ALL_STEPS"
        params = {"parentRunId": run_id, "strategy": strategy}
        return _run_id(self._execute(identity, "launchRunReexecution", _REEXECUTE, {"params": params}))

    def _require_run(self, run_id: str) -> Any:
        run = self._process_context.instance.get_run_by_id(run_id)
        if run is None:
            raise NotFoundError(f"There is no run {run_id[:40]!r}")
        return run

    def _execute(self, identity: Identity, field: str, query: str, variables: dict[str, Any]) -> Mapping[str, Any]:
        answer = self._executor.execute_in_process(RequestSource(identity, _client()), query, variables)
        found = (answer.get("data") or {}).get(field)
        if found is None:
            messages = "; ".join(str(error.get("message")) for error in answer.get("errors") or ())
            raise ConfigurationError(f"Dagster refuses: {messages or 'no reason is given'}")
        result: Mapping[str, Any] = found
        return result

    # --- finding ---------------------------------------------------------------------------------------------------

    def _find(self, request: LaunchRequest) -> tuple[str, str, str]:
        """Location, repository and job that a request means."""
        if request.job_name is None and not request.asset_keys:
            raise ConfigurationError("A run needs a job or assets")
        unreachable = []
        for location, repository, error in self._repositories():
            if repository is None:
                unreachable.append((location, error))
            elif request.job_name is not None:
                if repository.has_job(request.job_name):
                    return location, repository.name, request.job_name
            elif _has_assets(repository, request.asset_keys):
                return location, repository.name, _asset_job(repository, request.asset_keys)
        if unreachable:
            location, error = unreachable[0]
            raise RetryableError(
                f"The code location {location} cannot be read ({error})",
                hint="its code server may be starting; look at its log",
            )
        what = (
            f"job {request.job_name!r}"
            if request.job_name is not None
            else ", ".join("/".join(path) for path in request.asset_keys)
        )
        raise NotFoundError(
            f"Dagster knows no {what} yet",
            hint="a code server follows a new revision within seconds; try again",
        )

    def _repositories(self) -> Iterator[tuple[str, RemoteRepository | None, str]]:
        for name, entry in self._process_context.get_current_workspace().code_location_entries.items():
            if entry.code_location is None:
                # Only the class: the message may hold an address with a password.
                yield name, None, (entry.load_error.cls_name or "error") if entry.load_error else "still loading"
                continue
            for repository in entry.code_location.get_repositories().values():
                yield name, repository, ""


def _client() -> Client:
    """Where the request that is answered in this context comes from."""
    actor = find_actor()
    return Client("") if actor is None else Client(actor.address, request_id=actor.request_id)


def _has_assets(repository: RemoteRepository, keys: tuple[tuple[str, ...], ...]) -> bool:
    import dagster as dg

    graph = repository.asset_graph
    return all(graph.has(dg.AssetKey(list(path))) for path in keys)


def _asset_job(repository: RemoteRepository, keys: tuple[tuple[str, ...], ...]) -> str:
    """The implicit job that has all of the assets; partitioned assets of several kinds have several such jobs."""
    import dagster as dg

    wanted = {dg.AssetKey(list(path)) for path in keys}
    jobs = [
        job.name
        for job in repository.get_all_jobs()
        if job.name.startswith(_ASSET_JOB) and wanted <= set(repository.get_asset_keys_in_job(job.name))
    ]
    if not jobs:
        raise ConfigurationError(
            "These assets cannot be materialised by one run", hint="launch one run for each, or a pipeline"
        )
    return jobs[0]


def _run_id(answer: Mapping[str, Any]) -> str:
    _expect(answer, "LaunchRunSuccess")
    return str(answer["run"]["runId"])


def _expect(answer: Mapping[str, Any], typename: str) -> None:
    found = answer["__typename"]
    if found == typename:
        return
    if found in _NOT_FOUND:
        raise NotFoundError(f"Dagster does not find it: {answer.get('message', found)}")
    if found == "PythonError":
        # Its message is that of any exception in any code: too much to pass on.
        raise RetryableError("Dagster failed", hint="the server's log says more")
    details = "; ".join(str(item.get("message")) for item in answer.get("errors") or ())
    raise ConfigurationError(f"Dagster refuses the run: {details or answer.get('message') or found}")
