"""The statements of merges and histories, in a dialect of the test's own."""

from __future__ import annotations

import dataclasses

from synqx_dagster.connectors.merge_sql import MergeDialect, render_history, render_merge, render_single_merge
from synqx_dagster.connectors.protocol import HistorySpec, MergeSpec
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

DIALECT = MergeDialect(
    quote=lambda name: f"[{name}]",
    same=lambda left, right, column: f"same({left}, {right})",
    moment=lambda text, column: f"moment('{text}', {column.data_type})",
)
ID = Column("id", DataType("integer"))
CODE = Column("code", DataType("string"))
NAME = Column("name {x}", DataType("string"))


def test_a_merge_updates_what_differs_and_inserts_what_is_new() -> None:
    sql = render_merge(DIALECT, "S", "T", (ID, NAME), MergeSpec(("id",)))
    assert sql.delete is None
    assert sql.update == (
        "UPDATE T AS t SET [name {x}] = s.[name {x}] FROM S AS s"
        " WHERE t.[id] = s.[id] AND NOT (same(t.[name {x}], s.[name {x}]))"
    )
    assert sql.insert == (
        "INSERT INTO T ([id], [name {x}]) SELECT s.[id], s.[name {x}] FROM S s LEFT JOIN T t ON t.[id] = s.[id]"
        " WHERE t.[id] IS NULL"
    )


def test_a_key_that_may_be_equal_and_differ_is_compared_and_written_too() -> None:
    sql = render_merge(DIALECT, "S", "T", (CODE,), MergeSpec(("code",)))
    assert sql.update == (
        "UPDATE T AS t SET [code] = s.[code] FROM S AS s WHERE t.[code] = s.[code] AND NOT (same(t.[code], s.[code]))"
    )


def test_a_table_of_nothing_but_an_exact_key_is_never_updated() -> None:
    assert render_merge(DIALECT, "S", "T", (ID,), MergeSpec(("id",))).update is None


def test_a_column_that_cannot_be_set_is_neither_compared_nor_set() -> None:
    dialect = dataclasses.replace(DIALECT, fixed=frozenset({"name {x}"}))
    assert render_merge(dialect, "S", "T", (ID, NAME), MergeSpec(("id",))).update is None


def test_missing_rows_are_deleted() -> None:
    sql = render_merge(DIALECT, "S", "T", (ID, NAME), MergeSpec(("id",), delete_missing=True))
    assert sql.delete == "DELETE FROM T AS t WHERE NOT EXISTS (SELECT 1 FROM S s WHERE t.[id] = s.[id])"


def test_flagged_rows_are_deleted_and_not_written() -> None:
    sql = render_merge(DIALECT, "S", "T", (ID, NAME), MergeSpec(("id",), deleted_flag="gone"))
    assert sql.delete == "DELETE FROM T AS t WHERE EXISTS (SELECT 1 FROM S s WHERE t.[id] = s.[id] AND s.[gone] = TRUE)"
    assert sql.update is not None
    assert sql.update.endswith(" AND s.[gone] = FALSE")
    assert sql.insert.endswith(" WHERE t.[id] IS NULL AND s.[gone] = FALSE")


def test_a_flagged_row_is_missing_too() -> None:
    sql = render_merge(DIALECT, "S", "T", (ID, NAME), MergeSpec(("id",), True, "gone"))
    assert sql.delete == (
        "DELETE FROM T AS t WHERE NOT EXISTS (SELECT 1 FROM S s WHERE t.[id] = s.[id] AND s.[gone] = FALSE)"
    )


def test_an_update_that_joins_nothing_reads_each_value_by_itself() -> None:
    dialect = dataclasses.replace(
        DIALECT,
        update_correlates=True,
        update_from=(
            "UPDATE {target} t SET {assignments} WHERE EXISTS (SELECT 1 FROM {staging} s WHERE {match} AND {where})"
        ),
    )
    sql = render_merge(dialect, "S", "T", (ID, NAME), MergeSpec(("id",)))
    assert sql.update == (
        "UPDATE T t SET [name {x}] = (SELECT s.[name {x}] FROM S s WHERE t.[id] = s.[id])"
        " WHERE EXISTS (SELECT 1 FROM S s WHERE t.[id] = s.[id] AND NOT (same(t.[name {x}], s.[name {x}])))"
    )


def test_history_closes_what_ended_and_opens_what_is_new() -> None:
    spec = HistorySpec(MergeSpec(("id",), delete_missing=True), "from", "to", "now", "2024-01-01 00:00:00+00")
    kept = (Column("from", DataType("timestamptz")), Column("to", DataType("timestamp")))
    sql = render_history(DIALECT, "S", "T", (ID, NAME), spec, kept)
    starts, ends = (f"moment('2024-01-01 00:00:00+00', {kind})" for kind in ("timestamptz", "timestamp"))
    closing = f"UPDATE T AS t SET [to] = {ends}, [now] = FALSE"
    assert sql.close_gone == (
        f"{closing} WHERE t.[now] = TRUE AND NOT EXISTS (SELECT 1 FROM S s WHERE t.[id] = s.[id])"
    )
    assert sql.close_changed == (
        f"{closing} FROM S AS s WHERE t.[id] = s.[id] AND t.[now] = TRUE AND NOT (same(t.[name {{x}}], s.[name {{x}}]))"
    )
    assert sql.open == (
        f"INSERT INTO T ([id], [name {{x}}], [from], [to], [now]) SELECT s.[id], s.[name {{x}}], {starts}, NULL, TRUE"
        " FROM S s LEFT JOIN T t ON t.[id] = s.[id] AND t.[now] = TRUE WHERE t.[id] IS NULL"
    )


def test_one_statement_updates_what_differs_and_inserts_what_is_new() -> None:
    assert render_single_merge(DIALECT, "S", "T", (ID, NAME), MergeSpec(("id",))) == (
        "MERGE INTO T AS t USING S AS s ON t.[id] = s.[id]"
        " WHEN MATCHED AND NOT (same(t.[name {x}], s.[name {x}])) THEN UPDATE SET [name {x}] = s.[name {x}]"
        " WHEN NOT MATCHED THEN INSERT ([id], [name {x}]) OVERRIDING SYSTEM VALUE VALUES (s.[id], s.[name {x}])"
    )


def test_one_statement_over_nothing_but_the_key_only_inserts() -> None:
    assert render_single_merge(DIALECT, "S", "T", (ID,), MergeSpec(("id",))) == (
        "MERGE INTO T AS t USING S AS s ON t.[id] = s.[id]"
        " WHEN NOT MATCHED THEN INSERT ([id]) OVERRIDING SYSTEM VALUE VALUES (s.[id])"
    )
