"""`synqx connections`: what is declared, whether it can be reached, and what is there."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.changes import change_documents, draw_changes
from synqx_dagster.cli.figures import format_age, format_count, format_latency, plural
from synqx_dagster.cli.options import SynqxSubgroup, confirm, json_option, pass_output, revision_options
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.connectors.protocol import TableDescription
    from synqx_dagster.model.connection import Connection


@click.group(cls=SynqxSubgroup)
def connections() -> None:
    """List, test and discover connections."""


def describe_address(connection: Connection) -> str:
    """Where a connection leads, without credentials: ``shop.example:5432/shop``, or a path."""
    host = connection.host or ""
    if connection.port is not None:
        host += f":{connection.port}"
    address = "/".join(part for part in (host, connection.database) if part)
    return printable(address) or "-"


# --- list ------------------------------------------------------------------------------------------------------


@connections.command("list")
@json_option
@pass_output
def list_connections(output: Output) -> None:
    """List the connections and how their last test went."""
    catalog = open_catalog()
    records = list(catalog.snapshot().connections.values())
    tests = {record.name: catalog.find_test(record.name) for record in records}
    document = [
        {
            "name": record.name,
            "db_type": record.db_type,
            "host": record.host,
            "port": record.port,
            "database": record.database,
            "username": record.username,
            "last_tested_at": test.last_tested_at if (test := tests[record.name]) else None,
            "last_test_status": test.last_test_status if test else None,
        }
        for record in records
    ]

    def draw() -> None:
        if not records:
            output.print("No connections yet: declare one in YAML (`kind: connection`), then run `synqx apply`.")
            return
        output.table(
            ["name", "type", "address", "user", "last test"],
            [
                [
                    printable(record.name),
                    record.db_type,
                    describe_address(record),
                    printable(record.username or "-"),
                    _describe_last_test(tests[record.name]),
                ]
                for record in records
            ],
        )

    output.result(document, draw)


def _describe_last_test(test: Any) -> str:
    if test is None or test.last_tested_at is None:
        return "never"
    return f"{test.last_test_status}, {format_age(test.last_tested_at)}"


# --- test ------------------------------------------------------------------------------------------------------


@connections.command("test")
@click.argument("names", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Test every connection.")
@json_option
@pass_output
def test_connections(output: Output, names: tuple[str, ...], all_of_them: bool) -> None:
    """Connect within five seconds and say what was found, or why it failed.

    Shows the server's version, the latency, whether the user may read and write, and whether TLS is on. The outcome
    is kept for `synqx connections list`. Exits 1 when a connection fails.
    """
    from synqx_dagster.catalog.connecting import try_connection

    catalog = open_catalog()
    snapshot = catalog.snapshot()
    if all_of_them:
        records = list(snapshot.connections.values())
    elif names:
        records = [snapshot.get_connection(name) for name in dict.fromkeys(names)]
    else:
        raise click.UsageError("name a connection, or give --all")
    outcomes: list[tuple[Connection, dict[str, Any]]] = []
    for record in records:
        if len(records) > 1:
            output.note(f"testing {printable(record.name)} ...")
        outcome = dataclasses.asdict(try_connection(catalog, record))
        catalog.save_test(record.name, outcome)
        outcomes.append((record, outcome))
    document: Any = [{"name": record.name, **outcome} for record, outcome in outcomes]

    def draw() -> None:
        if not outcomes:
            output.print("No connections yet: declare one in YAML (`kind: connection`), then run `synqx apply`.")
        for index, (record, outcome) in enumerate(outcomes):
            if index:
                output.print()
            _draw_outcome(output, record, outcome)

    output.result(document, draw)
    if not all(outcome["ok"] for _, outcome in outcomes):
        raise click.exceptions.Exit(1)


def _draw_outcome(output: Output, connection: Connection, outcome: dict[str, Any]) -> None:
    from rich.text import Text

    ok = outcome["ok"]
    heading = Text()
    heading.append(printable(connection.name), style="bold")
    heading.append(f"  {connection.db_type}  {describe_address(connection)}  ", style="dim")
    heading.append("ok" if ok else "failed", style="green" if ok else "bold red")
    output.print(heading)
    facts: list[tuple[str, str]] = []
    if ok:
        facts = [
            ("server", printable(outcome["server_version"] or "-")),
            ("latency", format_latency(outcome["latency_seconds"])),
            ("read", _yes_or_no(outcome["can_read"])),
            ("write", _yes_or_no(outcome["can_write"])),
            ("TLS", outcome["tls"] or "-"),
        ]
    else:
        facts = [("reason", f"{outcome['reason'] or 'unknown'}: {printable(outcome['message'])}")]
        if outcome["hint"]:
            facts.append(("do", printable(outcome["hint"])))
    output.facts(facts, indent=2)


def _yes_or_no(value: bool | None) -> str:
    return "not known" if value is None else "yes" if value else "no"


# --- discover --------------------------------------------------------------------------------------------------


@connections.command("discover")
@click.argument("name")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--schema", metavar="SCHEMA", help="Only this schema.")
@click.option("--columns", is_flag=True, help="Show the columns of every table.")
@click.option("--save", is_flag=True, help="Make an asset of every table and view that has none.")
@click.option("--dry-run", is_flag=True, help="With --save: show the assets; make none.")
@click.option("--yes", "-y", is_flag=True, help="With --save: do not ask before making them.")
@revision_options
@json_option
@pass_output
def discover_connection(
    output: Output,
    name: str,
    tables: tuple[str, ...],
    schema: str | None,
    columns: bool,
    save: bool,
    dry_run: bool,
    yes: bool,
    author: str,
    reason: str | None,
) -> None:
    """Show the tables and views at a connection.

    With TABLE (`orders` or `public.orders`), its columns, types and key. With --save the tables that are shown become
    records (`kind: asset`) as one new revision; those that the catalog has an asset of already are left as they are.
    On a terminal, --save asks before.
    """
    from synqx_dagster.catalog.connecting import describe_table, make_connector_of

    if not save:
        for option, given in (("--dry-run", dry_run), ("--yes", yes), ("--reason", reason is not None)):
            if given:
                raise click.UsageError(f"{option} is for --save")
    catalog = open_catalog()
    connector = make_connector_of(catalog, catalog.snapshot_for(connections=[name]).get_connection(name))
    try:
        found = connector.discover(schema)
        default_schema = connector.capabilities.default_schema
    finally:
        connector.close()
    if tables:
        found = _select_tables(found, tables, name)
    if save:
        saving = _Saving(name, schema, default_schema, dry_run=dry_run, asks=not yes, author=author, reason=reason)
        saving.save(output, catalog, found)
        return
    document = [describe_table(description) for description in found]

    def draw() -> None:
        if not found:
            _draw_nothing(output, name, schema)
        elif columns or tables:
            for description in found:
                _draw_columns(output, description)
        else:
            _draw_tables(output, found)

    output.result(document, draw)


def _draw_nothing(output: Output, name: str, schema: str | None) -> None:
    place = f" in schema {printable(schema)}" if schema else ""
    output.print(f"No tables or views at {printable(name)}{place} that this user can see.")


def _select_tables(
    found: Sequence[TableDescription], wanted: Sequence[str], connection_name: str
) -> list[TableDescription]:
    import difflib

    from synqx_dagster.errors import NotFoundError
    from synqx_dagster.model.table import TableName

    selected: list[TableDescription] = []
    for text in dict.fromkeys(wanted):
        try:
            table = TableName.parse(text)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc
        matches = [
            description
            for description in found
            if description.table.name == table.name and table.schema in (None, description.table.schema)
        ]
        if not matches:
            names = [description.table.name for description in found]
            near = difflib.get_close_matches(table.name, names, n=1)
            raise NotFoundError(
                f"there is no table {text!r} at {connection_name!r}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
        selected.extend(matches)
    return selected


def _draw_tables(output: Output, found: Sequence[TableDescription]) -> None:
    output.table(
        ["table", "kind", "columns", "rows (about)"],
        [
            [
                printable(str(description.table)),
                "view" if description.is_view else "table",
                format_count(len(description.columns)),
                format_count(description.estimated_rows),
            ]
            for description in found
        ],
        right=["columns", "rows (about)"],
        fold=["table"],
    )
    output.print()
    views = sum(description.is_view for description in found)
    counts = [plural(len(found) - views, "table"), plural(views, "view")] if views else [plural(len(found), "table")]
    output.print(f"{', '.join(counts)}. For columns, add a table's name or --columns.", style="dim")


def _draw_columns(output: Output, description: TableDescription) -> None:
    kind = "view" if description.is_view else "table"
    output.table(
        ["column", "type", "database type", "nullable", "key"],
        [
            [
                printable(column.name),
                str(column.data_type),
                printable(column.native_type or "-"),
                "yes" if column.nullable else "no",
                str(column.key_position or ""),
            ]
            for column in description.columns
        ],
        right=["key"],
        title=f"{kind} {printable(str(description.table))}",
    )
    output.print()


# --- save ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Saving:
    """How discovered tables become assets of the catalog."""

    connection: str
    schema: str | None
    default_schema: str | None
    dry_run: bool
    asks: bool
    author: str
    reason: str | None

    def save(self, output: Output, catalog: Catalog, found: Sequence[TableDescription]) -> None:
        """Make assets of tables, as one revision; shows them before."""
        from synqx_dagster.catalog.apply import apply_changes, plan_changes
        from synqx_dagster.catalog.documents import Definitions
        from synqx_dagster.catalog.drafting import draft_assets

        known = catalog.latest_snapshot().assets.values()
        drafted = draft_assets(self.connection, found, known, default_schema=self.default_schema)
        plan = plan_changes(catalog, Definitions(drafted.created))
        if not (output.as_json or plan.is_empty):
            draw_changes(output, plan.changes)
            if self.asks and not self.dry_run and sys.stdin.isatty():
                confirm(output, f"Make {plural(len(plan.changes), 'asset')}?")
        revision = plan.base_revision
        if not (self.dry_run or plan.is_empty):
            reason = self.reason or f"discovered at {self.connection}"
            revision = apply_changes(catalog, plan, author=self.author, reason=reason)
        document = {
            "applied": revision != plan.base_revision,
            "revision": revision,
            "base_revision": plan.base_revision,
            "changes": change_documents(plan.changes),
            "existing": [{"name": asset.name, "table": str(asset.table_name)} for asset in drafted.existing],
            "unnamed": [str(table) for table in drafted.unnamed],
        }

        def draw() -> None:
            for asset in drafted.existing:
                output.print(f"{printable(str(asset.table_name))} has an asset already: {printable(asset.name)}")
            for table in drafted.unnamed:
                output.print(f"{printable(str(table))} has a name that no record may have: declare its asset by hand")
            if not found:
                _draw_nothing(output, self.connection, self.schema)
            elif plan.is_empty:
                output.print(f"Nothing to make: the catalog (revision {revision}) stays as it is.")
            elif self.dry_run:
                output.print(f"{len(plan.changes)} created. Nothing was changed: this was a dry run.")
            else:
                output.print(f"{len(plan.changes)} created: revision {revision}.")

        output.result(document, draw)
