"""The lineage of mappings, kept from one load of all definitions to the next in a file of SYNQX_HOME.

Tracing parses every query and expression of the catalog, and most of them are the same in the next revision.

Guarantee: what comes out of the file is what tracing would give. A file of other code, or a damaged one, is as good
as none; so is a home that cannot be read or written. Processes may read and write at once: a file is replaced as a
whole, and of two writers the later one stays.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import synqx_dagster.mapping
import synqx_dagster.model
from synqx_dagster import model
from synqx_dagster.mapping.lineage import Lineage, lineage_digest, trace_lineage
from synqx_dagster.model import Schema, TableName

logger = logging.getLogger(__name__)

#: The lineage of a mapping with this target schema and of a source of this dialect, without connecting.
TraceLineage = Callable[[model.Mapping, Schema | None, str], Lineage]

_FILE = Path("cache") / "lineage.json"


def trace_unconnected(mapping: model.Mapping, schema: Schema | None, dialect: str) -> Lineage:
    """Trace the lineage of a mapping as far as it is known without connecting."""
    return trace_lineage(mapping, schema, None, dialect=dialect)


class LineageCache:
    """Lineage by the digest of what it was traced from. Not thread-safe.

    Args:
        home: SYNQX_HOME; it need not exist, and nothing is kept then.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / _FILE
        self._known: dict[str, Any] = _read(self._path)
        self._used: dict[str, Any] = {}
        self._has_new = False

    def trace(self, mapping: model.Mapping, schema: Schema | None, dialect: str) -> Lineage:
        """As `trace_unconnected`, by looking it up where it was traced before."""
        digest = lineage_digest(mapping, schema, dialect)
        known = self._known.get(digest)
        if known is not None:
            self._used[digest] = known
            return _decode(known)
        lineage = trace_unconnected(mapping, schema, dialect)
        self._known[digest] = self._used[digest] = _encode(lineage)
        self._has_new = True
        return lineage

    def save(self) -> None:
        """Keep what was asked for, and nothing else, so that the file grows with the catalog and not with its history.

        Writes only if something was traced anew. Never fails: without the file the next load traces again.
        """
        if self._has_new:
            _write(self._path, self._used)
            self._has_new = False


# --- the file: a digest of the code and the content, then the content -----------------------------------------


def _read(path: Path) -> dict[str, Any]:
    code = _code_digest()
    if code is None:
        return {}
    try:
        seal, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as exc:
        logger.info("%s cannot be read (%s): lineage is traced anew", path, exc.strerror)
        return {}
    if seal != _seal(content, code):
        logger.info("%s is of another version or damaged: lineage is traced anew", path)
        return {}
    entries: dict[str, Any] = json.loads(content)
    return entries


def _write(path: Path, entries: dict[str, Any]) -> None:
    code = _code_digest()
    if code is None:
        return
    content = json.dumps(entries, separators=(",", ":")).encode()
    draft: Path | None = None
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # A name of its own for each writer, readable by the owner alone.
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        draft = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_seal(content, code) + b"\n" + content)
        draft.replace(path)
    except OSError as exc:
        logger.info("%s cannot be written (%s): lineage is traced anew at each load", path, exc.strerror)
        if draft is not None:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def _seal(content: bytes, code: bytes) -> bytes:
    return hashlib.sha256(code + content).hexdigest().encode()


@lru_cache(maxsize=1)
def _code_digest() -> bytes | None:
    """A digest of the code that traces, for a version kept by hand would be forgotten one day; None where it is not
    in files.
    """
    sources = [Path(__file__)]
    for package in (synqx_dagster.mapping, synqx_dagster.model):
        sources += sorted(source for directory in package.__path__ for source in Path(directory).glob("*.py"))
    digest = hashlib.sha256(importlib.metadata.version("sqlglot").encode())
    try:
        for source in sources:
            digest.update(source.read_bytes())
    except OSError:
        return None
    return digest.digest() if len(sources) > 1 else None


def _encode(lineage: Lineage) -> list[Any]:
    return [
        [[table.name, table.schema] for table in lineage.tables],
        {
            field: [[column] if table is None else [column, table.name, table.schema] for table, column in origins]
            for field, origins in lineage.columns.items()
        },
    ]


def _decode(entry: list[Any]) -> Lineage:
    tables, columns = entry
    return Lineage(
        tuple(TableName(name, schema) for name, schema in tables),
        {
            field: tuple((TableName(*table) if table else None, column) for column, *table in origins)
            for field, origins in columns.items()
        },
    )
