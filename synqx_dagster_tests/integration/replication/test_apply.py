"""Transactions applied to real targets: modes, pieces, skip rules, keys, truncation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.errors import PlanError, SourceChangedError, TargetMismatchError
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.adapt import TargetAlteredError
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import UNCHANGED, Change, Truncate, parse_lsn
from synqx_dagster.replication.report import BatchReport
from synqx_dagster_tests.integration.replication.applying import (
    MadeTransaction,
    Target,
    column,
    delete,
    followed,
    insert,
    make_replication,
    make_target,
    relation,
    start,
    update,
)

ITEM = relation()


@pytest.fixture(params=["postgresql", pytest.param("mysql", marks=pytest.mark.mysql), "duckdb"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    kind = request.param
    place: Any = tmp_path if kind == "duckdb" else request.getfixturevalue(kind)
    made = make_target(kind, place)
    yield made
    made.connector.close()


def apply(applier: Applier, *transactions: tuple[int, Sequence[Change]]) -> BatchReport:
    """Apply transactions; once more where a change of the target's tables has committed, as a run does."""
    try:
        return applier.apply([MadeTransaction(lsn, changes) for lsn, changes in transactions])
    except TargetAlteredError:
        return applier.apply([MadeTransaction(lsn, changes) for lsn, changes in transactions])


def test_a_batch_of_transactions_is_mirrored(target: Target) -> None:
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        report = apply(
            applier,
            (100, [insert(ITEM, "1", "a", "x"), insert(ITEM, "2", "b", "y"), insert(ITEM, "3", None, "")]),
            (
                200,
                [
                    update(ITEM, "1", "a2", UNCHANGED),
                    delete(ITEM, "2"),
                    update(ITEM, "4", "moved", UNCHANGED, old=("3", None, None)),
                ],
            ),
        )
        assert report.position == 208
        assert report.changes == 6
        (counts,) = report.tables.values()
        assert (counts.inserted, counts.updated, counts.deleted) == (3, 2, 1)
        assert target.rows("SELECT * FROM item ORDER BY id") == [(1, "a2", "x"), (4, "moved", "")]

        # Again, of rows that lie in the target: nothing is known of their large values here.
        report = apply(
            applier,
            (200, [insert(ITEM, "9", "skipped", "")]),
            (
                300,
                [
                    update(ITEM, "1", "a3", UNCHANGED),
                    update(ITEM, "5", "moved again", UNCHANGED, old=("4", None, None)),
                    insert(ITEM, "4", "new", "z"),
                ],
            ),
        )
        assert (report.skipped, report.transactions) == (1, 1)
    assert target.rows("SELECT * FROM item ORDER BY id") == [(1, "a3", "x"), (4, "new", "z"), (5, "moved again", "")]


def test_a_position_is_kept_for_the_next_attempt(target: Target) -> None:
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier, at=50)
        apply(applier, (100, [insert(ITEM, "1", "a", "x")]))
        first = applier.state.epoch
    with Applier(replication, target.connector, followed(replication)) as applier:
        assert applier.begin("second") == 108
        assert applier.state.epoch == first + 1
        assert applier.state.slot == "slot"
        report = apply(applier, (100, [insert(ITEM, "1", "a", "x")]), (108, [update(ITEM, "1", "b", "x")]))
        assert (report.skipped, report.position) == (1, 116)
    assert target.rows("SELECT * FROM item") == [(1, "b", "x")]


def test_a_table_that_was_copied_later_skips_what_its_copy_has(target: Target) -> None:
    replication = make_replication(tables=({"name": "item"}, {"name": "other"}))
    other = relation("other", oid=101)
    with Applier(replication, target.connector, followed(replication, "item", "other")) as applier:
        applier.begin("run")
        applier.set_position(50, slot="slot", status="following")
        applier.follow(TableName("item", "public"), 50)
        apply(applier, (60, [insert(ITEM, "1", "a", "x")]))
        report = apply(applier, (100, [insert(ITEM, "2", "b", "x"), insert(other, "1", "copied", "x")]))
        assert report.waiting == {TableName("other", "public"): 1}
        applier.begin_copy(TableName("other", "public"), "load-1")
        assert applier.table_states[TableName("other", "public")].load_id == "load-1"
        target.run("CREATE TABLE other (id bigint primary key, name varchar(10), big varchar(10))")
        applier.follow(TableName("other", "public"), 200)
        # 150 lies before its copy, 200 does not.
        for lsn in (150, 200):
            apply(applier, (lsn, [insert(ITEM, str(lsn), "i", "x"), insert(other, str(lsn), "o", "x")]))
    assert target.rows("SELECT id FROM item ORDER BY id") == [(1,), (2,), (150,), (200,)]
    assert target.rows("SELECT id FROM other ORDER BY id") == [(200,)]


