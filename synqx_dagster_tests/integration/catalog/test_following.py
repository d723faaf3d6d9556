"""The snapshot that is followed is the one that is read."""

from __future__ import annotations

import random

import pytest

from synqx_dagster.catalog.apply import apply_changes, plan_changes, plan_removal
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import InUseError, NotFoundError
from synqx_dagster.model import Connection, Dataset, Record


def apply(catalog: Catalog, *records: Record) -> int:
    return apply_changes(catalog, plan_changes(catalog, Definitions(records)), author="ann", reason=None)


def remove(catalog: Catalog, *keys: tuple[str, str]) -> int:
    plan = plan_removal(catalog, keys)  # type: ignore[arg-type]  # kinds, written as text
    return apply_changes(catalog, plan, author="ann", reason=None)


def connection(name: str, description: str = "") -> Connection:
    return Connection(name=name, db_type="sqlite", database="/tmp/x.db", description=description)


def test_it_follows_whatever_others_do(any_catalog: Catalog) -> None:
    chance = random.Random(5)
    there: set[str] = set()
    with Catalog.open(any_catalog.settings) as writer:
        assert any_catalog.latest_snapshot() == any_catalog.snapshot()
        for step in range(40):
            name = f"c{chance.randrange(6)}"
            if name in there and chance.random() < 0.4:
                remove(writer, ("connection", name))
                there.remove(name)
            else:
                apply(writer, connection(name, str(step)))
                there.add(name)
            if chance.random() < 0.4:
                followed = any_catalog.latest_snapshot()
                assert followed == any_catalog.snapshot()
                assert list(followed.connections) == sorted(there)
                assert followed is any_catalog.latest_snapshot(), "what did not move is not read again"


def test_what_did_not_change_is_shared(any_catalog: Catalog) -> None:
    apply(any_catalog, connection("a"), Dataset(name="t", connection="a", table="t"))
    before = any_catalog.latest_snapshot()
    apply(any_catalog, connection("b"))
    after = any_catalog.latest_snapshot()
    assert after.assets is before.assets
    assert after.connections["a"] is before.connections["a"]
    assert "b" not in before.connections


def test_what_is_referred_to_is_not_removed(any_catalog: Catalog) -> None:
    apply(any_catalog, connection("a"), *(Dataset(name=f"t{n:02}", connection="a", table="t") for n in range(12)))
    with pytest.raises(InUseError, match=r"connection 'a' is used by the asset 't00', .* and 2 more"):
        remove(any_catalog, ("connection", "a"))
    with pytest.raises(NotFoundError, match="no connection 'b'"):
        remove(any_catalog, ("connection", "b"))
    remove(any_catalog, ("connection", "a"), *(("asset", f"t{n:02}") for n in range(12)))
    assert len(any_catalog.latest_snapshot()) == 0
