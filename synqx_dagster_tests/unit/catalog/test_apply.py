"""Plan and apply on SQLite: what changes, what stays, and what is refused; `integration/catalog` has the races."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import SecretStr

from synqx_dagster.catalog import apply as apply_module
from synqx_dagster.catalog.apply import apply_changes, diff_revisions, plan_changes, rollback
from synqx_dagster.catalog.documents import Definitions, read_documents, write_documents
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SealedError,
    WrongPasswordError,
)
from synqx_dagster.model import Connection, Record, SealedSecret
from synqx_dagster.settings import Settings
from synqx_dagster_tests.fix_catalog import make_catalog
from synqx_dagster_tests.unit.catalog import records
from synqx_dagster_tests.unit.catalog.records import connection, definitions, mapping, pipeline, schedule, schema


def apply(catalog: Catalog, *declared: Record, prune: bool = False, reason: str | None = None) -> int:
    plan = plan_changes(catalog, definitions(*declared), prune=prune)
    return apply_changes(catalog, plan, author="ada", reason=reason)


def postgres(**values: object) -> Connection:
    return connection("shop", db_type="postgresql", host="localhost", database="shop", username="etl", **values)


PROJECT = (connection("shop"), connection("warehouse"), schema("customer"), mapping("customers"))


def test_a_first_apply(catalog: Catalog) -> None:
    before = datetime.now(UTC)
    assert apply(catalog, *PROJECT, reason="first") == 1
    assert catalog.latest_revision() == 1
    assert tuple(catalog.snapshot().iter_records()) == PROJECT
    (info,) = catalog.history()
    assert (info.number, info.author, info.reason) == (1, "ada", "first")
    assert (info.created_records, info.changed_records, info.removed_records) == (4, 0, 0)
    assert before <= info.created_at <= datetime.now(UTC)
    assert info.created_at.tzinfo is UTC


def test_a_second_apply_of_the_same_writes_nothing(catalog: Catalog) -> None:
    apply(catalog, *PROJECT)
    plan = plan_changes(catalog, definitions(*PROJECT))
    assert plan.is_empty
    assert apply_changes(catalog, plan, author="ada", reason=None) == 1
    assert catalog.latest_revision() == 1


def test_undeclared_records_stay(catalog: Catalog) -> None:
    apply(catalog, *PROJECT)
    assert apply(catalog, schema("other")) == 2
    assert len(catalog.snapshot()) == 5


def test_a_revision_keeps_what_it_was(catalog: Catalog) -> None:
    apply(catalog, *PROJECT)
    apply(catalog, mapping("customers", mode="append"))
    apply(catalog, *PROJECT[:3], prune=True)
    assert [catalog.snapshot(number).mappings.get("customers") for number in range(4)] == [
        None,
        mapping("customers"),
        mapping("customers", mode="append"),
        None,
    ]
    assert [(info.created_records, info.changed_records, info.removed_records) for info in catalog.history()] == [
        (0, 0, 1),
        (0, 1, 0),
        (4, 0, 0),
    ]


def test_a_record_may_come_back(catalog: Catalog) -> None:
    for _ in range(2):
        apply(catalog, *PROJECT)
        apply(catalog, *PROJECT[:2], prune=True)
    assert apply(catalog, *PROJECT) == 5
    assert tuple(catalog.snapshot().iter_records()) == PROJECT


def test_prune_removes_what_is_not_declared(catalog: Catalog) -> None:
    apply(catalog, *PROJECT)
    plan = plan_changes(catalog, definitions(*PROJECT[:2]), prune=True)
    assert [(change.action, change.kind, change.name) for change in plan.changes] == [
        ("removed", "schema", "customer"),
        ("removed", "mapping", "customers"),
    ]


def test_prune_refuses_to_remove_what_is_still_referred_to(catalog: Catalog) -> None:
    apply(catalog, *PROJECT)
    with pytest.raises(InvalidInputError, match="would be removed"):
        plan_changes(catalog, definitions(mapping("customers")), prune=True)
    assert catalog.latest_revision() == 1


def test_problems_change_nothing(catalog: Catalog) -> None:
    with pytest.raises(InvalidInputError, match="there is no connection"):
        apply(catalog, mapping("customers"))
    assert catalog.latest_revision() == 0


def test_somebody_else_was_first(catalog: Catalog) -> None:
    slow = plan_changes(catalog, definitions(*PROJECT))
    apply(catalog, schema("other"))
    with pytest.raises(ConflictError, match="from revision 0 to 1") as caught:
        apply_changes(catalog, slow, author="ada", reason=None)
    assert caught.value.exit_code == 2
    assert len(catalog.snapshot()) == 1


def test_a_failure_in_the_middle_leaves_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_changes(catalog, definitions(*PROJECT, postgres(password="hunter2").model_copy(update={"name": "p"})))
    write_revision = apply_module.revisions.write_revision

    def fail(*arguments: object, **keywords: object) -> int:
        write_revision(*arguments, **keywords)  # type: ignore[arg-type]
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(apply_module.revisions, "write_revision", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            apply_changes(catalog, plan, author="ada", reason=None)
    assert catalog.latest_revision() == 0
    assert list(catalog.vault._storage.iter_secrets()) == []
    assert apply_changes(catalog, plan, author="ada", reason=None) == 1


@pytest.mark.parametrize(
    ("author", "reason"),
    [("", None), (" ", None), ("a" * 257, None), ("a\x00", None), ("a", "x" * 10_001), ("a", "\ud800")],
)
def test_authors_and_reasons(catalog: Catalog, author: str, reason: str | None) -> None:
    plan = plan_changes(catalog, definitions(*PROJECT))
    with pytest.raises(ConfigurationError):
        apply_changes(catalog, plan, author=author, reason=reason)
    assert catalog.latest_revision() == 0


def test_callbacks_hear_of_revisions_and_cannot_break_them(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []

    def fail(_revision: int) -> None:
        raise OSError("no code server")

    catalog.after_commit += [fail, heard.append]
    apply(catalog, *PROJECT)
    apply(catalog, *PROJECT)
    assert heard == [1]
    assert "Revision 1 is applied, but a callback failed" in caplog.text


# --- secrets -------------------------------------------------------------------------------------------------------


def stored_password(catalog: Catalog, revision: int | None = None) -> str | None:
    return catalog.resolve_secret(catalog.snapshot(revision).get_connection("shop"), "password")


def test_a_literal_is_sealed(catalog: Catalog, catalog_settings: Settings) -> None:
    plan = plan_changes(catalog, definitions(postgres(password="hunter2-canary")))
    assert "hunter2" not in repr(plan) + str(plan.lines()) + str(plan.to_dict())
    apply_changes(catalog, plan, author="ada", reason=None)
    assert catalog.snapshot().get_connection("shop").password == SealedSecret(version=1)
    assert stored_password(catalog) == "hunter2-canary"
    catalog.close()
    for file in catalog_settings.home.iterdir():
        assert b"hunter2-canary" not in file.read_bytes()
    assert "hunter2" not in repr(catalog.snapshot()) + str(catalog.snapshot().to_dict())
    assert "hunter2" not in write_documents(catalog.snapshot())


def test_an_equal_literal_is_no_change(catalog: Catalog) -> None:
    apply(catalog, postgres(password="one"))
    assert plan_changes(catalog, definitions(postgres(password="one"))).is_empty
    plan = plan_changes(catalog, definitions(postgres(password="two", port=5)))
    assert [(item.path, item.before, item.after) for item in plan.changes[0].fields] == [
        ("port", None, 5),
        ("password", "(secret)", "(changed secret)"),
    ]
    apply_changes(catalog, plan, author="ada", reason=None)
    assert stored_password(catalog) == "two"


def test_a_changed_record_keeps_its_equal_literal(catalog: Catalog) -> None:
    apply(catalog, postgres(password="one"))
    apply(catalog, postgres(password="one", port=5))
    assert catalog.snapshot().get_connection("shop").password == SealedSecret(version=1)


def test_a_sealed_mark_keeps_the_value(catalog: Catalog) -> None:
    apply(catalog, postgres(password="one"))
    assert plan_changes(catalog, definitions(postgres(password={"sealed": True}))).is_empty
    apply(catalog, postgres(password={"sealed": True}, port=5))
    assert stored_password(catalog) == "one"


def test_references_and_literals_replace_each_other(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "from the environment")
    expected = []
    for password in ("one", {"env": "SHOP_PASSWORD"}, "one", None, "three"):
        apply(catalog, postgres(**({} if password is None else {"password": password})))
        expected.append(password if isinstance(password, str | None) else "from the environment")
    # No value ever comes back under a version that meant another one.
    assert [stored_password(catalog, number) for number in range(1, 6)] == expected
    assert catalog.snapshot().get_connection("shop").password == SealedSecret(version=3)


def test_old_revisions_open_after_changes_removal_and_rotation(catalog: Catalog) -> None:
    apply(catalog, postgres(password="one"))
    apply(catalog, postgres(password="two"))
    apply(catalog, prune=True)
    apply(catalog, postgres(password="three"))
    catalog.vault.rotate()
    assert [stored_password(catalog, number) for number in (1, 2, 4)] == ["one", "two", "three"]


def test_a_literal_needs_the_vault(catalog: Catalog, catalog_settings: Settings) -> None:
    apply(catalog, postgres(password="one"))
    sealed = Catalog.open(Settings(home=catalog_settings.home, catalog_url=catalog_settings.catalog_url))
    with pytest.raises(SealedError):
        plan_changes(sealed, definitions(postgres(password="one")))
    plan = plan_changes(sealed, definitions(postgres(password="new").model_copy(update={"name": "other"})))
    with pytest.raises(SealedError) as caught:
        apply_changes(sealed, plan, author="ada", reason=None)
    assert caught.value.exit_code == 3
    assert sealed.latest_revision() == 1
    assert not plan_changes(sealed, definitions(postgres(password={"sealed": True}, port=5))).is_empty
    sealed.close()


def test_a_wrong_password_is_told(catalog: Catalog, catalog_settings: Settings) -> None:
    apply(catalog, postgres(password="one"))
    wrong = Settings(catalog_settings.home, catalog_settings.catalog_url, master_password=SecretStr("wrong"))
    with Catalog.open(wrong) as opened, pytest.raises(WrongPasswordError):
        stored_password(opened)


# --- rollback ------------------------------------------------------------------------------------------------------


def test_rollback_is_a_new_revision_with_the_old_secrets(catalog: Catalog) -> None:
    apply(catalog, *PROJECT[1:3], postgres(password="one"))
    apply(catalog, postgres(password="two", port=5))
    apply(catalog, schema("customer"), prune=True)
    assert rollback(catalog, 1, author="ada", reason=None) == 4
    assert catalog.history()[0].reason == "roll back to revision 1"
    assert list(catalog.snapshot().iter_records()) == list(catalog.snapshot(1).iter_records())
    assert stored_password(catalog) == "one"
    assert stored_password(catalog, 2) == "two"
    apply(catalog, postgres(password="four"))
    assert [stored_password(catalog, number) for number in (1, 2, 4, 5)] == ["one", "two", "one", "four"]


def test_rollback_shows_a_secret_that_goes_back(catalog: Catalog) -> None:
    apply(catalog, postgres(password="one"))
    apply(catalog, postgres(password="two"))
    (change,) = diff_revisions(catalog, 2, 1)
    assert [(item.path, item.before, item.after) for item in change.fields] == [
        ("password", "(secret)", "(changed secret)")
    ]


def test_rollback_to_the_same_is_nothing(catalog: Catalog) -> None:
    apply(catalog, *PROJECT)
    assert rollback(catalog, 1, author="ada", reason=None) == 1
    assert catalog.latest_revision() == 1


def test_rollback_needs_the_vault_for_nothing(catalog: Catalog, catalog_settings: Settings) -> None:
    apply(catalog, postgres(password="one"))
    apply(catalog, postgres(password="two"))
    with Catalog.open(Settings(catalog_settings.home, catalog_settings.catalog_url)) as sealed:
        assert rollback(sealed, 1, author="ada", reason=None) == 3
    assert stored_password(catalog) == "one"


@pytest.mark.parametrize("revision", [-1, 2, 10**30])
def test_rollback_to_nowhere(catalog: Catalog, revision: int) -> None:
    apply(catalog, *PROJECT)
    with pytest.raises(NotFoundError, match="There is no revision"):
        rollback(catalog, revision, author="ada", reason=None)


def test_rollback_to_the_empty_catalog(catalog: Catalog) -> None:
    apply(catalog, *PROJECT)
    assert rollback(catalog, 0, author="ada", reason=None) == 2
    assert len(catalog.snapshot()) == 0


# --- export and apply ----------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(declared=records.any_records())
def test_an_export_makes_the_same_catalog(
    declared: list[Record], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The records are valid one by one; what they refer to is another matter.
    monkeypatch.setattr(apply_module, "check_definitions", lambda *_, **__: [])

    def make(name: str) -> Catalog:
        home = tmp_path_factory.mktemp(name)
        return make_catalog(Settings(home=home, catalog_url=f"sqlite:///{home / 'catalog.db'}"))

    with make("first") as first, make("second") as second:
        apply(first, *declared)
        file = tmp_path_factory.mktemp("export") / "export.yaml"
        file.write_text(write_documents(first.snapshot()), encoding="utf-8", newline="")
        exported = read_documents([file])
        for catalog in (first, second):
            plan = plan_changes(catalog, exported, prune=True)
            assert plan.is_empty == (catalog is first or not declared)
            apply_changes(catalog, plan, author="ada", reason=None)
            assert plan_changes(catalog, exported, prune=True).is_empty
        assert list(first.snapshot().iter_records()) == list(second.snapshot().iter_records())
        assert first.snapshot().to_dict() == second.snapshot().to_dict()


def test_an_export_of_a_whole_project(
    catalog: Catalog, tmp_path: Path, read_export: Callable[[Catalog], Definitions]
) -> None:
    apply(
        catalog,
        *PROJECT,
        mapping("b", source_connection="warehouse", source_query="select *\nfrom customers"),
        pipeline("main", "customers", "b", edges=[("customers", "b")]),
        schedule("nightly", pipeline="main", timezone="Europe/Berlin", enabled=False),
    )
    exported = read_export(catalog)
    assert plan_changes(catalog, exported, prune=True).is_empty
    home = tmp_path / "second"
    with make_catalog(Settings(home=home, catalog_url=f"sqlite:///{home / 'catalog.db'}")) as second:
        apply_changes(second, plan_changes(second, exported), author="ada", reason=None)
        assert second.snapshot() == catalog.snapshot()


@pytest.fixture
def read_export(tmp_path: Path) -> Callable[[Catalog], Definitions]:
    def read(catalog: Catalog) -> Definitions:
        file = tmp_path / "export.yaml"
        file.write_text(write_documents(catalog.snapshot()), encoding="utf-8")
        return read_documents([file])

    return read