def test_changes_of_tables_that_are_not_followed_are_reported(target: Target) -> None:
    replication = make_replication()
    stranger = relation("stranger", oid=7)
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        report = apply(
            applier,
            (
                100,
                [
                    insert(stranger, "1", "a", "x"),
                    insert(ITEM, "1", "a", "x"),
                    Truncate((stranger, ITEM), False, False),
                    insert(stranger, "2", "a", "x"),
                ],
            ),
        )
    assert report.unknown == {TableName("stranger", "public"): 3}
    assert report.changes == 2
    assert target.rows("SELECT * FROM item") == []


def test_deleted_rows_are_marked(target: Target) -> None:
    replication = make_replication(mode="soft_delete")
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        apply(applier, (100, [insert(ITEM, str(number), "n", "x") for number in range(1, 7)]))
        apply(
            applier,
            (
                200,
                [
                    delete(ITEM, "1"),
                    delete(ITEM, "2"),
                    insert(ITEM, "2", "back", "y"),
                    update(ITEM, "30", "moved", UNCHANGED, old=("3", None, None)),
                    update(ITEM, "4", "then gone", UNCHANGED),
                    delete(ITEM, "4"),
                    delete(ITEM, "99"),
                ],
            ),
        )
        rows = target.rows("SELECT id, name, big, is_deleted, deleted_at IS NULL FROM item ORDER BY id")
        assert rows == [
            (1, "n", "x", True, False),
            (2, "back", "y", False, True),
            (3, "n", "x", True, False),
            (4, "then gone", "x", True, False),
            (5, "n", "x", False, True),
            (6, "n", "x", False, True),
            (30, "moved", "x", False, True),
        ]
        apply(applier, (300, [Truncate((ITEM,), False, False), insert(ITEM, "5", "again", "z")]))
    rows = target.rows("SELECT id, name, is_deleted FROM item ORDER BY id")
    assert rows == [
        (1, "n", True),
        (2, "back", True),
        (3, "n", True),
        (4, "then gone", True),
        (5, "again", False),
        (6, "n", True),
        (30, "moved", True),
    ]
    times = target.rows("SELECT DISTINCT CAST(deleted_at AS CHAR(22)) FROM item WHERE is_deleted")
    assert [str(text)[:22] for (text,) in times] == ["2024-02-29 12:00:00.25"]


def test_a_history_keeps_every_change_with_the_row_after_it(target: Target) -> None:
    replication = make_replication(mode="history")
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        apply(applier, (0x9_0000_00FF, [insert(ITEM, "1", "a", "first"), insert(ITEM, "2", "b", "two")]))
        apply(applier, (0x10_0000_0001, [update(ITEM, "1", "a", "newest"), update(ITEM, "2", "b2", UNCHANGED)]))
        apply(
            applier,
            (
                0x10_0000_0100,
                [
                    update(ITEM, "1", "a3", UNCHANGED),
                    update(ITEM, "1", "a4", UNCHANGED),
                    update(ITEM, "3", "a5", UNCHANGED, old=("1", None, None)),
                    delete(ITEM, "2"),
                    Truncate((ITEM,), False, False),
                ],
            ),
        )
    rows = target.rows("SELECT change_lsn, change_ordinal, change_operation, id, name, big FROM item")
    assert sorted(rows, key=lambda row: (parse_lsn(row[0]), row[1])) == [
        ("9/FF", 1, "insert", 1, "a", "first"),
        ("9/FF", 2, "insert", 2, "b", "two"),
        ("10/1", 1, "update", 1, "a", "newest"),
        ("10/1", 2, "update", 2, "b2", "two"),
        ("10/100", 1, "update", 1, "a3", "newest"),
        ("10/100", 2, "update", 1, "a4", "newest"),
        ("10/100", 3, "update", 3, "a5", "newest"),
        ("10/100", 4, "delete", 2, None, None),
        ("10/100", 5, "truncate", None, None, None),
    ]


