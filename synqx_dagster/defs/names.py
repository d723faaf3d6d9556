"""The names by which Dagster knows what the catalog holds; the same record always gets the same name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from dagster import AssetKey

from synqx_dagster.model import dagster_name

METADATA_PREFIX = "synqx/"
REVISION_TAG = "synqx/revision"
#: What the nodes of a pipeline's step did, as a JSON list; see `synqx_dagster.pipelines.report`.
NODES_METADATA = f"{METADATA_PREFIX}nodes"
PIPELINE_TAG = "synqx/pipeline"

_TAG_KEY = re.compile(r"([A-Za-z0-9_.-]{1,63}/)?[A-Za-z0-9_.-]{1,63}")
_TAG_VALUE = re.compile(r"[A-Za-z0-9_.-]{0,63}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_TEAM = re.compile(r"team:[A-Za-z0-9_]+")


def revision_tags(revision: int) -> dict[str, str]:
    """The tag that says which revision a run is of; none where definitions are files, which have no revisions."""
    return {REVISION_TAG: str(revision)} if revision else {}


def revision_metadata(revision: int) -> dict[str, int]:
    """The same as metadata."""
    return {f"{METADATA_PREFIX}revision": revision} if revision else {}


def resource_key(connection_name: str) -> str:
    """The key of a connection's resource, which is also the name of its pool."""
    return f"conn_{dagster_name(connection_name)}"


def table_pool(key: AssetKey) -> str:
    """The pool of a table that one load at a time may go to."""
    return f"table_{op_name(key.path)}"


def op_name(asset_path: Sequence[str]) -> str:
    """The op, and so the step, that loads an asset.

    Two tables never share one: where a part had to be changed, a digest of the true path is added.
    """
    name = "__".join(dagster_name(part) for part in asset_path)
    if all(dagster_name(part) == part and "__" not in part for part in asset_path):
        return name
    digest = hashlib.sha256("\x1f".join(asset_path).encode()).hexdigest()[:8]
    return f"{name}_{digest}"


def dagster_owner(owner: str) -> str:
    """An owner as Dagster takes it: an e-mail address or ``team:name``."""
    if _EMAIL.fullmatch(owner) or _TEAM.fullmatch(owner):
        return owner
    return f"team:{dagster_name(owner.removeprefix('team:'))}"


def is_dagster_tag(key: str, value: str) -> bool:
    """Whether Dagster accepts a tag; what it does not accept is kept as metadata."""
    if key.startswith("dagster/"):  # Dagster's own; some of them change how a run is treated
        return False
    return _TAG_KEY.fullmatch(key) is not None and _TAG_VALUE.fullmatch(value) is not None


def dagster_kind(db_type: str) -> str:
    """The kind under which the web UI shows a ``db_type``."""
    return re.sub(r"[^a-z0-9_-]+", "-", db_type.lower())[:60] or "sql"
