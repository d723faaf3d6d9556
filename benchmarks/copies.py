"""Cases that replace a table in PostgreSQL: plain, from MariaDB, with a transformation, with bad rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from benchmarks.case import Bar, Bench, Case, Contestant, Outcome
from benchmarks.lab import COLUMNS, Digest, Lab, compare, create_lineitem, run_pipe
from benchmarks.peers import SlingRun, dlt_job
from benchmarks.servers import SOURCE, TARGET
from benchmarks.synqx import create_project, mapping, postgresql_connections, server_connection

_TEXT_FOR_CHAR = {"l_returnflag": "text", "l_linestatus": "text", "l_shipinstruct": "text", "l_shipmode": "text"}
#: One row in a thousand, told by its key, so that every run has the same ones.
_IS_BAD = "(l_orderkey * 7 + l_linenumber) % 1000 = 0"
_SALT = "benchmark"


def psql_copy(lab: Lab, case: str, table: str, expected: Digest | None) -> Contestant:
    """The limit: binary COPY from server to server, through a pipe. Without ``expected`` rows are counted."""
    server, target = lab.postgresql, f"psql.{table}"
    (types,) = server.execute(
        SOURCE,
        "select json_object_agg(attname, format_type(atttypid, atttypmod)) from pg_attribute"
        f" where attrelid = '{table}'::regclass and attnum > 0",
    )[0]

    def prepare() -> None:
        lab.drop_schema("psql")()
        server.execute(TARGET, "create schema psql", create_lineitem(target, **types))

    def run() -> Outcome:
        read = server.psql(SOURCE, f"copy {table} to stdout (format binary)")
        write = server.psql(TARGET, f"copy {target} from stdin (format binary)")
        return run_pipe(lab, f"{case} psql", read, write, server.password_environment)

    def check() -> None:
        if expected is not None:
            compare(expected, lab.digest(TARGET, target))
            return
        counts = [server.execute(*place) for place in _counts(table, target)]
        compare(*counts)

    return Contestant("psql | psql, binary COPY", "psql", run, check, prepare)


def _counts(source: str, target: str) -> Sequence[tuple[str, str]]:
    return (SOURCE, f"select count(*) from {source}"), (TARGET, f"select count(*) from {target}")


def sling_into_postgresql(
    lab: Lab, name: str, source: str, stream: str, expected: Digest, environment: dict[str, str] | None = None
) -> Contestant:
    """Sling's full refresh."""
    server = lab.postgresql
    sling = SlingRun(
        name.replace(",", "").replace(" ", "_"),
        source,
        server.endpoint.url("postgres", TARGET, "sslmode=disable"),
        {stream: {"object": "sling.lineitem", "mode": "full-refresh"}},
        environment or {},
    )

    def run() -> Outcome:
        usage = lab.peers.run_sling(sling, log=lab.log(name))
        return Outcome(usage.seconds, usage.seconds, usage.peak_memory_bytes)

    return Contestant(name, "sling", run, lab.check_copy(expected, "sling.lineitem"), lab.drop_schema("sling"))


def dlt_into_postgresql(lab: Lab, backend: str, expected: Digest, **source: Any) -> Contestant:
    """dlt's replace."""
    pipeline, schema = f"bench_{backend}", f"dlt_{backend}"
    target = lab.postgresql.endpoint.url("postgresql", TARGET)
    job = dlt_job(
        backend, ["lineitem"], expected[0], destination="postgres", target=target, dataset=schema, **source
    )  # fmt: skip

    def prepare() -> None:
        lab.peers.forget_dlt(pipeline)
        lab.drop_schema(schema)()

    def run() -> Outcome:
        usage, seconds = lab.peers.run_dlt(pipeline, job, log=lab.log(f"dlt {backend}"))
        return Outcome(seconds, usage.seconds, usage.peak_memory_bytes)

    return Contestant(f"dlt, {backend}", "dlt", run, lab.check_copy(expected, f"{schema}.lineitem"), prepare)


