"""The command line from an empty directory to rows in a target, on real databases."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import dagster as dg

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.fix_shop import MASTER_PASSWORD, PASSWORD, edit

# --- init ----------------------------------------------------------------------------------------------------------


def test_init_needs_something_that_opens_the_vault(empty_project: Project) -> None:
    outcome = empty_project("init")

    assert outcome.exit_code == 2
    for way in ("SYNQX_MASTER_PASSWORD", "--key-file", "--generate-key-file"):
        assert way in outcome.stderr
    assert list(empty_project.directory.iterdir()) == []


def test_init_is_idempotent_and_says_what_exists(empty_project: Project) -> None:
    empty_project.environment = {"SYNQX_MASTER_PASSWORD": MASTER_PASSWORD}

    first, second = empty_project("init", "--json"), empty_project("init", "--json")

    assert first.exit_code == second.exit_code == 0
    assert first.document["created"] == {"catalog": True, "vault": True, "dagster": True, "admin": False}
    assert second.document["created"] == {"catalog": False, "vault": False, "dagster": False, "admin": False}
    assert first.document["catalog_id"] == second.document["catalog_id"]
    assert first.document["keyslots"] == ["password"]
    assert MASTER_PASSWORD not in first.output
    assert empty_project.home.stat().st_mode & 0o077 == 0


def test_init_makes_a_key_file_where_it_is_told(empty_project: Project) -> None:
    key_file = empty_project.directory / "keys" / "machine.key"
    key_file.parent.mkdir()

    outcome = empty_project("init", "--key-file", str(key_file))

    assert outcome.exit_code == 0, outcome.output
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert f"SYNQX_KEY_FILE={key_file}" in outcome.stdout
    assert empty_project("vault", "status", "--json").document["unsealed"] is False
    empty_project.environment = {"SYNQX_KEY_FILE": str(key_file)}
    assert empty_project("vault", "status", "--json").document["unsealed"] is True
    assert "add-key-file" not in empty_project("init", "--key-file", str(key_file)).stdout
    other = key_file.with_name("other.key")
    assert f"add-key-file {other}" in empty_project("init", "--key-file", str(other)).stdout


def test_a_generated_key_file_is_found_again(project: Project) -> None:
    assert project("vault", "status", "--json").document["unsealed"] is True


# --- declaring -----------------------------------------------------------------------------------------------------


def test_apply_shows_each_field_that_changes(shop: Project) -> None:
    edit(shop, "on_bad_row: quarantine", "on_bad_row: fail")
    edit(shop, PASSWORD, "another-canary")

    dry = shop("apply", "--dry-run")
    document = shop("apply", "--dry-run", "--json").document
    real = shop("apply")

    assert "~ changed connection warehouse" in dry.stdout
    assert "password: (secret) -> (changed secret)" in dry.stdout
    assert "on_bad_row: quarantine -> fail" in dry.stdout
    assert "Nothing was changed" in dry.stdout
    assert document["applied"] is False
    assert document["revision"] == document["base_revision"] == 1
    assert [change["name"] for change in document["changes"]] == ["warehouse", "customers"]
    assert "revision 2" in real.stdout
    assert "canary" not in dry.output + real.output + json.dumps(document)


def test_apply_without_a_change_writes_no_revision(shop: Project) -> None:
    outcome = shop("apply")

    assert outcome.exit_code == 0
    assert "Nothing to change" in outcome.stdout
    assert len(shop("history", "--json").document) == 1


def test_prune_removes_what_no_file_mentions(shop: Project) -> None:
    schedule = (shop.directory / "definitions/all.yaml").read_text().partition("---\nkind: schedule")[1:]
    edit(shop, "".join(schedule), "")

    assert "Nothing to change" in shop("apply").stdout
    outcome = shop("apply", "--prune")

    assert outcome.exit_code == 0
    assert "- removed schedule customers" in outcome.stdout


def test_prune_by_definitions_without_a_record_needs_yes(shop: Project) -> None:
    shop.write("empty.yaml", "# nothing yet\n")

    refused = shop("apply", "empty.yaml", "--prune")

    assert refused.exit_code == 2
    assert "remove all" in refused.stderr
    assert "--yes" in refused.stderr
    assert len(shop("history", "--json").document) == 1
    assert "Nothing was changed" in shop("apply", "empty.yaml", "--prune", "--dry-run").stdout
    assert shop("apply", "empty.yaml", "--prune", "--yes").exit_code == 0
    assert shop("export").stdout == ""


def test_history_diff_and_rollback(shop: Project) -> None:
    edit(shop, "on_bad_row: quarantine", "on_bad_row: fail")
    shop("apply", "--reason", "stricter", "--author", "bob")

    history = shop("history", "--json").document
    assert [(item["revision"], item["author"], item["reason"]) for item in history] == [
        (2, "bob", "stricter"),
        (1, "ann", "first"),
    ]
    (change,) = shop("diff", "--json").document["changes"]
    assert change["fields"] == [{"path": "on_bad_row", "before": "quarantine", "after": "fail"}]
    assert shop("rollback", "1", "--dry-run", "--json").document["applied"] is False
    assert shop("rollback", "1", "--json").document == {
        "applied": True,
        "revision": 3,
        "base_revision": 2,
        "changes": [
            {
                "action": "changed",
                "kind": "mapping",
                "name": "customers",
                "fields": [{"path": "on_bad_row", "before": "fail", "after": "quarantine"}],
            }
        ],
    }
    assert "say the same" in shop("diff", "1", "3").stdout
    assert "Nothing to change" in shop("rollback", "1").stdout


def test_export_applies_to_the_same_catalog(shop: Project) -> None:
    text = shop("export").stdout
    assert PASSWORD not in text
    assert "{sealed: true}" in text

    outcome = shop("export", "out", "--json")
    files = sorted(Path(name).name for name in outcome.document["files"])
    assert files == ["connections.yaml", "mappings.yaml", "pipelines.yaml", "schedules.yaml", "schemas.yaml"]
    assert "Nothing to change" in shop("apply", "out", "--prune").stdout


def test_export_does_not_replace_what_a_person_wrote(shop: Project) -> None:
    path = shop.write("out/mappings.yaml", "# mine\n")

    refused = shop("export", "out")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert path.read_text() == "# mine\n"
    assert not (path.parent / "connections.yaml").exists()

    assert shop("export", "out", "--force").exit_code == 0
    assert "kind: mapping" in path.read_text()


# --- moving --------------------------------------------------------------------------------------------------------


def test_connections(shop: Project) -> None:
    outcome = shop("connections", "test", "--all", "--json")
    assert outcome.exit_code == 0, outcome.output
    by_name = {item["name"]: item for item in outcome.document}
    assert by_name["warehouse"]["server_version"]
    assert by_name["warehouse"]["can_write"] is True
    listed = {item["name"]: item["last_test_status"] for item in shop("connections", "list", "--json").document}
    assert listed == {"shop": "ok", "warehouse": "ok"}

    (table,) = shop("connections", "discover", "shop", "--json").document
    assert table["table"] == "customer"
    assert [column["name"] for column in table["columns"]] == ["id", "name", "credit"]
    missing = shop("connections", "discover", "shop", "custmer")
    assert missing.exit_code == 2
    assert "did you mean 'customer'?" in missing.stderr


def test_discovered_tables_become_assets_once(shop: Project) -> None:
    with closing(sqlite3.connect(shop.directory / "shop.db")) as source:
        source.execute("create table orders (id integer primary key)")
        source.execute("create table taken (id integer primary key)")
        source.commit()
    shop.write(
        "definitions/own.yaml",
        "kind: asset\nname: mine\nconnection: shop\ntable: customer\n---\n"
        "kind: asset\nname: taken\nconnection: warehouse\ntable: taken\n",
    )
    before = shop("apply", "definitions/own.yaml", "--json").document["revision"]

    dry = shop("connections", "discover", "shop", "--save", "--dry-run", "--json").document
    assert (dry["applied"], dry["revision"]) == (False, before)
    outcome = shop("connections", "discover", "shop", "orders", "--save", "--yes", "--author", "ann")
    assert outcome.exit_code == 0, outcome.output
    assert "+ created asset orders" in outcome.stdout
    assert f"1 created: revision {before + 1}." in outcome.stdout
    assert "taken" not in outcome.stdout
    document = shop("connections", "discover", "shop", "--save", "--json").document
    assert [change["name"] for change in document["changes"]] == ["shop.taken"]
    assert document["existing"] == [{"name": "mine", "table": "customer"}, {"name": "orders", "table": "orders"}]
    again = shop("connections", "discover", "shop", "--save")
    assert again.exit_code == 0
    assert "customer has an asset already: mine" in again.stdout
    assert "Nothing to make" in again.stdout
    latest, ours = shop("history", "--json").document[:2]
    assert (ours["author"], ours["reason"]) == ("ann", "discovered at shop")
    assert latest["revision"] == before + 2
    exported = shop("export").stdout
    assert "kind: asset\nname: orders\nconnection: shop\ntable: orders\n" in exported
    refused = shop("connections", "discover", "shop", "--yes")
    assert refused.exit_code == 2
    assert "--yes is for --save" in refused.stderr


def test_a_connection_that_fails_exits_1_with_the_reason(shop: Project) -> None:
    edit(shop, "database: test_", "database: gone_")
    shop("apply")

    outcome = shop("connections", "test", "warehouse", "shop")

    assert outcome.exit_code == 1
    assert "database_missing" in outcome.stdout
    assert re.findall(r"  (ok|failed)$", outcome.stdout, re.MULTILINE) == ["failed", "ok"]
    assert PASSWORD not in outcome.output


def test_preview_tells_null_from_empty_and_marks_bad_rows(shop: Project) -> None:
    outcome = shop("preview", "customers")

    assert outcome.exit_code == 0, outcome.output
    assert "decimal(10,2)" in outcome.stdout
    lines = [line.split() for line in outcome.stdout.splitlines()]
    assert ["2", "NULL", "2.00"] in lines
    assert ["bad", "1", "3", '""', "NULL"] in lines
    assert "bad 1: credit: " in outcome.stdout
    assert "\x1b" not in outcome.stdout
    assert "\\x1b[31mred" in outcome.stdout
    assert "1 bad row would be quarantined" in outcome.stdout
    rows = shop("preview", "customers", "--json").document["rows"]
    assert [bool(row["errors"]) for row in rows] == [False, False, True, False]
    assert rows[1]["values"][1] is None


def test_plan_explains_and_changes_nothing(shop: Project, postgresql: PostgresqlDatabase) -> None:
    outcome = shop("plan", "customers")

    assert outcome.exit_code == 0, outcome.output
    assert "arrow: sqlite to postgresql" in outcome.stdout
    assert "effectively once" in outcome.stdout
    assert "is created" in outcome.stdout
    assert "ranges" in outcome.stdout
    document = shop("plan", "mapping:customers", "--json").document
    assert document["lane"] == "arrow"
    assert (document["ranges"]["count"], document["ranges"]["by"], document["ranges"]["parallelism"]) == (1, None, 1)
    assert document["ranges"]["description"].startswith("in one piece: ")
    assert postgresql.execute("select count(*) from pg_namespace where nspname = 'analytics'") == [(0,)]


def test_a_load_that_copies_bytes_leaves_the_libraries_of_the_other_lane_alone(
    shop: Project, postgresql: PostgresqlDatabase
) -> None:
    """Arrow and DuckDB would take as much memory again as the rest of the process, the SQL parser 8 MB."""
    postgresql.execute("create schema analytics; create table analytics.customer as select 1 as id")
    script = (
        "import sys\n"
        "from synqx_dagster.cli.main import cli\n"
        "try:\n"
        "    cli(['run', 'copy', '--json'])\n"
        "except SystemExit as exc:\n"
        "    assert not exc.code\n"
        "heavy = [name for name in ('pyarrow', 'numpy', 'duckdb', 'sqlglot') if name in sys.modules]\n"
        "print('heavy', heavy, file=sys.stderr)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=shop.directory,
        env=shop.process_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["assets"][0]["lane"] == "passthrough"
    assert process.stderr.splitlines()[-1] == "heavy []"


#: All that `synqx run --json` says of a load; scripts read it.
FIGURES = {
    *("name", "asset_key", "lane", "lane_reason", "mode", "checks", "already_committed", "epoch", "schema_changes"),
    *("rows_in", "rows_out", "rows_quarantined", "rows_inserted", "rows_updated", "rows_deleted", "bytes"),
    *("seconds", "phase_seconds", "parallelism", "peak_memory_bytes"),
    *("watermark_before", "watermark_after", "window"),
}


def kept_seconds(project: Project, asset_key: str) -> object:
    """What Dagster keeps of an asset's last load."""
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset_key.split("/")))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization.metadata["synqx/seconds"].value


