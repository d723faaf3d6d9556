"""Rows between steps: Arrow files in a directory of the machine, or in an object store that all machines reach.

One dataset is a folder: in it a folder for each attempt, with ``rows.arrow`` and a file of bad rows for each validate
node that set some aside, and ``dataset.json``, which names one attempt and is put in place last, in one piece.
Guarantee: what ``dataset.json`` names is complete, however many attempts write at the same time; without it there is no
dataset.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synqx_dagster.errors import ConfigurationError, FatalError, NotFoundError, RetryableError
from synqx_dagster.model.table import Column
from synqx_dagster.pipelines.carriage import arrow_schema, make_column, native_of
from synqx_dagster.pipelines.stream import StepStream, StoredRows
from synqx_dagster.transfer.quarantine import BadRowSpool, Breach, spool_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileInfo

ROWS, DATASET = "rows.arrow", "dataset.json"
_VERSION = 1

#: Characters of a folder's name.
_MAX_PART = 200


@dataclass(frozen=True)
class Watermarks:
    """What an incremental extract went on from, and what is to be committed with its rows; as ledgers have it."""

    before: str | None
    after: str | None


@dataclass(frozen=True)
class Dataset:
    """What an attempt at a step has stored. ``bad_rows`` counts them by breach, for each validate node."""

    attempt: str
    columns: tuple[Column, ...]
    rows: int
    bytes: int
    bad_rows: dict[str, Counter[Breach]] = field(default_factory=dict)
    watermarks: Watermarks | None = None
    #: The attempts whose rows these are made of, by the node that stored them.
    made_of: dict[str, str] = field(default_factory=dict)


class Exchange:
    """Where steps leave rows for each other.

    Args:
        location: A directory, or a URI such as ``s3://bucket/prefix?region=eu-central-1``, as Arrow's filesystems
            take it; credentials come from the environment of the process.
    """

    def __init__(self, location: str) -> None:
        from pyarrow.fs import FileSystem

        #: For messages.
        self.location = _without_keys(location)
        try:
            self._files, self._base = FileSystem.from_uri(location)
        except Exception as exc:  # noqa: BLE001  # whatever Arrow's filesystems raise
            raise ConfigurationError(
                f"{self.location!r} is no place for the rows between steps: {type(exc).__name__}",
                hint="give an absolute directory, or a URI such as s3://bucket/prefix",
            ) from None

    def write(
        self,
        path: Sequence[str],
        stream: StepStream,
        watermarks: Watermarks | None,
        made_of: Mapping[str, str] | None = None,
    ) -> Dataset:
        """Store the rows of a step; they take the place of what an earlier attempt has stored.

        Raises:
            RetryableError: There is no room, or the store does not answer.
            SynqxError: What a node of the step raised.
        """
        import pyarrow as pa

        attempt = uuid.uuid4().hex
        folder = posixpath.join(self._folder(path), attempt)
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        rows = size = 0
        with _explained(self.location):
            self._files.create_dir(folder, recursive=True)
            sink = self._files.open_output_stream(posixpath.join(folder, ROWS))
            with sink, pa.ipc.new_stream(sink, arrow_schema(stream.columns), options=options) as writer:
                for batch in stream.iter_batches():
                    rows += batch.num_rows
                    size += batch.nbytes
                    writer.write_batch(batch)
        bad_rows: dict[str, Counter[Breach]] = {}
        for node_id, spool in stream.spools.items():
            if spool.rows:
                bad_rows[node_id] = spool.counts
                self._write_bad_rows(posixpath.join(folder, _bad_rows_file(node_id)), spool)
        dataset = Dataset(attempt, stream.columns, rows, size, bad_rows, watermarks, dict(made_of or {}))
        with _explained(self.location):
            fresh = posixpath.join(folder, DATASET)
            with self._files.open_output_stream(fresh) as out:
                out.write(json.dumps(_to_json(dataset)).encode())
            self._files.move(fresh, self._file(path, DATASET))
        return dataset

    def _write_bad_rows(self, file: str, spool: BadRowSpool) -> None:
        import pyarrow as pa

        with (
            _explained(self.location),
            self._files.open_output_stream(file) as sink,
            pa.ipc.new_stream(sink, spool_schema()) as writer,
        ):
            for batch in spool.iter_batches():
                writer.write_batch(batch)

    def probe(self, name: str) -> None:
        """Write a file below a folder of its own and remove it, as a process does that will be given rows to store.

        Raises:
            RetryableError: This user may not write there, or the store does not answer.
        """
        folder = self._folder((name,))
        with _explained(self.location):
            self._files.create_dir(folder, recursive=True)
            with self._files.open_output_stream(posixpath.join(folder, DATASET)) as out:
                out.write(b"{}")
            self._files.delete_dir(folder)

    def find(self, path: Sequence[str]) -> Dataset | None:
        """What is stored at a path; None if there is nothing, or nothing complete."""
        try:
            with _explained(self.location), self._files.open_input_stream(self._file(path, DATASET)) as source:
                text = source.read()
        except NotFoundError:
            return None
        try:
            return _from_json(json.loads(text))
        except (ValueError, KeyError, TypeError) as exc:
            raise FatalError(
                f"what the step {path[-1]!r} has stored was written by another version of SynqX, or is damaged",
                hint="run the whole pipeline",
            ) from exc

    def read(self, path: Sequence[str], dataset: Dataset) -> StoredRows:
        """A dataset as an input of a step."""
        file = self._file(path, dataset.attempt, ROWS)
        return StoredRows(dataset.columns, dataset.rows, lambda: self._iter_file(file))

    def give_bad_rows(self, path: Sequence[str], dataset: Dataset, node_id: str, spool: BadRowSpool) -> None:
        """Put the rows that a validate node has set aside into a spool."""
        if node_id in dataset.bad_rows:
            file = self._file(path, dataset.attempt, _bad_rows_file(node_id))
            spool.absorb(self._iter_file(file), dataset.bad_rows[node_id])

    def remove(self, path: Sequence[str]) -> None:
        """Remove the datasets below a path; nothing if there are none."""
        self.remove_folder(self._folder(path))

    def remove_folder(self, folder: str) -> None:
        """Remove a folder of datasets; nothing if there is none."""
        with _explained(self.location):
            # First what says that there is something: a reader must not find it beside rows that are half gone.
            for found in self._folders(folder):
                with suppress(FileNotFoundError):
                    self._files.delete_file(posixpath.join(found.path, DATASET))
            with suppress(FileNotFoundError):
                self._files.delete_dir(folder)

    def list(self, path: Sequence[str]) -> list[tuple[str, float]]:
        """Names of the folders below a path, each with the time of its last change in seconds since 1970."""
        with _explained(self.location):
            found = self._folders(self._folder(path))
        return sorted((one.base_name, one.mtime.timestamp() if one.mtime else 0.0) for one in found)

    def folders_by_run(self) -> dict[str, tuple[str, ...]]:
        """Where each run has stored rows, whichever its pipelines are called, and whether there still are such."""
        found: dict[str, tuple[str, ...]] = {}
        with _explained(self.location):
            for pipeline in self._folders(self._base):
                for run in self._folders(pipeline.path):
                    found[run.base_name] = (*found.get(run.base_name, ()), run.path)
        return found

    def _folders(self, folder: str) -> Sequence[FileInfo]:
        from pyarrow.fs import FileSelector, FileType

        found = self._files.get_file_info(FileSelector(folder, allow_not_found=True))
        return [one for one in found if one.type == FileType.Directory]

    def _iter_file(self, file: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        with _explained(self.location):
            source = self._files.open_input_stream(file)
            reader = pa.ipc.open_stream(source)
        with source, reader:
            while True:
                with _explained(self.location):
                    try:
                        batch = reader.read_next_batch()
                    except StopIteration:
                        return
                yield batch

    def _folder(self, path: Sequence[str]) -> str:
        return posixpath.join(self._base, *(_safe(part) for part in path))

    def _file(self, path: Sequence[str], *names: str) -> str:
        return posixpath.join(self._folder(path), *names)


def _without_keys(location: str) -> str:
    """A location as it may be shown: a URI as Arrow takes it may hold keys, before its bucket and as parameters."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return location
    place, _, parameters = rest.partition("?")
    if "@" in parameters:
        # A question mark in a key, or an address in a parameter: nobody knows.
        return f"{scheme}://***"
    # A key may have slashes.
    _, at, bucket = place.rpartition("@")
    return f"{scheme}://***@{bucket}" if at else f"{scheme}://{place}"


