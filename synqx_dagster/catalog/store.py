"""The catalog: one database with every revision of every record, its secrets and its vault.

Guarantee: opening reads and never creates or migrates; every read is of one revision as a whole; what is read back
is what was written, or the read fails.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection as DatabaseConnection

from synqx_dagster.catalog import load_search, migrate, revisions, tables
from synqx_dagster.catalog.engine import (
    Address,
    make_engine,
    make_file,
    parse_address,
    read_transaction,
    require_file,
    translate_errors,
    write_transaction,
)
from synqx_dagster.catalog.following import SnapshotFollower
from synqx_dagster.catalog.load_search import LoadedTable
from synqx_dagster.catalog.revisions import RecordVersion, RevisionInfo
from synqx_dagster.catalog.snapshot import CatalogSnapshot, not_found, secrets_of
from synqx_dagster.errors import ConfigurationError, NotInitialisedError, SealedError, SynqxError
from synqx_dagster.model import (
    Connection,
    Dataset,
    EnvSecret,
    FileSecret,
    LiteralSecret,
    Pipeline,
    Record,
    RecordKind,
    Replication,
    Schedule,
    SealedSecret,
    Sensor,
)
from synqx_dagster.model import Mapping as MappingRecord
from synqx_dagster.settings import Settings

if TYPE_CHECKING:
    from synqx_dagster.catalog.apply import Commit
    from synqx_dagster.vault import Vault, VaultState

_log = logging.getLogger(__name__)
_RecordT = TypeVar("_RecordT", bound=Record)


@dataclass(frozen=True)
class ConnectionTestRecord:
    """The last test of a connection. ``report`` is what was saved with it."""

    connection_name: str
    last_tested_at: datetime
    last_test_status: str
    message: str
    report: Mapping[str, Any]


class Catalog:
    """An open catalog. Safe to share between threads; each call is a transaction of its own.

    Attributes:
        settings: What it was opened with.
        catalog_id: Random UUID that was made with the catalog.
        after_commit: Called with the number of each revision that this process writes, after it is durable.
        within_commit: Called within the transaction that writes a revision, as its last acts; an error undoes the
            revision.
        within_vault_save: Called within the transaction that changes the vault's state, with the state before (None:
            there was none) and after; an error undoes the change.
    """

    def __init__(self, settings: Settings, address: Address, engine: sa.Engine) -> None:
        """Use `open` or `initialise`."""
        self.settings = settings
        self.after_commit: list[Callable[[int], None]] = []
        self.within_commit: list[Callable[[DatabaseConnection, Commit], None]] = []
        self.within_vault_save: list[Callable[[DatabaseConnection, VaultState | None, VaultState], None]] = []
        self._address = address
        self._engine = engine
        self._vault: Vault | None = None
        self._vault_lock = threading.Lock()
        self._follower = SnapshotFollower(self.read)
        self._versions: dict[tuple[RecordKind, str, int], int] = {}
        with self.read() as connection:
            catalog_id = connection.execute(sa.select(tables.catalog.c.catalog_id)).scalar()
        if catalog_id is None:
            raise NotInitialisedError(f"There is no catalog at {address.display}")
        self.catalog_id: str = catalog_id

    @classmethod
    def open(cls, settings: Settings) -> Catalog:
        """Open a catalog that is there; creates and changes nothing.

        Raises:
            NotInitialisedError: There is none.
            CatalogVersionError: It is of another version.
            ConfigurationError: ``SYNQX_CATALOG_URL`` is wrong, or does not lead to a database.
        """
        address = parse_address(settings)
        require_file(address)
        engine = make_engine(address)
        try:
            with translate_errors(address, first_contact=True), engine.connect() as connection:
                migrate.check_version(connection, address)
            return cls(settings, address, engine)
        except SynqxError:
            engine.dispose()
            raise

    @classmethod
    def initialise(cls, settings: Settings) -> Catalog:
        """Make the catalog, or bring it to this version, and open it. Idempotent, also in two processes at once.

        Raises:
            CatalogVersionError: It is of a newer version; nothing was changed.
            ConfigurationError: ``SYNQX_CATALOG_URL`` is wrong, or does not lead to a database.
        """
        address = parse_address(settings)
        make_file(address)
        engine = make_engine(address)
        try:
            migrate.upgrade(engine, address)
            with write_transaction(engine, address) as connection:
                _identify(connection, address)
            return cls(settings, address, engine)
        except SynqxError:
            engine.dispose()
            raise

    def close(self) -> None:
        """Close pooled connections. The catalog may be used again."""
        self._engine.dispose()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- transactions: for the modules of this package ------------------------------------------------------

    def read(self) -> AbstractContextManager[DatabaseConnection]:
        """A context manager: a transaction that only reads."""
        return read_transaction(self._engine, self._address)

    def write(self) -> AbstractContextManager[DatabaseConnection]:
        """A context manager: a transaction that may write."""
        return write_transaction(self._engine, self._address)

    def announce(self, revision: int) -> None:
        """Call what waits for new revisions. The revision is durable: a failing callback is logged, not raised."""
        for callback in tuple(self.after_commit):
            try:
                callback(revision)
            except Exception:  # noqa: BLE001 # The caller must learn that the revision is there, whatever fails now.
                _log.warning("Revision %d is applied, but a callback failed", revision, exc_info=True)

    # --- reading ----------------------------------------------------------------------------------------------

    def latest_revision(self) -> int:
        """Number of the latest revision, 0 before the first; one indexed read."""
        with self.read() as connection:
            return revisions.read_latest(connection)

    def snapshot(self, revision: int | None = None) -> CatalogSnapshot:
        """Every record of a revision (None: the latest).

        Raises:
            NotFoundError: There is no such revision.
        """
        with self.read() as connection:
            number = revisions.resolve_revision(connection, revision)
            return CatalogSnapshot.from_records(number, revisions.iter_records(connection, number))

    def latest_snapshot(self) -> CatalogSnapshot:
        """Every record of the latest revision, kept in memory and brought up to date by what changed since."""
        return self._follower.latest()

    def snapshot_for(
        self,
        revision: int | None = None,
        *,
        mappings: Iterable[str] = (),
        pipelines: Iterable[str] = (),
        schedules: Iterable[str] = (),
        sensors: Iterable[str] = (),
        replications: Iterable[str] = (),
        connections: Iterable[str] = (),
    ) -> CatalogSnapshot:
        """The named records of a revision and what they refer to, by at most eight indexed queries.

        Raises:
            NotFoundError: There is no such revision, or no record of a name; the hint gives the nearest name.
        """
        with self.read() as connection:
            number = revisions.resolve_revision(connection, revision)
            reader = _PartialReader(connection, number)
            found_schedules = reader.read(Schedule, schedules)
            found_sensors = reader.read(Sensor, sensors)
            found_replications = reader.read(Replication, replications)
            found_pipelines = reader.read(
                Pipeline, [*pipelines, *(name for item in found_schedules for name in item.pipeline_names)]
            )
            found_mappings = reader.read(
                MappingRecord,
                [
                    *mappings,
                    *(name for schedule in found_schedules for name in schedule.mapping_names),
                    *(name for sensor in found_sensors for name in sensor.mapping_names),
                    *(name for pipeline in found_pipelines for name in pipeline.mapping_names),
                ],
            )
            nodes = [node for pipeline in found_pipelines for node in pipeline.nodes]
            found_assets = reader.read(Dataset, [name for item in found_pipelines for name in item.asset_names])
            ends = [(item.source_connection, item.target_connection) for item in found_mappings]
            ends += [(one.source_connection, one.target_connection) for one in found_replications]
            reader.read(
                Connection,
                [
                    *connections,
                    *(name for pair in ends for name in pair),
                    *(item.connection for item in found_assets),
                    *(node.connection_name for node in nodes if node.connection_name),
                ],
            )
            schemas = [
                *(item.target_schema for item in found_mappings),
                *(item.target_schema for item in found_assets),
                *(node.schema_name for node in nodes),
            ]
            reader.read_names("schema", [name for name in schemas if name])
            return CatalogSnapshot.from_records(number, reader.records)

    def snapshot_to_run(self, names: Collection[str]) -> CatalogSnapshot:
        """Mappings, pipelines and schedules of the latest revision that have one of these names, and what they need.

        A name that nothing has is passed over.

        Raises:
            NotFoundError: There is no revision yet.
        """
        with self.read() as connection:
            number = revisions.resolve_revision(connection, None)
            mappings, pipelines, schedules = (
                revisions.read_names(connection, number, kind, names) for kind in ("mapping", "pipeline", "schedule")
            )
        return self.snapshot_for(number, mappings=mappings, pipelines=pipelines, schedules=schedules)

    def snapshot_for_loads(
        self, revision: int, tables: Collection[LoadedTable], pipelines: Collection[str] = ()
    ) -> CatalogSnapshot:
        """The mappings and pipelines of a revision that load tables, the named pipelines, and what all refer to.

        A pipeline of which there is none is passed over.

        Raises:
            NotFoundError: There is no such revision.
        """
        with self.read() as connection:
            number = revisions.resolve_revision(connection, revision)
            mappings = load_search.find_mappings(connection, number, tables)
            loading = load_search.find_pipelines(connection, number, tables)
            known = set(pipelines).intersection(revisions.read_names(connection, number, "pipeline"))
        return self.snapshot_for(number, mappings=mappings, pipelines=[*loading, *known])

    def versions(self, kind: RecordKind, name: str) -> list[RecordVersion]:
        """Every version of a record, the oldest first; a record that was removed and made again goes on counting."""
        with self.read() as connection:
            return revisions.read_versions(connection, kind, name)

    def written_by(self, author: str) -> list[tuple[RecordKind, str, str | None]]:
        """Kind, name and reason of the records whose current version an author has written."""
        with self.read() as connection:
            return revisions.read_written_by(connection, author)

    def removed_names(self, kind: RecordKind) -> list[str]:
        """Names of records of a kind that the catalog once had, and has no more."""
        with self.read() as connection:
            return revisions.read_removed_names(connection, kind)

    def find_version(self, kind: RecordKind, name: str, revision: int) -> int:
        """Which version of a record a revision has: 1 for the first; 0 where the record is not there.

        It is asked by each step of a run, and what a revision says never changes.
        """
        key = (kind, name, revision)
        if key not in self._versions:
            with self.read() as connection:
                found = revisions.count_versions(connection, kind, name, revision)
                if revision > revisions.read_latest(connection):
                    return found
            self._versions[key] = found
        return self._versions[key]

    def history(self, limit: int = 50) -> list[RevisionInfo]:
        """The latest revisions, newest first."""
        with self.read() as connection:
            return revisions.read_history(connection, limit)

    def revisions_of(self, numbers: Iterable[int]) -> dict[int, RevisionInfo]:
        """Some revisions by their numbers."""
        with self.read() as connection:
            return revisions.read_revisions(connection, numbers)

    # --- secrets ------------------------------------------------------------------------------------------------

    @property
    def vault(self) -> Vault:
        """The vault whose envelopes this catalog keeps; sealed until somebody unseals it. Always the same object."""
        from synqx_dagster.catalog.secrets import CatalogVaultStorage
        from synqx_dagster.vault import Vault

        with self._vault_lock:
            if self._vault is None:
                self._vault = Vault(CatalogVaultStorage(self._engine, self._address, self.within_vault_save))
            return self._vault

    def unseal(self) -> Vault:
        """The vault, unsealed from the settings if it is not yet.

        Raises:
            SealedError: Nothing in the settings opens it, or an operator has sealed it.
        """
        if not self.vault.is_unsealed:
            self.vault.unseal_from_settings(self.settings)
        return self.vault

    def resolve_secret(self, record: Record, field: str) -> str | None:
        """The text of a record's secret field; None when it is not set.

        A sealed secret is looked up by the record's name and the version in the record, so that a run that
        keeps an old revision keeps its password, too. An operator's seal keeps back references as well: nothing
        connects with a password until somebody unlocks.

        Raises:
            SealedError: It is in the vault, and the vault is sealed; or an operator sealed it.
            ConfigurationError: The environment variable or the file is missing.
            IntegrityError: What is stored is not what was written.
        """
        from synqx_dagster.catalog import secrets

        value = secrets_of(record).get(field)
        place = f"{record.kind} {record.name!r}, {field}"
        match value:
            case None:
                return None
            case LiteralSecret():
                return value.value.get_secret_value()
            case EnvSecret():
                self._refuse_operators_seal()
                return secrets.read_env_secret(value, place)
            case FileSecret():
                self._refuse_operators_seal()
                return secrets.read_file_secret(value, place)
            case SealedSecret(version=None):
                raise ConfigurationError(f"{place}: the record does not say which version of the secret it means")
            case SealedSecret(version=int(version)):
                with self.read() as database:
                    stored = secrets.read_envelope(database, record, field, version)
                return self.unseal().open_secret(stored.address, stored.envelope)
        raise AssertionError(value)

    def _refuse_operators_seal(self) -> None:
        if self.vault.status().sealed_by_operator:
            raise SealedError("an operator sealed the vault", hint="run `synqx unlock`")

    # --- operational: no part of any revision -----------------------------------------------------------------

    def save_test(self, connection_name: str, report: Mapping[str, object]) -> None:
        """Keep the result of a connection's test in place of the one before.

        Args:
            connection_name: A connection of the latest revision.
            report: The fields of a `ConnectionReport`: ``ok``, ``message`` and more; plain values.

        Raises:
            NotFoundError: There is no such connection.
        """
        row = {
            "tested_at": datetime.now(UTC),
            "status": "ok" if report.get("ok") else "failed",
            "report": json.dumps(dict(report), sort_keys=True),
        }
        table = tables.connection_test
        with self.write() as connection:
            record_id = self._lock_connection(connection, connection_name)
            connection.execute(sa.delete(table).where(table.c.record_id == record_id))
            connection.execute(sa.insert(table), {"record_id": record_id, **row})

    def find_test(self, connection_name: str) -> ConnectionTestRecord | None:
        """The last test of a connection; None when it has not been tested."""
        return self.find_tests([connection_name]).get(connection_name)

    def find_tests(self, connection_names: Iterable[str]) -> dict[str, ConnectionTestRecord]:
        """The last tests of connections by their names; those that have not been tested are left out."""
        table, names = tables.connection_test, list(connection_names)
        if not names:
            return {}
        query = (
            sa.select(tables.record.c.name, table)
            .join_from(table, tables.record, table.c.record_id == tables.record.c.record_id)
            .where(tables.record.c.kind == "connection", tables.record.c.name.in_(names))
        )
        with self.read() as connection:
            rows = connection.execute(query).all()
        reports = {row.name: json.loads(row.report) for row in rows}
        return {
            row.name: ConnectionTestRecord(
                row.name, row.tested_at, row.status, str(reports[row.name].get("message", "")), reports[row.name]
            )
            for row in rows
        }

    def _lock_connection(self, connection: DatabaseConnection, name: str) -> int:
        """The id of a connection's record; two tests of one connection are saved one after the other."""
        record, version = tables.record, tables.record_version
        query = (
            sa.select(record.c.record_id)
            .join_from(record, version, record.c.record_id == version.c.record_id)
            .where(record.c.kind == "connection", record.c.name == name, version.c.valid_to.is_(None))
            .with_for_update(of=record)
        )
        record_id = connection.execute(query).scalar()
        if record_id is None:
            latest = revisions.read_latest(connection)
            raise not_found("connection", name, revisions.read_names(connection, latest, "connection"))
        return int(record_id)


