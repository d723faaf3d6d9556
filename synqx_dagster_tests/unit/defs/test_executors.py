"""Executors by name, and settings that do not fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from synqx_dagster.defs.executors import build_executor, find_unfit, refuse_unfit, stays_on_this_machine
from synqx_dagster.defs.repository import CatalogRepository, CatalogRepositoryData
from synqx_dagster.errors import ConfigurationError, InvalidInputError
from synqx_dagster.model import Pipeline
from synqx_dagster.settings import Settings, load_settings
from synqx_dagster_tests.unit.defs.fakes import FakeCatalog, mapping, snapshot_of

ELSEWHERE = {"SYNQX_CELERY_BROKER": "rediss://:hunter2@redis.example:6379/0"}
HERE = {"SYNQX_CELERY_BROKER": "redis://:hunter2@127.0.0.1:6379/0"}
SHARED = {"SYNQX_CATALOG_URL": "postgresql://synqx:hunter2@db.example/synqx", "SYNQX_EXCHANGE": "s3://bucket/rows"}

INSTANCE = """
storage:
  postgres:
    postgres_db:
      {username: synqx, password: {env: DAGSTER_PG_PASSWORD}, hostname: db.example, db_name: dagster}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Dagster's home with PostgreSQL as storage; nothing of it is opened."""
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    return tmp_path


def settings_of(home: Path, *parts: dict[str, str]) -> Settings:
    environ = {"SYNQX_HOME": str(home), "DAGSTER_HOME": str(home)}
    for part in parts:
        environ |= part
    return load_settings(environ, home)


@pytest.mark.parametrize(
    "name", ["in_process", "multiprocess", "celery", "k8s", "dagster:multi_or_in_process_executor"]
)
def test_executors_are_a_setting(name: str, tmp_path: Path) -> None:
    assert isinstance(build_executor(name, settings_of(tmp_path)), dg.ExecutorDefinition)


@pytest.mark.parametrize("name", ["selery", "nowhere:executor", "dagster:asset", "dagster:nothing"])
def test_an_executor_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="executor"):
        build_executor(name, settings_of(tmp_path))


@pytest.mark.parametrize("name", ["celery", "k8s"])
def test_an_executor_without_its_library_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in [item for item in sys.modules if item.startswith(f"synqx_dagster.defs.{name}")]:
        monkeypatch.delitem(sys.modules, module)
    library = f"dagster_{name}"
    for module in [library, *(item for item in sys.modules if item.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError) as caught:
        build_executor(name, settings_of(tmp_path))
    assert caught.value.hint == f"pip install 'synqx-dagster[{name}]'"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([ELSEWHERE], ["the catalog is a SQLite file", "rows between steps"]),
        ([ELSEWHERE, SHARED], []),
        ([ELSEWHERE, {**SHARED, "SYNQX_EXCHANGE": ""}], ["rows between steps"]),
        ([ELSEWHERE, {**SHARED, "SYNQX_EXCHANGE": "/mnt/rows"}], []),
        ([SHARED], ["SYNQX_CELERY_BROKER is not set"]),
        ([HERE], []),
    ],
)
def test_celery_needs_what_other_machines_reach(home: Path, given: list[dict[str, str]], words: list[str]) -> None:
    problems = find_unfit("celery", settings_of(home, *given), rows_cross_steps=True)
    assert len(problems) == len(words)
    for problem, word in zip(problems, words, strict=True):
        assert word in problem.message
        assert problem.hint
        assert "hunter2" not in str(problem)


def test_sqlite_of_dagster_is_refused_for_other_machines_alone(tmp_path: Path) -> None:
    problems = find_unfit("celery", settings_of(tmp_path, ELSEWHERE, SHARED), rows_cross_steps=False)
    assert [problem.message.partition(" in ")[0] for problem in problems] == ["Dagster's storage is SQLite"]
    assert find_unfit("celery", settings_of(tmp_path, HERE, SHARED), rows_cross_steps=False) == []


def test_pods_are_other_machines_whatever_the_broker_says(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="the executor k8s cannot be used: the catalog is a SQLite file"):
        refuse_unfit("k8s", settings_of(home, HERE), rows_cross_steps=False)
    refuse_unfit("k8s", settings_of(home, SHARED), rows_cross_steps=True)


@pytest.mark.parametrize("name", ["celery", "k8s"])
def test_where_there_is_no_catalog_none_is_asked_for(home: Path, name: str) -> None:
    settings = replace(settings_of(home, ELSEWHERE, {"SYNQX_EXCHANGE": "s3://bucket/rows"}), catalog_url="")
    assert find_unfit(name, settings, rows_cross_steps=True) == []


def test_an_exchange_matters_only_to_rows_that_cross_steps(home: Path) -> None:
    settings = settings_of(home, ELSEWHERE, {**SHARED, "SYNQX_EXCHANGE": ""})
    assert find_unfit("celery", settings, rows_cross_steps=False) == []


