"""The files in deploy/: read by what is going to read them, and Dagster's settings run on a real PostgreSQL."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import compose_spec
import pytest
import yaml

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.cli.code_server import LOCATION_NAME
from synqx_dagster.defs.execution import run_targets
from synqx_dagster.defs.executors import build_executor
from synqx_dagster.defs.exposition import Metric
from synqx_dagster.defs.instance import default_config, open_instance
from synqx_dagster.defs.metrics import collect_metrics
from synqx_dagster.defs.retention import Retention, purge_runs
from synqx_dagster.defs.run_detail import read_detail
from synqx_dagster.defs.runs import get_run
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.unit.defs.projects import CUSTOMERS, Project, describe

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
#: Containers of other people's images.
NOT_OURS = {"postgres", "redis"}


def load_all(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def pods() -> dict[str, Any]:
    """The containers of k8s/synqx.yaml by their names."""
    specs = [item["spec"]["template"]["spec"] for item in load_all("k8s/synqx.yaml") if "template" in item["spec"]]
    return {container["name"]: container for spec in specs for container in spec["containers"]}


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def option(path: Path, name: str) -> str:
    """The last value of a setting of the section Service."""
    return options(path)[name][-1]


def options(path: Path) -> dict[str, list[str]]:
    parser = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#", interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "Service" and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    assert set(parser["Service"]) == set(found)
    return found


# --- Dagster ------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, postgresql: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose Dagster home is set up as deploy/README.md says, on a PostgreSQL over TCP."""
    project = Project(tmp_path)
    project.home.mkdir()
    shutil.copy(DEPLOY / "dagster.yaml", project.home)
    for name, value in storage_variables(postgresql).items():
        monkeypatch.setenv(name, value)
    project.fill(3)
    project.apply(CUSTOMERS, description="all of them")
    return project


def storage_variables(database: PostgresqlDatabase) -> dict[str, str]:
    return {
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(database.port),
        "DAGSTER_PG_DATABASE": database.name,
        "DAGSTER_PG_USERNAME": database.username,
        "DAGSTER_PG_PASSWORD": "p@ss word:%?",
    }


@pytest.mark.slow
def test_the_settings_run_a_job_on_postgresql_and_all_that_looks_at_it(
    project: Project, postgresql: PostgresqlDatabase
) -> None:
    done = project.execute_job("load_customers", **storage_variables(postgresql))
    assert done.returncode == 0, describe(done)
    with Catalog.open(project.settings) as catalog:
        second = run_targets(catalog, ["load_customers"])
        assert second.succeeded
        with open_instance(project.settings) as instance:
            assert type(instance.run_storage).__name__ == "PostgresRunStorage"
            assert get_run(instance, second.run_id[:8]).status == "SUCCESS"
            (step,) = read_detail(instance, second.run_id).steps
            assert (step.status, step.rows_out) == ("SUCCESS", 3)
            metrics = collect_metrics(instance, catalog)
            assert value_of(metrics, "synqx_runs", job="load_customers", status="SUCCESS") == 2
            assert value_of(metrics, "synqx_asset_last_load_rows_out", asset="warehouse/customer") == 3
            now = datetime.now(UTC) + timedelta(days=90)
            report = purge_runs(instance, Retention(timedelta(days=30), keep_last=1), now=now)
            assert len(report.deleted) == 1
            assert instance.get_run_ids() == [second.run_id]
    assert postgresql.execute("select count(distinct run_id) from event_logs") == [(1,)]
    assert not (project.home / "history").exists()


def value_of(metrics: list[Metric], name: str, **labels: str) -> float:
    (metric,) = [metric for metric in metrics if metric.name == name]
    (value,) = [sample.value for sample in metric.samples if labels.items() <= sample.labels.items()]
    return value