def postgresql_source(lab: Lab) -> dict[str, str]:
    """What dlt needs to read from PostgreSQL."""
    end = lab.postgresql.endpoint
    return {
        "source_url": end.url("postgresql+psycopg2", SOURCE),
        "connectorx_url": end.url("postgresql", SOURCE, "cxprotocol=binary"),
        "source_schema": "public",
    }


@contextmanager
def start_pg_pg(lab: Lab) -> Iterator[Bench]:
    """lineitem as it is."""
    rows, size = lab.need_lineitem()
    expected = lab.digest(SOURCE, "lineitem")
    end = lab.postgresql.endpoint
    records = [*postgresql_connections(end), mapping("lineitem", "public.lineitem", "synqx.lineitem")]
    project = create_project(lab.directory / "pg_pg", records)
    sling_url = end.url("postgres", SOURCE, "sslmode=disable")
    synqx = Contestant(
        "synqx",
        "synqx",
        lambda: project.run("lineitem"),
        lab.check_copy(expected, "synqx.lineitem"),
        lab.drop_schema("synqx"),
    )
    contestants = [
        psql_copy(lab, "pg_pg", "lineitem", expected),
        synqx,
        sling_into_postgresql(lab, "sling", sling_url, "public.lineitem", expected),
        sling_into_postgresql(
            lab, "sling, direct insert", sling_url, "public.lineitem", expected, {"SLING_DIRECT_INSERT": "true"}
        ),
        dlt_into_postgresql(lab, "pyarrow", expected, **postgresql_source(lab)),
        dlt_into_postgresql(lab, "connectorx", expected, **postgresql_source(lab)),
    ]
    yield Bench(rows, size, contestants)


@contextmanager
def start_mysql_pg(lab: Lab) -> Iterator[Bench]:
    """lineitem as it is, from MariaDB."""
    rows, size = lab.need_lineitem()
    expected = lab.digest(SOURCE, "lineitem")
    lab.make_once("mariadb.lineitem", lambda: _fill_mariadb(lab))
    source, target = lab.mariadb.endpoint, lab.postgresql.endpoint
    records = [
        server_connection("source", "mysql", SOURCE, source),
        server_connection("target", "postgresql", TARGET, target),
        mapping("lineitem", f"{SOURCE}.lineitem", "synqx.lineitem"),
    ]
    project = create_project(lab.directory / "mysql_pg", records)
    dlt_source = {
        "source_url": source.url("mysql+pymysql", SOURCE),
        "connectorx_url": source.url("mysql", SOURCE),
    }
    sling_url = source.url("mysql", SOURCE)
    synqx = Contestant(
        "synqx",
        "synqx",
        lambda: project.run("lineitem"),
        lab.check_copy(expected, "synqx.lineitem"),
        lab.drop_schema("synqx"),
    )
    contestants = [
        _mariadb_pipe(lab, expected),
        synqx,
        sling_into_postgresql(lab, "sling", sling_url, f"{SOURCE}.lineitem", expected),
        sling_into_postgresql(
            lab, "sling, direct insert", sling_url, f"{SOURCE}.lineitem", expected, {"SLING_DIRECT_INSERT": "true"}
        ),
        dlt_into_postgresql(lab, "pyarrow", expected, **dlt_source),
        dlt_into_postgresql(lab, "connectorx", expected, **dlt_source),
    ]
    yield Bench(rows, size, contestants)


