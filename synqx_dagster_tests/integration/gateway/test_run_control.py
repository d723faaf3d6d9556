"""Runs that the API starts: by Dagster's own mutations, as the caller, in the trail."""

from __future__ import annotations

import pytest

from synqx_dagster.api.run_control import LaunchRequest, RunControl
from synqx_dagster.errors import ConfigurationError, ConflictError, NotFoundError
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_gateway import GatewayServer


@pytest.fixture
def runs(gateway_server: GatewayServer) -> RunControl:
    control = gateway_server.gateway.context.runs
    assert control is not None
    return control


def identity(server: GatewayServer, role: Role) -> Identity:
    return server.people.accounts.get_by_name(role.value).identity("token")


def test_a_job_is_queued_as_the_caller(gateway_server: GatewayServer, runs: RunControl) -> None:
    operator = identity(gateway_server, Role.OPERATOR)
    run_id = runs.launch(LaunchRequest("copying", tags={"why": "a test", "user": "not me"}), operator)
    run = gateway_server.instance.get_run_by_id(run_id)
    assert (run.job_name, run.status.value) == ("copying", "QUEUED")
    assert (run.tags["user"], run.tags["why"], run.tags["synqx/launched_by"]) == ("operator", "a test", "token")


def test_assets_are_queued_without_a_job_of_their_own(gateway_server: GatewayServer, runs: RunControl) -> None:
    run_id = runs.launch(LaunchRequest(asset_keys=(("files", "two"),)), identity(gateway_server, Role.OPERATOR))
    run = gateway_server.instance.get_run_by_id(run_id)
    assert {key.to_user_string() for key in run.asset_selection} == {"files/two"}


@pytest.mark.parametrize(
    "request_",
    [LaunchRequest("no such job"), LaunchRequest(asset_keys=(("no", "such"),)), LaunchRequest('x"} evil')],
    ids=range(3),
)
def test_what_dagster_does_not_know_is_not_found(
    gateway_server: GatewayServer, runs: RunControl, request_: LaunchRequest
) -> None:
    with pytest.raises(NotFoundError):
        runs.launch(request_, identity(gateway_server, Role.OPERATOR))


def test_nothing_is_not_launched(gateway_server: GatewayServer, runs: RunControl) -> None:
    with pytest.raises(ConfigurationError):
        runs.launch(LaunchRequest(), identity(gateway_server, Role.OPERATOR))


def test_a_viewer_launches_nothing_here_either(gateway_server: GatewayServer, runs: RunControl) -> None:
    before = gateway_server.instance.get_runs_count()
    viewer = identity(gateway_server, Role.VIEWER)
    with pytest.raises(ConfigurationError, match="runs:launch"):
        runs.launch(LaunchRequest("copying"), viewer)
    assert gateway_server.instance.get_runs_count() == before
    event = gateway_server.trail.page(limit=1)[0][0].event
    assert (event.action, event.outcome, event.actor) == ("run.launch", "denied", "viewer")


def test_a_run_is_cancelled_once(gateway_server: GatewayServer, runs: RunControl) -> None:
    operator = identity(gateway_server, Role.OPERATOR)
    run_id = runs.launch(LaunchRequest("copying"), operator)
    runs.cancel(run_id, operator)
    assert gateway_server.instance.get_run_by_id(run_id).status.value == "CANCELED"
    with pytest.raises(ConflictError):
        runs.cancel(run_id, operator)
    with pytest.raises(NotFoundError):
        runs.cancel("no such run", operator)


def test_a_run_is_done_again_by_somebody_else(gateway_server: GatewayServer, runs: RunControl) -> None:
    operator, editor = identity(gateway_server, Role.OPERATOR), identity(gateway_server, Role.EDITOR)
    run_id = runs.launch(LaunchRequest("copying", tags={"kept": "yes"}), operator)
    with pytest.raises(ConflictError):
        runs.reexecute(run_id, editor, from_failure=False)
    runs.cancel(run_id, operator)
    again = gateway_server.instance.get_run_by_id(runs.reexecute(run_id, editor, from_failure=False))
    assert (again.parent_run_id, again.tags["kept"], again.tags["user"]) == (run_id, "yes", "editor")
    with pytest.raises(NotFoundError):
        runs.reexecute("no such run", editor, from_failure=True)
