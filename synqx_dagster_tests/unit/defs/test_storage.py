"""SQLite storage whose files stay open."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from sqlalchemy import event
from sqlalchemy import exc as db_errors
from sqlalchemy.engine import Connection, Engine

from synqx_dagster.defs.instance import open_instance, prepare_instance
from synqx_dagster.defs.storage import OpenEventLogStorage, OpenRunStorage, keep_files_open, read_reference
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.settings import Settings, load_settings

NUMBERS, NOBODY = dg.AssetKey("numbers"), dg.AssetKey("nobody")
ASSET_MATERIALIZATION = dg.DagsterEventType.ASSET_MATERIALIZATION


@dg.asset(check_specs=[dg.AssetCheckSpec("small", asset="numbers")])
def numbers():
    return dg.MaterializeResult(
        metadata={"dagster/row_count": 3}, check_results=[dg.AssetCheckResult(check_name="small", passed=True)]
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"SYNQX_HOME": str(tmp_path / "home")})


def write_and_fail(connection: Connection) -> None:
    connection.exec_driver_sql("insert into kvs (key, value) values ('a', 'b')")
    connection.exec_driver_sql("insert into no_such_table values (1)")


def execute(instance: dg.DagsterInstance) -> str:
    result = dg.materialize([numbers], instance=instance)
    assert result.success
    return result.run_id


def test_a_process_that_executes_keeps_the_files_open_and_others_do_not(settings):
    with open_instance(settings, executes=True) as instance:
        assert type(instance.event_log_storage) is OpenEventLogStorage
        assert type(instance.run_storage) is OpenRunStorage
    with open_instance(settings) as instance:
        assert type(instance.event_log_storage) is SqliteEventLogStorage
        assert type(instance.run_storage) is SqliteRunStorage


def test_another_process_sees_each_event_at_once_and_all_of_them_afterwards(settings):
    prepare_instance(settings)
    with open_instance(settings) as other:
        with open_instance(settings, executes=True) as instance:
            run_id = execute(instance)
            during = [entry.to_json() for entry in other.all_logs(run_id)]
            assert [entry.to_json() for entry in instance.all_logs(run_id)] == during
            assert other.get_run_by_id(run_id).status == dg.DagsterRunStatus.SUCCESS
            assert other.get_latest_materialization_event(dg.AssetKey("numbers")).run_id == run_id
        assert [entry.to_json() for entry in other.all_logs(run_id)] == during
        next_run = execute(other)
        assert other.get_latest_materialization_event(dg.AssetKey("numbers")).run_id == next_run


def test_who_follows_a_run_by_its_file_hears_of_each_event(settings):
    """The web UI watches the file of the run, which stays as it is while its log takes the events."""
    with open_instance(settings, executes=True) as instance:
        run_id = execute(instance)
        path = Path(instance.event_log_storage.path_for_shard(run_id))
        os.utime(path, (1, 1))
        instance.report_engine_event("something", job_name="job", run_id=run_id)
        assert path.stat().st_mtime > 1


def count_events(path: str | Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("select count(*) from event_logs").fetchone()[0])


def test_what_a_run_announces_is_stored_as_one_batch(settings, monkeypatch):
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
    batches = []
    store = OpenEventLogStorage.store_event_batch
    with open_instance(settings, executes=True) as instance:
        monkeypatch.setattr(
            OpenEventLogStorage,
            "store_event_batch",
            lambda self, events: (
                batches.append([event.dagster_event_type.value for event in events]),
                store(self, events),
            ),
        )
        execute(instance)
    assert sorted(batches[0]) == ["ASSET_CHECK_EVALUATION_PLANNED", "ASSET_MATERIALIZATION_PLANNED"]
    assert len(batches) == 1
    assert "DAGSTER_EVENT_BATCH_SIZE" not in os.environ


def test_a_batch_is_stored_whole_or_not_at_all_and_then_event_by_event(settings, capsys):
    with open_instance(settings, executes=True) as instance:
        storage = instance.event_log_storage
        index = Path(storage.path_for_shard("index"))
        with closing(sqlite3.connect(index)) as connection:
            connection.execute(
                "create trigger refuse before insert on asset_check_executions"
                " begin select raise(abort, 'no checks today'); end"
            )
        with pytest.raises(db_errors.IntegrityError, match="no checks today"):
            execute(instance)
        run_id = instance.get_run_records()[0].dagster_run.run_id
        entries = [entry.dagster_event_type for entry in instance.all_logs(run_id)]
        assert "no checks today" in capsys.readouterr().err  # Dagster's own word for a batch that failed
    # Of the batch nothing was kept; then Dagster stored its first event, and failed at the second.
    assert entries.count(dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED) == 1
    assert count_events(index) == 1


def test_the_index_is_committed_after_the_files_of_the_runs(settings, monkeypatch):
    """After a crash in between it must not name an event that the run's own file does not have."""
    commits = []
    store = OpenEventLogStorage.store_event_batch

    def store_and_watch(self, events):
        def watch(connection):
            commits.append(Path(connection.engine.url.database).stem)

        event.listen(Engine, "commit", watch)
        try:
            store(self, events)
        finally:
            event.remove(Engine, "commit", watch)

    monkeypatch.setattr(OpenEventLogStorage, "store_event_batch", store_and_watch)
    with open_instance(settings, executes=True) as instance:
        run_id = execute(instance)
    # The run's file is made first, by transactions of its own.
    assert set(commits[:-1]) == {run_id}
    assert commits[-1] == "index"


