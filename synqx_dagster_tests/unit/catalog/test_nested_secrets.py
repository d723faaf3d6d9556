"""Secrets in parts of a connection are sealed, kept, exported and resolved like its password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import Definitions, read_documents
from synqx_dagster.catalog.snapshot import secrets_of
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.catalog.yaml_writer import write_documents
from synqx_dagster.connectors.registry import make_connector
from synqx_dagster.defs.access import needs_vault
from synqx_dagster.errors import ConfigurationError, Problem
from synqx_dagster.model import Connection, SealedSecret
from synqx_dagster.settings import Settings

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJbVZyZzWv5mM0xk4c3aPVm0dTi4GNgXm4bVtMvOJk1q"


def far(**tunnel: Any) -> Connection:
    given = {"host": "bastion.example", "username": "me", "host_key": HOST_KEY, "password": "tunnel-canary"}
    record = build_record(
        "connection",
        {
            "name": "far",
            "db_type": "postgresql",
            "host": "db.internal",
            "database": "d",
            "tls": {"cert_file": "/c.pem", "key_file": "/k.pem", "key_password": "key-canary"},
            "ssh_tunnel": {**given, **tunnel},
        },
    )
    assert isinstance(record, Connection)
    return record


def apply(catalog: Catalog, record: Connection) -> Connection:
    plan = plan_changes(catalog, Definitions((record,)))
    assert "canary" not in repr(plan) + str(plan.lines()) + str(plan.to_dict())
    apply_changes(catalog, plan, author="ada", reason=None)
    return catalog.snapshot().get_connection("far")


def test_they_are_sealed_each_by_itself(catalog: Catalog, catalog_settings: Settings) -> None:
    stored = apply(catalog, far())
    assert secrets_of(stored) == {
        "tls.key_password": SealedSecret(version=1),
        "ssh_tunnel.password": SealedSecret(version=1),
    }
    assert needs_vault(stored)
    assert catalog.resolve_secret(stored, "ssh_tunnel.password") == "tunnel-canary"
    assert catalog.resolve_secret(stored, "tls.key_password") == "key-canary"
    assert "canary" not in repr(catalog.snapshot()) + str(catalog.snapshot().to_dict())
    config = make_connector(stored, catalog.resolve_secret).config
    assert config.ssh_tunnel is not None
    assert config.tls is not None
    assert (config.ssh_tunnel.password, config.tls.key_password) == ("tunnel-canary", "key-canary")
    assert "canary" not in repr(config)
    catalog.close()
    for file in catalog_settings.home.iterdir():
        assert b"canary" not in file.read_bytes()


def test_only_what_changes_is_sealed_anew(catalog: Catalog) -> None:
    apply(catalog, far())
    assert plan_changes(catalog, Definitions((far(),))).is_empty
    assert plan_changes(catalog, Definitions((far(password={"sealed": True}),))).is_empty
    plan = plan_changes(catalog, Definitions((far(password="another-canary", port=2222),)))
    assert {item.path: item.after for item in plan.changes[0].fields} == {
        "ssh_tunnel.port": 2222,
        "ssh_tunnel.password": "(changed secret)",
    }
    stored = apply(catalog, far(password="another-canary", port=2222))
    assert secrets_of(stored)["ssh_tunnel.password"] == SealedSecret(version=2)
    assert secrets_of(stored)["tls.key_password"] == SealedSecret(version=1)


def test_an_export_says_that_they_are_sealed_and_can_be_read_back(catalog: Catalog, tmp_path: Path) -> None:
    apply(catalog, far())
    text = write_documents(catalog.snapshot())
    assert "canary" not in text
    file = tmp_path / "export.yaml"
    file.write_text(text)
    definitions = read_documents([file])
    assert not check_definitions(definitions, known=catalog.snapshot())
    assert plan_changes(catalog, definitions).is_empty


def _field(problem: Problem) -> str | None:
    return (problem.location.field or "").rpartition(" ")[2] if problem.location is not None else None


def test_mistakes_are_told_where_they_are(catalog: Catalog) -> None:
    problems = check_definitions(Definitions((far(password={"sealed": True}),)), known=catalog.snapshot())
    assert [_field(problem) for problem in problems] == ["ssh_tunnel.password"]
    relative = far(password=None, private_key={"file": "keys/id"})
    found = check_definitions(Definitions((relative,)), known=catalog.snapshot())
    assert [_field(problem) for problem in found] == ["ssh_tunnel.private_key.file"]
    for change, says in (
        ({"password": None}, "either private_key or password"),
        ({"private_key": "x"}, "either private_key or password"),
        ({"passphrase": "x"}, "there is none"),
        ({"host": "ssh://b"}, "URL"),
        ({"host_key": "SHA256:abc"}, "ssh-ed25519 AAAA"),
        ({"password": {"sealed": True, "version": 1}}, "only the catalog gives versions"),
    ):
        with pytest.raises(InvalidRecordError) as caught:
            far(**change)
        told = str(caught.value.problems)
        assert says in told, change
        assert "canary" not in told


def test_a_private_key_needs_no_vault_when_it_is_a_file_that_is_not_there(catalog: Catalog) -> None:
    record = far(password=None, private_key={"file": "/nowhere/key"})
    with pytest.raises(ConfigurationError, match=r"ssh_tunnel\.private_key: the file /nowhere/key cannot be read"):
        make_connector(record, catalog.resolve_secret)
