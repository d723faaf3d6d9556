"""Several processes at one catalog, on both backends: one wins, the others are told, and nothing is half applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from synqx_dagster.catalog import tables
from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.secrets import CatalogVaultStorage
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import ConflictError
from synqx_dagster.model import Connection, LiteralSecret
from synqx_dagster.settings import Settings
from synqx_dagster.vault import kdf
from synqx_dagster_tests.fix_catalog import CHEAP_POLICY
from synqx_dagster_tests.integration.catalog.processes import run_at_once
from synqx_dagster_tests.unit.catalog.records import connection, definitions, mapping

MAPPINGS = 50
ROUNDS = 3


def project(author: str) -> list[Connection]:
    values = {"db_type": "postgresql", "host": "h", "database": author, "username": "u"}
    return [connection(name, **values, password=f"password of {author}") for name in ("shop", "warehouse")]


def _apply(settings: Settings, number: int, meet: Callable[[], object]) -> list[int | None]:
    """Plan on what is there and apply at the same moment; None where another process was first."""
    kdf.DEFAULT_POLICY = CHEAP_POLICY
    author = f"writer {number}"
    outcomes: list[int | None] = []
    with Catalog.open(settings) as catalog:
        for round_number in range(ROUNDS):
            records = [mapping(f"m{item}", description=f"{author} {round_number}") for item in range(MAPPINGS)]
            plan = plan_changes(catalog, definitions(*project(author), *records))
            meet()
            try:
                outcomes.append(apply_changes(catalog, plan, author=author, reason=None))
            except ConflictError:
                outcomes.append(None)
            meet()
    return outcomes


def test_two_writers(any_catalog: Catalog, any_catalog_settings: Settings) -> None:
    outcomes = run_at_once(_apply, any_catalog_settings)
    for number, pair in enumerate(zip(*outcomes, strict=True), start=1):
        assert sorted(pair, key=str) == [number, None], "one wins, the other is told"
    assert any_catalog.latest_revision() == ROUNDS
    history = any_catalog.history()
    for info in history:
        assert outcomes[int(info.author.removeprefix("writer "))][info.number - 1] == info.number
        snapshot = any_catalog.snapshot(info.number)
        assert len(snapshot) == 2 + MAPPINGS
        assert {item.database for item in snapshot.connections.values()} == {info.author}
        assert {item.description for item in snapshot.mappings.values()} == {f"{info.author} {info.number - 1}"}
        for item in snapshot.connections.values():
            assert any_catalog.resolve_secret(item, "password") == f"password of {info.author}"
    authors = [info.author for info in reversed(history)]
    changes = sum(before != after for before, after in zip([None, *authors], authors, strict=False))
    with any_catalog.read() as database:
        envelopes = database.execute(sa.select(sa.func.count()).select_from(tables.secret)).scalar()
    assert envelopes == 2 * changes, "a writer that lost leaves no envelope behind"


def test_the_second_of_two_plans_is_refused(any_catalog: Catalog, any_catalog_settings: Settings) -> None:
    with Catalog.open(any_catalog_settings) as other:
        plans = [
            (item, plan_changes(item, definitions(*project(author))))
            for item, author in ((any_catalog, "first"), (other, "second"))
        ]
        assert apply_changes(*plans[0], author="first", reason=None) == 1
        with pytest.raises(ConflictError) as caught:
            apply_changes(*plans[1], author="second", reason=None)
    assert "apply again" in str(caught.value)
    assert any_catalog.snapshot().get_connection("shop").database == "first"


def _rotate_or_apply(settings: Settings, number: int, meet: Callable[[], object]) -> list[str]:
    kdf.DEFAULT_POLICY = CHEAP_POLICY
    meet()
    done = []
    with Catalog.open(settings) as catalog:
        for round_number in range(4):
            if number == 0:
                catalog.unseal().rotate()
                done.append("rotated")
                continue
            shop = catalog.snapshot().get_connection("shop")
            secret = LiteralSecret(value=SecretStr(f"password {round_number}"))
            plan = plan_changes(catalog, definitions(shop.model_copy(update={"password": secret})))
            done.append(f"password {round_number}" if apply_changes(catalog, plan, author="a", reason=None) else "")
    return done


def test_secrets_that_are_written_during_rotations_open(any_catalog: Catalog, any_catalog_settings: Settings) -> None:
    plan = plan_changes(any_catalog, definitions(*project("first")))
    apply_changes(any_catalog, plan, author="a", reason=None)
    _, passwords = run_at_once(_rotate_or_apply, any_catalog_settings)
    for number, password in enumerate(passwords, start=2):
        shop = any_catalog.snapshot(number).get_connection("shop")
        assert any_catalog.resolve_secret(shop, "password") == password


def test_the_vaults_state_is_compared_and_swapped(any_catalog: Catalog) -> None:
    storage = CatalogVaultStorage(any_catalog._engine, any_catalog._address)
    first = storage.load()
    assert first is not None
    with pytest.raises(ConflictError):
        storage.save(first, replacing=None)
    any_catalog.vault.change_password(SecretStr("another one"))
    second = storage.load()
    assert second is not None
    assert second != first
    with pytest.raises(ConflictError):
        storage.save(first, replacing=first)
    assert storage.load() == second
    storage.save(first, replacing=second)
    assert storage.load() == first


def test_envelopes_are_replaced_only_if_they_are_still_the_same(any_catalog: Catalog) -> None:
    many = [project("x")[0].model_copy(update={"name": f"c{number}"}) for number in range(7)]
    apply_changes(any_catalog, plan_changes(any_catalog, definitions(*many)), author="a", reason=None)
    storage = CatalogVaultStorage(any_catalog._engine, any_catalog._address)
    stored = list(storage.iter_secrets())
    assert len({item.address for item in stored}) == 7
    first, second = stored[0], stored[1]
    assert not storage.replace_envelope(first.address, old=second.envelope, new=b"new")
    assert storage.replace_envelope(first.address, old=first.envelope, new=b"new")
    assert not storage.replace_envelope(first.address, old=first.envelope, new=b"newer")
    found = {item.address: item.envelope for item in storage.iter_secrets()}
    assert found == {item.address: item.envelope for item in stored} | {first.address: b"new"}


def test_secrets_are_read_in_pages(any_catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synqx_dagster.catalog.secrets._PAGE_ROWS", 2)
    many = [project("x")[0].model_copy(update={"name": f"c{number}"}) for number in range(5)]
    apply_changes(any_catalog, plan_changes(any_catalog, definitions(*many)), author="a", reason=None)
    storage = CatalogVaultStorage(any_catalog._engine, any_catalog._address)
    assert len({item.address for item in storage.iter_secrets()}) == 5


def test_a_reader_does_not_wait_for_a_writer(any_catalog: Catalog, tmp_path: Path) -> None:
    apply_changes(any_catalog, plan_changes(any_catalog, definitions(*project("x"))), author="a", reason=None)
    with any_catalog.write() as writing:
        writing.execute(sa.update(tables.record_version).values(body="half written"))
        assert any_catalog.snapshot().get_connection("shop").database == "x"
        writing.rollback()
