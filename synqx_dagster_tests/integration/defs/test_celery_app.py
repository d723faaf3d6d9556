"""The worker's side on a real Redis: which messages are executed, and what a machine misses to be a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from celery import states
from celery.exceptions import Ignore
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value
from dagster_celery.config import TASK_EXECUTE_PLAN_NAME

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.celery_app import app_options, make_worker_app
from synqx_dagster.defs.worker_checks import check_worker
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.settings import Settings, load_settings
from synqx_dagster_tests.certificates import Authority
from synqx_dagster_tests.fix_redis import RedisServer, started_redis
from synqx_dagster_tests.unit.defs.projects import CUSTOMERS, Project

ORIGIN = JobPythonOrigin(
    job_name="load_customers",
    repository_origin=RepositoryPythonOrigin(
        executable_path="python", code_pointer=ModuleCodePointer("synqx_dagster.definitions", "repository")
    ),
)


#: Celery calls what the client of Redis would have it call otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


class Executed(Exception):
    """The task would have executed its step."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.fill()
    made.apply(CUSTOMERS, description="customers")
    return made


def settings_of(project: Project, url: str, **environ: str) -> Settings:
    home = str(project.home)
    return load_settings(
        {"SYNQX_HOME": home, "DAGSTER_HOME": home, "SYNQX_CELERY_BROKER": url, **environ}, project.directory
    )


