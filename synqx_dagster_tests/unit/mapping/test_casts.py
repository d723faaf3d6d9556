"""The table of casts: what the documentation says is what the compiler does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synqx_dagster.connectors.postgresql_types import native_type
from synqx_dagster.errors import PlanError
from synqx_dagster.mapping.casts import cast_rule, check_cast
from synqx_dagster.mapping.postgres_casts import is_plain, type_name
from synqx_dagster.model import Column, DataType
from synqx_dagster.model.types import TYPE_KINDS

DOCUMENT = Path(__file__).parents[3] / "docs" / "mappings.md"
MARKS = {"=": "same", "+": "lossless", "?": "checked", "-": "refused"}


def test_the_documented_table_is_the_rule() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| from \\ to |"))
    targets = [cell.strip() for cell in lines[start].split("|")[2:-1]]
    assert targets == list(TYPE_KINDS)
    documented = {}
    for line in lines[start + 2 : start + 2 + len(TYPE_KINDS)]:
        source, *cells = [cell.strip().strip("*") for cell in line.split("|")[1:-1]]
        documented |= {(source, target): MARKS[cell] for target, cell in zip(targets, cells, strict=True)}
    actual = {(s, t): cast_rule(DataType(s), DataType(t)).rule for s in TYPE_KINDS for t in TYPE_KINDS}
    assert documented == actual


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("decimal(10,2)", "decimal(12,2)", "lossless"),
        ("decimal(10,2)", "decimal(12,4)", "lossless"),
        ("decimal(10,2)", "decimal(11,4)", "checked"),
        ("decimal(10,2)", "decimal(10,1)", "checked"),
        ("decimal", "decimal(1000,500)", "checked"),
        ("decimal(10,2)", "decimal", "lossless"),
        ("bigint", "decimal(19,0)", "lossless"),
        ("bigint", "decimal(18,0)", "checked"),
        ("smallint", "decimal(6,2)", "checked"),
        ("smallint", "decimal(7,2)", "lossless"),
        ("decimal(3,0)", "integer", "checked"),
    ],
)
def test_decimals_are_compared_by_their_digits(source: str, target: str, rule: str) -> None:
    assert cast_rule(DataType.parse(source), DataType.parse(target)).rule == rule


def test_a_refused_cast_says_what_to_do() -> None:
    with pytest.raises(PlanError, match="expression") as caught:
        check_cast(DataType("binary"), DataType("string"), field="photo", what="the source column 'image'")
    assert "'photo'" in caught.value.message
    assert "'image'" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "native", "plain"),
    [
        ("string", "text", True),
        ("string", "character varying(20)", True),
        ("string", "character(5)", False),
        ("string", "bpchar", False),
        ("string", "inet", False),
        ("string", "my_enum", False),
        ("string", "text[]", False),
        ("string", None, True),
        ("decimal", "numeric(10,2)", True),
        ("decimal", "numeric(3,-2)", True),
        ("decimal", "my_domain", False),
        ("timestamp", "timestamp(3) without time zone", True),
        ("timestamptz", "timestamp with time zone", True),
        ("time", "time(0) without time zone", True),
        ("json", "jsonb", True),
    ],
)
def test_only_types_known_by_name_are_computed_with(kind: str, native: str | None, plain: bool) -> None:
    assert is_plain(Column("c", DataType.parse(kind), native_type=native)) is plain


def test_a_reason_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    from synqx_dagster.mapping import contract

    for reason in (contract.IS_NULL, contract.EXTRA_PARTS, contract.DOES_NOT_FIT):
        assert re.search(rf"`{re.escape(reason)}`|\*{re.escape(reason)}\*", text), reason


@pytest.mark.parametrize("kind", [*TYPE_KINDS, "decimal(12,3)", "decimal(5,0)"])
def test_a_pushed_down_cast_yields_the_type_that_the_connector_creates(kind: str) -> None:
    # A binary stream goes from the one into the other, and the two are spelt in layers that do not know each other.
    data_type = DataType.parse(kind)
    assert type_name(data_type) == native_type(Column("c", data_type))
