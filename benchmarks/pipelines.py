"""A pipeline's chain of nodes against the same work as one mapping."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.case import Bar, Bench, Case, Contestant
from benchmarks.copies import need_plain, psql_copy
from benchmarks.lab import COLUMNS, Digest, Lab, compare
from benchmarks.servers import SOURCE, TARGET
from benchmarks.synqx import create_project, mapping, postgresql_connections

_SALT = "benchmark"
_KEPT = [name for name in COLUMNS if name != "l_comment"]

_EXPECTED = f"""(
    select l_orderkey, l_quantity, l_orderkey || '-' || l_linenumber as line_id,
        encode(sha256(convert_to('{_SALT}' || l_comment, 'UTF8')), 'hex') as l_comment
    from lineitem_plain
)"""


def _digest(lab: Lab, database: str, relation: str) -> Digest:
    (row,) = lab.postgresql.execute(
        database,
        "select count(*), sum(l_orderkey), sum(l_quantity), sum(hashtextextended("
        f" concat_ws('|', line_id, l_comment), 0)::numeric) from {relation} as t",
    )
    return tuple(row)


def _nodes() -> list[dict[str, Any]]:
    def transform(node_id: str, operator_class: str, **config: Any) -> dict[str, Any]:
        return {"node_id": node_id, "operator_type": "transform", "operator_class": operator_class, "config": config}

    return [
        {
            "node_id": "lines",
            "operator_type": "extract",
            "operator_class": "table",
            "config": {"connection": "source", "table": "public.lineitem_plain"},
        },
        transform("whole", "cast", columns={"l_quantity": "integer"}),
        transform("keyed", "derive", columns={"line_id": "l_orderkey || '-' || l_linenumber"}),
        transform("hidden", "mask", columns=["l_comment"], salt=_SALT),
        {
            "node_id": "load",
            "operator_type": "load",
            "operator_class": "table",
            "config": {"connection": "target", "table": "synqx.chain"},
        },
    ]


@contextmanager
def start_pipeline(lab: Lab) -> Iterator[Bench]:
    """Extract, cast, derive, mask, load: as five nodes, and as column mappings."""
    rows, size = need_plain(lab)
    expected = _digest(lab, SOURCE, _EXPECTED)
    nodes = _nodes()
    names = [node["node_id"] for node in nodes]
    column_mappings: list[dict[str, Any]] = [
        {"type": "direct", "source_columns": [name], "target_fields": [name]} for name in _KEPT
    ]
    column_mappings += [
        {"type": "hash", "source_columns": ["l_comment"], "target_fields": ["l_comment"], "config": {"salt": _SALT}},
        {
            "type": "join",
            "source_columns": ["l_orderkey", "l_linenumber"],
            "target_fields": ["line_id"],
            "config": {"separator": "-"},
        },
    ]
    fields = [field for item in column_mappings for field in item["target_fields"]]
    types = {**dict.fromkeys(fields, "string"), **_LOGICAL}
    schema = {
        "kind": "schema",
        "name": "lines",
        "columns": [{"name": field, "data_type": types[field], "nullable": True} for field in fields],
    }
    pipeline = {
        "kind": "pipeline",
        "name": "chain",
        "nodes": nodes,
        "edges": [{"from_node_id": first, "to_node_id": second} for first, second in itertools.pairwise(names)],
    }
    one = mapping("one", "public.lineitem_plain", "synqx.one", target_schema="lines", column_mappings=column_mappings)
    records = [*postgresql_connections(lab.postgresql.endpoint), schema, one, pipeline]
    project = create_project(lab.directory / "pipeline", records)
    drop = lab.drop_schema("synqx")

    def check(table: str) -> None:
        compare(expected, _digest(lab, TARGET, table))

    yield Bench(
        rows,
        size,
        [
            psql_copy(lab, "pipeline", "lineitem_plain", None),
            Contestant("synqx, one mapping", "synqx", lambda: project.run("one"), lambda: check("synqx.one"), drop),
            Contestant("synqx, pipeline", "synqx", lambda: project.run("chain"), lambda: check("synqx.chain"), drop),
        ],
    )


_LOGICAL = {
    **dict.fromkeys(("l_orderkey", "l_partkey", "l_suppkey"), "bigint"),
    **dict.fromkeys(("l_linenumber", "l_quantity"), "integer"),
    **dict.fromkeys(("l_extendedprice", "l_discount", "l_tax"), "decimal(15,2)"),
    **dict.fromkeys(("l_shipdate", "l_receiptdate"), "date"),
}

PIPELINE = Case(
    "pipeline",
    "A chain of five nodes against one mapping",
    start_pipeline,
    (Bar("synqx, pipeline", "at most 1.3 x one mapping", "synqx, one mapping", at_most=1.3),),
)
