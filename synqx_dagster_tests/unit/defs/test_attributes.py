"""Attributes of components: what they read as, what is wrong with them, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import jsonschema
import pytest
from dagster.components.resolved.errors import ResolutionException
from dagster_shared.yaml_utils import parse_yaml_with_source_position

from synqx_dagster.catalog.documents import Definitions, read_documents
from synqx_dagster.defs.attributes import (
    Attributes,
    attributes_schema,
    merge_definitions,
    read_attributes,
    refuse_unkept,
)
from synqx_dagster.defs.components import MappingComponent, PipelineComponent, RecordComponent
from synqx_dagster.model import RECORD_TYPES, Mapping, RecordKind
from synqx_dagster_tests.test_docs import YAML_EXAMPLES
from synqx_dagster_tests.unit.defs.fakes import connection, mapping

FILE = "defs/orders/defs.yaml"
CANARY = "kanarienvogel-2b91"


def read(text: str, component: type[RecordComponent] = MappingComponent, **scope: Any) -> Definitions:
    """Read a component's file, of which the attributes stand under their key."""
    parsed = parse_yaml_with_source_position(text, FILE)
    context = dg.ResolutionContext.default(parsed.source_position_tree).with_scope(**scope).at_path("attributes")
    model = Attributes.of(component.kind, component.parts)
    return read_attributes(model.model_validate(parsed.value["attributes"]), context)


MAPPING = """\
type: synqx_dagster.MappingComponent
attributes:
  name: orders
  source_connection: shop
  source_table: orders
  target_connection: warehouse
  target_table: orders
"""


def test_the_fields_are_those_of_the_record() -> None:
    definitions = read(MAPPING + "  mode: merge\n  key: [id]\n")
    assert definitions.problems == ()
    expected = mapping("orders", source_table="orders", mode="merge", key=("id",))
    assert definitions.records == (expected,)
    assert str(definitions.locate("mapping", "orders", ("mode",))) == f"{FILE}:8 mode"


def test_problems_have_file_line_and_nearest_name() -> None:
    definitions = read(MAPPING + "  mode: replce\n  colum_mappings:\n    - {type: direct}\n")
    assert [str(problem) for problem in definitions.problems] == [
        f"{FILE}:8 mode: must be 'replace', 'append', 'merge' or 'scd2' (did you mean 'replace'?)",
        f"{FILE}:9 colum_mappings: unknown key 'colum_mappings' (did you mean 'column_mappings'?)",
    ]
    assert definitions.unread.may_hold("mapping", "orders")


def test_a_problem_within_a_list_has_the_line_of_its_item() -> None:
    text = MAPPING + "  column_mappings:\n    - {type: direct, source_columns: [id], target_fields: [id]}\n"
    definitions = read(text + "    - type: splt\n      source_columns: [a]\n")
    assert [problem.location.line for problem in definitions.problems if problem.location] == [10]


def test_what_is_missing_is_told_at_what_encloses_it() -> None:
    definitions = read("type: synqx_dagster.MappingComponent\nattributes:\n  name: orders\n")
    assert [str(problem).partition(" (")[0] for problem in definitions.problems] == [
        f"{FILE}:2 {name}: {name} is missing" for name in ("source_connection", "target_connection", "target_table")
    ]


def test_no_attributes_miss_every_field() -> None:
    context = dg.ResolutionContext.default(parse_yaml_with_source_position("type: x", FILE).source_position_tree)
    model = Attributes.of("mapping", {})
    definitions = read_attributes(model.model_validate({}), context.at_path("attributes"))
    assert [str(item.location) for item in definitions.problems][:2] == [
        f"{FILE}:1 name",
        f"{FILE}:1 source_connection",
    ]


# --- parts -------------------------------------------------------------------------------------------------------