def test_run_loads_and_reports(shop: Project, postgresql: PostgresqlDatabase) -> None:
    ambiguous = shop("run", "customers")
    assert ambiguous.exit_code == 2
    assert "mapping:customers" in ambiguous.stderr

    outcome = shop("run", "everything", "--json")

    assert outcome.exit_code == 0, outcome.output
    document = outcome.document
    assert document.keys() == {"run_id", "status", "revision", "assets", "failures"}
    assert (document["status"], document["revision"]) == ("SUCCESS", 1)
    by_name = {asset["name"]: asset for asset in document["assets"]}
    figures = ["asset_key", "lane", "rows_in", "rows_out", "rows_quarantined"]
    assert [by_name["customers"][name] for name in figures] == ["warehouse/analytics/customer", "arrow", 4, 3, 1]
    assert [by_name["copy"][name] for name in figures[1:]] == ["passthrough", 3, 3, 0]
    for asset in by_name.values():
        assert asset.keys() == FIGURES
        assert asset["bytes"] > 0
        assert asset["seconds"] == kept_seconds(shop, asset["asset_key"]) > 0
    assert postgresql.execute("select count(*) from analytics.customer_copy") == [(3,)]
    assert "customers: " in outcome.stderr  # progress, as plain lines

    table = shop("run", "mapping:customers", "mapping:copy")
    assert table.exit_code == 0
    assert "warehouse/analytics/customer_copy" in table.stdout
    assert "quarantined" in table.stdout

    runs = shop("runs", "--json").document
    assert [run["status"] for run in runs] == ["SUCCESS", "SUCCESS"]
    assert runs[1]["run_id"] == document["run_id"]
    assert runs[1]["job_name"] == "everything"
    log = shop("logs", document["run_id"][:8])
    assert log.exit_code == 0
    assert "3 rows" in log.stdout
    latest = shop("logs", "--json").document
    assert latest["run"]["run_id"] == runs[0]["run_id"]
    status = shop("status", "--json").document
    assert status["records"]["mappings"] == 2
    assert len(status["runs"]) == 2


def test_a_failed_run_exits_1_and_says_why(shop: Project) -> None:
    edit(shop, "source_table: customer\n", "source_table: gone\n")
    shop("apply")

    outcome = shop("run", "mapping:customers", "--json")

    assert outcome.exit_code == 1
    assert outcome.document["status"] == "FAILURE"
    (failure,) = outcome.document["failures"]
    assert "gone" in failure["message"]
    text = shop("run", "mapping:customers")
    assert text.exit_code == 1
    assert "gone" in text.stderr
    assert "synqx logs" in text.stdout
    assert "gone" in shop("logs").stdout
