"""Tables of every shape and names of every kind, as sources and as targets that are there."""

from __future__ import annotations

import re

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import ConfigurationError, PlanError, SynqxError, TargetMismatchError
from synqx_dagster.model.table import TableName
from synqx_dagster_tests.integration.transfer.loading import load, make_mapping
from synqx_dagster_tests.integration.transfer.types.conftest import MakeDatabase
from synqx_dagster_tests.integration.transfer.types.databases import Database
from synqx_dagster_tests.integration.transfer.types.matrix import check_section, render_rows
from synqx_dagster_tests.integration.transfer.types.routes import ALLOWED, Outcome, connected
from synqx_dagster_tests.integration.transfer.types.shapes import (
    MYSQL_NAMES,
    MYSQL_SHAPES,
    NAMES,
    POSTGRESQL_SHAPES,
    TABLE_NAMES,
)

pytestmark = pytest.mark.mysql

SHAPES = {"postgresql": POSTGRESQL_SHAPES, "mysql": MYSQL_SHAPES}
NAMES_OF = {"postgresql": NAMES, "mysql": MYSQL_NAMES}
TARGETS = {"PostgreSQL": "postgresql", "MySQL": "mysql", "DuckDB": "duckdb"}

Cells = dict[str, dict[str, str]]


class Pair:
    """Two databases and their connectors."""

    def __init__(self, source: Database, target: Database, connectors: list[Connector]) -> None:
        self.source, self.target, self.connectors = source, target, connectors

    def try_load(self, table: str, fields: dict[str, str] | None = None, blame: str = "") -> Outcome:
        """Load a table and compare all of its rows.

        Args:
            fields: Columns to load, by the names that their places have in the table; None: all.
            blame: What the message of a refused load must name.
        """
        name = str(TableName(table))
        mapping = make_mapping(
            source_table=name,
            target_table=name,
            column_mappings=fields
            and [{"type": "direct", "source_columns": [field], "target_fields": [field]} for field in fields],
        )
        try:
            load(self.connectors[0], self.connectors[1], mapping)
        except (ConfigurationError, PlanError, TargetMismatchError) as error:
            return Outcome("refused" if blame in error.message else "failed", _plain(error.message, table))
        except SynqxError as error:
            return Outcome("failed", f"{type(error).__name__}: {error.message}")
        if self.target.family == "duckdb":
            # It lets one connection at a time have a file.
            self.connectors[1].close()
        expected, found = (self._rows(database, table, fields) for database in (self.source, self.target))
        if expected == found:
            return Outcome("exact")
        return Outcome("changed", f"{expected!r:.200} became {found!r:.200}")

    def _rows(self, database: Database, table: str, fields: dict[str, str] | None) -> list[tuple[str | None, ...]]:
        """Every row as texts, in an order that depends on nothing but the rows."""
        columns = ", ".join(map(database.quote, fields)) if fields else "*"
        rows = database.rows(f"select {columns} from {database.quote(table)}")
        return sorted((tuple(None if value is None else str(value) for value in row) for row in rows), key=repr)


def _plain(message: str, table: str) -> str:
    """A message without what is another in each run: servers and numbered tables."""
    message = re.sub(
        r"^(mapping 'load'|writing to \S+): (the table \S+ exists, and its columns do not fit:\n *)?", "", message
    )
    return message.replace(table, "it") if table.startswith("shape_") else message


def defects(cells: Cells) -> list[str]:
    return [
        f"{name}, {route}: {cell}"
        for name, row in cells.items()
        for route, cell in row.items()
        if not cell.startswith(ALLOWED)
    ]


# --- shapes -----------------------------------------------------------------------------------------------------


def properties(database: Database, table: str) -> list[tuple[object, ...]]:
    """What makes a table of PostgreSQL what it is, besides its rows."""
    return database.rows(
        f"select c.relkind, a.attname, a.attidentity, a.attgenerated, a.attnotnull, pg_get_expr(d.adbin, d.adrelid),"
        " (select count(*) from pg_constraint k where k.conrelid = c.oid and k.contype in ('p', 'f'))"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
        " left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum"
        f" where c.relname = '{table}' order by a.attnum"
    )


