"""People and the trail on the command line, as an operator has them."""

from __future__ import annotations

import json

import bcrypt
import pytest
import sqlalchemy as sa

from synqx_dagster_tests.fix_cli import Project

PASSWORD = "four words and a half"
SCHEMA = "kind: schema\nname: customer\ncolumns:\n  - {name: id, data_type: integer}\n"


@pytest.fixture(autouse=True)
def _cheap(cheap_passwords: None) -> None:
    """Every test here."""


def entries(project: Project, *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = project("audit", "tail", "--json", "-n", "1000", *options).document
    return found


def test_the_life_of_an_account(project: Project) -> None:
    assert "users add" in project("users", "list").stdout
    options = ("--email", "ann@example.org", "--team", "data", "--password-file", "-", "--json")
    made = project("users", "add", "ann", *options, text=f"{PASSWORD}\n")
    assert made.exit_code == 0, made.output
    assert (made.document["role"], made.document["teams"]) == ("viewer", ["data"])
    assert PASSWORD not in made.output
    assert project("users", "add", "root", "--role", "admin", "--password-file", "-", text=PASSWORD).exit_code == 0
    assert "an editor" in project("users", "role", "ANN", "editor").stdout
    assert "data, ops" in project("users", "teams", "ann", "ops", "data").stdout
    assert project("users", "disable", "ann").exit_code == 0
    [ann] = project("users", "list", "--search", "ann", "--json").document
    assert (ann["role"], ann["teams"], ann["disabled"]) == ("editor", ["data", "ops"], True)
    assert "disabled" in project("users", "list").stdout
    assert project("users", "enable", "ann").exit_code == 0
    assert project("users", "teams", "ann").exit_code == 0
    assert project("users", "password", "ann", "--password-file", "-", text="another one of these").exit_code == 0
    acts = [(item["action"], item["method"]) for item in entries(project, "--action", "user.*")]
    assert acts == [
        (f"user.{verb}", "local")
        for verb in ("create", "create", "set_role", "set_teams", "disable", "enable", "set_teams", "set_password")
    ]


def test_what_cannot_be_done_changes_nothing(project: Project) -> None:
    assert project("users", "add", "root", "--role", "admin", "--no-password").exit_code == 0
    for arguments, code in (
        (("users", "add", "a b", "--no-password"), 2),
        (("users", "add", "ROOT", "--no-password"), 2),
        (("users", "add", "bob"), 2),
        (("users", "add", "bob", "--no-password", "--password-file", "-"), 2),
        (("users", "role", "nobody", "editor"), 2),
        (("users", "role", "root", "king"), 2),
        (("users", "role", "root", "viewer"), 2),
        (("users", "disable", "root"), 2),
        (("users", "password", "root"), 2),
        (("audit", "verify", "--expect", "nonsense"), 2),
        (("audit", "tail", "--since", "yesterday"), 2),
    ):
        outcome = project(*arguments)
        assert outcome.exit_code == code, (arguments, outcome.output)
    assert project("users", "add", "bob", "--password-file", "-", text="short").exit_code == 2
    assert [item["username"] for item in project("users", "list", "--json").document] == ["root"]
    assert len(entries(project, "--action", "user.*")) == 1


def test_users_of_another_system_are_taken_over(project: Project) -> None:
    stored = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    lines = [
        {"username": "ann", "email": "ann@example.org", "password_hash": stored, "teams": ["data"]},
        {"username": "bob", "role": "admin"},
    ]
    file = project.write("users.jsonl", "\n".join(json.dumps(line) for line in lines) + "\n")
    assert project("users", "import", str(file), "--json").document == {"created": 2, "skipped": 0}
    assert project("users", "import", str(file)).exit_code == 2
    assert project("users", "import", str(file), "--skip-existing", "--json").document == {"created": 0, "skipped": 2}
    broken = project.write("broken.jsonl", '{"username": "carl"}\n{"username": "x y"}\nno json\n')
    outcome = project("users", "import", str(broken))
    assert outcome.exit_code == 2
    assert "broken.jsonl:2" in outcome.stderr
    assert "broken.jsonl:3" in outcome.stderr
    assert len(project("users", "list", "--json").document) == 2
    assert project("users", "import", str(project.directory / "missing")).exit_code == 2


def test_init_makes_the_first_admin_and_none_by_itself(empty_project: Project) -> None:
    empty_project.environment["SYNQX_ADMIN_PASSWORD"] = "short"
    refused = empty_project("init", "--generate-key-file", "--admin", "root")
    assert refused.exit_code == 2
    assert not empty_project.home.exists()
    empty_project.environment["SYNQX_ADMIN_PASSWORD"] = PASSWORD
    made = empty_project("init", "--generate-key-file", "--admin", "root", "--json")
    assert made.exit_code == 0, made.output
    assert made.document["created"]["admin"] is True
    assert PASSWORD not in made.output
    again = empty_project("init", "--admin", "root", "--json")
    assert again.document["created"]["admin"] is False
    other = empty_project("init", "--admin", "second")
    assert other.exit_code == 2
    assert "users add second" in other.stderr
    [root] = empty_project("users", "list", "--json").document
    assert (root["username"], root["role"], root["has_password"]) == ("root", "admin", True)
    acts = [item["action"] for item in entries(empty_project)]
    assert acts == ["vault.initialise", "user.create"]


def test_without_admin_init_makes_nobody_and_without_a_password_asks_for_one(empty_project: Project) -> None:
    outcome = empty_project("init", "--generate-key-file", "--admin", "root")
    assert outcome.exit_code == 2
    assert "SYNQX_ADMIN_PASSWORD" in outcome.stderr
    assert empty_project("init", "--generate-key-file").exit_code == 0
    assert empty_project("users", "list", "--json").document == []
    empty_project.environment["SYNQX_ADMIN_PASSWORD"] = PASSWORD
    assert empty_project("init", "--admin", "root").exit_code == 0


def test_what_commands_do_is_in_the_trail(project: Project) -> None:
    project.write("definitions/customer.yaml", SCHEMA)
    assert project("apply", "--author", "ann").exit_code == 0
    assert project("seal").exit_code == 0
    assert project("unlock").exit_code == 0
    assert project("vault", "add-recovery").exit_code == 0
    assert project("vault", "rotate").exit_code == 0
    found = entries(project)
    assert [item["action"] for item in found] == [
        "vault.initialise",
        "schema.create",
        "vault.seal",
        "vault.unlock",
        "vault.lift_seal",
        "vault.add_keyslot",
        "vault.rotate",
    ]
    assert (found[1]["actor"], found[1]["method"], found[1]["revision"]) == ("ann", "local", 1)
    assert {item["method"] for item in found[2:]} == {"local"}
    assert "customer" in project("audit", "tail").stdout


def test_the_life_of_a_signing_key(project: Project) -> None:
    assert "none yet" in project("signing-keys", "list").stdout
    first = project("signing-keys", "rotate", "--json").document
    second = project("signing-keys", "rotate", "--json").document
    assert (first["state"], second["state"]) == ("signs", "signs")
    listed = project("signing-keys", "list", "--json").document
    assert [(key["key_id"], key["state"]) for key in listed] == [
        (second["key_id"], "signs"),
        (first["key_id"], "verifies"),
    ]
    assert set(listed[0]) == {"key_id", "created_at", "replaced_at", "verifies_until", "state"}
    assert "verifies until" in project("signing-keys", "list").stdout
    retired = project("signing-keys", "retire", second["key_id"][:8])
    assert retired.exit_code == 0, retired.output
    assert "no token that it has signed" in retired.stdout
    left = [key["key_id"] for key in project("signing-keys", "list", "--json").document]
    assert second["key_id"] not in left
    assert len(left) == 2
    assert project("signing-keys", "retire", second["key_id"]).exit_code == 2
    acts = [(item["action"], item["target"], item["method"]) for item in entries(project, "--action", "token.*")]
    assert [action for action, _, _ in acts] == [*["token.new_signing_key"] * 3, "token.retire_signing_key"]
    assert acts[-1][1] == second["key_id"]
    assert {method for _, _, method in acts} == {"local"}
    assert project("seal").exit_code == 0
    assert project("signing-keys", "rotate").exit_code == 3


def test_the_trail_is_verified_and_written_out(project: Project) -> None:
    project.write("definitions/customer.yaml", SCHEMA)
    project("apply")
    verdict = project("audit", "verify", "--json").document
    assert verdict["intact"]
    assert verdict["end"].startswith("2:")
    assert verdict["end"] in project("audit", "verify").stdout
    assert project("audit", "verify", "--expect", verdict["end"]).exit_code == 0
    lines = [json.loads(line) for line in project("audit", "export").stdout.splitlines()]
    assert lines == entries(project)
    file = project.directory / "trail.jsonl"
    assert project("audit", "export", "--output", str(file), "--json").document["entries"] == 2
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines
    assert file.stat().st_mode & 0o777 == 0o600
    assert project("audit", "export", "--output", str(file)).exit_code == 2
    assert len(project("audit", "export", "--after", "1").stdout.splitlines()) == 1

    engine = sa.create_engine(f"sqlite:///{project.home / 'catalog.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("drop trigger synqx_audit_no_update")
        connection.exec_driver_sql("update synqx_audit set actor = 'bob' where number = 2")
    engine.dispose()
    broken = project("audit", "verify", "--json")
    assert broken.exit_code == 1
    assert (broken.document["intact"], broken.document["broken_at"]) == (False, 2)
    assert "Entry 2 is wrong" in project("audit", "verify").stdout