class _PartialReader:
    """Reads named records of one revision and keeps them."""

    def __init__(self, connection: DatabaseConnection, revision: int) -> None:
        self.records: list[Record] = []
        self._connection = connection
        self._revision = revision

    def read(self, record_type: type[_RecordT], names: Iterable[str]) -> list[_RecordT]:
        found = self.read_names(record_type.kind, names)
        return [record for record in found if isinstance(record, record_type)]

    def read_names(self, kind: RecordKind, names: Iterable[str]) -> list[Record]:
        wanted = set(names)
        if not wanted:
            return []
        found = list(revisions.iter_records(self._connection, self._revision, kind, wanted))
        for name in sorted(wanted - {record.name for record in found}):
            known = revisions.read_names(self._connection, self._revision, kind)
            raise not_found(kind, name, known, revision=self._revision)
        self.records.extend(found)
        return found


def _identify(connection: DatabaseConnection, address: Address) -> None:
    if address.path is None:
        # Two processes may be here at once; the second one waits and then finds the row.
        connection.exec_driver_sql(f"lock table {tables.catalog.name} in share row exclusive mode")
    if connection.execute(sa.select(tables.catalog.c.catalog_id)).first() is None:
        connection.execute(
            sa.insert(tables.catalog),
            {"singleton": 1, "catalog_id": str(uuid.uuid4()), "created_at": datetime.now(UTC)},
        )
