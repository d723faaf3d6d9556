"""Which of Dagster's permissions, mutations and routes need which of SynqX's: tables, and nothing else.

Guarantee: what is not in a table needs the permission of administrators. So what a new Dagster brings is closed until
somebody has decided on it, and tests that compare these tables with Dagster's own lists say what is new.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagster._core.workspace.permissions import LOCATION_SCOPED_PERMISSIONS, PermissionResult, Permissions

from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

#: What is needed for everything that no table knows.
UNKNOWN = Permission.INSTANCE_MANAGE

#: Without these two nobody sees anything of Dagster's: its pages show runs and definitions alike.
TO_LOOK: tuple[Permission, ...] = (Permission.RUNS_READ, Permission.CATALOG_READ)

#: Dagster's permission -> SynqX's; None: nobody has it.
DAGSTER_PERMISSIONS: Mapping[str, Permission | None] = {
    Permissions.LAUNCH_PIPELINE_EXECUTION: Permission.RUNS_LAUNCH,
    Permissions.LAUNCH_PIPELINE_REEXECUTION: Permission.RUNS_LAUNCH,
    Permissions.TERMINATE_PIPELINE_EXECUTION: Permission.RUNS_LAUNCH,
    Permissions.LAUNCH_PARTITION_BACKFILL: Permission.RUNS_LAUNCH,
    Permissions.CANCEL_PARTITION_BACKFILL: Permission.RUNS_LAUNCH,
    Permissions.START_SCHEDULE: Permission.SCHEDULES_SWITCH,
    Permissions.STOP_RUNNING_SCHEDULE: Permission.SCHEDULES_SWITCH,
    # A dry run evaluates the sensor: it connects to databases, and an alert's sensor writes messages.
    Permissions.SCHEDULE_DRY_RUN: Permission.SCHEDULES_SWITCH,
    Permissions.SENSOR_DRY_RUN: Permission.SCHEDULES_SWITCH,
    Permissions.EDIT_SENSOR: Permission.SCHEDULES_SWITCH,
    Permissions.UPDATE_SENSOR_CURSOR: Permission.SCHEDULES_SWITCH,
    Permissions.TOGGLE_AUTO_MATERIALIZE: Permission.SCHEDULES_SWITCH,
    # What a definition says (limits of a connection, partitions), and what is taken for loaded.
    Permissions.EDIT_CONCURRENCY_LIMIT: Permission.CATALOG_WRITE,
    Permissions.EDIT_DYNAMIC_PARTITIONS: Permission.CATALOG_WRITE,
    Permissions.REPORT_RUNLESS_ASSET_EVENTS: Permission.CATALOG_WRITE,
    Permissions.DELETE_PIPELINE_RUN: Permission.INSTANCE_MANAGE,
    Permissions.WIPE_ASSETS: Permission.INSTANCE_MANAGE,
    Permissions.RELOAD_REPOSITORY_LOCATION: Permission.INSTANCE_MANAGE,
    Permissions.RELOAD_WORKSPACE: Permission.INSTANCE_MANAGE,
    Permissions.REFRESH_COMPONENT_STATE: Permission.INSTANCE_MANAGE,
    # A feature of Dagster+; the catalog is where definitions are edited.
    Permissions.EDIT_APP_MANAGED_COMPONENTS: None,
}

#: Every mutation of Dagster's schema -> what it needs, and the act that the trail knows it by.
MUTATIONS: Mapping[str, tuple[Permission, str | None]] = {
    "launchRun": (Permission.RUNS_LAUNCH, "run.launch"),
    "launchPipelineExecution": (Permission.RUNS_LAUNCH, "run.launch"),
    "launchMultipleRuns": (Permission.RUNS_LAUNCH, "run.launch"),
    "launchRunReexecution": (Permission.RUNS_LAUNCH, "run.reexecute"),
    "launchPipelineReexecution": (Permission.RUNS_LAUNCH, "run.reexecute"),
    "terminateRun": (Permission.RUNS_LAUNCH, "run.cancel"),
    "terminatePipelineExecution": (Permission.RUNS_LAUNCH, "run.cancel"),
    "terminateRuns": (Permission.RUNS_LAUNCH, "run.cancel"),
    "launchPartitionBackfill": (Permission.RUNS_LAUNCH, "backfill.launch"),
    "resumePartitionBackfill": (Permission.RUNS_LAUNCH, "backfill.resume"),
    "reexecutePartitionBackfill": (Permission.RUNS_LAUNCH, "backfill.reexecute"),
    "cancelPartitionBackfill": (Permission.RUNS_LAUNCH, "backfill.cancel"),
    "startSchedule": (Permission.SCHEDULES_SWITCH, "schedule.start"),
    "stopRunningSchedule": (Permission.SCHEDULES_SWITCH, "schedule.stop"),
    "resetSchedule": (Permission.SCHEDULES_SWITCH, "schedule.reset"),
    "scheduleDryRun": (Permission.SCHEDULES_SWITCH, "schedule.try"),
    "startSensor": (Permission.SCHEDULES_SWITCH, "sensor.start"),
    "stopSensor": (Permission.SCHEDULES_SWITCH, "sensor.stop"),
    "resetSensor": (Permission.SCHEDULES_SWITCH, "sensor.reset"),
    "setSensorCursor": (Permission.SCHEDULES_SWITCH, "sensor.set_cursor"),
    "sensorDryRun": (Permission.SCHEDULES_SWITCH, "sensor.try"),
    "setAutoMaterializePaused": (Permission.SCHEDULES_SWITCH, "automation.pause"),
    "setConcurrencyLimit": (Permission.CATALOG_WRITE, "pool.set_limit"),
    "deleteConcurrencyLimit": (Permission.CATALOG_WRITE, "pool.delete_limit"),
    "freeConcurrencySlots": (Permission.CATALOG_WRITE, "pool.free_slots"),
    "freeConcurrencySlotsForRun": (Permission.CATALOG_WRITE, "pool.free_slots"),
    "addDynamicPartition": (Permission.CATALOG_WRITE, "partition.add"),
    "deleteDynamicPartitions": (Permission.INSTANCE_MANAGE, "partition.delete"),
    "reportRunlessAssetEvents": (Permission.CATALOG_WRITE, "asset.report"),
    "reportAssetCheckEvaluations": (Permission.CATALOG_WRITE, "asset.report_check"),
    "deleteRun": (Permission.INSTANCE_MANAGE, "run.delete"),
    "deletePipelineRun": (Permission.INSTANCE_MANAGE, "run.delete"),
    "wipeAssets": (Permission.INSTANCE_MANAGE, "asset.wipe"),
    "reloadRepositoryLocation": (Permission.INSTANCE_MANAGE, "code.reload"),
    "reloadWorkspace": (Permission.INSTANCE_MANAGE, "code.reload"),
    "shutdownRepositoryLocation": (Permission.INSTANCE_MANAGE, "code.shut_down"),
    "setAppManagedComponent": (Permission.INSTANCE_MANAGE, "component.set"),
    "deleteAppManagedComponent": (Permission.INSTANCE_MANAGE, "component.delete"),
    "refreshComponentState": (Permission.INSTANCE_MANAGE, "component.refresh"),
    # What the page tells of itself; neither changes anything that others see, nor is in the trail.
    "setNuxSeen": (Permission.RUNS_READ, None),
    "logTelemetry": (Permission.RUNS_READ, None),
}

#: Dagster's routes, by their paths -> what they need beyond `TO_LOOK`. Static files and pages need no more.
ROUTES: Mapping[str, Permission] = {
    "/server_info": Permission.RUNS_READ,
    "/dagit_info": Permission.RUNS_READ,
    # Its mutations need more, each its own.
    "/graphql": Permission.RUNS_READ,
    "/logs/{path:path}": Permission.RUNS_READ,
    # All of a run in one file: its configuration, its plan, every event.
    "/download_debug/{run_id:str}": Permission.DATA_READ,
    # Notebooks hold results, and the path is any that the code server can read.
    "/notebook": Permission.DATA_READ,
    "/dagit/notebook": Permission.DATA_READ,
    "/report_asset_materialization/{asset_key:path}": Permission.CATALOG_WRITE,
    "/report_asset_check/{asset_key:path}": Permission.CATALOG_WRITE,
    "/report_asset_observation/{asset_key:path}": Permission.CATALOG_WRITE,
    "/{path:path}": Permission.RUNS_READ,
    "/": Permission.RUNS_READ,
}


def may_look(identity: Identity) -> bool:
    """Whether Dagster's pages are open to somebody at all."""
    return all(identity.may(permission) for permission in TO_LOOK)


def dagster_permissions(identity: Identity | None) -> dict[str, PermissionResult]:
    """All of Dagster's permissions as somebody has them; nobody has none."""
    return {permission: _result(identity, permission) for permission in Permissions}


def location_permissions(identity: Identity | None) -> dict[str, PermissionResult]:
    """Those of Dagster's permissions that count for one code location."""
    return {permission: _result(identity, permission) for permission in LOCATION_SCOPED_PERMISSIONS}


def _result(identity: Identity | None, permission: str) -> PermissionResult:
    needed = DAGSTER_PERMISSIONS.get(permission, UNKNOWN)
    if identity is not None and needed is not None and identity.may(needed):
        return PermissionResult(enabled=True, disabled_reason=None)
    if identity is None:
        reason = "Nobody is logged in"
    elif needed is None:
        reason = "SynqX does not have this: definitions are edited in its catalog"
    else:
        reason = f"The role {identity.role.value} does not have the permission {needed.value}"
    return PermissionResult(enabled=False, disabled_reason=reason)


def mutation_needs(name: str) -> tuple[Permission, str | None]:
    """What a mutation needs, and its name in the trail."""
    return MUTATIONS.get(name, (UNKNOWN, f"dagster.{name}"))
