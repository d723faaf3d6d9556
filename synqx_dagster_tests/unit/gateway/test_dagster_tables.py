"""The tables against Dagster's own lists: what a new Dagster brings is decided on by somebody, or closed."""

from __future__ import annotations

import inspect
import itertools
import uuid
from typing import Any

import pytest
from dagster._core.instance import DagsterInstance
from dagster._core.run_coordinator.base import RunCoordinator, SubmitRunContext
from dagster._core.workspace.context import (
    BaseWorkspaceRequestContext,
    WorkspaceProcessContext,
    WorkspaceRequestContext,
)
from dagster._core.workspace.permissions import LOCATION_SCOPED_PERMISSIONS, PermissionResult, Permissions
from dagster_graphql.schema import create_schema
from dagster_graphql.schema.errors import GrapheneError
from dagster_webserver.graphql import GraphQLServer
from dagster_webserver.webserver import DagsterWebserver
from starlette.routing import Mount, Route, WebSocketRoute

from synqx_dagster.gateway.dagster_permissions import (
    DAGSTER_PERMISSIONS,
    MUTATIONS,
    ROUTES,
    UNKNOWN,
    dagster_permissions,
    location_permissions,
    mutation_needs,
)
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import ROLE_PERMISSIONS, Permission, Role


def identity(role: Role, *scopes: Permission) -> Identity:
    permissions = ROLE_PERMISSIONS[role]
    return Identity(
        uuid.uuid4(),
        role.value,
        role,
        permissions & frozenset(scopes) if scopes else permissions,
        "session",
    )


def enabled(role: Role) -> set[str]:
    return {str(name) for name, result in dagster_permissions(identity(role)).items() if result.enabled}


# --- tables -------------------------------------------------------------------------------------------------------


def test_every_permission_of_dagster_is_decided_on() -> None:
    assert set(DAGSTER_PERMISSIONS) == set(Permissions)


def test_every_mutation_of_dagster_is_decided_on() -> None:
    mutation_type = create_schema().graphql_schema.mutation_type
    assert mutation_type is not None
    assert set(MUTATIONS) == set(mutation_type.fields)


def test_every_route_of_dagster_is_decided_on() -> None:
    webserver = DagsterWebserver.__new__(DagsterWebserver)
    webserver._app_path_prefix = ""
    routes = webserver.build_routes()
    paths = {
        route.path for route in routes if not isinstance(route, Mount) and getattr(route, "name", "") != "root_static"
    }
    assert paths == set(ROUTES)
    assert {type(route) for route in routes} == {Route, WebSocketRoute, Mount}


def test_what_no_table_knows_is_for_administrators() -> None:
    assert mutation_needs("launchRockets") == (UNKNOWN, "dagster.launchRockets")
    assert [role for role in Role if UNKNOWN in ROLE_PERMISSIONS[role]] == [Role.ADMIN]


def test_mutations_and_dagsters_permissions_agree() -> None:
    """The gate in front and Dagster's own check ask for the same, so neither hides a mistake of the other."""
    pairs = {
        "launchRun": Permissions.LAUNCH_PIPELINE_EXECUTION,
        "launchRunReexecution": Permissions.LAUNCH_PIPELINE_REEXECUTION,
        "terminateRun": Permissions.TERMINATE_PIPELINE_EXECUTION,
        "deleteRun": Permissions.DELETE_PIPELINE_RUN,
        "startSchedule": Permissions.START_SCHEDULE,
        "stopRunningSchedule": Permissions.STOP_RUNNING_SCHEDULE,
        "startSensor": Permissions.EDIT_SENSOR,
        "setSensorCursor": Permissions.UPDATE_SENSOR_CURSOR,
        "sensorDryRun": Permissions.SENSOR_DRY_RUN,
        "scheduleDryRun": Permissions.SCHEDULE_DRY_RUN,
        "wipeAssets": Permissions.WIPE_ASSETS,
        "reloadWorkspace": Permissions.RELOAD_WORKSPACE,
        "reloadRepositoryLocation": Permissions.RELOAD_REPOSITORY_LOCATION,
        "launchPartitionBackfill": Permissions.LAUNCH_PARTITION_BACKFILL,
        "cancelPartitionBackfill": Permissions.CANCEL_PARTITION_BACKFILL,
        "reportRunlessAssetEvents": Permissions.REPORT_RUNLESS_ASSET_EVENTS,
        "addDynamicPartition": Permissions.EDIT_DYNAMIC_PARTITIONS,
        "setAutoMaterializePaused": Permissions.TOGGLE_AUTO_MATERIALIZE,
        "setConcurrencyLimit": Permissions.EDIT_CONCURRENCY_LIMIT,
        "refreshComponentState": Permissions.REFRESH_COMPONENT_STATE,
    }
    assert {name: MUTATIONS[name][0] for name in pairs} == {
        name: DAGSTER_PERMISSIONS[permission] for name, permission in pairs.items()
    }


# --- roles --------------------------------------------------------------------------------------------------------


def test_a_viewer_may_do_nothing_in_the_web_ui() -> None:
    assert enabled(Role.VIEWER) == set()


