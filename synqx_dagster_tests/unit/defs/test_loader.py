"""Which revision a process defines; also pins what Dagster does not promise to keep."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.definitions.reconstruct import (
    ReconstructableRepository,
    initialize_repository_def_from_pointer,
    reconstruct_repository_def_from_pointer,
)
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._grpc.client import DagsterGrpcClient

from synqx_dagster.defs import loader
from synqx_dagster.defs.loader import REPOSITORY_NAME, REVISION_KEY, forget_revisions, load_repository
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.errors import CatalogVersionError, NotInitialisedError
from synqx_dagster_tests.unit.defs.fakes import FakeCatalog, mapping, pipeline, snapshot_of

POINTER = ModuleCodePointer("synqx_dagster.definitions", "defs")


def snapshot(revision: int) -> Any:
    """A revision whose one mapping tells which it is."""
    orders = mapping("orders", description=f"of revision {revision}")
    return snapshot_of(orders, pipeline("load", "orders"), revision=revision)


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[FakeCatalog]:
    """The catalog of this process, at revision 3."""
    catalog = FakeCatalog({number: snapshot(number) for number in (1, 2, 3)})
    monkeypatch.setenv("SYNQX_HOME", str(tmp_path))
    monkeypatch.setattr(loader, "open_catalog", lambda settings: catalog)
    loader._first_revision.clear()
    loader._data.clear()
    with no_context():
        yield catalog
    loader._first_revision.clear()
    loader._data.clear()


@contextmanager
def no_context() -> Iterator[None]:
    before = DefinitionsLoadContext._instance
    DefinitionsLoadContext._instance = None
    try:
        yield
    finally:
        DefinitionsLoadContext._instance = before


def handed_over(revision: str) -> RepositoryLoadData:
    return RepositoryLoadData(reconstruction_metadata={REVISION_KEY: revision})  # type: ignore[dict-item]


def revision_of(repository: Any) -> Any:
    return repository.get_job("load").run_tags["synqx/revision"]


def test_the_first_load_takes_the_latest_revision_and_hands_it_on(catalog):
    repository = initialize_repository_def_from_pointer(POINTER)
    assert repository.name == REPOSITORY_NAME
    assert revision_of(repository) == "3"
    assert repository.repository_load_data is not None
    assert repository.repository_load_data.reconstruction_metadata[REVISION_KEY].data == "3"


def test_a_run_process_takes_the_revision_that_was_handed_over(catalog):
    repository = reconstruct_repository_def_from_pointer(POINTER, handed_over("2"))
    assert revision_of(repository) == "2"
    # Its own children are told the same.
    assert repository.repository_load_data is not None
    assert repository.repository_load_data.reconstruction_metadata[REVISION_KEY].data == "2"


def test_a_process_keeps_the_first_revision_that_it_saw(catalog):
    assert revision_of(initialize_repository_def_from_pointer(POINTER)) == "3"
    catalog.snapshots[4] = snapshot(4)
    assert revision_of(initialize_repository_def_from_pointer(POINTER)) == "3"
    assert revision_of(ReconstructableRepository(POINTER).get_definition()) == "3"


def test_what_is_handed_over_wins_over_what_was_seen_first(catalog):
    load_repository()
    assert revision_of(reconstruct_repository_def_from_pointer(POINTER, handed_over("1"))) == "1"
    assert revision_of(reconstruct_repository_def_from_pointer(POINTER, handed_over("2"))) == "2"


def test_a_process_that_only_reconstructs_reads_one_jobs_records(catalog):
    repository = reconstruct_repository_def_from_pointer(POINTER, handed_over("2"))
    repository.get_job("load")
    assert catalog.reads == ["snapshot_for"]


def test_forgetting_lets_a_process_see_the_latest(catalog):
    load_repository()
    catalog.snapshots[4] = snapshot(4)
    loader._first_revision.clear()
    assert revision_of(load_repository()) == "4"


def test_a_revision_is_loaded_once(catalog):
    assert load_repository().data is load_repository().data


def test_a_run_that_another_version_planned_is_refused(catalog):
    with pytest.raises(CatalogVersionError, match="another version"):
        reconstruct_repository_def_from_pointer(POINTER, handed_over("not a number"))


def test_without_a_catalog_there_are_no_definitions_and_a_line_that_says_so(catalog, monkeypatch, caplog):
    def refuse(settings: object) -> Any:
        raise NotInitialisedError("There is no catalog")

    monkeypatch.setattr(loader, "open_catalog", refuse)
    with caplog.at_level(logging.WARNING, "synqx_dagster"):
        repository = initialize_repository_def_from_pointer(POINTER)
    repository.load_all_definitions()
    assert list(repository.job_names) == []
    assert [sensor.name for sensor in repository.sensor_defs] == [SENSOR_NAME]
    assert "synqx init" in caplog.text


def test_an_empty_catalog_is_no_error(catalog, caplog):
    catalog.snapshots = {}
    catalog.snapshots[0] = snapshot_of(revision=0)
    repository = initialize_repository_def_from_pointer(POINTER)
    repository.load_all_definitions()
    assert list(repository.job_names) == []
    assert "synqx apply" in caplog.text


def test_forget_revisions_empties_what_is_kept():
    forget_revisions()
    assert not loader._first_revision
    assert not loader._data


# --- what Dagster does not promise ----------------------------------------------------------------------------


def test_dagsters_load_context_is_what_the_loader_reads():
    assert {item.name for item in DefinitionsLoadType} == {"INITIALIZATION", "RECONSTRUCTION"}
    context = DefinitionsLoadContext(DefinitionsLoadType.RECONSTRUCTION, handed_over("7"))
    assert context.reconstruction_metadata == {REVISION_KEY: "7"}
    context.add_to_pending_reconstruction_metadata(REVISION_KEY, "7")
    assert context.get_pending_reconstruction_metadata() == {REVISION_KEY: "7"}


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (DagsterGrpcClient, "reload_code", ["self", "timeout"]),
        (DagsterGrpcClient, "ping", ["self", "echo"]),
        (
            dg.RepositoryDefinition,
            "get_maybe_subset_job_def",
            ["self", "job_name", "op_selection", "asset_selection", "asset_check_selection"],
        ),
        (
            dg.RepositoryDefinition,
            "replace_repository_load_data",
            ["self", "reconstruction_metadata", "defs_state_info"],
        ),
    ],
)
def test_signatures_that_are_called_or_replaced(owner, name, parameters):
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_dagsters_name_of_the_job_over_all_assets():
    from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
    from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME

    from synqx_dagster.defs.jobs import ASSET_JOB

    assert ASSET_JOB == IMPLICIT_ASSET_JOB_NAME
    assert REPOSITORY_NAME == SINGLETON_REPOSITORY_NAME
