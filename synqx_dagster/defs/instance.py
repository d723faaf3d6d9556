"""Dagster's home, ready to be used: configured, its storage created by one process before several open it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.json_logs import follow_settings
from synqx_dagster.defs.names import METADATA_PREFIX, resource_key, table_pool
from synqx_dagster.defs.pipeline_translator import PipelineTranslator
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import ConfigurationError, SynqxError
from synqx_dagster.settings import Settings

CONFIG_FILE = "dagster.yaml"
#: The process that runs a run by itself, as ``host:pid:start``.
PROCESS_TAG = f"{METADATA_PREFIX}process"

#: Where the instance keeps which limits came from a catalog.
_LIMITS_KEY = f"{METADATA_PREFIX}pool_limits"

_NO_COMPUTE_LOGS = ("dagster.core.storage.noop_compute_log_manager", "NoOpComputeLogManager")

#: Dagster's own setting: up to how many events are stored as one batch. Source: dagster/_core/instance/utils.py.
_BATCH_SIZE = "DAGSTER_EVENT_BATCH_SIZE"

#: What SQLite storage consists of, in the order in which it is created.
_SQLITE_FILES = ("history/runs.db", "schedules/schedules.db", "history/runs/index.db")

_UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def default_config() -> str:
    """The ``dagster.yaml`` that a new home gets."""
    return (Path(__file__).parent / CONFIG_FILE).read_text()


def prepare_instance(settings: Settings) -> Path:
    """Make Dagster's home usable; returns the directory. Idempotent, and safe when several processes do it.

    An existing ``dagster.yaml`` is left as it is. SQLite storage is created here, because the webserver and the
    daemon, started together on an empty home, would both create it and one would fail.

    Raises:
        ConfigurationError: The home cannot be written, or its ``dagster.yaml`` does not fit Dagster.
    """
    home = settings.dagster_home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / ".instance.lock"):
            config = home / CONFIG_FILE
            if not config.exists():
                draft = config.with_suffix(".yaml.new")
                draft.write_text(default_config())
                draft.replace(config)
            if not all((home / path).exists() for path in _SQLITE_FILES):
                with _from_config(home) as instance:
                    _create_storage(instance)
    except OSError as exc:
        raise ConfigurationError(f"Dagster's home {home} cannot be written: {exc.strerror}") from exc
    return home


@contextmanager
def open_instance(settings: Settings, *, executes: bool = False) -> Iterator[dg.DagsterInstance]:
    """The persistent instance of these settings, prepared.

    Args:
        executes: Whether this process is going to execute a run, by itself and for a user who waits. Dagster's files
            then stay open, and stdout and stderr are not redirected into files, as they are by default: a progress
            bar would go there, too, and it costs half a second for each run.

    Raises:
        ConfigurationError: As `prepare_instance`.
    """
    home = prepare_instance(settings)
    if not executes:
        with _from_config(home) as instance:
            yield instance
        return
    from synqx_dagster.defs.storage import keep_files_open, read_reference

    follow_settings(settings, process_stream="stderr")
    with _explain_config(home):
        reference = keep_files_open(read_reference(home))
        data_class = type(reference.compute_logs_data)
        opened = dg.DagsterInstance.from_ref(reference._replace(compute_logs_data=data_class(*_NO_COMPUTE_LOGS, "{}")))
    with opened as instance, _announcing_in_batches():
        yield instance


#: For layers that hand an instance on and know nothing of Dagster.
AnyInstance: TypeAlias = dg.DagsterInstance


class SharedInstance:
    """The instance of a process that answers many requests: opened once, when somebody asks first. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._instance: dg.DagsterInstance | None = None

    def get(self) -> dg.DagsterInstance:
        """The open instance.

        Raises:
            ConfigurationError: As `prepare_instance`.
        """
        with self._lock:
            if self._instance is None:
                self._instance = self._opened.enter_context(open_instance(self._settings))
            return self._instance

    def close(self) -> None:
        """Close it; the next call of `get` opens it again."""
        with self._lock:
            self._instance = None
            self._opened.close()