def test_parts_are_records_with_lines_of_their_own() -> None:
    text = MAPPING + "  connections:\n    - {name: shop, db_type: sqlite, database: a.db}\n    - {name: warehouse}\n"
    definitions = read(text)
    assert [record.kind for record in definitions.records] == ["connection", "mapping"]
    assert str(definitions.locate("connection", "shop", ("database",))) == f"{FILE}:9 database"
    assert [str(problem) for problem in definitions.problems] == [f"{FILE}:10 db_type: db_type is missing"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("{name: shop}", f"{FILE}:8 connections: must be a list"),
        ("[shop]", f"{FILE}:8: a connection must be keys with values"),
    ],
)
def test_parts_of_the_wrong_shape(part: str, message: str) -> None:
    assert [str(problem) for problem in read(f"{MAPPING}  connections: {part}\n").problems] == [message]


def test_a_part_of_another_kind_is_an_unknown_key() -> None:
    (problem,) = read(MAPPING + "  pipelines: []\n").problems
    assert problem.message == "unknown key 'pipelines'"


# --- templates -----------------------------------------------------------------------------------------------------


def test_templates_are_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TABLE", "public.orders")
    (record,) = read(MAPPING.replace("source_table: orders", 'source_table: "{{ env.SHOP_TABLE }}"')).records
    assert isinstance(record, Mapping)
    assert record.source_table == "public.orders"


def test_a_template_may_give_a_number() -> None:
    (record,) = read(MAPPING + '  max_retries: "{{ retries }}"\n', retries=3).records
    assert isinstance(record, Mapping)
    assert record.max_retries == 3


@pytest.mark.parametrize("text", ["5432", "1e3", "None", "[a]", "True", "{a}", "{# no comment #}"])
def test_text_without_a_template_stays_text(text: str) -> None:
    (record,) = read(f"{MAPPING}  description: {json.dumps(text)}\n").records
    assert record.description == text


def test_a_template_that_fails_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "defs.yaml"
    file.write_text(MAPPING + '  description: "{{ nobody.knows }}"\n')
    parsed = parse_yaml_with_source_position(file.read_text(), str(file))
    context = dg.ResolutionContext.default(parsed.source_position_tree).at_path("attributes")
    model = Attributes.of("mapping", {}).model_validate(parsed.value["attributes"])
    with pytest.raises(ResolutionException, match=rf"{file}:8 - attributes\.description"):
        read_attributes(model, context)


@pytest.mark.parametrize("value", ["!!binary aGVsbG8=", "!!set {a, b}", ".nan", '"{{ something }}"'])
def test_values_that_json_does_not_have_are_refused(value: str) -> None:
    definitions = read(f"{MAPPING}  description: {value}\n", something=object())
    assert [str(problem) for problem in definitions.problems] == [
        f"{FILE}:8 description: must be text, a number, true, false, null, a list, or keys with values"
    ]


# --- what a file does not keep ---------------------------------------------------------------------------------------


CONNECTION = "type: x\nattributes:\n  name: shop\n  db_type: postgresql\n  host: localhost\n  password: "


@pytest.mark.parametrize("secret", [CANARY, '"{{ secret }}"'])
def test_a_secret_in_the_clear_is_refused_and_not_repeated(secret: str) -> None:
    kept = refuse_unkept(read(CONNECTION + secret, _component("connection"), secret=CANARY))
    assert kept.records == ()
    (problem,) = kept.problems
    assert str(problem) == (
        f"{FILE}:6 password: a secret cannot stand in the files of a project: there is no vault here to seal it"
        " (write {env: NAME} or {file: PATH})"
    )
    assert CANARY not in repr(kept)


def test_a_sealed_secret_is_refused() -> None:
    (problem,) = refuse_unkept(read(CONNECTION + "{sealed: true}", _component("connection"))).problems
    assert "no vault" in str(problem)


def test_nothing_is_watched_without_a_catalog() -> None:
    text = CONNECTION + "{env: SHOP_PASSWORD}\n  monitor: {wal: true}\n"
    (problem,) = refuse_unkept(read(text, _component("connection"))).problems
    assert str(problem).startswith(f"{FILE}:7 monitor: servers are watched by the code location of a catalog")


@pytest.mark.parametrize("secret", ["{env: SHOP_PASSWORD}", "{file: /run/secrets/shop}"])
def test_references_are_kept(secret: str) -> None:
    kept = refuse_unkept(read(CONNECTION + secret, _component("connection")))
    assert kept.problems == ()
    assert len(kept.records) == len(kept.documents) == 1