def test_an_operator_launches_and_cancels_and_edits_no_schedule() -> None:
    assert enabled(Role.OPERATOR) == {
        "launch_pipeline_execution",
        "launch_pipeline_reexecution",
        "terminate_pipeline_execution",
        "launch_partition_backfill",
        "cancel_partition_backfill",
    }


def test_an_editor_does_all_but_what_cannot_be_taken_back() -> None:
    missing = enabled(Role.ADMIN) - enabled(Role.EDITOR)
    assert missing == {
        "delete_pipeline_run",
        "wipe_assets",
        "reload_repository_location",
        "reload_workspace",
        "refresh_component_state",
    }
    assert {"start_schedule", "stop_running_schedule", "edit_sensor"} <= enabled(Role.EDITOR)


def test_each_role_may_all_that_the_one_before_may() -> None:
    roles = list(Role)
    for lower, higher in itertools.pairwise(roles):
        assert enabled(lower) <= enabled(higher)


def test_nobody_has_no_permission() -> None:
    assert not any(result.enabled for result in dagster_permissions(None).values())
    assert set(location_permissions(None)) == set(LOCATION_SCOPED_PERMISSIONS)


def test_a_key_has_its_scopes_alone() -> None:
    key = identity(Role.ADMIN, Permission.RUNS_READ)
    assert not any(result.enabled for result in dagster_permissions(key).values())


# --- what of Dagster's private classes is used ---------------------------------------------------------------------


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            DagsterWebserver.__init__,
            ["self", "process_context", "app_path_prefix", "live_data_poll_rate", "uses_app_path_prefix"],
        ),
        (DagsterWebserver.build_graphql_schema, ["self"]),
        (DagsterWebserver.build_routes, ["self"]),
        (DagsterWebserver.index_html_endpoint, ["self", "request"]),
        (GraphQLServer.graphql_http_endpoint, ["self", "request"]),
        (GraphQLServer.graphql_ws_endpoint, ["self", "websocket"]),
        (GraphQLServer.execute_graphql_request, ["self", "request", "query", "variables", "operation_name"]),
        (
            GraphQLServer.gen_graphql_response,
            ["self", "request_context", "query", "variables", "operation_name"],
        ),
        (
            GraphQLServer.execute_graphql_subscription,
            ["self", "websocket", "operation_id", "query", "variables", "operation_name"],
        ),
        (GraphQLServer.create_asgi_app, ["self", "kwargs"]),
        (
            WorkspaceProcessContext.__init__,
            [
                "self",
                "instance",
                "workspace_load_target",
                "version",
                "read_only",
                "grpc_server_registry",
                "code_server_log_level",
                "server_command",
            ],
        ),
        (WorkspaceProcessContext.create_request_context, ["self", "source"]),
        (WorkspaceProcessContext.get_current_workspace, ["self"]),
        (
            WorkspaceRequestContext.__init__,
            [
                "self",
                "instance",
                "current_workspace",
                "process_context",
                "version",
                "source",
                "read_only",
                "read_only_locations",
            ],
        ),
        (WorkspaceRequestContext.permissions_for_location, ["self", "location_name"]),
        (WorkspaceRequestContext.permissions_for_owner, ["self", "owner"]),
        (BaseWorkspaceRequestContext.get_viewer_tags, ["self"]),
        (BaseWorkspaceRequestContext.get_reporting_user_tags, ["self"]),
        (BaseWorkspaceRequestContext.viewer_has_any_owner_definition_permissions, ["self"]),
        (RunCoordinator.submit_run, ["self", "context"]),
        (DagsterInstance.submit_run, ["self", "run_id", "workspace"]),
        (DagsterInstance.add_run_tags, ["self", "run_id", "new_tags"]),
        (DagsterInstance.optimize_for_webserver, ["self", "statement_timeout", "pool_recycle", "max_overflow"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)  # fmt: skip
def test_dagsters_private_functions_are_called_as_before(function: Any, expected: list[str]) -> None:
    assert parameters(function) == expected


def test_dagsters_private_values_are_what_they_were() -> None:
    assert SubmitRunContext._fields == ("dagster_run", "workspace")
    assert PermissionResult._fields == ("enabled", "disabled_reason")
    assert isinstance(WorkspaceRequestContext.permissions, property)
    assert isinstance(BaseWorkspaceRequestContext.show_instance_config, property)
    assert GrapheneError._meta.name == "Error"
    # Permissions of owners are none, and are not asked for while this says so.
    assert BaseWorkspaceRequestContext.viewer_has_any_owner_definition_permissions(None) is False  # type: ignore[arg-type]


def test_dagsters_page_has_an_end_that_the_menu_is_put_before() -> None:
    webserver = DagsterWebserver.__new__(DagsterWebserver)
    with open(webserver.relative_path("webapp/build/index.html"), encoding="utf-8") as file:
        assert file.read().count("</body>") == 1
    assert "'nonce-abc'" in webserver.make_csp_header("abc")
    # The menu's styles are in the page, which this permits.
    assert "style-src 'unsafe-inline'" in webserver.make_csp_header("abc")