def try_shapes(family: str, make_database: MakeDatabase) -> Cells:
    source = make_database(family)
    shapes = {f"shape_{number}": shape for number, shape in enumerate(SHAPES[family])}
    for table, shape in shapes.items():
        source.run(*(statement.format(t=table) for statement in (*shape.make, *shape.fill)))
    cells: Cells = {shape.name: {} for shape in shapes.values()}
    for route, kind in TARGETS.items():
        target = make_database(kind)
        with connected(source, target) as connectors:
            pair = Pair(source, target, connectors)
            for table, shape in shapes.items():
                cells[shape.name][route] = str(pair.try_load(table))
    there = make_database(family)
    with connected(source, there) as connectors:
        pair = Pair(source, there, connectors)
        for table, shape in shapes.items():
            there.run(*(statement.format(t=table) for statement in shape.make))
            before = properties(there, table) if family == "postgresql" else []
            outcome = pair.try_load(table)
            if family == "postgresql" and properties(there, table) != before:
                outcome = Outcome("changed", "the table is no longer what it was")
            cells[shape.name]["the same table, there already"] = str(outcome)
    return cells


@pytest.mark.parametrize("family", SHAPES)
def test_every_shape_is_read_and_written(make_database: MakeDatabase, family: str) -> None:
    cells = try_shapes(family, make_database)
    assert defects(cells) == []
    check_section(f"tables of {family}", render_rows("table", cells))


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NAMES_OF)
def test_columns_may_have_any_name(make_database: MakeDatabase, family: str) -> None:
    source, names = make_database(family), NAMES_OF[family]
    columns = ", ".join(f"{source.quote(name)} int" for name in names.values())
    numbers = ", ".join(map(str, range(len(names))))
    source.run(f"create table named (id int, {columns})", f"insert into named values (1, {numbers})")
    cells: Cells = {label: {} for label in names}
    for route, kind in TARGETS.items():
        target = make_database(kind)
        with connected(source, target) as connectors:
            pair = Pair(source, target, connectors)
            left = dict(names)
            while (outcome := pair.try_load("named", {name: label for label, name in left.items()})) != Outcome(
                "exact"
            ):
                blamed = [label for label, name in left.items() if repr(name) in outcome.reason]
                assert outcome.what == "refused", outcome
                assert blamed, outcome
                for label in blamed:
                    cells[label][route] = str(outcome).replace(f"the name {left.pop(label)!r}", "it")
            for label in left:
                cells[label][route] = str(outcome)
    check_section(f"columns of {family}", render_rows("name of a column", cells))


def test_columns_that_differ_in_case_stay_two(make_database: MakeDatabase) -> None:
    source = make_database("postgresql")
    cells: dict[str, str] = {}
    source.run('create table cased ("Name" int, name int)', "insert into cased values (1, 2)")
    for route, kind in TARGETS.items():
        target = make_database(kind)
        with connected(source, target) as connectors:
            cells[route] = str(Pair(source, target, connectors).try_load("cased", blame="ame"))
    assert defects({"columns that differ in case": cells}) == []
    assert cells["PostgreSQL"] == "exact"


@pytest.mark.parametrize("family", NAMES_OF)
def test_tables_may_have_any_name(make_database: MakeDatabase, family: str) -> None:
    source = make_database(family)
    names = {label: NAMES_OF[family][label] for label in TABLE_NAMES if label in NAMES_OF[family]}
    for name in names.values():
        source.run(f"create table {source.quote(name)} (id int)", f"insert into {source.quote(name)} values (1)")
    cells: Cells = {label: {} for label in names}
    for route, kind in TARGETS.items():
        target = make_database(kind)
        with connected(source, target) as connectors:
            pair = Pair(source, target, connectors)
            for label, name in names.items():
                outcome = pair.try_load(name, blame=repr(name))
                cells[label][route] = str(outcome).replace(f"the name {name!r}", "it")
    assert defects(cells) == []
    check_section(f"table names of {family}", render_rows("name of a table", cells))
