"""The guard of source queries: what passes is exactly one SELECT that has no effect on the server.

The guard is one of two walls; the other is the read-only transaction that connectors open. It refuses what
such a transaction would still run (functions that read files, sleep, or take locks) as far as their names are
known.
"""

from __future__ import annotations

from sqlglot import exp, parse
from sqlglot.errors import SqlglotError

from synqx_dagster.errors import QueryRefusedError
from synqx_dagster.mapping.scan import Scanned, scan

#: A query's tree may be this many levels deep; deeper ones exhaust the stack of whoever walks it.
MAX_TREE_DEPTH = 500

_ONE_SELECT = "give exactly one SELECT"

#: Functions with effects or reach that a read-only transaction does not stop; a trailing * matches a prefix.
REFUSED_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "postgres": (
        "pg_read_*",
        "pg_ls_*",
        "pg_stat_file",
        "pg_file_*",
        "pg_current_logfile",
        "lo_*",
        "loread",
        "lowrite",
        "dblink*",
        "pg_notify",
        "pg_advisory_*",
        "pg_try_advisory_*",
        "pg_sleep*",
        "pg_terminate_backend",
        "pg_cancel_backend",
        "pg_reload_conf",
        "pg_rotate_logfile*",
        "pg_promote",
        "pg_switch_wal",
        "pg_wal_replay_*",
        "pg_create_*",
        "pg_drop_*",
        "pg_copy_*",
        "pg_replication_*",
        "pg_logical_*",
        "pg_backup_*",
        "pg_start_backup",
        "pg_stop_backup",
        "pg_export_snapshot",
        "pg_import_system_collations",
        "pg_log_backend_memory_contexts",
        "pg_stat_reset*",
        "pg_stat_statements_reset",
        "pg_clear_*",
        "pg_restore_*",
        "pg_prewarm",
        "pg_sync_replication_slots",
        "pg_log_standby_snapshot",
        "pg_extension_config_dump",
        "pg_nextoid",
        "set_config",
        "setseed",
        "nextval",
        "setval",
        "query_to_xml*",
        "cursor_to_xml*",
        "ts_stat",
        "ts_rewrite",
        "crosstab*",
        "connectby",
        "xpath_table",
        "cron_*",
    ),
    "mysql": (
        "load_file",
        "sleep",
        "benchmark",
        "get_lock",
        "release_lock",
        "release_all_locks",
        "sys_exec",
        "sys_eval",
        "sys_get",
        "sys_set",
        "master_pos_wait",
        "source_pos_wait",
        "master_gtid_wait",
        "wait_for_executed_gtid_set",
        "wait_until_sql_thread_after_gtids",
        "nextval",
        "setval",
        "last_insert_id",
    ),
    "oracle": (
        # Of packages the last name counts: utl_http.request, dbms_lock.sleep, utl_inaddr.get_host_address.
        "request",
        "request_pieces",
        "sleep",
        "get_host_*",
        "httpuritype",
        "dburitype",
        "xdburitype",
        "bfilename",
    ),
    "tsql": (
        "openrowset",
        "opendatasource",
        "openquery",
        "openxml",
        "fn_get_audit_file",
        "fn_xe_file_target_read_file",
        "fn_trace_gettable",
        "fn_dblog",
    ),
    "snowflake": (
        "system$*",
        "nextval",
        "get_presigned_url",
        "result_scan",
    ),
    "sqlite": (
        "load_extension",
        "readfile",
        "writefile",
        "edit",
        "fts3_tokenizer",
        "lsdir",
        "fsdir",
        "zipfile",
    ),
    "duckdb": (
        "read_*",
        "parquet_*",
        "glob",
        "sniff_csv",
        "getenv",
        "query",
        "query_table",
        "json_execute_serialized_sql",
        "sqlite_*",
        "postgres_*",
        "mysql_*",
        "iceberg_*",
        "delta_*",
        "arrow_scan*",
        "pandas_scan",
        "python_map_function",
        "seq_scan",
        "st_read*",
        "nextval",
        "setseed",
        "checkpoint",
        "force_checkpoint",
        "which_secret",
        "http_*",
    ),
}

_FILE_ENDINGS = tuple(
    ".csv .tsv .parquet .json .jsonl .ndjson .gz .zst .db .duckdb .xlsx".split()  # noqa: SIM905
)


def parse_query(sql: str, dialect: str) -> exp.Query:
    """Parse a source query and refuse everything but one SELECT (also WITH ... SELECT and set operations).

    Args:
        sql: The query as the user wrote it.
        dialect: The sqlglot dialect of the source.

    Raises:
        QueryRefusedError: It is something else; says what, and where it can.
    """
    scanned = scan(sql, dialect)
    if not scanned.first_word:
        raise QueryRefusedError("the query is empty", hint=_ONE_SELECT)
    starters = {"select", "with", "(", "from"} if dialect == "duckdb" else {"select", "with", "("}
    if scanned.first_word not in starters:
        word = scanned.first_word.upper() if scanned.first_word.isidentifier() else "something else"
        raise QueryRefusedError(f"the query begins with {word}, not with SELECT", hint=_ONE_SELECT)
    refuse_functions(scanned, dialect)
    tree = _parse(scanned.text, dialect)
    _check_tree(tree, dialect)
    return tree


