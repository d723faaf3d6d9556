"""Dagster's SQLite storage for a process that writes many events: its files stay open between events.

Guarantee: the files are Dagster's own and hold the same rows; every other process reads and writes them as before,
while this one runs. An event survives the death of the process at once, but for those that Dagster makes of an op's
result after the op has returned: they are written with the step's end, which follows them. A crash of the operating
system may take the last few, and never damages a file.

Dagster opens the file of a run anew for each event, compiles each statement anew, and on closing has SQLite move its
log into the file: three waits for the disk. See docs/decisions/dagster-storage.md.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from dagster import AssetKey
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    DagsterEventType,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.storage.event_log.schema import AssetKeyTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from dagster._utils.concurrency import ConcurrencyClaimStatus
from sqlalchemy import bindparam, create_engine, event, literal, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

#: Files that stay open: the index, the run that is being made, and some that are looked at.
_OPEN_FILES = 8

#: Events that are written into the index as well, by up to four statements.
_MIRRORED = ASSET_EVENTS | ASSET_CHECK_EVENTS | set(EVENT_TYPE_TO_PIPELINE_RUN_STATUS)

#: What Dagster makes of an op's result. The op has returned, and another event follows at once, if only the step's end.
_FOLLOWED = {
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
}

#: Compiled once. Dagster makes a statement of each event, which takes as long as to run it.
_INSERT = SqlEventLogStorageTable.insert()
_IS_ASSET = select(literal(1)).where(AssetKeyTable.c.asset_key == bindparam("name"))


def _kind(event: EventLogEntry) -> DagsterEventType | None:
    return event.dagster_event_type if event.is_dagster_event else None


class OpenEventLogStorage(SqliteEventLogStorage):
    """`SqliteEventLogStorage` that keeps its connections."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        #: Held while a file is written; by a thread that writes two of them together, twice.
        self._files_lock = threading.RLock()
        #: Events that are written with the next one.
        self._waiting: list[EventLogEntry] = []
        #: Transactions that the thread which holds the lock writes several events in.
        self._together: dict[str, Connection] = {}
        #: Tables, columns and migrations that were found; Dagster asks for some of them with each event.
        self._found: set[tuple[str, str]] = set()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> OpenEventLogStorage:
        """As Dagster's, of this class."""
        return cls(inst_data=inst_data, **config_value)

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event, and let those who follow the run know; some wait for the event after them."""
        with self._files_lock:
            self._waiting.append(event)
            if _kind(event) not in _FOLLOWED:
                self._write_waiting()

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events that were announced to belong together; of each file all of them or none."""
        with self._files_lock:
            self._write_waiting()
            self._write(events)

    def get_asset_records(self, asset_keys: Sequence[AssetKey] | None = None) -> Sequence[AssetRecord]:
        """As Dagster's, which each step asks for the tables that it reads; of most of them there is nothing."""
        if asset_keys is not None:
            with self.index_connection() as connection:
                names = [{"name": key.to_string()} for key in asset_keys]
                if not any(connection.execute(_IS_ASSET, name).first() for name in names):
                    return []
        return super().get_asset_records(asset_keys)

    def claim_concurrency_slot(self, *arguments: Any, **options: Any) -> ConcurrencyClaimStatus:
        """As Dagster's, in one transaction instead of five."""
        with self._transaction(INDEX_SHARD_NAME):
            return super().claim_concurrency_slot(*arguments, **options)

    def free_concurrency_slot_for_step(self, run_id: str, step_key: str) -> None:
        """As Dagster's, in one transaction instead of three."""
        with self._transaction(INDEX_SHARD_NAME):
            super().free_concurrency_slot_for_step(run_id, step_key)

    def _write_waiting(self) -> None:
        events, self._waiting = self._waiting, []
        if events:
            self._write(events)

    def _write(self, events: Sequence[EventLogEntry]) -> None:
        """Write events in one transaction for each file.

        The index is committed last, as Dagster does: after a crash it names nothing that the run's file does not have.
        """
        run_ids = sorted({event.run_id for event in events})
        mirrored = any(_kind(event) in _MIRRORED for event in events)
        with ExitStack() as stack:
            for shard in ([INDEX_SHARD_NAME] if mirrored else []) + run_ids:
                stack.enter_context(self._transaction(shard))
            for event in events:
                if _kind(event) in _MIRRORED:
                    super().store_event(event)
                else:
                    with self._connect(event.run_id) as connection:
                        connection.execute(_INSERT, self._event_to_row(event))
        for run_id in run_ids:
            # The web UI watches the file itself, which is not written while its log takes what is new.
            with suppress(FileNotFoundError):
                os.utime(self.path_for_shard(run_id))

    def has_table(self, table_name: str) -> bool:
        """Whether a table is there; none goes away again."""
        return self._remember("table", table_name, super().has_table)

    def has_secondary_index(self, name: str) -> bool:
        """Whether a migration of data was made; none is undone."""
        return self._remember("migration", name, super().has_secondary_index)

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        return self._remember("column", column_name, partial(super()._has_asset_key_col_on_connection, conn))

    def _remember(self, kind: str, name: str, look: Callable[[str], bool]) -> bool:
        if (kind, name) not in self._found:
            if not look(name):
                return False
            self._found.add((kind, name))
        return True

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._files_lock:
            if shard in self._together:
                yield self._together[shard]
                return
            # Whoever reads finds all that was stored.
            self._write_waiting()
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[None]:
        """Have all that this thread writes into a file until the end be one transaction."""
        with self._files_lock:
            if shard in self._together:
                yield
                return
            with self._connect(shard) as connection:
                self._together[shard] = connection
                try:
                    yield
                finally:
                    del self._together[shard]

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            self._engines[shard] = _open(self.conn_string_for_shard(shard))
            while len(self._engines) > _OPEN_FILES:
                self._engines.popitem(last=False)[1].dispose()
        self._engines.move_to_end(shard)
        return self._engines[shard]

    def dispose(self) -> None:
        """Close the files."""
        with self._files_lock:
            self._write_waiting()
        super().dispose()
        with self._files_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