@contextmanager
def delivered(app: Any, task_id: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The task as a worker calls it when a message of this id arrives; it raises `Executed` in the place of work."""
    task = app.tasks[TASK_EXECUTE_PLAN_NAME]

    def run(*arguments: Any, **named: Any) -> None:
        raise Executed

    monkeypatch.setattr(task, "run", run)
    task.push_request(id=task_id, hostname="one@host")
    try:
        yield task
    finally:
        task.pop_request()


def arguments(project: Project, status: dg.DagsterRunStatus) -> dict[str, Any]:
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        run = create_run_for_test(instance, job_name="load_customers", status=status)
        packed = pack_value(
            ExecuteStepArgs(
                job_origin=ORIGIN, run_id=run.run_id, step_keys_to_execute=["step"], instance_ref=instance.get_ref()
            )
        )
    return {"execute_step_args_packed": packed, "executable_dict": {}}


def test_a_message_is_executed_once(
    project: Project, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_worker_app(settings_of(project, redis_server.url))
    given = arguments(project, dg.DagsterRunStatus.STARTED)
    with delivered(app, "first", monkeypatch) as task:
        with pytest.raises(Executed):
            task(**given)
        meta = app.backend.get_task_meta("first")
        assert (meta["status"], meta["result"]["hostname"]) == (states.STARTED, "one@host")
        with pytest.raises(Ignore):
            task(**given)
    app.close()


def test_a_message_that_its_run_gave_up_is_dropped(
    project: Project, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_worker_app(settings_of(project, redis_server.url))
    app.backend.mark_as_revoked("first", "given up by its run")
    with delivered(app, "first", monkeypatch) as task, pytest.raises(Ignore):
        task(**arguments(project, dg.DagsterRunStatus.STARTED))
    app.close()


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.SUCCESS]
)
def test_a_step_of_a_run_that_has_ended_is_dropped(
    project: Project, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    app = make_worker_app(settings_of(project, redis_server.url))
    with delivered(app, "late", monkeypatch) as task, pytest.raises(Ignore):
        task(**arguments(project, status))
    assert app.backend.get_state("late") == states.PENDING
    app.close()


def test_a_worker_holds_no_message_but_what_it_executes(project: Project, redis_server: RedisServer) -> None:
    config = app_options(settings_of(project, redis_server.url))["config_source"]
    assert config["task_acks_late"] is True
    assert config["worker_prefetch_multiplier"] == 1
    # A mark that ends before the second delivery would let it through.
    assert config["result_expires"] > config["broker_transport_options"]["visibility_timeout"]


def test_tls_checks_the_certificate(project: Project) -> None:
    config = app_options(settings_of(project, "rediss://:x@redis.example/0"))["config_source"]
    assert config["broker_use_ssl"]["ssl_cert_reqs"].name == "CERT_REQUIRED"
    assert config["redis_backend_use_ssl"]["ssl_cert_reqs"].name == "CERT_REQUIRED"


def test_without_a_broker_there_is_no_application(project: Project) -> None:
    with pytest.raises(ConfigurationError, match="SYNQX_CELERY_BROKER is not set"):
        app_options(project.settings)


# --- what a worker needs --------------------------------------------------------------------------------------


def problems(settings: Settings) -> dict[str, str]:
    return {check.name: check.problem for check in check_worker(settings) if check.problem is not None}


def test_a_machine_that_has_everything_is_ready(project: Project, redis_server: RedisServer) -> None:
    settings = settings_of(project, redis_server.url)
    assert problems(settings) == {}
    assert {check.name for check in check_worker(settings)} >= {"broker", "catalog and vault", "exchange", "code"}
    assert list((project.home / "exchange").iterdir()) == []


def test_a_worker_for_components_needs_no_catalog(project: Project, redis_server: RedisServer) -> None:
    settings = replace(settings_of(project, redis_server.url), catalog_url="")
    assert {check.name for check in check_worker(settings)} == {"settings", "broker", "Dagster's storage", "exchange"}
    assert problems(settings) == {}


def test_a_wrong_password_is_told_without_it(project: Project, redis_server: RedisServer) -> None:
    url = redis_server.url.replace(redis_server.password, "hunter2")
    found = problems(settings_of(project, url))
    assert set(found) == {"broker"}
    assert "does not let this machine in" in found["broker"]
    assert "hunter2" not in str(found)


def test_tls_is_for_who_the_certificate_is_for(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "authority")
    directory = tmp_path / "redis"
    directory.mkdir()
    with started_redis(directory, authority) as server:
        url = server.url.replace("redis://", "rediss://")
        by_name = settings_of(project, url.replace("127.0.0.1", "localhost"))
        assert set(problems(by_name)) == {"broker"}, "an authority that nobody knows here"
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert problems(by_name) == {}
        assert set(problems(settings_of(project, url))) == {"broker"}, "another name than the certificate's"
        assert set(problems(settings_of(project, server.url))) == {"broker"}, "no TLS"


def test_a_backend_elsewhere_is_tried_as_well(project: Project, redis_server: RedisServer) -> None:
    settings = settings_of(project, redis_server.url, SYNQX_CELERY_BACKEND="redis://:hunter2@127.0.0.1:1/0")
    found = problems(settings)
    assert set(found) == {"broker"}
    assert found["broker"].startswith("SYNQX_CELERY_BACKEND: redis://:***@127.0.0.1:1/0")


def test_a_vault_that_does_not_open_is_told(project: Project, redis_server: RedisServer) -> None:
    from pydantic import SecretStr

    with Catalog.open(project.settings) as catalog:
        catalog.vault.initialise(password=SecretStr("a long enough password"))
        catalog.vault.unseal(password=SecretStr("a long enough password"))
        catalog.vault.seal()
    found = problems(settings_of(project, redis_server.url))
    assert "the vault does not open here" in found["catalog and vault"]


def test_code_that_is_not_here_is_told_and_not_executed(project: Project, redis_server: RedisServer) -> None:
    project.apply(
        """
kind: pipeline
name: cleaned
nodes:
  - {{node_id: read, operator_type: extract, operator_class: table, config: {{connection: shop, table: customer}}}}
  - node_id: clean
    operator_type: transform
    operator_class: pandas
    config: {{function: "own_code.cleaning:clean"}}
  - {{node_id: load, operator_type: load, operator_class: table, config: {{connection: warehouse, table: clean}}}}
edges:
  - {{from_node_id: read, to_node_id: clean}}
  - {{from_node_id: clean, to_node_id: load}}
"""
    )
    found = problems(settings_of(project, redis_server.url))
    assert found == {
        "code": f"the module own_code of the pipeline cleaned is neither installed nor in {project.directory}"
    }
    (project.directory / "own_code.py").write_text("raise RuntimeError('executed')\n")
    assert problems(settings_of(project, redis_server.url)) == {}
