"""Which revision a process defines, and how every process of a run comes to the same one.

The process that starts a run (a code server, or a command that executes in place) takes the catalog's latest
revision, once, and hands its number on with the run's execution plan; every other process of that run reads it
back. This is the only module that knows how Dagster passes it on.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from functools import partial

import dagster as dg
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType

from synqx_dagster.defs.access import open_catalog
from synqx_dagster.defs.json_logs import follow_settings
from synqx_dagster.defs.reload import record_own_server
from synqx_dagster.defs.repository import CatalogRepository, CatalogRepositoryData
from synqx_dagster.errors import CatalogVersionError, NotInitialisedError
from synqx_dagster.settings import Settings, load_settings

logger = logging.getLogger(__name__)

#: Key of the revision in the metadata that Dagster hands from process to process.
REVISION_KEY = "synqx/revision"
#: Dagster's name for the one repository of a code location; the web UI does not show it.
REPOSITORY_NAME = "__repository__"

#: A worker that serves many runs (Celery) meets several revisions.
_KEPT_REVISIONS = 8

_lock = threading.RLock()
_first_revision: dict[Settings, int] = {}
_data: OrderedDict[tuple[Settings, int | None], CatalogRepositoryData] = OrderedDict()


def load_repository(settings: Settings | None = None) -> CatalogRepository:
    """The definitions of the revision that this process is to use.

    Dagster calls this several times in one process, at first without saying which revision a run has. So the
    revision is, in this order: the one handed over with a run, the first one this process saw, the latest.

    Without a catalog there are no definitions but the sensor that waits for one.

    Raises:
        CatalogVersionError, ConfigurationError: The catalog cannot be read, or the run's revision is not in it.
    """
    settings = settings or load_settings()
    follow_settings(settings)
    context = DefinitionsLoadContext.get()
    with _lock:
        revision = _choose_revision(settings, _handed_over(context))
        if revision is not None:
            context.add_to_pending_reconstruction_metadata(REVISION_KEY, str(revision))
        data = _data_of(settings, revision)
    if context.load_type == DefinitionsLoadType.INITIALIZATION:
        record_own_server(settings)
    return CatalogRepository(
        REPOSITORY_NAME,
        repository_data=data,
        metadata={} if revision is None else {REVISION_KEY: dg.MetadataValue.int(revision)},
    )


def forget_revisions() -> None:
    """Let this process open its catalogs anew and see their latest revisions; not for a code server."""
    with _lock:
        open_catalog.cache_clear()
        _first_revision.clear()
        _data.clear()


def _handed_over(context: DefinitionsLoadContext) -> int | None:
    if context.load_type != DefinitionsLoadType.RECONSTRUCTION:
        return None
    text = context.reconstruction_metadata.get(REVISION_KEY)
    if text is None:
        return None
    if not str(text).isdigit():
        raise CatalogVersionError(f"this run was planned by another version of SynqX: its revision is {text!r}")
    return int(text)


def _choose_revision(settings: Settings, handed_over: int | None) -> int | None:
    if handed_over is not None:
        return handed_over
    if settings in _first_revision:
        return _first_revision[settings]
    try:
        revision = open_catalog(settings).latest_revision()
    except NotInitialisedError as exc:
        logger.warning("no definitions: %s", exc)
        return None
    if revision == 0:
        logger.warning("no definitions: the catalog is empty; write YAML, then run `synqx apply`")
    _first_revision[settings] = revision
    return revision


def _data_of(settings: Settings, revision: int | None) -> CatalogRepositoryData:
    key = (settings, revision)
    if key not in _data:
        _data[key] = CatalogRepositoryData(settings, revision, partial(open_catalog, settings))
        while len(_data) > _KEPT_REVISIONS:
            _data.popitem(last=False)
    _data.move_to_end(key)
    return _data[key]
