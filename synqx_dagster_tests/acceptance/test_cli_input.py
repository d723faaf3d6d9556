"""Wrong input, each as a new user would get it wrong: a clear error with its place, exit code 2, nothing changed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from synqx_dagster_tests.fix_cli import Project

GOOD = """\
kind: connection
name: shop
db_type: sqlite
database: shop.db
---
kind: connection
name: lake
db_type: duckdb
database: lake.duckdb
---
kind: schema
name: customer
columns:
  - {name: id, data_type: integer, nullable: false}
  - {name: label, data_type: string}
---
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: lake
target_table: customers
target_schema: customer
"""

MAPPING = "---\nkind: mapping\nname: {name}\nsource_connection: {source}\nsource_table: {table}\n"
SCHEDULE = "---\nkind: schedule\nname: nightly\nmapping: customers\ncron_expression: '{cron}'\ntimezone: {zone}\n"
BACK = (
    MAPPING.format(name="back", source="lake", table="customers") + "target_connection: shop\ntarget_table: customer\n"
)
OTHER = MAPPING.format(name="other", source="shop", table="other") + "target_connection: lake\ntarget_table: other\n"
PIPELINE = """\
---
kind: pipeline
name: both
nodes:
  - {node_id: one, config: {mapping: customers}}
  - {node_id: two, config: {mapping: other}}
edges:
  - {from_node_id: one, to_node_id: two}
  - {from_node_id: two, to_node_id: one}