def test_a_home_whose_variables_are_missing_says_which(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_PG_HOST")
    with pytest.raises(Exception, match="DAGSTER_PG_HOST"), open_instance(project.settings):
        pytest.fail("an instance without a host")


def test_production_differs_from_one_machine_in_its_storage_alone() -> None:
    production = load("dagster.yaml")
    assert set(production.pop("storage")) == {"postgres"}
    assert production == yaml.safe_load(default_config())


@pytest.mark.parametrize("name", ["workspace.yaml", "compose-workspace.yaml"])
def test_the_code_server_has_the_name_that_schedules_are_remembered_by(name: str) -> None:
    (location,) = load(name)["load_from"]
    assert location["grpc_server"]["location_name"] == LOCATION_NAME
    assert location["grpc_server"]["port"] == 4000


# --- commands -----------------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """What units and containers start, as words; programs without their directory."""
    found = [shlex.split(option(path, "ExecStart")) for path in SERVICES]
    services = load("compose.yaml")["services"]
    found += [service["command"] for name, service in services.items() if name not in NOT_OURS and "command" in service]
    found += [container["command"] for container in pods().values()]
    found.append(services["code"]["healthcheck"]["test"][1:])
    return [[Path(words[0]).name, *words[1:]] for words in found]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:3]))
