"""Cases about the whole process: many small tables in one run, and how memory depends on the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.case import Bar, Bench, Case, Contestant, Outcome
from benchmarks.copies import postgresql_source
from benchmarks.lab import COLUMNS, Lab, compare
from benchmarks.peers import SlingRun, dlt_job
from benchmarks.servers import SOURCE, TARGET
from benchmarks.synqx import create_project, mapping, postgresql_connections

TABLES = 100
ROWS_PER_TABLE = 1_000
_TIMES_MORE = 10


def _names() -> list[str]:
    return [f"t{number:03}" for number in range(TABLES)]


@contextmanager
def start_tables(lab: Lab) -> Iterator[Bench]:
    """A hundred tables of a thousand rows, whatever the scale."""
    server, names = lab.postgresql, _names()
    lab.need_lineitem()

    def make() -> None:
        statements = [
            f"create table many.{name} as select row_number() over () as id, l.* from lineitem l"
            f" limit {ROWS_PER_TABLE} offset {number * 7}"
            for number, name in enumerate(names)
        ]
        keys = [f"alter table many.{name} add primary key (id)" for name in names]
        server.execute(SOURCE, "create schema many", *statements, *keys)
        server.settle(SOURCE)

    lab.make_once("many", make)
    expected = [lab.digest(SOURCE, f"many.{name}") for name in names]
    ((size,),) = server.execute(SOURCE, "select sum(pg_table_size(c.oid)) from pg_class c where relname ~ '^t[0-9]+$'")
    end = server.endpoint
    records = [
        *postgresql_connections(end),
        *(mapping(name, f"many.{name}", f"synqx.{name}") for name in names),
    ]
    project = create_project(lab.directory / "tables_100", records)

    def checked(schema: str) -> Callable[[], None]:
        def check() -> None:
            for name, digest in zip(names, expected, strict=True):
                compare(digest, lab.digest(TARGET, f"{schema}.{name}"))

        return check

    def sling(threads: int) -> Contestant:
        replication = SlingRun(
            f"tables_{threads}",
            end.url("postgres", SOURCE, "sslmode=disable"),
            end.url("postgres", TARGET, "sslmode=disable"),
            {"many.*": {"object": "sling.{stream_table}", "mode": "full-refresh"}},
            {"SLING_THREADS": str(threads)},
        )

        def run() -> Outcome:
            usage = lab.peers.run_sling(replication, log=lab.log(f"tables sling {threads}"))
            return Outcome(usage.seconds, usage.seconds, usage.peak_memory_bytes)

        label = f"sling, {threads} thread{'s' if threads > 1 else ''}"
        return Contestant(label, "sling", run, checked("sling"), lab.drop_schema("sling"))

    def dlt(backend: str, file_format: str) -> Contestant:
        name = f"tables_{backend}_{file_format}"
        job = dlt_job(
            # One file for each table: they are small, and there are enough of them to load at a time.
            backend, names, TABLES * ROWS_PER_TABLE * 4, destination="postgres", dataset=name,
            target=end.url("postgresql", TARGET), **postgresql_source(lab),
        )  # fmt: skip
        job |= {"source_schema": "many", "file_format": file_format}

        def prepare() -> None:
            lab.peers.forget_dlt(name)
            lab.drop_schema(name)()

        def run() -> Outcome:
            usage, seconds = lab.peers.run_dlt(name, job, log=lab.log(name))
            return Outcome(seconds, usage.seconds, usage.peak_memory_bytes)

        return Contestant(f"dlt, {backend}, {file_format}", "dlt", run, checked(name), prepare)

    contestants = [
        Contestant("synqx", "synqx", lambda: project.run(*names), checked("synqx"), lab.drop_schema("synqx")),
        sling(1),
        sling(4),
        dlt("pyarrow", "parquet"),
        dlt("pyarrow", "csv"),
        dlt("connectorx", "parquet"),
    ]
    yield Bench(TABLES * ROWS_PER_TABLE, int(size), contestants)


@contextmanager
def start_memory(lab: Lab) -> Iterator[Bench]:
    """One load as it is and one through DuckDB, of a table and of one ten times as large."""
    server = lab.postgresql
    lab.need_lineitem()
    names = ", ".join(COLUMNS)
    shifted = names.replace("l_orderkey", "l_orderkey + n * 1000000000::bigint", 1)
    server.execute(
        SOURCE,
        "create table lineitem_more (like lineitem)",
        f"insert into lineitem_more select {shifted} from lineitem, generate_series(0, {_TIMES_MORE - 1}) as n",
        "create table lineitem_one as select * from lineitem limit 1",
    )
    try:
        more_rows, size = lab.describe("lineitem_more")
        split = {
            "type": "split",
            "source_columns": ["l_shipinstruct"],
            "target_fields": ["instruct_first", "instruct_rest"],
            "config": {"delimiter": " "},
        }
        direct = [{"type": "direct", "source_columns": [name], "target_fields": [name]} for name in COLUMNS]
        tables = {"one row": "lineitem_one", "a tenth of the rows": "lineitem", "all rows": "lineitem_more"}
        records = list(postgresql_connections(server.endpoint))
        for table in tables.values():
            records.append(mapping(f"{table}_passthrough", f"public.{table}", f"synqx.{table}_passthrough"))
            # A char(n) as text is no pushdown: PostgreSQL casts it without its blanks.
            arrow = mapping(f"{table}_arrow", f"public.{table}", f"synqx.{table}_arrow")
            records.append({**arrow, "column_mappings": [*direct, split]})
        project = create_project(lab.directory / "memory", records)
        contestants = [
            _load(lab, f"{lane}, {label}", f"{table}_{lane}", table, lane, project.run)
            for lane in ("passthrough", "arrow")
            for label, table in tables.items()
        ]
        yield Bench(more_rows, size, contestants, runs=1)
    finally:
        lab.drop_schema("synqx")()
        server.execute(SOURCE, "drop table lineitem_more, lineitem_one")


def _load(lab: Lab, label: str, name: str, table: str, lane: str, run: Callable[..., Outcome]) -> Contestant:
    def check() -> None:
        compare(lab.digest(SOURCE, table), lab.digest(TARGET, f"synqx.{name}"))

    def run_in_lane() -> Outcome:
        outcome = run(name)
        compare((lane,), (outcome.lane,))
        return outcome

    return Contestant(label, "synqx", run_in_lane, check, lab.drop_schema("synqx"))


_MB = 1_000_000
TABLES_100 = Case(
    "tables_100",
    "100 tables of 1,000 rows, one Dagster run",
    start_tables,
    (
        Bar("synqx", "faster than dlt", "dlt", at_least=1, whole_process=True),
        Bar("synqx", "faster than Sling", "sling", at_least=1, whole_process=True),
    ),
)
MEMORY = Case(
    "memory",
    "Peak memory, and what it has to do with the rows",
    start_memory,
    (
        Bar("passthrough, *", "passthrough: at most 150 MB", at_most=150 * _MB, memory=True),
        Bar(
            "passthrough, all rows",
            "passthrough: the same for ten times the rows (at most 1.1 x)",
            "passthrough, a tenth of the rows",
            at_most=1.1,
            memory=True,
        ),
        Bar("arrow, *", "arrow: at most 400 MB", at_most=400 * _MB, memory=True),
        Bar(
            "arrow, all rows",
            "arrow: the same for ten times the rows (at most 1.1 x)",
            "arrow, a tenth of the rows",
            at_most=1.1,
            memory=True,
        ),
    ),
)
