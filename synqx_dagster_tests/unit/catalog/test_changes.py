"""How a change reads: field by field, lists by name, never a secret."""

from __future__ import annotations

from pydantic import SecretStr

from synqx_dagster.catalog.changes import Change, ChangePlan, FieldChange, compare_records
from synqx_dagster.model import LiteralSecret, Pipeline, SealedSecret
from synqx_dagster_tests.unit.catalog.records import connection, schema

NOTHING: frozenset[str] = frozenset()


def columns(*names: str, **types: str) -> list[dict[str, object]]:
    return [{"name": name, "data_type": types.get(name, "string")} for name in names]


def test_equal_records_are_no_change() -> None:
    assert compare_records(connection(), connection(), NOTHING) is None


def test_fields() -> None:
    before = connection(port=1, options={"threads": 1, "old": True})
    after = connection(port=2, options={"threads": 1, "new": 1.0}, host="h")
    change = compare_records(before, after, NOTHING)
    assert change is not None
    assert change.action == "changed"
    assert set(change.fields) == {
        FieldChange("port", 1, 2),
        FieldChange("host", None, "h"),
        FieldChange("options.old", True, None),
        FieldChange("options.new", None, 1.0),
    }


def test_a_number_that_became_another_type_is_a_change() -> None:
    change = compare_records(connection(options={"a": 1}), connection(options={"a": True}), NOTHING)
    # 1 == True in Python, and so they are to Pydantic.
    assert change is not None
    assert change.fields == (FieldChange("options.a", 1, True),)


def test_list_items_are_known_by_name() -> None:
    change = compare_records(
        schema(columns=columns("a", "b", "c")), schema(columns=columns("a", "new", "c", c="integer")), NOTHING
    )
    assert change is not None
    assert [(field.path, field.before is None, field.after is None) for field in change.fields] == [
        ("columns[b]", False, True),
        ("columns[c].data_type", False, False),
        ("columns[new]", True, False),
    ]


def test_order_is_a_change() -> None:
    change = compare_records(schema(columns=columns("a", "b")), schema(columns=columns("b", "a")), NOTHING)
    assert change is not None
    assert change.fields == (FieldChange("columns (order)", ["a", "b"], ["b", "a"]),)


def test_secrets_are_words() -> None:
    sealed = connection().model_copy(update={"password": SealedSecret(version=1)})
    literal = connection().model_copy(update={"password": LiteralSecret(value=SecretStr("hunter2"))})
    reference = connection(password={"env": "A"})
    for before, after, changed, expected in [
        (sealed, literal, {"password"}, ("(secret)", "(changed secret)")),
        (reference, literal, set(), ({"env": "A"}, "(secret)")),
        (sealed, reference, set(), ("(secret)", {"env": "A"})),
        (sealed, connection(), set(), ("(secret)", None)),
    ]:
        change = compare_records(before, after, frozenset(changed))
        assert change is not None
        assert [(field.before, field.after) for field in change.fields] == [expected]
        assert "hunter2" not in repr(change)


def test_a_created_record_shows_what_is_no_default() -> None:
    literal = connection(port=5).model_copy(update={"password": LiteralSecret(value=SecretStr("hunter2"))})
    change = compare_records(None, literal, NOTHING)
    assert change is not None
    assert {field.path: (field.before, field.after) for field in change.fields} == {
        "db_type": (None, "duckdb"),
        "database": (None, "/data/shop.duckdb"),
        "port": (None, 5),
        "password": (None, "(secret)"),
    }


def test_lines() -> None:
    changed = compare_records(connection(port=1), connection(port=2, username="x\ny" * 80), NOTHING)
    assert changed is not None
    plan = ChangePlan(3, (Change("created", "connection", "a"), changed, Change("removed", "mapping", "m")))
    lines = plan.lines()
    assert lines[0] == "+ created connection a"
    assert lines[1] == "~ changed connection shop"
    assert "    port: 1 -> 2" in lines
    assert lines[-2:] == ["- removed mapping m", "1 created, 1 changed, 1 removed"]
    assert all("\n" not in line and len(line) < 150 for line in lines)
    assert ChangePlan(3, ()).lines() == ["nothing changes"]


def test_to_dict_is_plain() -> None:
    plan = ChangePlan(3, (Change("removed", "mapping", "m"),))
    assert plan.to_dict() == {
        "base_revision": 3,
        "changes": [{"action": "removed", "kind": "mapping", "name": "m", "fields": []}],
    }


def test_the_order_of_a_node_s_columns_is_a_change() -> None:
    def made(*columns: str) -> Pipeline:
        config = {"function": "module:function", "columns": dict.fromkeys(columns, "bigint")}
        node = {"node_id": "n", "operator_type": "transform", "operator_class": "pandas", "config": config}
        return Pipeline.model_validate({"name": "p", "nodes": [node]})

    change = compare_records(made("a", "b"), made("b", "a"), frozenset())
    assert change is not None
    assert [field.path for field in change.fields] == ["nodes[n].config.columns (order)"]