def test_what_follows_an_op_is_written_with_the_end_of_its_step(settings, monkeypatch):
    written: list[list[str]] = []
    write = OpenEventLogStorage._write

    def watched(self, events):
        written.append([event.dagster_event_type.value for event in events])
        write(self, events)

    monkeypatch.setattr(OpenEventLogStorage, "_write", watched)
    with open_instance(settings, executes=True) as instance:
        execute(instance)
    # The check looks for the materialization that it judges.
    assert written[-4:-2] == [
        ["STEP_OUTPUT", "ASSET_MATERIALIZATION"],
        ["STEP_OUTPUT", "ASSET_CHECK_EVALUATION", "STEP_SUCCESS"],
    ]
    assert ["STEP_START"] in written


def test_what_waits_for_the_next_event_is_found_by_who_reads(settings):
    with open_instance(settings, executes=True) as instance:
        run_id = execute(instance)
        entry = next(one for one in instance.all_logs(run_id) if one.dagster_event_type == ASSET_MATERIALIZATION)
        instance.event_log_storage.store_event(entry)
        with open_instance(settings) as other:
            assert len(list(other.all_logs(run_id, of_type=ASSET_MATERIALIZATION))) == 1
        assert len(list(instance.all_logs(run_id, of_type=ASSET_MATERIALIZATION))) == 2
        instance.event_log_storage.store_event(entry)
    with open_instance(settings) as other:
        assert len(list(other.all_logs(run_id, of_type=ASSET_MATERIALIZATION))) == 3


def test_an_asset_that_never_was_is_not_looked_for_any_further(settings, monkeypatch):
    with open_instance(settings, executes=True) as instance:
        execute(instance)
        assert [record.asset_entry.asset_key for record in instance.get_asset_records([NOBODY, NUMBERS])] == [NUMBERS]
        assert len(instance.get_asset_records()) == 1
        monkeypatch.setattr(SqliteEventLogStorage, "get_asset_records", None)
        assert instance.get_asset_records([NOBODY]) == []


def test_nothing_stays_open_or_beside_the_files_afterwards(settings):
    with open_instance(settings, executes=True) as instance:
        run_id = execute(instance)
        directory = Path(instance.event_log_storage.path_for_shard(run_id)).parent
        assert list(directory.glob("*-wal"))
    assert not list(settings.dagster_home.rglob("*-wal"))
    with closing(sqlite3.connect(directory / f"{run_id}.db")) as connection:
        assert connection.execute("select count(*) from event_logs").fetchone()[0] > 5