def test_a_large_transaction_is_applied_in_pieces_and_all_at_once(target: Target) -> None:
    replication = make_replication()
    changes: list[Change] = [insert(ITEM, str(number), f"n{number}", "x" * 50) for number in range(500)]
    changes += [update(ITEM, str(number), "u", UNCHANGED) for number in range(0, 500, 2)]
    changes += [delete(ITEM, str(number)) for number in range(0, 500, 5)]
    changes += [insert(ITEM, str(number), "back", "y") for number in range(0, 500, 50)]
    with Applier(replication, target.connector, followed(replication), piece_bytes=20_000) as applier:
        start(applier)
        report = apply(applier, (100, changes))
        assert report.changes == len(changes)

        class BreaksOff(Exception):
            pass

        def break_off() -> Iterator[Change]:
            for number in range(1000, 1500):
                yield insert(ITEM, str(number), "gone", "x" * 50)
            raise BreaksOff

        transaction = MadeTransaction(200, break_off())
        with pytest.raises(BreaksOff):
            applier.apply([transaction])
        assert transaction.is_closed
        assert applier.state.position == 108
        assert target.rows("SELECT count(*) FROM item WHERE id >= 1000") == [(0,)]
        # The same applier goes on.
        apply(applier, (200, [insert(ITEM, "1000", "there", "x")]))
    expected = {number: ("u" if number % 2 == 0 else f"n{number}", "x" * 50) for number in range(500)}
    for number in range(0, 500, 5):
        del expected[number]
    expected |= dict.fromkeys(range(0, 500, 50), ("back", "y"))
    expected[1000] = ("there", "x")
    rows = target.rows("SELECT id, name, big FROM item ORDER BY id")
    assert {row[0]: row[1:] for row in rows} == expected


def test_column_mappings_hold_for_changes(target: Target) -> None:
    columns = (
        column("id", "bigint", "bigint"),
        column("first", "text"),
        column("last", "text"),
        column("secret", "text"),
        column("amount", "numeric(10,2)", "decimal(10,2)"),
        column("big", "text"),
    )
    person = relation("person", columns)
    mappings = [
        {"type": "direct", "source_columns": ["id"], "target_fields": ["key"]},
        {
            "type": "join",
            "source_columns": ["first", "last"],
            "target_fields": ["name"],
            "config": {"separator": " "},
        },
        {"type": "hash", "source_columns": ["secret"], "target_fields": ["masked"]},
        {"type": "expression", "expression": "big || '!'", "target_fields": ["loud"]},
        {"type": "direct", "source_columns": ["amount"], "target_fields": ["amount"]},
        {"type": "constant", "value": "shop", "target_fields": ["origin"]},
    ]
    replication = make_replication(tables=({"name": "person", "column_mappings": mappings},))
    tables = followed(replication, "person", column_mappings=mappings)
    digest = hashlib.sha256(b"s").hexdigest()
    with Applier(replication, target.connector, tables) as applier:
        start(applier)
        apply(
            applier,
            (
                100,
                [
                    insert(person, "1", "Ada", "L", "s", "1.50", "abc"),
                    insert(person, "2", "Bob", None, None, None, None),
                ],
            ),
        )
        apply(
            applier,
            (
                200,
                [
                    update(person, "1", "Ada", "K", "s", "2.50", UNCHANGED),
                    update(person, "3", "Bo", None, "s", "1.00", UNCHANGED, old=("2", *(None,) * 5)),
                ],
            ),
        )
        rows = target.rows("SELECT name, masked, loud, CAST(amount AS CHAR(9)), origin FROM person ORDER BY name")
        assert [(row[0], row[1], row[2], row[3].strip(), row[4]) for row in rows] == [
            ("Ada K", digest, "abc!", "2.50", "shop"),
            ("Bo", digest, None, "1.00", "shop"),
        ]
        # Half of what a field is made of is not known.
        with pytest.raises(SourceChangedError, match="'name' is made of several columns"):
            apply(applier, (300, [update(person, "1", "Ada", UNCHANGED, "s", "1.00", "x")]))
        apply(applier, (300, [delete(person, "1")]))
    assert target.rows("SELECT name FROM person") == [("Bo",)]