def _bad_rows_file(node_id: str) -> str:
    return f"bad_rows.{_safe(node_id)}.arrow"


def _safe(part: str) -> str:
    from urllib.parse import quote

    quoted = quote(part, safe=" ")
    if len(quoted) > _MAX_PART:
        # A file system's names end at 255 bytes, and a letter beyond ASCII takes six.
        quoted = f"{quoted[: _MAX_PART - 33]}~{hashlib.sha256(part.encode()).hexdigest()[:32]}"
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


@contextmanager
def _explained(location: str) -> Iterator[None]:
    """Raise SynqX's errors in place of a filesystem's."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as exc:
        raise NotFoundError(f"there are no stored rows in {location}") from exc
    except (OSError, pa.ArrowException) as exc:
        raise RetryableError(
            f"the rows between steps cannot be kept in {location}: {type(exc).__name__}",
            hint="is there room, and may this user write there? SYNQX_EXCHANGE says where it is",
        ) from exc


def _to_json(dataset: Dataset) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "attempt": dataset.attempt,
        "columns": [[column.name, native_of(column)] for column in dataset.columns],
        "rows": dataset.rows,
        "bytes": dataset.bytes,
        "bad_rows": {
            node_id: [[breach.column, breach.reason, count] for breach, count in counts.items()]
            for node_id, counts in dataset.bad_rows.items()
        },
        "made_of": dataset.made_of,
        "watermarks": None if dataset.watermarks is None else [dataset.watermarks.before, dataset.watermarks.after],
    }


def _from_json(values: dict[str, Any]) -> Dataset:
    if values["version"] != _VERSION:
        raise ValueError(f"version {values['version']}")
    watermarks = values["watermarks"]
    return Dataset(
        values["attempt"],
        tuple(make_column(name, native) for name, native in values["columns"]),
        values["rows"],
        values["bytes"],
        {
            node_id: Counter({Breach(column, reason): count for column, reason, count in found})
            for node_id, found in values["bad_rows"].items()
        },
        None if watermarks is None else Watermarks(*watermarks),
        dict(values["made_of"]),
    )