def test_programs_have_the_options_that_they_are_started_with(words: list[str]) -> None:
    program = str(Path(sys.executable).parent / words[0])
    names = [word for word in words[1:] if not word.startswith("-")]
    groups = {"dagster": 2, "dagster-daemon": 1, "dagster-webserver": 0, "synqx": 1}
    done = subprocess.run(
        [program, *names[: groups[words[0]]], "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert {option for option in given if not re.search(rf"(?<!\S){option}\b", done.stdout)} == set()


# --- systemd ------------------------------------------------------------------------------------------------------


@pytest.fixture
def systemd_analyze() -> str:
    """systemd's own judge of units; part of the system packages that CI installs."""
    program = shutil.which("systemd-analyze")
    if program is None:
        message = "systemd-analyze is not installed: scripts/install-system-packages"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    return program


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units, with programs that are there."""
    directory = tmp_path / "units"
    directory.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("dagster", "dagster-webserver", "dagster-daemon", "synqx"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for path in UNITS:
        (directory / path.name).write_text(path.read_text().replace("/opt/synqx/bin", str(programs)))
    return [str(directory / path.name) for path in UNITS]


def test_systemd_takes_the_units(systemd_analyze: str, units: list[str]) -> None:
    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_takes_nothing_that_is_misspelt(systemd_analyze: str, units: list[str]) -> None:
    unit = Path(next(name for name in units if name.endswith("synqx-code.service")))
    unit.write_text(unit.read_text().replace("NoNewPrivileges", "NoNewPrivilegs"))
    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "NoNewPrivilegs" in done.stderr


def test_the_services_are_hardly_exposed(systemd_analyze: str, units: list[str]) -> None:
    services = [name for name in units if name.endswith(".service")]
    # Tenths; what systemd calls OK ends at 49, and a service without any of it has 92.
    done = subprocess.run(
        [systemd_analyze, "security", "--offline=yes", "--threshold=20", "--no-pager", *services],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_is_locked_in_and_not_root(path: Path) -> None:
    found = options(path)
    assert found["User"] == found["Group"] == ["synqx"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["EnvironmentFile"] == ["/etc/synqx/synqx.env"]


def test_only_what_opens_the_vault_is_given_its_key() -> None:
    with_key = {path.stem for path in SERVICES if "LoadCredential" in options(path)}
    assert with_key == {"synqx-code", "synqx-metrics", "synqx-web", "synqx-worker"}
    containers_with_key = {name for name, service in containers().items() if service.get("secrets")}
    assert containers_with_key == {"init", "code", "web", "worker"}


def test_a_worker_is_given_its_time_to_end() -> None:
    worker = options(DEPLOY / "systemd" / "synqx-worker.service")
    assert worker["KillMode"] == ["mixed"]
    assert f"{worker['TimeoutStopSec'][0]}s" == containers()["worker"]["stop_grace_period"]
    assert containers()["worker"]["profiles"] == containers()["redis"]["profiles"] == ["celery"]


def test_metrics_are_given_up_before_they_are_due_again() -> None:
    assert (DEPLOY / "systemd" / "synqx-metrics.timer").read_text().count("OnUnitActiveSec=1min") == 1
    assert int(option(DEPLOY / "systemd" / "synqx-metrics.service", "TimeoutStartSec")) < 60


def test_the_environment_has_all_that_the_settings_read() -> None:
    text = (DEPLOY / "synqx.env.example").read_text()
    wanted = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()))
    assert len(wanted) == 5
    assert {name for name in wanted if not re.search(rf"^{name}=", text, re.MULTILINE)} == set()
    assert {name for name in wanted if name not in load("compose.yaml")["x-synqx"]["environment"]} == set()


# --- containers ---------------------------------------------------------------------------------------------------


def containers() -> dict[str, Any]:
    services: dict[str, Any] = load("compose.yaml")["services"]
    return services


def test_the_compose_file_is_one() -> None:
    # The parser wants merged keys and no variables in the place of values.
    document = load("compose.yaml")
    text = yaml.safe_dump({name: value for name, value in document.items() if not name.startswith("x-")})
    parsed = compose_spec.PyCompose.from_yaml(text)
    assert set(parsed.service_names()) == {"postgres", "init", "code", "web", "daemon", "redis", "worker"}


def test_the_parser_refuses_what_is_no_compose_file() -> None:
    document = load("compose.yaml")
    broken = {"services": {"web": {**document["services"]["postgres"], "imagge": "x"}}}
    with pytest.raises(Exception, match="imagge"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(broken))


def test_containers_wait_for_what_they_need_and_name_what_is_there() -> None:
    document = load("compose.yaml")
    services = document["services"]
    for name, service in services.items():
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in services, name
            healthy = condition["condition"] == "service_healthy"
            assert healthy == ("healthcheck" in services[needed]), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in document["volumes"] or (DEPLOY / source).is_file(), volume
        assert set(service.get("secrets", ())) <= document["secrets"].keys()
    assert (DEPLOY / document["x-synqx"]["build"]["context"] / document["x-synqx"]["build"]["dockerfile"]).is_file()


def test_the_server_is_reached_through_a_proxy_alone() -> None:
    published = {port for service in containers().values() for port in service.get("ports", ())}
    assert published == {"127.0.0.1:3000:3000"}
    assert "--host 127.0.0.1" in option(DEPLOY / "systemd" / "synqx-web.service", "ExecStart")
    assert all("dagster-webserver" not in path.read_text() for path in DEPLOY.rglob("*") if path.is_file())


def test_containers_gain_no_rights() -> None:
    for service in (service for name, service in containers().items() if name != "postgres"):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER synqx$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_runs_whose_parent_is_gone_are_reaped() -> None:
    assert containers()["code"]["init"] is True


# --- Kubernetes ---------------------------------------------------------------------------------------------------

K8S_KINDS = {
    "ConfigMap": "V1ConfigMap",
    "Deployment": "V1Deployment",
    "Job": "V1Job",
    "Namespace": "V1Namespace",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Secret": "V1Secret",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
}
K8S_FILES = sorted((DEPLOY / "k8s").glob("*.yaml"))


def as_kubernetes(document: dict[str, Any]) -> Any:
    """A document as Kubernetes' own client knows it; fails for what it does not know, or misses."""
    import kubernetes.client
    from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

    model = getattr(kubernetes.client, K8S_KINDS[document["kind"]])
    return k8s_model_from_dict(model, k8s_snake_case_dict(model, document))


def config_map(name: str) -> dict[str, str]:
    (found,) = [item for item in load_all("k8s/configmaps.yaml") if item["metadata"]["name"] == name]
    data: dict[str, str] = found["data"]
    return data


def instance_in_kubernetes() -> Any:
    return yaml.safe_load(config_map("synqx-instance")["dagster.yaml"])


@pytest.mark.parametrize("path", K8S_FILES, ids=lambda path: path.name)
def test_kubernetes_knows_every_field(path: Path) -> None:
    for document in load_all(f"k8s/{path.name}"):
        assert as_kubernetes(document).metadata.name


def test_kubernetes_knows_no_field_that_is_misspelt() -> None:
    document = load_all("k8s/synqx.yaml")[0]
    document["spec"]["template"]["spec"]["containers"][0]["imagge"] = "x"
    with pytest.raises(Exception, match="imagge"):
        as_kubernetes(document)


def test_the_instance_in_kubernetes_differs_in_its_launcher_alone() -> None:
    instance = instance_in_kubernetes()
    assert instance.pop("run_launcher")["class"] == "K8sRunLauncher"
    assert instance == load("dagster.yaml")


def test_the_launcher_fits_dagsters_own_schema() -> None:
    from dagster._config import resolve_to_config_type, validate_config
    from dagster_k8s.launcher import K8sRunLauncher

    schema = resolve_to_config_type(K8sRunLauncher.config_type())
    config = instance_in_kubernetes()["run_launcher"]["config"]
    checked = validate_config(schema, config)
    assert checked.success, checked.errors
    assert not validate_config(schema, {**config, "job_namespaze": "x"}).success
    # Whoever may launch a run must not choose what its pods are.
    assert config["only_allow_user_defined_k8s_config_fields"] == {}
    assert config["only_allow_user_defined_env_vars"] == []


def test_a_step_in_kubernetes_is_a_job_with_all_that_it_needs() -> None:
    """The files together make the Job that dagster-k8s asks Kubernetes for."""
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    launcher = instance_in_kubernetes()["run_launcher"]["config"]
    steps = yaml.safe_load(config_map("synqx-files")["steps.yaml"])
    names = ("env_config_maps", "env_secrets", "volumes", "volume_mounts", "resources", "security_context")
    of_runs = K8sContainerContext(
        service_account_name=launcher["service_account_name"],
        run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(launcher["run_k8s_config"]),
        **{name: launcher[name] for name in names},
    )
    of_steps = K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(steps["step_k8s_config"]))
    context = of_runs.merge(of_steps)
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config("synqx", SimpleNamespace(postgres_password_secret=None, **launcher)),
        args=["dagster", "api", "execute_step"],
        job_name="dagster-step",
        user_defined_k8s_config=context.run_k8s_config,
    )
    spec = job.spec.template.spec
    (container,) = spec.containers
    sources = {source.secret_ref.name for source in container.env_from if source.secret_ref is not None}
    assert sources == {"synqx-database", "synqx-vault"}
    assert spec.security_context.run_as_non_root is True
    assert container.security_context.read_only_root_filesystem is True
    assert container.resources.limits == {"memory": "4Gi"}
    mounts = {mount.mount_path for mount in container.volume_mounts}
    assert {"/var/lib/synqx", "/var/lib/synqx/dagster.yaml", "/etc/synqx"} <= mounts


