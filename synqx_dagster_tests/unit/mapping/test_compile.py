"""The compiler's decisions: fields, types, keys, what is read, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from synqx_dagster.errors import PlanError, SourceChangedError
from synqx_dagster.mapping.compile import CompiledMapping, compile_mapping
from synqx_dagster.model import Column, DataType, Mapping, Schema


def column(name: str, data_type: str = "string", **fields: Any) -> Column:
    return Column(name, DataType.parse(data_type), **fields)


def record(column_mappings: list[dict[str, Any]] | None = None, **fields: Any) -> Mapping:
    return Mapping.model_validate(
        {
            "name": "m",
            "source_connection": "a",
            "source_table": "public.customer",
            "target_connection": "b",
            "target_table": "x",
            "column_mappings": column_mappings,
            **fields,
        }
    )


def schema(columns: dict[str, str], required: tuple[str, ...] = (), key: tuple[str, ...] = ()) -> Schema:
    return Schema.model_validate(
        {
            "name": "customer",
            "columns": [{"name": n, "data_type": t, "nullable": n not in required} for n, t in columns.items()],
            "primary_key": key,
        }
    )


def direct(source: str, target: str) -> dict[str, Any]:
    return {"type": "direct", "source_columns": [source], "target_fields": [target]}


def expression(text: str, target: str) -> dict[str, Any]:
    return {"type": "expression", "expression": text, "target_fields": [target]}


SOURCE = (
    column("id", "integer", nullable=False, native_type="integer", native_dialect="postgres", key_position=1),
    column("Full Name", native_type="character varying(80)", native_dialect="postgres"),
    column("email", native_type="text", native_dialect="postgres"),
    column("credit", "decimal(10,2)", native_type="numeric(10,2)", native_dialect="postgres"),
    column("photo", "binary", native_type="bytea", native_dialect="postgres"),
)


def compiled(mapping: Mapping, target: Schema | None = None, dialect: str = "postgres") -> CompiledMapping:
    return compile_mapping(mapping, target, SOURCE, source_dialect=dialect)


def test_without_mappings_and_schema_the_source_is_mirrored() -> None:
    result = compiled(record())
    assert [field.column for field in result.fields] == list(SOURCE)
    assert all(field.is_identity for field in result.fields)
    assert result.primary_key == ("id",)
    assert result.used_columns == tuple(column.name for column in SOURCE)


def test_without_mappings_a_schema_takes_the_columns_of_the_same_name() -> None:
    target = schema({"credit": "decimal(12,2)", "id": "integer", "email": "string"}, key=("id",))
    result = compiled(record(), target)
    assert [(f.column.name, f.source_columns, f.is_identity) for f in result.fields] == [
        ("credit", ("credit",), False),
        ("id", ("id",), True),
        ("email", ("email",), True),
    ]
    assert result.primary_key == ("id",)
    assert result.used_columns == ("id", "email", "credit")
    assert result.fields[1].column.native_type is None


def test_types_are_derived_without_a_schema() -> None:
    result = compiled(
        record(
            [
                direct("credit", "balance"),
                {
                    "type": "split",
                    "source_columns": ["Full Name"],
                    "target_fields": ["first", "last"],
                    "config": {"delimiter": " "},
                },
                {"type": "hash", "source_columns": ["id"], "target_fields": ["secret"]},
                {"type": "constant", "value": 2**40, "target_fields": ["big"]},
                {"type": "constant", "value": True, "target_fields": ["yes"]},
                {"type": "constant", "value": None, "target_fields": ["nothing"]},
                expression("id + 1", "next"),
                expression("email is null", "missing"),
                expression("email", "same"),
                direct("id", "key"),
            ]
        )
    )
    assert {f.column.name: str(f.column.data_type) for f in result.fields} == {
        "balance": "decimal(10,2)",
        "first": "string",
        "last": "string",
        "secret": "string",
        "big": "bigint",
        "yes": "boolean",
        "nothing": "string",
        "next": "integer",
        "missing": "boolean",
        "same": "string",
        "key": "integer",
    }
    by_name = {f.column.name: f for f in result.fields}
    assert by_name["balance"].column.native_type == "numeric(10,2)"
    assert by_name["secret"].column.nullable is False
    assert by_name["next"].source_columns == ("id",)
    assert not by_name["same"].is_identity
    assert result.primary_key == ("key",)
    assert by_name["key"].column.key_position == 1


def test_the_key_is_lost_when_a_part_of_it_does_not_pass_unchanged() -> None:
    assert compiled(record([direct("email", "email")])).primary_key == ()
    assert compiled(record([expression("id + 1", "id")])).primary_key == ()


def test_schema_columns_that_nothing_fills_are_null_unless_they_are_required() -> None:
    result = compiled(record([direct("id", "id")]), schema({"note": "string", "id": "bigint"}))
    assert [f.column.name for f in result.fields] == ["note", "id"]
    assert result.fields[0].source_columns == ()
    with pytest.raises(PlanError, match=r"'note'.*requires it"):
        compiled(record([direct("id", "id")]), schema({"id": "integer", "note": "string"}, required=("note",)))


def test_a_quarantined_row_carries_the_sources_key() -> None:
    mappings = [direct("email", "email")]
    assert compiled(record(mappings)).used_columns == ("email",)
    assert compiled(record(mappings, on_bad_row="quarantine")).used_columns == ("id", "email")


def test_a_mapping_of_constants_still_reads_a_column_to_count_rows() -> None:
    result = compiled(record([{"type": "constant", "value": 1, "target_fields": ["one"]}]))
    assert result.used_columns == ("id",)


@pytest.mark.parametrize(
    ("mapping", "message", "hint"),
    [
        (
            direct("emial", "e"),
            "field 'e': the source table public.customer has no column 'emial'",
            "did you mean 'email'",
        ),
        (direct("full name", "e"), "no column 'full name'", "did you mean 'Full Name'"),
        (expression("lower(Email2)", "e"), "no column 'Email2'", "did you mean 'email'"),
        (expression('"EMAIL"', "e"), "no column 'EMAIL'", "did you mean 'email'"),
        (expression('"Full Name" || zzz', "e"), "no column 'zzz'", "there are: id, Full Name"),
        (
            {"type": "join", "source_columns": ["id", "gone"], "target_fields": ["e"], "config": {"separator": ""}},
            "no column 'gone'",
            "there are",
        ),
    ],
)
def test_a_missing_source_column_is_named_with_the_nearest(mapping: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SourceChangedError) as caught:
        compiled(record([mapping]))
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("mapping", "target", "message"),
    [
        (direct("id", "idd"), {"id": "integer"}, "field 'idd': the schema 'customer' has no such column"),
        (
            direct("photo", "p"),
            {"p": "string"},
            "field 'p': the source column 'photo' is binary, which cannot become string",
        ),
        (direct("id", "d"), {"d": "date"}, "the source column 'id' is integer, which cannot become date"),
        (
            {"type": "hash", "source_columns": ["photo"], "target_fields": ["h"]},
            {"h": "string"},
            "the source column 'photo' is binary, which cannot become string",
        ),
        (expression("id + 1", "u"), {"u": "uuid"}, "the expression is integer, which cannot become uuid"),
        (
            {"type": "constant", "value": "twelve", "target_fields": ["n"]},
            {"n": "integer"},
            "field 'n': the constant is not an integer",
        ),
        (
            {"type": "constant", "value": 1.5, "target_fields": ["n"]},
            {"n": "integer"},
            "the constant does not fit integer",
        ),
        (
            {"type": "constant", "value": 3, "target_fields": ["n"]},
            {"n": "json"},
            "the constant is integer, which cannot",
        ),
        (expression("a, b", "e"), {"e": "string"}, "field 'e': 2 expressions where one is wanted"),
        (expression("count(*)", "e"), {"e": "string"}, "field 'e': the expression holds the aggregate count"),
        (expression("lower(email)", "e"), {"e": "string"}, "only the source knows the type"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(
    mapping: dict[str, Any], target: dict[str, str], message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        compiled(record([mapping]), schema(target))
    assert message in caught.value.message
    assert "twelve" not in str(caught.value)


def test_a_query_that_returns_a_name_twice_is_refused_where_it_is_used() -> None:
    columns = [column("id", "integer"), column("id", "integer"), column("x")]
    mapping = record([direct("x", "x")], source_table=None, source_query="select 1")
    assert compile_mapping(mapping, None, columns, source_dialect="postgres").used_columns == ("x",)
    with pytest.raises(PlanError, match="more than once"):
        compile_mapping(record([direct("id", "x")]), None, columns, source_dialect="postgres")
    with pytest.raises(PlanError, match="more than once"):
        compile_mapping(record(), None, columns, source_dialect="postgres")


def test_a_source_without_columns_is_refused() -> None:
    with pytest.raises(PlanError, match="has no columns"):
        compile_mapping(record(), None, [], source_dialect="postgres")


def test_expressions_of_other_sources_are_computed_there() -> None:
    asked: list[str] = []

    def describe(items: str) -> list[Column]:
        asked.append(items)
        return [column("whatever", "string", native_type="TEXT", native_dialect="sqlite"), column("y", "bigint")]

    mapping = record([expression("EMAIL || 'x' -- why", "e"), direct("id", "id"), expression("id + 1", "f")])
    result = compile_mapping(mapping, None, SOURCE, source_dialect="sqlite", describe=describe)
    assert asked == ['(EMAIL || \'x\') AS "_synqx_expression_1", (id + 1) AS "_synqx_expression_2"']
    assert [(e.alias, e.sql, str(e.data_type)) for e in result.source_expressions] == [
        ("_synqx_expression_1", "(EMAIL || 'x')", "string"),
        ("_synqx_expression_2", "(id + 1)", "bigint"),
    ]
    assert result.used_columns == ("id",)
    assert result.fields[0].source_columns == ("email",)
    assert result.fields[0].column.native_type == "TEXT"


def test_a_source_that_describes_something_else_is_not_believed() -> None:
    with pytest.raises(SourceChangedError, match="another number of columns"):
        compile_mapping(
            record([expression("lower(email)", "e")]), None, SOURCE, source_dialect="postgres", describe=lambda _: []
        )


def test_pushdown_says_why_not() -> None:
    result = compiled(record())
    assert result.pushdown("postgres") is not None
    assert result.pushdown("mysql") is None
    assert result.why_not_pushdown("mysql") == "the source speaks postgres, not mysql"
    dates = compiled(record([direct("email", "d")]), schema({"d": "date"}))
    assert dates.why_not_pushdown("postgres") == "field 'd': PostgreSQL cannot safely make a date of a string"
    sqlite = compiled(record(), dialect="sqlite")
    assert "another type than the column says" in str(sqlite.why_not_pushdown("sqlite"))


def test_mysql_hands_columns_through_and_nothing_else() -> None:
    columns = [column("a`b", "integer", nullable=True, native_type="int", native_dialect="mysql")]
    plain = compile_mapping(record(), schema({"a`b": "integer"}, key=("a`b",)), columns, source_dialect="mysql")
    pushed = plain.pushdown("mysql")
    assert pushed is not None
    assert [field.sql for field in pushed.fields] == ["`source`.`a``b`"]
    assert [violation.sql for violation in pushed.violations] == ["(`source`.`a``b` IS NULL)"]
    cast = compile_mapping(record(), schema({"a`b": "bigint"}), columns, source_dialect="mysql")
    assert "a cast from integer is made outside" in str(cast.why_not_pushdown("mysql"))
    joined = record([{"type": "constant", "value": 1, "target_fields": ["n"]}])
    assert compile_mapping(joined, None, columns, source_dialect="mysql").pushdown("mysql") is None
