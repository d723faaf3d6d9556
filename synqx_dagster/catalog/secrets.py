"""Secrets in the catalog: where envelopes and the vault's state are kept, and how a secret becomes text.

Guarantee: the catalog's tables hold envelopes only. Every version of a secret is kept, so that any old revision
still opens; a version is never used twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from synqx_dagster.catalog import tables
from synqx_dagster.catalog.engine import Address, read_transaction, write_transaction
from synqx_dagster.catalog.people_tables import signing_key
from synqx_dagster.errors import ConfigurationError, ConflictError, IntegrityError
from synqx_dagster.model import EnvSecret, FileSecret, Record
from synqx_dagster.vault.envelope import SecretAddress
from synqx_dagster.vault.state import VaultState
from synqx_dagster.vault.storage import StoredSecret

_SINGLETON = 1
_PAGE_ROWS = 500
_MAX_SECRET_FILE_BYTES = 1024 * 1024


def secret_address(record_id: int, field: str, version: int) -> SecretAddress:
    """The address that an envelope is bound to."""
    return SecretAddress(table=tables.secret.name, row_id=record_id, field=field, version=version)


def signing_key_address(key_number: int) -> SecretAddress:
    """The address that the envelope of a signing key is bound to."""
    return SecretAddress(table=signing_key.name, row_id=key_number, field="key", version=1)


VaultHook = Callable[[Connection, VaultState | None, VaultState], None]


class CatalogVaultStorage:
    """The vault's storage in the catalog (`synqx_dagster.vault.VaultStorage`); every call is one transaction.

    Args:
        engine: Of the catalog.
        address: Of the catalog.
        within_save: Called within each transaction that changes the state.
    """

    def __init__(self, engine: Engine, address: Address, within_save: Sequence[VaultHook] = ()) -> None:
        self._engine = engine
        self._address = address
        self._within_save = within_save

    def load(self) -> VaultState | None:
        """The vault's state; one indexed read."""
        with read_transaction(self._engine, self._address) as connection:
            text = connection.execute(sa.select(tables.vault_state.c.state)).scalar()
        return None if text is None else VaultState.from_json(text)

    def save(self, state: VaultState, *, replacing: VaultState | None) -> None:
        """Replace the state if it is still ``replacing``; raises `ConflictError` if it is not."""
        table = tables.vault_state
        with write_transaction(self._engine, self._address) as connection:
            if replacing is None:
                # A savepoint: what PostgreSQL refuses would otherwise end the whole transaction.
                try:
                    with connection.begin_nested():
                        connection.execute(sa.insert(table), {"singleton": _SINGLETON, "state": state.to_json()})
                except exc.IntegrityError:
                    raise _moved() from None
            else:
                updated = connection.execute(
                    sa.update(table).where(table.c.state == replacing.to_json()).values(state=state.to_json())
                )
                if updated.rowcount != 1:
                    raise _moved()
            for hook in tuple(self._within_save):
                hook(connection, replacing, state)

    def iter_secrets(self) -> Iterator[StoredSecret]:
        """Every envelope, in pages of their own transaction each, so that nothing is held between them."""
        with read_transaction(self._engine, self._address) as connection:
            signing_keys = connection.execute(sa.select(signing_key.c.key_number, signing_key.c.envelope)).all()
        for row in signing_keys:
            yield StoredSecret(signing_key_address(row.key_number), bytes(row.envelope))
        table = tables.secret
        key = (table.c.record_id, table.c.field, table.c.version)
        last: tuple[int, str, int] | None = None
        while True:
            query = sa.select(table).order_by(*key).limit(_PAGE_ROWS)
            if last is not None:
                query = query.where(sa.tuple_(*key) > sa.tuple_(*(sa.literal(value) for value in last)))
            with read_transaction(self._engine, self._address) as connection:
                rows = connection.execute(query).all()
            for row in rows:
                yield StoredSecret(secret_address(row.record_id, row.field, row.version), bytes(row.envelope))
            if len(rows) < _PAGE_ROWS:
                return
            last = (rows[-1].record_id, rows[-1].field, rows[-1].version)

    def replace_envelope(self, address: SecretAddress, *, old: bytes, new: bytes) -> bool:
        """Replace one envelope if it is still ``old``."""
        if address.table == tables.secret.name:
            place = _at(address.row_id, address.field, address.version)
            update = sa.update(tables.secret).where(*place, tables.secret.c.envelope == old)
        elif address == signing_key_address(address.row_id):
            update = sa.update(signing_key).where(
                signing_key.c.key_number == address.row_id, signing_key.c.envelope == old
            )
        else:
            return False
        with write_transaction(self._engine, self._address) as connection:
            replaced = connection.execute(update.values(envelope=new))
        return bool(replaced.rowcount)


