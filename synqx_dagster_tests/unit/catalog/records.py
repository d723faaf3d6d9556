"""Small valid records for tests, and hypothesis strategies of records of every kind."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.model import (
    Agent,
    Alert,
    Connection,
    EnvSecret,
    FileSecret,
    Mapping,
    Pipeline,
    PoolSettings,
    Record,
    Replication,
    Schedule,
    Schema,
    SchemaColumn,
    Sensor,
)
from synqx_dagster.model.types import TYPE_KINDS, DataType


def connection(name: str = "shop", **values: Any) -> Connection:
    values = {"db_type": "duckdb", "database": f"/data/{name}.duckdb"} | values
    record = build_record("connection", {"name": name} | values)
    assert isinstance(record, Connection)
    return record


def mapping(name: str = "customers", **values: Any) -> Mapping:
    defaults = {"source_connection": "shop", "target_connection": "warehouse", "target_table": name}
    if "source_query" not in values:
        defaults["source_table"] = name
    record = build_record("mapping", {"name": name} | defaults | values)
    assert isinstance(record, Mapping)
    return record


def agent(name: str = "churn_guard", **values: Any) -> Agent:
    record = build_record("agent", {"name": name} | values)
    assert isinstance(record, Agent)
    return record


def schema(name: str = "customer", **values: Any) -> Schema:
    values = {"columns": [{"name": "id", "data_type": "integer"}]} | values
    record = build_record("schema", {"name": name} | values)
    assert isinstance(record, Schema)
    return record


def pipeline(name: str, *mappings: str, edges: list[tuple[str, str]] | None = None) -> Pipeline:
    record = build_record(
        "pipeline",
        {
            "name": name,
            "nodes": [{"node_id": item, "config": {"mapping": item}} for item in mappings],
            "edges": [{"from_node_id": first, "to_node_id": second} for first, second in edges or []],
        },
    )
    assert isinstance(record, Pipeline)
    return record


def schedule(name: str = "nightly", **values: Any) -> Schedule:
    record = build_record("schedule", {"name": name, "cron_expression": "0 2 * * *"} | values)
    assert isinstance(record, Schedule)
    return record


def replication(name: str = "mirror", **values: Any) -> Replication:
    defaults = {"source_connection": "origin", "target_connection": "warehouse", "tables": ["public.*"]}
    record = build_record("replication", {"name": name} | defaults | values)
    assert isinstance(record, Replication)
    return record


def definitions(*records: Record) -> Definitions:
    return Definitions(records)


# --- strategies -------------------------------------------------------------------------------------------------

_NOT_IN_NAMES = [chr(code) for code in (*range(32), 127)]
_names = st.builds(
    lambda head, text: head + text.rstrip(),
    st.sampled_from(string.ascii_letters + "_0"),
    st.text(
        st.characters(codec="utf-8", exclude_characters=_NOT_IN_NAMES, exclude_categories=["Cs", "Zs"]), max_size=8
    ),
)
#: What YAML readers mistake for something else.
_traps = st.sampled_from(
    [
        *("no", "on", "yes", "true", "null", "~", "", "017", "0o17", "0x1f", "1:30", "1_000", "1e3", ".5", "+1", "-0"),
        *("2024-01-01", "=", "<<", "- a", "a: b", "# c", "!tag", "&a", "*a", "'", '"', "|", ">", "%YAML", "---", "..."),
        *("a\nb\n", "\n", " a ", "\ta", "  \n a", "a \n", "x\r\ny"),
        *("\x85", "\u2028", "\ufeffx", "\x1b[0m", "\U0001f600"),
    ]
)
_texts = st.one_of(
    _traps,
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20),
)
_filled = _texts.filter(bool)
_scalars = st.one_of(
    _texts,
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
)
_secrets = st.one_of(
    st.none(),
    st.builds(EnvSecret, env=st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)),
    st.builds(FileSecret, file=_filled.map(lambda text: "/" + text)),
)


def _is_host(text: str) -> bool:
    return "@" not in text and "://" not in text and not any(character.isspace() for character in text)


def connections(names: st.SearchStrategy[str] = _names) -> st.SearchStrategy[Connection]:
    """Connections whose secrets are references."""
    return st.builds(
        Connection,
        name=names,
        description=st.none() | _texts,
        db_type=_filled,
        host=st.none() | _filled.filter(_is_host),
        port=st.none() | st.integers(1, 65535),
        database=st.none() | _filled.filter(lambda text: "://" not in text),
        username=st.none() | _filled,
        password=_secrets,
        options=st.dictionaries(_filled, _scalars, max_size=3),
        pool=st.builds(PoolSettings, size=st.integers(1, 100), timeout_seconds=st.floats(0.1, 3600)),
    )


_types = st.one_of(
    st.sampled_from(TYPE_KINDS).map(DataType),
    st.integers(1, 38).flatmap(
        lambda size: st.builds(DataType, st.just("decimal"), st.just(size), st.integers(0, size))
    ),
)


@st.composite
def schemas(draw: st.DrawFn, names: st.SearchStrategy[str] = _names) -> Schema:
    """Table schemas."""
    column_names = draw(st.lists(_filled, min_size=1, max_size=4, unique=True))
    columns = tuple(
        SchemaColumn(
            name=name, data_type=draw(_types), nullable=draw(st.booleans()), description=draw(st.none() | _texts)
        )
        for name in column_names
    )
    key = draw(st.lists(st.sampled_from(column_names), unique=True, max_size=2))
    return Schema(name=draw(names), columns=columns, primary_key=tuple(key))


@st.composite
def mappings(draw: st.DrawFn, names: st.SearchStrategy[str] = _names) -> Mapping:
    """Mappings over the connections ``a`` and ``b``; each kind of column mapping."""
    fields = draw(st.lists(_filled, min_size=5, max_size=5, unique=True))
    column_mappings = [
        {"type": "direct", "source_columns": [draw(_filled)], "target_fields": [fields[0]]},
        {
            "type": "split",
            "source_columns": [draw(_filled)],
            "target_fields": [fields[1], fields[2]],
            "config": {"delimiter": draw(_filled), "extra_parts": draw(st.sampled_from(["last_field", "bad_row"]))},
        },
        {
            "type": "join",
            "source_columns": [draw(_filled), draw(_filled)],
            "target_fields": [fields[3]],
            "config": {"separator": draw(_texts)},
        },
        {"type": "constant", "value": draw(st.none() | _scalars), "target_fields": [fields[4]]},
    ]
    record = build_record(
        "mapping",
        {
            "name": draw(names),
            "source_connection": "a",
            "source_query": draw(_filled),
            "target_connection": "b",
            "target_table": draw(st.sampled_from(["t", "s.t", '"a.b"."c d"'])),
            "mode": draw(st.sampled_from(["replace", "append"])),
            "column_mappings": draw(st.none() | st.just(column_mappings)),
            "owners": draw(st.lists(_filled, max_size=2)),
            "tags": draw(st.dictionaries(_filled, _texts, max_size=2)),
        },
    )
    assert isinstance(record, Mapping)
    return record


@st.composite
def schedules(draw: st.DrawFn, names: st.SearchStrategy[str] = _names) -> Schedule:
    """Schedules of one or more mappings or pipelines."""
    return Schedule(
        name=draw(names),
        mapping=draw(st.none() | _names | st.lists(_names, min_size=1, max_size=3).map(tuple)),
        pipeline=draw(_names),
        cron_expression=draw(_filled),
        timezone=draw(st.sampled_from(["UTC", "Europe/Berlin"])),
        enabled=draw(st.booleans()),
        paused_until=draw(st.none() | st.just("2030-01-31T08:00:00+01:00")),
        catch_up=draw(st.sampled_from(["none", "last", "all"])),
    )


@st.composite
def sensors(draw: st.DrawFn, names: st.SearchStrategy[str] = _names) -> Sensor:
    """Sensors of each type."""
    kinds: list[dict[str, Any]] = [
        {"type": "source_changed", "connection": draw(_names), "table": "s.t", "column": draw(st.none() | _filled)},
        {
            "type": "new_file",
            "connection": draw(_names),
            "directory": draw(st.none() | _filled),
            "pattern": draw(st.none() | _filled),
            "stable_seconds": draw(st.none() | st.integers(0, 86_400)),
        },
        {"type": "pipeline_succeeded", "after_pipeline": draw(_names)},
    ]
    runs = draw(st.sampled_from([{"mapping": draw(_names)}, {"pipeline": draw(_names)}]))
    return Sensor(name=draw(names), enabled=draw(st.booleans()), **runs, **draw(st.sampled_from(kinds)))


@st.composite
def alerts(draw: st.DrawFn, names: st.SearchStrategy[str] = _names) -> Alert:
    """Alerts by each channel, whose secrets are references."""
    secret = draw(_secrets.filter(lambda item: item is not None))
    mail = {"host": "mail.example.com", "sender": "a@example.com", "recipients": ("b@example.com",)}
    channels: list[dict[str, Any]] = [
        {"webhook": {"url": secret, "signing_key": draw(_secrets)}},
        {"slack": {"url": secret}},
        {"email": mail | draw(st.sampled_from([{}, {"username": draw(_filled), "password": secret}]))},
    ]
    return Alert(
        name=draw(names),
        events=draw(st.sampled_from([("recovery",), ("run_failure", "missed_schedule")])),
        pipelines=tuple(draw(st.lists(_names, max_size=2))),
        max_per_hour=draw(st.integers(1, 1000)),
        **draw(st.sampled_from(channels)),
    )


@st.composite
def replications(draw: st.DrawFn, names: st.SearchStrategy[str] = _names) -> Replication:
    """Replications of patterns and of tables with everything that may be said of one."""
    table = {
        "name": draw(st.sampled_from(["t", "s.t", '"a.b"."c d"'])),
        "columns": draw(st.none() | st.lists(_filled, min_size=1, max_size=2, unique=True)),
        "where": draw(st.none() | _filled),
        "target": draw(st.none() | st.just("x.y")),
        "column_mappings": draw(
            st.none() | st.just([{"type": "direct", "source_columns": ["a"], "target_fields": ["b"]}])
        ),
    }
    return replication(
        draw(names),
        tables=draw(st.sampled_from([["public.*"], ["p.t?", table], [table, "other"]])),
        target_naming=draw(st.sampled_from([{}, {"target_schema": "copy_of_{schema}", "table": "{table}_"}])),
        mode=draw(st.sampled_from(["mirror", "soft_delete", "history"])),
        change_columns={"operation": draw(_filled)},
        slot=draw(st.none() | st.just("slot_1")),
        enabled=draw(st.booleans()),
        wal_guard=draw(st.sampled_from([{}, {"max_lag_bytes": None}, {"action": "drop_slot"}])),
    )


_numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def agents(draw: st.DrawFn, names: st.SearchStrategy[str] = _names) -> Agent:
    """Agents with texts, lists, KPIs of each sort, and links."""
    lines = st.lists(_filled, max_size=3)
    kpis = [
        {"name": "entered", "target": draw(_numbers | _filled), "current": draw(st.none() | _numbers | _filled)},
        {"name": "measured", "target": draw(st.none() | _numbers), "metric": "rows_loaded", "window_days": 7},
    ]
    return agent(
        draw(names),
        short_description=draw(st.none() | _filled),
        business_domain=draw(st.none() | _filled),
        status=draw(st.sampled_from(["draft", "active"])),
        problem_statement=draw(st.none() | _filled),
        goals=draw(lines),
        outputs=draw(lines | _filled),
        tools=[{"name": name} for name in draw(st.lists(_filled, max_size=2, unique=True))],
        kpis=draw(st.sampled_from([[], kpis])),
        mappings=draw(st.lists(_names, max_size=2, unique=True)),
    )


def any_records() -> st.SearchStrategy[list[Record]]:
    """Records of every kind, each name once within its kind; their references may lead nowhere."""
    anything: st.SearchStrategy[Record] = st.one_of(
        connections(), schemas(), mappings(), replications(), schedules(), sensors(), alerts(), agents()
    )
    return st.lists(anything, max_size=4, unique_by=lambda record: (record.kind, record.name))