@contextmanager
def _announcing_in_batches() -> Iterator[None]:
    """Have Dagster hand over the events that announce a run's assets and checks as one batch; read at each event."""
    before = os.environ.get(_BATCH_SIZE)
    os.environ.setdefault(_BATCH_SIZE, "1000")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_BATCH_SIZE]


def sync_pool_limits(instance: dg.DagsterInstance, snapshot: CatalogSnapshot, *, is_whole: bool = True) -> None:
    """Give each connection's pool the limit that the catalog names, and the pools of partitioned tables theirs.

    Idempotent. A limit that was taken out of the catalog becomes the instance's default again; one that somebody set by
    hand for a connection without a limit of its own stays.

    Args:
        is_whole: The snapshot has all of the catalog; else the limits of what it lacks stay as they are.
    """
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    wanted = {
        resource_key(connection.name): connection.max_concurrent_loads
        for connection in snapshot.connections.values()
        if connection.max_concurrent_loads is not None
    }
    wanted.update(dict.fromkeys(_partitioned_tables(snapshot), 1))
    # Two processes that set one limit in SQLite at the same time make twice as many slots, or one of them fails.
    with _locked(Path(instance.root_directory) / ".pools.lock"):
        cursors = instance.daemon_cursor_storage
        ours: dict[str, int] = json.loads(cursors.get_cursor_values({_LIMITS_KEY}).get(_LIMITS_KEY, "{}"))
        if not is_whole:
            unlimited = {resource_key(name) for name in snapshot.connections} - wanted.keys()
            wanted = {pool: limit for pool, limit in ours.items() if pool not in unlimited} | wanted
        for pool in ours.keys() - wanted.keys():
            storage.delete_concurrency_limit(pool)
        present = {limit.name: limit for limit in storage.get_pool_limits()}
        for pool, limit in wanted.items():
            if pool not in present or present[pool].limit != limit or present[pool].from_default:
                storage.set_concurrency_slots(pool, limit)
        if ours != wanted:
            cursors.set_cursor_values({_LIMITS_KEY: json.dumps(wanted)})


def _partitioned_tables(snapshot: CatalogSnapshot) -> Iterator[str]:
    """The pools of tables that are loaded by partitions."""
    translator = Translator(snapshot)
    for mapping in snapshot.mappings.values():
        if mapping.partitions is not None:
            with suppress(SynqxError):  # Whatever keeps a record from being built is told there.
                yield table_pool(translator.target_key(mapping))
    pipelines = PipelineTranslator(translator)
    for pipeline in snapshot.pipelines.values():
        if pipeline.partitions is not None and not pipeline.runs_mappings_only:
            with suppress(SynqxError):
                graph = pipelines.graph(pipeline)
                yield from (table_pool(pipelines.key(graph, step)) for step in graph.steps if step.is_load)


def own_process_tag() -> Mapping[str, str]:
    """The tag by which a later process knows whether this one still lives."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"}


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """End runs whose process on this machine was killed, and give back what they held in pools.

    Only runs that carry `own_process_tag` are judged: those that a code server started are its monitor's to end.

    Returns:
        Ids of the runs that were ended.
    """
    ended = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED)):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
        pid, _, start = process.partition(":")
        if host != socket.gethostname() or not pid.isdigit() or _lives(int(pid), start):
            continue
        instance.report_run_failed(run, f"the process {pid} that ran this run is gone")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended.append(run.run_id)
    return ended


def _lives(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A process id is used again one day; the start time is not.
    return _start_time(pid) == start


def _start_time(pid: int) -> str:
    """When a process started, in the kernel's own count; empty where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command stands in brackets and may hold anything; the fields after it are numbers.
    return stat.rpartition(")")[2].split()[19]


def _from_config(home: Path) -> dg.DagsterInstance:
    with _explain_config(home):
        return dg.DagsterInstance.from_config(str(home))


@contextmanager
def _explain_config(home: Path) -> Iterator[None]:
    try:
        yield
    except dg.DagsterError as exc:
        raise ConfigurationError(f"{home / CONFIG_FILE} does not fit Dagster: {exc}") from exc


def _create_storage(instance: dg.DagsterInstance) -> None:
    """Touch each store once: they are created when they are first read."""
    instance.get_runs_count()
    instance.all_instigator_state()
    instance.fetch_materializations(dg.AssetKey("none"), limit=1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