def _moved() -> ConflictError:
    return ConflictError("Somebody else changed the vault in the meantime", hint="try again")


def _at(record_id: int, field: str, version: int) -> tuple[sa.ColumnElement[bool], ...]:
    table = tables.secret
    return table.c.record_id == record_id, table.c.field == field, table.c.version == version


# --- within a transaction of the catalog ----------------------------------------------------------------------


def hold_vault_state(connection: Connection) -> None:
    """Keep the vault's state as it is until this transaction ends, so that a key in use is not dropped meanwhile."""
    connection.execute(sa.select(tables.vault_state.c.singleton).with_for_update(read=True))


def next_version(connection: Connection, record_id: int, field: str) -> int:
    """The version that the next value of a field gets, from 1."""
    table = tables.secret
    query = sa.select(sa.func.max(table.c.version)).where(table.c.record_id == record_id, table.c.field == field)
    return int(connection.execute(query).scalar() or 0) + 1


def insert_envelope(connection: Connection, address: SecretAddress, envelope: bytes) -> None:
    """Store a new version of a secret."""
    connection.execute(
        sa.insert(tables.secret),
        {
            "record_id": address.row_id,
            "field": address.field,
            "version": address.version,
            "envelope": envelope,
        },
    )


def read_envelope(connection: Connection, record: Record, field: str, version: int) -> StoredSecret:
    """The envelope of one version of a record's secret.

    Raises:
        IntegrityError: There is none, although a record names it.
    """
    table = tables.secret
    query = (
        sa.select(table)
        .join_from(table, tables.record, table.c.record_id == tables.record.c.record_id)
        .where(
            tables.record.c.kind == record.kind,
            tables.record.c.name == record.name,
            table.c.field == field,
            table.c.version == version,
        )
    )
    row = connection.execute(query).first()
    if row is None:
        raise IntegrityError(
            f"The catalog has no version {version} of {field} of the {record.kind} {record.name!r}",
            hint="apply the record again with its value",
        )
    return StoredSecret(secret_address(row.record_id, row.field, row.version), bytes(row.envelope))


# --- references -------------------------------------------------------------------------------------------------


def read_env_secret(secret: EnvSecret, place: str, environ: Mapping[str, str] | None = None) -> str:
    """The text of an environment variable.

    Raises:
        ConfigurationError: It is not set in this process.
    """
    value = (os.environ if environ is None else environ).get(secret.env)
    if value is None:
        raise ConfigurationError(
            f"{place}: the environment variable {secret.env} is not set",
            hint="set it in the process that connects (the code server and the run workers, too)",
        )
    return value


def read_file_secret(secret: FileSecret, place: str) -> str:
    """The text of a file without its last line end.

    Raises:
        ConfigurationError: It cannot be read, is not UTF-8, or is larger than 1 MiB.
    """
    path = Path(secret.file).expanduser()
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_SECRET_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise ConfigurationError(f"{place}: the file {path} cannot be read: {reason}") from error
    if len(data) > _MAX_SECRET_FILE_BYTES:
        raise ConfigurationError(f"{place}: the file {path} is larger than {_MAX_SECRET_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        # The cause carries the file's bytes, so it is cut off.
        raise ConfigurationError(f"{place}: the file {path} is not UTF-8 text") from None
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
