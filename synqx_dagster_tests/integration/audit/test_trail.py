"""The trail on both backends: append-only in the database, one after the other, together with the act or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from synqx_dagster.audit import recording
from synqx_dagster.audit.actor import Actor, acting_as
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import AuditFilter, AuditTrail, TrailEnd, append
from synqx_dagster.audit.verify import parse_end, verify_trail
from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.people_tables import audit
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import ConfigurationError, SynqxError, WrongPasswordError
from synqx_dagster.model import Schema
from synqx_dagster.people.accounts import Accounts, NewUser, UserChange
from synqx_dagster.people.roles import Role
from synqx_dagster.settings import Settings
from synqx_dagster_tests.fix_catalog import MASTER_PASSWORD
from synqx_dagster_tests.integration.catalog.processes import run_at_once

LOGIN = AuditEvent("user.login", "allowed", "ann")


def schema(name: str, column: str = "id", description: str | None = None) -> Schema:
    columns = [{"name": column, "data_type": "integer"}]
    return Schema.model_validate({"name": name, "description": description, "columns": columns})


def apply(catalog: Catalog, *records: Schema, author: str = "ann") -> int:
    plan = plan_changes(catalog, Definitions(tuple(records)))
    return apply_changes(catalog, plan, author=author, reason="because")


def actions(catalog: Catalog) -> list[str]:
    return [entry.event.action for entry in AuditTrail(catalog).iter_entries()]


def execute(catalog: Catalog, *statements: str) -> None:
    with catalog.write() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def disarm(catalog: Catalog) -> None:
    """What somebody does who owns the database, and wants to forge the trail."""
    with catalog.write() as connection:
        if connection.dialect.name == "sqlite":
            names = connection.exec_driver_sql("select name from sqlite_master where type = 'trigger'").scalars().all()
            for name in names:
                connection.exec_driver_sql(f"drop trigger {name}")
        else:
            connection.exec_driver_sql("alter table synqx_audit disable trigger user")
            connection.exec_driver_sql("alter table synqx_audit_head disable trigger user")


# --- appending --------------------------------------------------------------------------------------------------


def test_entries_are_read_back_as_they_were_written(any_catalog: Catalog) -> None:
    trail = AuditTrail(any_catalog)
    event = AuditEvent(
        "connection.update",
        "denied",
        "ann",
        "5f0c2a52-0000-4000-8000-000000000000",
        "api_key",
        "192.0.2.7",
        "connection",
        "Größe 'x' \"y\" \\z",
        ("host", "pool.size"),
        "request-1",
        "run-1",
        7,
        "a few words",
    )
    assert [trail.record(LOGIN), trail.record(event)] == [1, 2]
    entries = list(trail.iter_entries())
    assert [entry.event for entry in entries] == [LOGIN, event]
    assert abs(entries[0].recorded_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert json.loads(json.dumps(entries[1].to_dict()))["fields"] == ["host", "pool.size"]
    assert verify_trail(any_catalog).broken is None


def test_what_a_stranger_sends_as_a_name_can_be_stored(any_catalog: Catalog) -> None:
    trail = AuditTrail(any_catalog)
    for name in ("\x00", "\ud800", "\x1b[2J", "\u202e", "x" * 5000, "", "🦜"):
        trail.record(AuditEvent("user.login", "failed", name, target=name, detail=name, fields=(name,)))
    entries = list(trail.iter_entries())
    assert [entry.event.actor for entry in entries[:4]] == ["\ufffd", "\ufffd", "\ufffd[2J", "\ufffd"]
    assert len(entries[4].event.actor) == 256
    assert verify_trail(any_catalog).broken is None


def test_the_database_refuses_to_change_or_remove_an_entry(any_catalog: Catalog) -> None:
    trail = AuditTrail(any_catalog)
    trail.record(LOGIN)
    statements = [
        "update synqx_audit set actor = 'bob'",
        "delete from synqx_audit",
        "delete from synqx_audit_head",
    ]
    with any_catalog.read() as connection:
        if connection.dialect.name == "sqlite":
            columns = ", ".join(column.name for column in audit.columns)
            statements.append(f"insert or replace into synqx_audit ({columns}) select {columns} from synqx_audit")
        else:
            statements += ["truncate synqx_audit", "truncate synqx_audit_head"]
    for statement in statements:
        with pytest.raises(SynqxError):
            execute(any_catalog, statement)
    assert [entry.event.actor for entry in trail.iter_entries()] == ["ann"]
    assert verify_trail(any_catalog).broken is None


def test_an_act_that_fails_leaves_no_entry(any_catalog: Catalog) -> None:
    def fail_after_the_entry() -> None:
        with any_catalog.write() as connection:
            append(connection, LOGIN)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_the_entry()
    assert actions(any_catalog) == []
    assert AuditTrail(any_catalog).record(LOGIN) == 1


def test_processes_append_one_after_the_other(any_catalog: Catalog) -> None:
    numbers = run_at_once(_append, any_catalog.settings, count=4)
    assert sorted(number for found in numbers for number in found) == list(range(1, 41))
    verdict = verify_trail(any_catalog)
    assert (verdict.broken, verdict.entries) == (None, 40)


def _append(settings: Settings, number: int, meet: Callable[[], object]) -> list[int]:
    with Catalog.open(settings) as catalog:
        trail = AuditTrail(catalog)
        meet()
        return [trail.record(AuditEvent("user.login", "allowed", f"user-{number}")) for _ in range(10)]


# --- what the catalog does ----------------------------------------------------------------------------------------


def test_each_record_of_a_revision_is_an_entry_of_its_transaction(any_catalog: Catalog) -> None:
    recording.install(any_catalog)
    recording.install(any_catalog)
    apply(any_catalog, schema("a"), schema("b"))
    with acting_as(Actor("bob", "id-of-bob", "token", "192.0.2.7", "request-1")):
        apply(any_catalog, schema("b", "other"), author="bob")
    with acting_as(Actor("root", method="local")):
        apply(any_catalog, schema("c"), author="ann")
    events = [entry.event for entry in AuditTrail(any_catalog).iter_entries()]
    assert [(event.action, event.target, event.actor, event.method, event.revision) for event in events] == [
        ("schema.create", "a", "ann", "local", 1),
        ("schema.create", "b", "ann", "local", 1),
        ("schema.update", "b", "bob", "token", 2),
        ("schema.create", "c", "ann", "local", 3),
    ]
    assert (events[2].address, events[2].request_id, events[2].actor_id) == ("192.0.2.7", "request-1", "id-of-bob")
    assert any(name.startswith("columns") for name in events[2].fields)
    assert events[3].detail == "ann was named by root"


def test_no_value_of_a_field_is_in_the_trail(any_catalog: Catalog) -> None:
    recording.install(any_catalog)
    apply(any_catalog, schema("a", description="kanarienvogel"))
    apply(any_catalog, schema("a", description="kanarienvogel 2"))
    assert "kanarienvogel" not in json.dumps([entry.to_dict() for entry in AuditTrail(any_catalog).iter_entries()])


def test_acts_on_the_vault_are_entries_of_their_transactions(any_catalog: Catalog) -> None:
    recording.install(any_catalog)
    vault = any_catalog.vault
    with acting_as(Actor("ann", method="local")):
        vault.add_recovery()
        vault.change_password(SecretStr("another one of these"))
        vault.seal()
        vault.seal()
        vault.unlock(password=SecretStr("another one of these"), remember=False)
        vault.rotate()
        with pytest.raises(WrongPasswordError):
            vault.unseal(password=MASTER_PASSWORD)
    events = [entry.event for entry in AuditTrail(any_catalog).iter_entries()]
    assert [event.action for event in events] == [
        "vault.add_keyslot",
        "vault.remove_keyslot",
        "vault.add_keyslot",
        "vault.seal",
        "vault.lift_seal",
        "vault.rotate",
        "vault.unlock",
    ]
    assert [event.detail for event in events[:3]] == ["recovery", "password", "password"]
    assert events[-1].outcome == "failed"
    assert {event.actor for event in events} == {"ann"}


def test_the_making_of_a_vault_is_an_entry(any_catalog_settings: Settings, cheap_vault: None) -> None:
    with Catalog.initialise(any_catalog_settings) as catalog:
        recording.install(catalog)
        catalog.vault.initialise(password=MASTER_PASSWORD)
        assert actions(catalog) == ["vault.initialise"]


def test_where_the_trail_cannot_be_written_nothing_is_done(any_catalog: Catalog, cheap_passwords: None) -> None:
    recording.install(any_catalog)
    accounts = Accounts(any_catalog)
    ann = accounts.create(NewUser("ann", Role.VIEWER))
    accounts.create(NewUser("root", Role.ADMIN))
    before = actions(any_catalog)
    with any_catalog.read() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        execute(
            any_catalog,
            "create trigger full_disk before insert on synqx_audit begin select raise(abort, 'disk full'); end",
        )
    else:
        execute(
            any_catalog,
            "create function full_disk() returns trigger language plpgsql as $$ begin raise 'disk full'; end $$",
            "create trigger full_disk before insert on synqx_audit execute function full_disk()",
        )
    acts: list[Callable[[], object]] = [
        lambda: apply(any_catalog, schema("a")),
        any_catalog.vault.seal,
        any_catalog.vault.add_recovery,
        lambda: accounts.create(NewUser("bob", Role.ADMIN)),
        lambda: accounts.update(ann.user_id, UserChange(role=Role.ADMIN)),
        lambda: accounts.set_password(ann.user_id, SecretStr("four words and a half")),
    ]
    for act in acts:
        with pytest.raises(SynqxError):
            act()
    assert any_catalog.latest_revision() == 0
    assert not any_catalog.vault.status().sealed_by_operator
    assert [slot.kind for slot in any_catalog.vault.status().keyslots] == ["password"]
    assert [(user.username, user.role, user.has_password) for user in accounts.page()[0]] == [
        ("ann", Role.VIEWER, False),
        ("root", Role.ADMIN, False),
    ]
    assert actions(any_catalog) == before


# --- verification -------------------------------------------------------------------------------------------------


def fill(catalog: Catalog, count: int = 5) -> list[TrailEnd]:
    trail = AuditTrail(catalog)
    ends = []
    for number in range(count):
        trail.record(AuditEvent("user.login", "allowed", f"user-{number}", fields=("a",), revision=number))
        ends.append(trail.end())
    return ends


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("update synqx_audit set actor = 'bob' where number = 3", 3),
        ("update synqx_audit set fields = '[]' where number = 2", 2),
        ("update synqx_audit set fields = 'no json' where number = 2", 2),
        ("update synqx_audit set revision = null where number = 4", 4),
        ("update synqx_audit set detail = '' where number = 1", 1),
        ("update synqx_audit set entry_hash = previous_hash where number = 5", 5),
        ("delete from synqx_audit where number = 3", 3),
        ("delete from synqx_audit where number = 5", 5),
        ("delete from synqx_audit", 1),
        ("update synqx_audit set number = 9 where number = 2", 2),
        ("update synqx_audit_head set number = 4", 4),
        (
            "update synqx_audit_head set number = 4, "
            "entry_hash = (select entry_hash from synqx_audit where number = 4)",
            5,
        ),
    ],
)
def test_forgery_is_found_where_it_begins(any_catalog: Catalog, statement: str, number: int) -> None:
    fill(any_catalog)
    disarm(any_catalog)
    execute(any_catalog, statement)
    broken = verify_trail(any_catalog).broken
    assert broken is not None
    assert broken.number == number


def test_a_trail_that_was_cut_off_with_its_end_is_found_by_a_noted_end(any_catalog: Catalog) -> None:
    ends = fill(any_catalog)
    disarm(any_catalog)
    execute(
        any_catalog,
        "delete from synqx_audit where number > 3",
        f"update synqx_audit_head set number = 3, entry_hash = '{ends[2].entry_hash}'",
    )
    assert verify_trail(any_catalog).broken is None
    assert verify_trail(any_catalog, [ends[1], ends[2]]).broken is None
    for noted in ([ends[4]], [ends[1], ends[3]]):
        broken = verify_trail(any_catalog, noted).broken
        assert broken is not None
        assert broken.number == 4


def test_a_trail_that_was_written_again_is_found_by_a_noted_end(any_catalog: Catalog) -> None:
    ends = fill(any_catalog)
    disarm(any_catalog)
    execute(any_catalog, "delete from synqx_audit", "update synqx_audit_head set number = 0, entry_hash = ''")
    fill(any_catalog, 6)
    assert verify_trail(any_catalog).broken is None
    broken = verify_trail(any_catalog, [parse_end(str(ends[2]))]).broken
    assert broken is not None
    assert broken.number == 3


def test_a_long_trail_is_read_in_pages(any_catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synqx_dagster.audit.verify._PAGE_ROWS", 2)
    monkeypatch.setattr("synqx_dagster.audit.trail._PAGE_ROWS", 2)
    fill(any_catalog, 5)
    assert verify_trail(any_catalog).entries == 5
    trail = AuditTrail(any_catalog)
    assert [entry.number for entry in trail.iter_entries()] == [1, 2, 3, 4, 5]
    assert [entry.number for entry in trail.iter_entries(after=3)] == [4, 5]


@pytest.mark.parametrize("text", ["", "5", "5:abc", f"-1:{'a' * 64}", f"1:{'g' * 64}", f"{'9' * 30}:{'a' * 64}"])
def test_an_end_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_end(text)


def test_filters_and_pages(any_catalog: Catalog) -> None:
    trail = AuditTrail(any_catalog)
    for action, outcome, actor in (
        ("user.login", "allowed", "ann"),
        ("user.login", "failed", "bob"),
        ("user_x", "allowed", "ann"),
        ("user.logout", "allowed", "ann"),
    ):
        trail.record(AuditEvent(action, outcome, actor, target_kind="user", target="50%"))  # type: ignore[arg-type]
    found, total = trail.page(AuditFilter(action="user.*"), limit=2)
    assert ([entry.number for entry in found], total) == ([4, 2], 3)
    assert [entry.number for entry in trail.page(AuditFilter(action="user.*"), skip=2)[0]] == [1]
    assert [entry.number for entry in trail.page(AuditFilter(actor="ann", outcome="allowed"))[0]] == [4, 3, 1]
    assert trail.page(AuditFilter(target_kind="user", target="50%"))[1] == 4
    middle = list(trail.iter_entries())[2].recorded_at
    assert [entry.number for entry in trail.page(AuditFilter(since=middle))[0]] == [4, 3]
    assert [entry.number for entry in trail.page(AuditFilter(until=middle))[0]] == [2, 1]


def test_the_tables_columns_are_all_under_the_hash(any_catalog: Catalog) -> None:
    """A column that is added and not hashed could be changed without a trace."""
    fill(any_catalog, 1)
    [entry] = AuditTrail(any_catalog).iter_entries()
    assert set(entry.to_dict()) == {column.name for column in audit.columns}
    with any_catalog.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(audit)).scalar_one() == 1