def test_a_secret_of_the_wrong_type_is_not_repeated() -> None:
    definitions = read(CONNECTION + "[" + CANARY + "]", _component("connection"))
    assert len(definitions.problems) == 1
    assert CANARY not in "".join(map(str, definitions.problems))


def _component(kind: RecordKind) -> type[RecordComponent]:
    return type("Component", (RecordComponent,), {"kind": kind})


def test_records_of_files_keep_their_places_when_merged() -> None:
    unwritten = Definitions((connection("lake", "duckdb"),))
    merged = merge_definitions([unwritten, read(MAPPING), Definitions((connection("shop"),))])
    assert [record.name for record in merged.records] == ["orders", "lake", "shop"]
    assert str(merged.locate("mapping", "orders")) == f"{FILE}:2"
    assert str(merged.locate("connection", "shop", ("host",))) == "connection 'shop' host"


# --- the JSON schema -----------------------------------------------------------------------------------------------


def check_schema(kind: RecordKind, values: Any) -> list[str]:
    """What a validator, such as that of ``dg check yaml``, says of attributes."""
    validator = jsonschema.Draft202012Validator(attributes_schema(kind, {}))
    return [error.message for error in validator.iter_errors(values)]


@pytest.mark.parametrize("kind", RECORD_TYPES)
def test_the_schema_has_the_fields_of_the_record(kind: RecordKind) -> None:
    schema = attributes_schema(kind, {})
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(RECORD_TYPES[kind].model_fields)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", YAML_EXAMPLES)
def test_the_schema_accepts_what_the_documentation_shows(name: str, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(YAML_EXAMPLES[name], encoding="utf-8")
    definitions = read_documents([file])
    for record, document in zip(definitions.records, definitions.documents, strict=True):
        values = {key: value for key, value in document.value.items() if key != "kind"}
        assert check_schema(record.kind, values) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": "5432"}, "'5432' is not of type 'integer'"),
        ({"prot": 5432}, "Additional properties are not allowed ('prot' was unexpected)"),
        ({"pool": {"size": 1000}}, "1000 is greater than the maximum of 100"),
    ],
)
def test_the_schema_says_what_is_wrong(values: dict[str, Any], message: str) -> None:
    assert check_schema("connection", {"name": "shop", "db_type": "sqlite", **values}) == [message]


def test_the_schema_takes_templates_for_any_value() -> None:
    values = {"name": "shop", "db_type": "{{ kind }}", "port": "{{ env.PORT }}", "pool": {"size": "{{ size }}"}}
    assert check_schema("connection", values) == []


@pytest.mark.parametrize("secret", [CANARY, [CANARY], 12345, {"value": CANARY}, {"env": "A", "file": CANARY[:0]}])
def test_a_validator_never_prints_a_secret(secret: Any) -> None:
    tunnel = {"host": 3, "username": "etl", "host_key": "ssh-ed25519 AAAA", "password": secret}
    values = {"name": "shop", "db_type": "postgresql", "password": secret, "ssh_tunnel": tunnel}
    messages = check_schema("connection", values)
    assert any("3 is not of type 'string'" in message for message in messages)
    assert not any(CANARY in message or "12345" in message for message in messages)


def test_the_schema_has_the_parts() -> None:
    schema = attributes_schema("pipeline", PipelineComponent.parts)
    jsonschema.Draft202012Validator.check_schema(schema)
    values = {
        "name": "p",
        "nodes": [{"node_id": "a"}],
        "connections": [{"name": "shop", "db_type": "sqlite", "prot": 1}],
    }
    (error,) = jsonschema.Draft202012Validator(schema).iter_errors(values)
    assert list(error.absolute_path) == ["connections", 0]


def test_bad_row_limits_are_written_as_users_write_them() -> None:
    for limit in (100, "0.5%"):
        values = {**mapping("orders").model_dump(mode="json", exclude_defaults=True), "max_bad_rows": limit}
        assert check_schema("mapping", values) == []
    assert check_schema("mapping", {**values, "max_bad_rows": [1]})