def test_commits_do_not_wait_for_the_disk_and_the_files_stay_in_wal_mode(settings):
    with open_instance(settings, executes=True) as instance:
        for connect in (instance.event_log_storage.index_connection, instance.run_storage.connect):
            with connect() as connection:
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_the_files_of_many_runs_are_not_all_kept_open(settings):
    with open_instance(settings, executes=True) as instance:
        for number in range(12):
            instance.report_engine_event("something", job_name="job", run_id=f"run-{number}")
        assert len(instance.event_log_storage._engines) <= 8
        for number in range(12):
            assert len(instance.all_logs(f"run-{number}")) == 1


def test_a_failed_transaction_leaves_nothing_and_does_not_block_the_next(settings):
    with open_instance(settings, executes=True) as instance:
        with pytest.raises(db_errors.OperationalError), instance.run_storage.connect() as connection:
            write_and_fail(connection)
        assert instance.run_storage.get_cursor_values({"a"}) == {}
        instance.run_storage.set_cursor_values({"a": "c"})
        assert instance.run_storage.get_cursor_values({"a"}) == {"a": "c"}


@pytest.mark.parametrize("base_dir", ["literal", "variable"])
def test_sqlite_storage_that_is_named_in_the_configuration_stays_where_it_is(settings, tmp_path, monkeypatch, base_dir):
    place = tmp_path / "elsewhere"
    monkeypatch.setenv("STORAGE_PLACE", str(place))
    value = str(place) if base_dir == "literal" else "{env: STORAGE_PLACE}"
    settings.dagster_home.mkdir()
    (settings.dagster_home / "dagster.yaml").write_text(f"storage: {{sqlite: {{base_dir: {value}}}}}\n")
    with open_instance(settings, executes=True) as instance:
        assert type(instance.event_log_storage) is OpenEventLogStorage
        run_id = execute(instance)
    assert (place / "history" / "runs" / f"{run_id}.db").exists()
    with open_instance(settings) as instance:
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.SUCCESS


def test_another_storage_is_left_alone(settings):
    settings.dagster_home.mkdir()
    (settings.dagster_home / "dagster.yaml").write_text(
        "event_log_storage:\n"
        "  module: dagster._core.storage.event_log\n"
        "  class: ConsolidatedSqliteEventLogStorage\n"
        f"  config: {{base_dir: {settings.dagster_home}}}\n"
    )
    reference = keep_files_open(read_reference(settings.dagster_home))
    parts = reference.storage_data.config_dict
    assert parts["event_log_storage"]["class_name"] == "ConsolidatedSqliteEventLogStorage"
    assert parts["run_storage"]["class_name"] == "OpenRunStorage"
    postgres = reference._replace(
        storage_data=type(reference.storage_data)("dagster_postgres", "DagsterPostgresStorage", "postgres_url: x")
    )
    assert keep_files_open(postgres) is postgres


def test_a_configuration_that_dagster_refuses_is_named_when_executing(settings):
    prepare_instance(settings)
    (settings.dagster_home / "dagster.yaml").write_text("telemetry: {enabled: maybe}\n")
    with pytest.raises(ConfigurationError, match=r"dagster\.yaml"), open_instance(settings, executes=True):
        pass


def test_what_dagster_asks_with_each_event_is_answered_from_memory_once_it_is_true(settings):
    with open_instance(settings, executes=True) as instance:
        storage = instance.event_log_storage
        assert storage.supports_asset_checks
        assert not storage.has_table("later")
        with storage.index_connection() as connection:
            connection.exec_driver_sql("create table later (id integer)")
        assert storage.has_table("later")
        assert not storage.has_secondary_index("no such migration")
        storage.enable_secondary_index("no such migration")
        assert storage.has_secondary_index("no such migration")
        assert storage.has_asset_key_col("cached_status_data")
        assert not storage.has_asset_key_col("no such column")