def test_the_executor_takes_the_configuration_of_steps(tmp_path: Path) -> None:
    settings = config_map("synqx-settings")
    (tmp_path / "steps.yaml").write_text(config_map("synqx-files")["steps.yaml"])
    environ = {**settings, "SYNQX_K8S_CONFIG": str(tmp_path / "steps.yaml")}
    assert build_executor("k8s", load_settings(environ, tmp_path)).name == "k8s"
    assert settings["SYNQX_K8S_CONFIG"] == "/etc/synqx/steps.yaml"


def test_pods_gain_no_rights_and_only_some_open_the_vault() -> None:
    for name, container in pods().items():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
    with_key = {
        name for name, container in pods().items() if {"secretRef": {"name": "synqx-vault"}} in container["envFrom"]
    }
    assert with_key == {"init", "code", "web"}


def test_pods_mount_and_read_what_the_other_files_hold() -> None:
    maps = {item["metadata"]["name"] for item in load_all("k8s/configmaps.yaml")}
    secrets = {item["metadata"]["name"] for item in load_all("k8s/secrets.example.yaml")}
    for container in pods().values():
        for source in container["envFrom"]:
            assert source.get("configMapRef", {}).get("name", next(iter(maps))) in maps
            assert source.get("secretRef", {}).get("name", next(iter(secrets))) in secrets
    wanted = set(re.findall(r"env: (\w+)", config_map("synqx-instance")["dagster.yaml"]))
    given = config_map("synqx-settings").keys() | load_all("k8s/secrets.example.yaml")[0]["stringData"].keys()
    assert wanted <= given
    location = yaml.safe_load(config_map("synqx-files")["workspace.yaml"])["load_from"][0]["grpc_server"]
    assert location["location_name"] == LOCATION_NAME
    services = {
        item["metadata"]["name"]: item["spec"]["ports"][0]
        for item in load_all("k8s/synqx.yaml")
        if item["kind"] == "Service"
    }
    assert services.keys() == {"synqx-code", "synqx-web"}
    assert services[location["host"]]["port"] == location["port"]
    (port,) = pods()["web"]["ports"]
    assert services["synqx-web"]["targetPort"] == port["containerPort"] == 3000


def test_no_file_holds_a_password() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            found = re.findall(r"(?i)password[\w-]*\s*[=:]\s*(\S+)", path.read_text())
            assert [value for value in found if not value.startswith(("$", "?", "{env", "change-me"))] == [], path