"""

SEALED = "kind: connection\nname: x\ndb_type: postgresql\nhost: h\ndatabase: d\nusername: u\npassword: canary-pw\n"

#: The text of definitions.yaml, the line of the problem, and what the error must say.
MISTAKES = {
    "unknown key": (GOOD.replace("database: shop.db", "databse: shop.db"), 4, ["'databse'", "'database'"]),
    "duplicate name": (
        GOOD + "---\nkind: schema\nname: customer\ncolumns: [{name: id, data_type: integer}]\n",
        26,
        ["two schemas 'customer'", "definitions.yaml:11"],
    ),
    "missing reference": (
        GOOD.replace("source_connection: shop", "source_connection: shp"),
        19,
        ["no connection 'shp'", "'shop'"],
    ),
    "cycle through tables": (GOOD + BACK, None, ["back -> customers -> back"]),
    "cycle of edges": (GOOD + OTHER + PIPELINE, None, ["one -> two -> one"]),
    "port 0": (GOOD.replace("database: shop.db", "database: shop.db\nport: 0"), 5, ["port", "at least 1"]),
    "port 70000": (GOOD.replace("database: shop.db", "database: shop.db\nport: 70000"), 5, ["at most 65535"]),
    "bad cron": (GOOD + SCHEDULE.format(cron="61 2 * * *", zone="UTC"), 28, ["61 2 * * *"]),
    "unknown time zone": (
        GOOD + SCHEDULE.format(cron="1 2 * * *", zone="Europe/Berln"),
        29,
        ["Europe/Berln", "Europe/Berlin"],
    ),
    "two statements": (
        GOOD.replace("source_table: customer", "source_query: select 1 as id; drop table customer"),
        20,
        ["more than one statement"],
    ),
    "not a select": (
        GOOD.replace("source_table: customer", "source_query: delete from customer"),
        20,
        ["DELETE"],
    ),
    "split without delimiter": (
        GOOD + "column_mappings:\n  - {type: split, source_columns: [name], target_fields: [id, label], config: {}}\n",
        25,
        ["delimiter"],
    ),
    "field that the schema lacks": (
        GOOD
        + "column_mappings:\n"
        + "  - {type: direct, source_columns: [id], target_fields: [id]}\n"
        + "  - {type: direct, source_columns: [name], target_fields: [lable]}\n",
        26,
        ["no column 'lable'", "'label'"],
    ),
    "unknown type": (GOOD.replace("data_type: string", "data_type: strng"), 15, ["'strng'", "'string'"]),
    "unknown kind of connection": (GOOD.replace("db_type: sqlite", "db_type: sqlit"), 3, ["'sqlite'"]),
    "unknown kind of record": (GOOD.replace("kind: schema", "kind: schma"), 11, ["'schema'"]),
    "anchor and alias": (GOOD.replace("columns:\n", "columns: &c\n"), 13, ["anchor"]),
    "duplicate key": (GOOD.replace("name: customers\n", "name: customers\nname: again\n"), 19, ["'name'", "twice"]),
    "not YAML": (GOOD + "  bad: [\n", None, ["not YAML"]),
}


@pytest.mark.parametrize("command", ["check", "apply"])
@pytest.mark.parametrize(("text", "line", "fragments"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_definitions(
    project: Project, command: str, text: str, line: int | None, fragments: list[str]
) -> None:
    project.write("definitions.yaml", text)

    outcome = project(command)

    assert outcome.exit_code == 2, outcome.output
    assert "Error: 1 problem found" in outcome.stderr
    assert "definitions.yaml:" + (f"{line}" if line is not None else "") in outcome.stderr
    for fragment in fragments:
        assert fragment in outcome.stderr
    assert "Traceback" not in outcome.output
    assert project("history", "--json").document == []


def test_every_problem_of_every_file_is_listed_at_once(project: Project) -> None:
    project.write("definitions/a.yaml", GOOD.replace("data_type: string", "data_type: strng"))
    project.write("definitions/deep/b.yml", "kind: connection\nname: x\ndb_type: sqlite\nport: 0\n")

    outcome = project("check", "--json")

    assert outcome.exit_code == 2
    places = [(item["file"], item["line"], item["field"]) for item in outcome.document["error"]["problems"]]
    assert places == [("definitions/a.yaml", 15, "columns[1].data_type"), ("definitions/deep/b.yml", 4, "port")]


#: A mistake of each stage of checking: the text, a record, a reference, a calendar, the tables, a cycle.
MANY_MISTAKES = """\
kind: connection
name: shop
db_type: sqlite
database: shop.db
---
kind: connection
name: broken
db_type: sqlite
port: 0
---
kind: mapping
name: uses_broken
source_connection: broken
source_table: a
target_connection: shop
target_table: b
---
kind: mapping
name: lost
source_connection: shop
source_table: c
target_connection: nowhere
target_table: d
---
kind: mapping
name: also_b
source_connection: shop
source_table: e
target_connection: shop
target_table: b
---
kind: mapping
name: there
source_connection: shop
source_table: g
target_connection: shop
target_table: f
---
kind: mapping
name: back
source_connection: shop
source_table: f
target_connection: shop
target_table: g
---
kind: schedule
name: nightly
mapping: there
cron_expression: "99 2 * * *"
---
kind: schedule
name: of_a_record_behind_the_mistake
mapping: unread
cron_expression: "0 2 * * *"
"""
CUT_OFF = "kind: pipeline\nname: cut\nnodes: [\n---\nkind: mapping\nname: unread\n"


@pytest.mark.parametrize("command", ["check", "apply"])
def test_mistakes_of_all_stages_are_listed_at_once_and_none_that_follow_from_them(
    project: Project, command: str
) -> None:
    project.write("definitions/a.yaml", MANY_MISTAKES)
    project.write("definitions/b.yaml", CUT_OFF)

    outcome = project(command, "--json")

    assert outcome.exit_code == 2
    problems = outcome.document["error"]["problems"]
    places = [(item["file"].removeprefix("definitions/"), item["line"], item["field"]) for item in problems]
    assert places == [
        ("a.yaml", 9, "port"),
        ("a.yaml", 16, "target_table"),
        ("a.yaml", 22, "target_connection"),
        ("a.yaml", 39, None),
        ("a.yaml", 49, "cron_expression"),
        ("b.yaml", 4, None),
    ], outcome.stderr
    assert "wait for each other" in problems[3]["message"]
    assert project("history", "--json").document == []


def test_a_file_that_is_not_utf8(project: Project) -> None:
    (project.directory / "a.yaml").write_bytes(GOOD.encode() + b"description: caf\xe9\n")

    outcome = project("check")

    assert outcome.exit_code == 2
    assert "a.yaml:24: the file is not UTF-8" in outcome.stderr


def test_a_file_of_100_mb(project: Project) -> None:
    path = project.directory / "big.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)

    outcome = project("check", "big.yaml")

    assert outcome.exit_code == 2
    assert "big.yaml: the file is larger than" in outcome.stderr


def test_a_path_that_is_not_there(project: Project) -> None:
    outcome = project("apply", "nowhere.yaml")

    assert outcome.exit_code == 2
    assert "nowhere.yaml" in outcome.stderr


def test_no_definitions_at_all(project: Project) -> None:
    project.write("dagster.yaml", "telemetry: {enabled: false}\n")

    for command in ("apply", "check"):
        outcome = project(command)

        assert outcome.exit_code == 2
        assert "no definitions here" in outcome.stderr
        assert f"synqx {command} PATH" in outcome.stderr


def test_a_secret_in_a_mistaken_record_is_not_shown(project: Project) -> None:
    text = "kind: connection\nname: x\ndb_type: postgresql\nhost: h\npassword: canary-pw\nprot: 1\n"
    project.write("a.yaml", text)
    for secret in ("[canary-pw]", "{value: canary-pw}", "{env: 'canary-pw!'}"):
        project.write("b.yaml", text.replace("name: x", "name: y").replace("canary-pw", secret, 1))
        for arguments in (["check"], ["apply", "--debug"], ["apply", "--json"]):
            outcome = project(*arguments)
            assert outcome.exit_code == 2
            assert "canary-pw" not in outcome.output


# --- settings ------------------------------------------------------------------------------------------------------


def test_before_init(empty_project: Project) -> None:
    for arguments in (["status"], ["history"], ["run", "x"], ["apply"], ["dev"], ["unlock"]):
        outcome = empty_project(*arguments)
        assert outcome.exit_code == 2, arguments
        assert "synqx init" in outcome.stderr
    assert list(empty_project.directory.iterdir()) == []


def test_a_key_file_that_others_can_read(project: Project) -> None:
    (project.home / "vault.key").chmod(0o644)
    project.write("a.yaml", SEALED)

    outcome = project("apply")

    assert outcome.exit_code == 2
    assert "mode 0644" in outcome.stderr
    assert f"chmod 600 {project.home / 'vault.key'}" in outcome.stderr
    assert project("history", "--json").document == []


@pytest.mark.parametrize("command", ["history", "init"])
@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "postgresql://user:canary-pw@127.0.0.1:1/nowhere",
        "postgresql://user:canary-pw@127.0.0.1:port/nowhere",
        "mysql://user:canary-pw@127.0.0.1/nowhere",
    ],
)
def test_a_wrong_catalog_url(empty_project: Project, command: str, url: str) -> None:
    empty_project.environment = {"SYNQX_CATALOG_URL": url, "SYNQX_MASTER_PASSWORD": "canary-pw"}

    outcome = empty_project(command, "--debug")

    assert outcome.exit_code == 2, outcome.output
    assert "SYNQX_CATALOG_URL" in outcome.stderr
    assert "canary-pw" not in outcome.output


@pytest.mark.parametrize("command", ["history", "init"])
def test_a_catalog_of_a_newer_version(project: Project, command: str) -> None:
    catalog = project.home / "catalog.db"
    with sqlite3.connect(catalog) as connection:
        connection.execute("update synqx_alembic_version set version_num = 'm9999_future'")
    connection.close()
    before = catalog.read_bytes()

    outcome = project(command)

    assert outcome.exit_code == 2
    assert "newer version" in outcome.stderr
    assert catalog.read_bytes() == before


def test_an_env_file_that_cannot_be_read(project: Project) -> None:
    (project.directory / ".env").write_bytes(b"SYNQX_HOME=\xff\n")

    outcome = project("status")

    assert outcome.exit_code == 2
    assert ".env cannot be read" in outcome.stderr


# --- names and arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "custmers"],
        ["preview", "custmers"],
        ["plan", "custmers"],
        ["connections", "test", "shp"],
        ["connections", "discover", "shp"],
    ],
    ids=" ".join,
)
def test_a_mistyped_name_gets_the_nearest(project: Project, arguments: list[str]) -> None:
    project.write("a.yaml", GOOD)
    assert project("apply").exit_code == 0

    outcome = project(*arguments)

    assert outcome.exit_code == 2
    assert "did you mean 'customers'?" in outcome.stderr or "did you mean 'shop'?" in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["preview", "x", "--rows", "0"],
        ["rollback", "one"],
        ["rollback", "7"],
        ["diff", "7"],
        ["export", "--revision", "7"],
        ["logs", "nothing"],
        ["logs"],
        ["connections", "test"],
        ["connections"],
        ["vault", "remove-keyslot", "nothing"],
        ["vault", "import-fernet", "x"],
        ["init", "--key-file", "a", "--generate-key-file"],
        ["history", "--nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(project: Project, arguments: list[str]) -> None:
    outcome = project(*arguments)

    assert outcome.exit_code == 2, outcome.output
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr


def test_a_directory_that_cannot_be_made(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(project.home)
    project.home.write_text("a file is in the way")

    outcome = project("init", "--generate-key-file")

    assert outcome.exit_code == 2
    assert str(project.home) in outcome.stderr