def test_a_row_that_the_target_has_lost_is_made_good_or_reported(target: Target) -> None:
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        apply(applier, (100, [insert(ITEM, str(number), "a", "x") for number in (1, 2, 3)]))
        target.run("DELETE FROM item WHERE id IN (1, 2)")
        apply(applier, (200, [update(ITEM, "1", "whole", "y"), update(ITEM, "3", "there", UNCHANGED)]))
        assert target.rows("SELECT id, name FROM item ORDER BY id") == [(1, "whole"), (3, "there")]
        with pytest.raises(TargetMismatchError, match="has lost 1 rows"):
            apply(applier, (300, [update(ITEM, "2", "part", UNCHANGED)]))
        with pytest.raises(TargetMismatchError, match="has lost 1 rows"):
            apply(applier, (300, [update(ITEM, "5", "part", UNCHANGED, old=("2", None, None))]))


def test_values_that_are_hard_to_write_arrive(target: Target) -> None:
    hostile = ["", "\\N", "a\tb", "a\nb", "\r\n", "\\.", '"', "'", "\\", "ü😀", "%s", "?", "\\\\N", "\x02", " a "]
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        apply(applier, (100, [insert(ITEM, str(at), text, None) for at, text in enumerate(hostile)]))
        apply(applier, (200, [update(ITEM, str(at), UNCHANGED, text) for at, text in enumerate(hostile)]))
    assert target.rows("SELECT name, big FROM item ORDER BY id") == [(text, text) for text in hostile]


def test_hostile_names_of_tables_and_columns(target: Target) -> None:
    name = 'a."b" `c` % ü'
    columns = (column('k "1" `?`', "bigint", "bigint"), column("select", "text"), column("a.b", "text"))
    odd = relation(name, columns, key=['k "1" `?`'])
    table = TableName(name, "public")
    replication = make_replication(tables=({"name": str(table)},))
    tables = followed(replication)
    tables = [type(tables[0])(table, TableName(name), tables[0].definition, ('k "1" `?`',))]
    with Applier(replication, target.connector, tables) as applier:
        start(applier)
        apply(applier, (100, [insert(odd, "1", "a", "b"), insert(odd, "2", "a", "b")]))
        apply(applier, (200, [update(odd, "3", "c", UNCHANGED, old=("1", None, None)), delete(odd, "2")]))
        quoted = target.connector.qualify(TableName(name))
        assert target.rows(f"SELECT * FROM {quoted}") == [(3, "c", "b")]


def test_keys_of_several_columns(target: Target) -> None:
    columns = (
        column("a", "integer", "integer"),
        column("b", "text"),
        column("big", "text"),
    )
    pair = relation("pair", columns, key=["a", "b"])
    replication = make_replication(tables=({"name": "pair"},))
    with Applier(replication, target.connector, followed(replication, "pair")) as applier:
        start(applier)
        apply(applier, (100, [insert(pair, "1", "x", "v"), insert(pair, "1", "y", "w")]))
        apply(
            applier,
            (
                200,
                [
                    update(pair, "1", "z", UNCHANGED, old=("1", "y", None)),
                    update(pair, "1", "y", UNCHANGED, old=("1", "x", None)),
                    update(pair, "2", "z", "new", old=("1", "z", None)),
                ],
            ),
        )
    assert target.rows("SELECT * FROM pair ORDER BY a, b") == [(1, "y", "v"), (2, "z", "new")]


def test_keys_that_the_target_calls_equal_are_one_row_that_moves(target: Target) -> None:
    columns = (column("k", "numeric(10,2)", "decimal(10,2)"), column("big", "text"))
    price = relation("price", columns, key=["k"])
    replication = make_replication(tables=({"name": "price"},))
    with Applier(replication, target.connector, followed(replication, "price")) as applier:
        start(applier)
        apply(applier, (100, [insert(price, "1.00", "x")]))
        # There and back again, in one piece.
        apply(
            applier,
            (
                200,
                [
                    update(price, "1.0", UNCHANGED, old=("1.00", None)),
                    update(price, "1.00", UNCHANGED, old=("1.0", None)),
                ],
            ),
        )
    assert [row[1] for row in target.rows("SELECT * FROM price")] == ["x"]