class OpenRunStorage(SqliteRunStorage):
    """`SqliteRunStorage` that keeps its connections."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        super().__init__(conn_string, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> OpenRunStorage:
        """As Dagster's, of this class."""
        return cls.from_local(inst_data=inst_data, **config_value)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection in a transaction, which is committed at the end."""
        with self._engine_lock:
            if self._engine is None:
                self._engine = _open(self._conn_string)
            engine = self._engine
        with engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the file."""
        super().dispose()
        with self._engine_lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()


_REPLACEMENTS: Mapping[str, type] = {
    SqliteEventLogStorage.__name__: OpenEventLogStorage,
    SqliteRunStorage.__name__: OpenRunStorage,
}


def read_reference(home: Path) -> InstanceRef:
    """What ``dagster.yaml`` in a home says of its instance; opens nothing.

    Raises:
        dagster.DagsterError: It does not fit Dagster.
    """
    return InstanceRef.from_dir(str(home))


def keep_files_open(reference: InstanceRef) -> InstanceRef:
    """The same instance with the storages of this module where it has Dagster's own SQLite ones; else as it is."""
    storage = reference.storage_data
    if storage is None:
        return reference
    if storage.class_name == "DagsterSqliteStorage":
        parts = _sqlite_parts(storage.config_dict["base_dir"])
    elif storage.class_name == "CompositeStorage":
        parts = {name: dict(part) for name, part in storage.config_dict.items()}
    else:
        return reference
    for part in parts.values():
        replacement = _REPLACEMENTS.get(part["class_name"])
        if replacement is not None and part["module_name"].startswith("dagster."):
            part.update(module_name=replacement.__module__, class_name=replacement.__name__)
    composite = ConfigurableClassData("dagster._core.storage.legacy_storage", "CompositeStorage", yaml.safe_dump(parts))
    return reference._replace(storage_data=composite)


def _sqlite_parts(base_dir: str | Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What ``storage: sqlite:`` in dagster.yaml stands for."""
    home = base_dir if isinstance(base_dir, str) else os.environ[base_dir["env"]]
    places = {
        "run_storage": ("dagster._core.storage.runs", "SqliteRunStorage", "history"),
        "event_log_storage": ("dagster._core.storage.event_log", "SqliteEventLogStorage", "history/runs"),
        "schedule_storage": ("dagster._core.storage.schedules", "SqliteScheduleStorage", "schedules"),
    }
    return {
        name: {
            "module_name": module,
            "class_name": class_name,
            "config_yaml": yaml.safe_dump({"base_dir": os.path.join(home, directory)}),
        }
        for name, (module, class_name, directory) in places.items()
    }


def _open(conn_string: str) -> Engine:
    engine = create_engine(
        conn_string,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=-1,
        # A connection goes from thread to thread, and belongs to one at a time.
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
    )
    event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: Any, _record: Any) -> None:
    # Dagster's files are in WAL mode, where this waits for the disk at a checkpoint, and not at each commit.
    connection.execute("PRAGMA synchronous=NORMAL").close()