def _fill_mariadb(lab: Lab) -> None:
    types = {name: kind.replace("numeric", "decimal") for name, kind in COLUMNS.items()}
    with closing(lab.mariadb.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(create_lineitem("lineitem", **types))
        cursor.execute(
            f"load data local infile '{lab.lineitem_file}' into table lineitem"
            " fields terminated by ',' optionally enclosed by '\"' ignore 1 lines"
        )
        cursor.execute("analyze table lineitem")
        cursor.execute("select sum(crc32(concat_ws('|', l_comment, l_shipinstruct, l_orderkey))) from lineitem")


def _mariadb_pipe(lab: Lab, expected: Digest) -> Contestant:
    """What MariaDB's own client and psql do together: its batch format is what COPY calls text."""
    from benchmarks.servers import find_program

    source, server = lab.mariadb.endpoint, lab.postgresql
    read = [find_program("mariadb"), "--no-defaults", "--protocol=tcp", "-h", source.host, "-P", str(source.port)]
    read += ["-u", source.username, "--batch", "--skip-column-names", "--quick", SOURCE, "-e", "select * from lineitem"]

    def prepare() -> None:
        lab.drop_schema("psql")()
        server.execute(TARGET, "create schema psql", create_lineitem("psql.lineitem"))

    def run() -> Outcome:
        write = server.psql(TARGET, "copy psql.lineitem from stdin")
        environment = {**server.password_environment, "MYSQL_PWD": source.password}
        return run_pipe(lab, "mysql_pg pipe", read, write, environment)

    return Contestant(
        "mariadb | psql, text COPY", "psql", run, lab.check_copy(expected, "psql.lineitem"), prepare
    )  # fmt: skip


def need_plain(lab: Lab) -> tuple[int, int]:
    """Have ``lineitem_plain``: text for char(n), and a date that is text."""
    lab.need_lineitem()

    def make() -> None:
        lab.postgresql.execute(
            SOURCE,
            create_lineitem("lineitem_plain", **_TEXT_FOR_CHAR, l_commitdate="text"),
            "insert into lineitem_plain select * from lineitem",
        )

    lab.make_once("lineitem_plain", make)
    return lab.describe("lineitem_plain")


def _direct(*left_out: str) -> list[dict[str, Any]]:
    names = [name for name in COLUMNS if name not in left_out]
    return [{"type": "direct", "source_columns": [name], "target_fields": [name]} for name in names]


_TRANSFORMS: list[dict[str, Any]] = [
    {
        "type": "split",
        "source_columns": ["l_shipinstruct"],
        "target_fields": ["instruct_first", "instruct_rest"],
        "config": {"delimiter": " "},
    },
    {
        "type": "join",
        "source_columns": ["l_orderkey", "l_linenumber"],
        "target_fields": ["line_id"],
        "config": {"separator": "-"},
    },
    {
        "type": "hash",
        "source_columns": ["l_comment"],
        "target_fields": ["comment_hash"],
        "config": {"salt": _SALT},
    },
]
_LOGICAL = {
    **dict.fromkeys(("l_orderkey", "l_partkey", "l_suppkey"), "bigint"),
    "l_linenumber": "integer",
    **dict.fromkeys(("l_quantity", "l_extendedprice", "l_discount", "l_tax"), "decimal(15,2)"),
    **dict.fromkeys((*_TEXT_FOR_CHAR, "l_comment"), "string"),
    **dict.fromkeys(("l_shipdate", "l_receiptdate"), "date"),
    "l_commitdate": "string",
    **dict.fromkeys(("instruct_first", "instruct_rest", "line_id", "comment_hash"), "string"),
}


def _schema(name: str, fields: Sequence[str], **types: str) -> dict[str, Any]:
    columns = [
        {"name": field, "data_type": types.get(field, _LOGICAL[field]), "nullable": field == "instruct_rest"}
        for field in fields
    ]
    return {"kind": "schema", "name": name, "columns": columns}


def _digest_transformed(lab: Lab, database: str, relation: str) -> Digest:
    (row,) = lab.postgresql.execute(
        database,
        "select count(*), sum(l_orderkey), sum(l_quantity), sum(hashtextextended("
        " concat_ws('|', instruct_first, coalesce(instruct_rest, '-'), line_id, comment_hash, l_commitdate::text), 0)"
        f" ::numeric) from {relation} as t",
    )
    return tuple(row)


_EXPECTED_TRANSFORMED = f"""(
    select l_orderkey, l_quantity, l_commitdate, split_part(l_shipinstruct, ' ', 1) as instruct_first,
        nullif(regexp_replace(l_shipinstruct, '^[^ ]* ?', ''), '') as instruct_rest,
        l_orderkey || '-' || l_linenumber as line_id,
        encode(sha256(convert_to('{_SALT}' || l_comment, 'UTF8')), 'hex') as comment_hash
    from lineitem_plain
)"""


#: The same by hand, without SynqX's look whether each value can be what its column asks for.
_WRITTEN_BY_HAND = (
    "l_quantity::integer as l_quantity, split_part(l_shipinstruct, ' ', 1) as instruct_first,"
    " substr(l_shipinstruct, nullif(strpos(l_shipinstruct, ' '), 0) + 1) as instruct_rest,"
    " l_orderkey || '-' || l_linenumber as line_id,"
    f" encode(sha256(convert_to('{_SALT}' || l_comment, 'UTF8')), 'hex') as comment_hash"
)


def _psql_transform(lab: Lab, expected: Digest) -> Contestant:
    """What the source's own arithmetic costs: the transformation as a query, through the pipe."""
    server, target = lab.postgresql, "psql.transformed"
    kept = ", ".join(name for name in COLUMNS if name not in ("l_quantity", "l_shipinstruct", "l_comment"))
    query = f"select {kept}, {_WRITTEN_BY_HAND} from lineitem_plain"

    def prepare() -> None:
        # Its own types: the columns of the query, empty.
        lab.drop_schema("psql")()
        types = server.execute(
            SOURCE,
            f"create temp view query as {query}",
            "select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum)"
            " from pg_attribute where attrelid = 'query'::regclass",
        )[0][0]
        server.execute(TARGET, "create schema psql", f"create table {target} ({types})")

    def run() -> Outcome:
        read = server.psql(SOURCE, f"copy ({query}) to stdout (format binary)")
        write = server.psql(TARGET, f"copy {target} from stdin (format binary)")
        return run_pipe(lab, "transform psql query", read, write, server.password_environment)

    def check() -> None:
        compare(expected, _digest_transformed(lab, TARGET, target))

    return Contestant("psql | psql, the query by hand", "psql", run, check, prepare)


@contextmanager
def start_transform(lab: Lab) -> Iterator[Bench]:
    """Split, join, cast and hash: computed by the source, and by DuckDB, which a cast of text to date needs."""
    rows, size = need_plain(lab)
    expected = _digest_transformed(lab, SOURCE, _EXPECTED_TRANSFORMED)
    plain = lab.digest(SOURCE, "lineitem_plain")
    # The split column and the comment are replaced by what is made of them.
    kept = [name for name in COLUMNS if name not in ("l_shipinstruct", "l_comment")]
    fields = [*kept, "instruct_first", "instruct_rest", "line_id", "comment_hash"]
    column_mappings = [*_direct("l_shipinstruct", "l_comment"), *_TRANSFORMS]
    records = [
        *postgresql_connections(lab.postgresql.endpoint),
        _schema("pushed", fields, l_quantity="integer"),
        _schema("arrow", fields, l_quantity="integer", l_commitdate="date"),
        mapping("plain", "public.lineitem_plain", "synqx.plain"),
        *(
            mapping(
                name,
                "public.lineitem_plain",
                f"synqx.{name}",
                target_schema=name,
                column_mappings=column_mappings,
            )
            for name in ("pushed", "arrow")
        ),
    ]
    project = create_project(lab.directory / "transform", records)
    drop = lab.drop_schema("synqx")

    def check(name: str) -> None:
        compare(expected, _digest_transformed(lab, TARGET, f"synqx.{name}"))

    contestants = [
        psql_copy(lab, "transform", "lineitem_plain", plain),
        _psql_transform(lab, expected),
        Contestant(
            "synqx, plain", "synqx", lambda: project.run("plain"), lab.check_copy(plain, "synqx.plain"), drop
        ),
        Contestant(
            "synqx, transformed", "synqx", lambda: project.run("pushed"), lambda: check("pushed"), drop
        ),
        Contestant(
            "synqx, transformed, with a cast of text to date",
            "synqx",
            lambda: project.run("arrow"),
            lambda: check("arrow"),
            drop,
        ),
    ]  # fmt: skip
    yield Bench(rows, size, contestants)


@contextmanager
def start_quarantine(lab: Lab) -> Iterator[Bench]:
    """A text column that must become a decimal, and does not in one row of a thousand."""
    need_plain(lab)
    columns = ", ".join(
        f"case when {_IS_BAD} then 'n/a' else l_quantity::text end" if name == "l_quantity" else name
        for name in COLUMNS
    )

    def make() -> None:
        types = {**_TEXT_FOR_CHAR, "l_commitdate": "text", "l_quantity": "text"}
        lab.postgresql.execute(
            SOURCE,
            create_lineitem("lineitem_bad", **types),
            f"insert into lineitem_bad select {columns} from lineitem_plain",
        )

    lab.make_once("lineitem_bad", make)
    rows, size = lab.describe("lineitem_bad")
    good = lab.digest(SOURCE, f"(select * from lineitem_plain where not ({_IS_BAD})) as good")
    records = [
        *postgresql_connections(lab.postgresql.endpoint),
        _schema("checked", list(COLUMNS)),
        mapping("plain", "public.lineitem_bad", "synqx.plain"),
        mapping(
            "checked", "public.lineitem_bad", "synqx.checked",
            target_schema="checked", on_bad_row="quarantine", max_bad_rows="1%",
        ),
    ]  # fmt: skip
    project = create_project(lab.directory / "quarantine", records)
    drop = lab.drop_schema("synqx")

    def check_plain() -> None:
        compare(*(lab.postgresql.execute(*place) for place in _counts("lineitem_bad", "synqx.plain")))

    def check_quarantined() -> None:
        compare(good, lab.digest(TARGET, "synqx.checked"))
        ((count,),) = lab.postgresql.execute(TARGET, "select count(*) from synqx._synqx_quarantine")
        compare((rows - good[0],), (count,))

    contestants = [
        psql_copy(lab, "quarantine", "lineitem_bad", None),
        Contestant("synqx, plain", "synqx", lambda: project.run("plain"), check_plain, drop),
        Contestant("synqx, quarantine", "synqx", lambda: project.run("checked"), check_quarantined, drop),
    ]
    yield Bench(rows, size, contestants)


PG_PG = Case(
    "pg_pg",
    "PostgreSQL to PostgreSQL, replace",
    start_pg_pg,
    (
        Bar("synqx", "at most 1.05 x `psql`'s time", "psql", at_most=1.05),
        Bar("synqx", "at least 5 x faster than Sling", "sling", at_least=5),
        Bar("synqx", "at least 10 x faster than dlt", "dlt", at_least=10),
    ),
)
TRANSFORM = Case(
    "pg_pg_transform",
    "The same with split, join, cast and hash",
    start_transform,
    (
        Bar("synqx, transformed", "at most 1.5 x the plain copy", "synqx, plain", at_most=1.5),
        Bar(
            "synqx, transformed, with a cast of text to date",
            "at most 1.5 x the plain copy",
            "synqx, plain",
            at_most=1.5,
        ),
    ),
)
QUARANTINE = Case(
    "pg_pg_quarantine",
    "The same with quarantine and 0.1 % bad rows",
    start_quarantine,
    (Bar("synqx, quarantine", "at most 1.5 x the plain copy", "synqx, plain", at_most=1.5),),
)
MYSQL_PG = Case(
    "mysql_pg",
    "MariaDB to PostgreSQL, replace",
    start_mysql_pg,
    (
        Bar("synqx", "at least 3.5 x faster than Sling", "sling", at_least=3.5),
        Bar("synqx", "at least 7 x faster than dlt", "dlt", at_least=7),
    ),
)