def test_a_full_identity_needs_a_key_and_tells_all_values(target: Target) -> None:
    full = relation(identity="full", key=["id", "name", "big"])
    replication = make_replication()
    tables = followed(replication)
    with Applier(replication, target.connector, tables) as applier:
        start(applier)
        apply(applier, (100, [insert(full, "1", "a", "x")]))
        apply(applier, (200, [update(full, "2", "b", UNCHANGED, old=("1", "a", "x"))]))
        apply(applier, (300, [insert(full, "1", "c", "z"), delete(full, "2", "b", "x")]))
    assert target.rows("SELECT * FROM item") == [(1, "c", "z")]


def test_a_table_without_a_key_stops_in_mirror_and_is_kept_in_a_history(target: Target) -> None:
    full = relation("plain", identity="full", key=["id", "name", "big"])
    replication = make_replication(tables=({"name": "plain"}, {"name": "item"}))
    tables = [
        type(table)(table.source, table.target, table.definition, ()) if table.source.name == "plain" else table
        for table in followed(replication, "plain", "item")
    ]
    changes: list[Change] = [
        insert(full, "1", "a", "x"),
        insert(full, "1", "a", "x"),
        update(full, "1", "b", UNCHANGED, old=("1", "a", "x")),
        delete(full, "1", "a", "x"),
        insert(ITEM, "1", "goes on", "x"),
    ]
    with Applier(replication, target.connector, tables) as applier:
        start(applier)
        report = apply(applier, (100, changes))
        (reason,) = report.stopped.values()
        assert "give the source table a primary key" in reason
        assert applier.table_states[TableName("plain", "public")].status == "stopped"
    assert target.rows("SELECT id, name FROM item") == [(1, "goes on")]

    kept = make_replication(
        name="kept", mode="history", tables=({"name": "plain"},), target_naming={"table": "h_{table}"}
    )
    tables = [
        type(table)(table.source, TableName("h_plain"), table.definition, ()) for table in followed(kept, "plain")
    ]
    with Applier(kept, target.connector, tables) as applier:
        start(applier)
        apply(applier, (100, changes))
    rows = target.rows("SELECT change_operation, name, big FROM h_plain ORDER BY change_ordinal")
    assert rows == [("insert", "a", "x"), ("insert", "a", "x"), ("update", "b", "x"), ("delete", "a", "x")]


def test_two_replications_do_not_write_one_table(target: Target) -> None:
    first, second = make_replication(), make_replication(name="second")
    with Applier(first, target.connector, followed(first)) as applier:
        start(applier)
    with (
        Applier(second, target.connector, followed(second)) as applier,
        pytest.raises(PlanError, match="is written by the replication 'shop'"),
    ):
        applier.begin("run")


def test_an_existing_table_with_other_columns_stops_with_the_remedy(target: Target) -> None:
    target.run("CREATE TABLE item (id bigint primary key, name varchar(10))")
    replication = make_replication(evolution="freeze")
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        report = apply(applier, (100, [insert(ITEM, "1", "a", "x")]))
        (reason,) = report.stopped.values()
        assert "big: the mapping fills it, the table does not have it" in reason
        assert "set evolution: add_columns" in reason


def test_an_existing_table_without_a_key_stops_with_the_remedy(target: Target) -> None:
    text = "longtext" if target.kind == "mysql" else "text"
    target.run(f"CREATE TABLE item (id bigint not null, name {text}, big {text})")
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        report = apply(applier, (100, [insert(ITEM, "1", "a", "x")]))
        (reason,) = report.stopped.values()
        assert "has no unique index on (id)" in reason
        assert "ADD PRIMARY KEY" in reason


def test_columns_of_the_target_alone_keep_their_values(target: Target) -> None:
    text = "longtext" if target.kind == "mysql" else "text"
    target.run(f"CREATE TABLE item (id bigint primary key, mine varchar(9) default 'd', name {text}, big {text})")
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        apply(applier, (100, [insert(ITEM, "1", "a", "x"), insert(ITEM, "2", "b", "x")]))
        target.run("UPDATE item SET mine = 'kept' WHERE id = 1")
        apply(applier, (200, [update(ITEM, "1", "a2", "y"), update(ITEM, "2", "b2", UNCHANGED)]))
    assert target.rows("SELECT * FROM item ORDER BY id") == [(1, "kept", "a2", "y"), (2, "d", "b2", "x")]