def clean_query(sql: str, dialect: str) -> str:
    """The query as it may be put into brackets: without comments and without a semicolon at its end.

    Raises:
        QueryRefusedError: As `parse_query`.
    """
    parse_query(sql, dialect)
    return scan(sql, dialect).text


def refuse_functions(scanned: Scanned, dialect: str) -> None:
    """Refuse calls of functions that act on the server or its files.

    Raises:
        QueryRefusedError: Names the function.
    """
    for name in scanned.calls:
        for pattern in REFUSED_FUNCTIONS.get(dialect, ()):
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                raise QueryRefusedError(
                    f"the function {name} is not allowed: it acts on the server, not on rows",
                    hint=_ONE_SELECT,
                )


def too_deep(tree: exp.Expr) -> bool:
    """Whether a tree is so deep that walking it recursively could exhaust the stack. Does not recurse."""
    level: list[exp.Expr] = [tree]
    for _ in range(MAX_TREE_DEPTH):
        level = [child for node in level for child in node.iter_expressions()]
        if not level:
            return False
    return True


def parse_statements(text: str, dialect: str, *, what: str, hint: str) -> list[exp.Expr]:
    """Run the parser; whatever it makes of the text, the only error is ours.

    Raises:
        QueryRefusedError: The text cannot be parsed; says where, if the parser does.
    """
    try:
        return [tree for tree in parse(text, dialect=dialect) if tree is not None]
    except SqlglotError as exc:
        message = f"{what} cannot be read: {_parser_message(exc)}"
        raise QueryRefusedError(message, hint=hint) from exc
    except RecursionError:
        raise QueryRefusedError(f"{what} is nested too deep", hint="write it flatter") from None
    except _PARSER_FAULTS as exc:
        raise QueryRefusedError(f"{what} cannot be read", hint=hint) from exc


#: sqlglot's parser trips over its own feet for some texts that are not SQL (``select acos(acos())``).
_PARSER_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def _parser_message(error: SqlglotError) -> str:
    """The parser's complaint on one line, without terminal colours and without the user's text."""
    errors = getattr(error, "errors", None)
    if not errors:
        return "a word or a sign is not where it can be"
    first = errors[0]
    message = str(first.get("description") or "a word or a sign is not where it can be").rstrip(".")
    message = message.partition(" for <class")[0]
    place = f"line {first['line']}, column {first['col']}: " if first.get("line") else ""
    return f"{place}{message}"


def _parse(text: str, dialect: str) -> exp.Query:
    trees = parse_statements(text, dialect, what="the query", hint=_ONE_SELECT)
    if len(trees) != 1:
        raise QueryRefusedError("more than one statement", hint=_ONE_SELECT)
    tree = trees[0]
    if not isinstance(tree, exp.Query) or isinstance(tree, (exp.Table, exp.Values)):
        raise QueryRefusedError(f"the query is {tree.key.upper()}, not a SELECT", hint=_ONE_SELECT)
    if isinstance(tree, exp.Select) and not tree.expressions:
        raise QueryRefusedError("the query selects no column", hint=_ONE_SELECT)
    if too_deep(tree):
        raise QueryRefusedError("the query is nested too deep", hint="write it flatter")
    return tree


def _check_tree(tree: exp.Query, dialect: str) -> None:
    for node in tree.walk():
        if isinstance(node, exp.Binary) and node.args.get("expression") is None:
            # The parser reads "lateral ." as a name with nothing in it, which whoever walks the tree trips over.
            raise QueryRefusedError("the query cannot be read", hint=_ONE_SELECT)
        if isinstance(node, exp.Into):
            raise QueryRefusedError("SELECT INTO writes", hint=_ONE_SELECT)
        if isinstance(node, exp.Lock):
            raise QueryRefusedError("the query locks rows (FOR UPDATE, FOR SHARE)", hint="leave the lock out")
        if isinstance(node, (exp.DML, exp.DDL, exp.Command)) and not isinstance(node, exp.Query):
            name = node.key.upper()
            raise QueryRefusedError(f"{name} inside the query changes data", hint=_ONE_SELECT)
        if isinstance(node, (exp.Placeholder, exp.Parameter)):
            raise QueryRefusedError("the query has parameters or variables", hint="write their values")
        if isinstance(node, exp.NextValueFor):
            raise QueryRefusedError("NEXT VALUE FOR moves a sequence", hint=_ONE_SELECT)
        if dialect == "duckdb" and isinstance(node, exp.Table) and _is_file(node):
            raise QueryRefusedError("the query reads a file by its name", hint="read a table")


def _is_file(table: exp.Table) -> bool:
    """Whether DuckDB would open a file for this name: it does so for names of tables that do not exist."""
    name = table.name.lower()
    return table.args.get("db") is None and ("/" in name or "\\" in name or name.endswith(_FILE_ENDINGS))