@pytest.mark.parametrize("name", ["in_process", "multiprocess", "my.module:executor"])
def test_what_stays_here_needs_nothing(name: str, tmp_path: Path) -> None:
    refuse_unfit(name, settings_of(tmp_path), rows_cross_steps=True)


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("redis://localhost:6379/0", True),
        ("redis://[::1]:6379/0", True),
        ("redis://127.8.0.1/0", True),
        ("redis://10.0.0.1/0", False),
        ("rediss://localhost.example/0", False),
    ],
)
def test_a_broker_on_the_loopback_address_is_reached_by_nobody_else(url: str, stays: bool, tmp_path: Path) -> None:
    assert stays_on_this_machine(settings_of(tmp_path, {"SYNQX_CELERY_BROKER": url})) is stays


# --- jobs ---------------------------------------------------------------------------------------------------------

MOVES = Pipeline(
    name="moves",
    executor="celery",
    nodes=[
        {
            "node_id": "read",
            "operator_type": "extract",
            "operator_class": "table",
            "config": {"connection": "shop", "table": "a"},
        },
        {
            "node_id": "one",
            "operator_type": "load",
            "operator_class": "table",
            "config": {"connection": "warehouse", "table": "one"},
        },
        {
            "node_id": "two",
            "operator_type": "load",
            "operator_class": "table",
            "config": {"connection": "warehouse", "table": "two"},
        },
    ],
    edges=[{"from_node_id": "read", "to_node_id": name} for name in ("one", "two")],
)
RUNS = Pipeline(name="runs", executor="celery", nodes=[{"node_id": "n", "config": {"mapping": "customers"}}])


def repository_of(settings: Settings) -> CatalogRepository:
    snapshot = snapshot_of(mapping("customers"), MOVES, RUNS)
    catalog = FakeCatalog({snapshot.revision: snapshot})
    data = CatalogRepositoryData(settings, snapshot.revision, lambda: catalog)  # type: ignore[arg-type, return-value]
    return CatalogRepository("__repository__", repository_data=data)


def test_a_pipeline_has_its_executor(home: Path) -> None:
    repository = repository_of(settings_of(home, ELSEWHERE, SHARED))
    assert repository.get_job("runs").executor_def.name == "celery"
    assert repository.get_job("moves").executor_def.name == "celery"


def test_a_pipeline_whose_steps_would_miss_each_other_is_refused_and_others_are_not(home: Path) -> None:
    repository = repository_of(settings_of(home, ELSEWHERE, {**SHARED, "SYNQX_EXCHANGE": ""}))
    assert repository.get_job("runs").executor_def.name == "celery"
    with pytest.raises(ConfigurationError, match="rows between steps are kept in"):
        repository.get_job("moves")
    repository.load_all_definitions()
    assert "moves" not in repository.job_names
    assert "runs" in repository.job_names


def test_the_default_executor_is_refused_as_well(home: Path) -> None:
    repository = repository_of(settings_of(home, {"SYNQX_EXECUTOR": "k8s"}))
    with pytest.raises(ConfigurationError, match="the executor k8s cannot be used"):
        repository.get_job("runs")


def test_the_run_config_of_a_celery_job_takes_no_broker(home: Path) -> None:
    job = repository_of(settings_of(home, ELSEWHERE, SHARED)).get_job("runs")
    assert dg.validate_run_config(job, {"execution": {"config": {"retries": {"disabled": {}}}}})
    with pytest.raises(dg.DagsterInvalidConfigError, match="broker"):
        dg.validate_run_config(job, {"execution": {"config": {"broker": "redis://elsewhere.example"}}})


# --- k8s ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("job_namespaze: synqx", "job_namespaze"),
        ("max_concurrent: many", "max_concurrent"),
        ("[a, list]", "holds no mapping"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told_with_its_file(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text(text)
    settings = settings_of(tmp_path, {"SYNQX_K8S_CONFIG": "steps.yaml"})
    with pytest.raises(ConfigurationError) as caught:
        build_executor("k8s", settings)
    assert words in str(caught.value)
    assert "steps.yaml" in str(caught.value)


def test_the_example_of_a_configuration_is_where_the_hint_says(tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text("[a, list]")
    with pytest.raises(ConfigurationError) as caught:
        build_executor("k8s", settings_of(tmp_path, {"SYNQX_K8S_CONFIG": "steps.yaml"}))
    place = (caught.value.hint or "").split()[0]
    assert "\n  steps.yaml: |" in (Path(__file__).parents[3] / place).read_text()


def test_a_configuration_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        build_executor("k8s", settings_of(tmp_path, {"SYNQX_K8S_CONFIG": "steps.yaml"}))


def test_the_problems_of_a_configuration_are_all_listed(tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text("job_namespaze: synqx\nmax_concurrent: many\n")
    with pytest.raises(InvalidInputError) as caught:
        build_executor("k8s", settings_of(tmp_path, {"SYNQX_K8S_CONFIG": "steps.yaml"}))
    assert len(caught.value.problems) == 2
