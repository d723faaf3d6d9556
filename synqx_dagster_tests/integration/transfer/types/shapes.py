"""Tables of every shape, and names that are hard to quote, in PostgreSQL's and MySQL's spelling."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 1600
#: InnoDB's most.
MYSQL_WIDTH = 1017


@dataclass(frozen=True)
class Shape:
    """A table, or what reads like one.

    Attributes:
        make: Statements over ``{t}`` that make the table and what it needs, without rows.
        fill: Statements that fill it.
    """

    name: str
    make: tuple[str, ...]
    fill: tuple[str, ...] = ()


_WIDE = ", ".join(f"c{number} integer" for number in range(WIDTH))
_MYSQL_WIDE = ", ".join(f"c{number} int" for number in range(MYSQL_WIDTH))
_TWO_ROWS = ("insert into {t} (name) values ('a'), (null)",)

POSTGRESQL_SHAPES: tuple[Shape, ...] = (
    Shape("empty", ("create table {t} (id integer primary key, name text)",)),
    Shape("one row, no key", ("create table {t} (id integer, name text)",), ("insert into {t} values (null, null)",)),
    Shape(
        f"{WIDTH} columns",
        ("create table {t} (" + _WIDE + ")",),
        ("insert into {t} values (" + ", ".join(map(str, range(WIDTH))) + ")", "insert into {t} default values"),
    ),
    Shape(
        "identity, always",
        ("create table {t} (id integer generated always as identity primary key, name text)",),
        _TWO_ROWS,
    ),
    Shape("serial", ("create table {t} (id serial primary key, name text)",), _TWO_ROWS),
    Shape(
        "default",
        ("create table {t} (id serial primary key, name text, made date not null default '2024-02-29')",),
        _TWO_ROWS,
    ),
    Shape(
        "generated, stored",
        (
            "create table {t} (id serial primary key, name text,"
            " doubled integer generated always as (id * 2) stored, size integer default 7)",
        ),
        _TWO_ROWS,
    ),
    Shape(
        "partitioned",
        (
            "create table {t} (id integer, name text, primary key (id)) partition by range (id)",
            "create table {t}_low partition of {t} for values from (0) to (100)",
            "create table {t}_rest partition of {t} default",
        ),
        ("insert into {t} values (1, 'a'), (100, 'b'), (-5, null)",),
    ),
    Shape(
        "view",
        (
            "create table {t}_base (id integer primary key, name text)",
            "create view {t} as select id, name from {t}_base where id > 0",
        ),
        ("insert into {t}_base values (1, 'a'), (0, 'hidden')",),
    ),
    Shape(
        "materialised view",
        (
            "create table {t}_base (id integer primary key, name text)",
            "create materialized view {t} as select id, upper(name) as name from {t}_base",
        ),
        ("insert into {t}_base values (1, 'a'), (2, null)", "refresh materialized view {t}"),
    ),
    Shape(
        "foreign key to itself",
        ("create table {t} (id integer primary key, name text, parent integer references {t})",),
        ("insert into {t} values (1, 'a', 3), (2, null, 1), (3, 'c', 2)",),
    ),
)

MYSQL_SHAPES: tuple[Shape, ...] = (
    Shape("empty", ("create table {t} (id int primary key, name text)",)),
    Shape("one row, no key", ("create table {t} (id int, name text)",), ("insert into {t} values (null, null)",)),
    Shape(
        f"{MYSQL_WIDTH} columns",
        ("create table {t} (" + _MYSQL_WIDE + ")",),
        ("insert into {t} values (" + ", ".join(map(str, range(MYSQL_WIDTH))) + ")", "insert into {t} () values ()"),
    ),
    Shape("auto_increment", ("create table {t} (id int auto_increment primary key, name text)",), _TWO_ROWS),
    Shape(
        "default",
        ("create table {t} (id int auto_increment primary key, name text, made date not null default '2024-02-29')",),
        _TWO_ROWS,
    ),
    Shape(
        "generated, stored and virtual",
        (
            "create table {t} (id int primary key, name text, doubled int as (id * 2) stored,"
            " tripled int as (id * 3) virtual)",
        ),
        ("insert into {t} (id, name) values (1, 'a'), (2, null)",),
    ),
    Shape(
        "partitioned",
        ("create table {t} (id int primary key, name text) partition by hash (id) partitions 3",),
        ("insert into {t} values (1, 'a'), (100, 'b'), (-5, null)",),
    ),
    Shape(
        "view",
        (
            "create table {t}_base (id int primary key, name text)",
            "create view {t} as select id, name from {t}_base where id > 0",
        ),
        ("insert into {t}_base values (1, 'a'), (0, 'hidden')",),
    ),
    Shape(
        "foreign key to itself",
        ("create table {t} (id int primary key, name text, parent int, foreign key (parent) references {t} (id))",),
        (
            "insert into {t} values (1, 'a', null), (2, null, 1), (3, 'c', 2)",
            "update {t} set parent = 3 where id = 1",
        ),
    ),
)

#: Names of columns and of tables, by what is hard about them.
NAMES: dict[str, str] = {
    "mixed case": "MixedCase",
    "reserved word": "select",
    "keyword": "user",
    "blanks": "two  words",
    "double quote": 'dou"ble',
    "single quote": "it's",
    "backtick": "back`tick",
    "backslash": "back\\slash",
    "63 bytes": "n" * 63,
    "63 bytes, two for a letter": "é" * 31 + "x",
    "non-ASCII": "ünï語",
    "per cent": "100%s %(x)s %%",
    "braces": "{value} ${x}",
    "dot": "a.b",
    "comma, parenthesis, comment": "a,b) --",
    "question mark, colon, dollar": "? :name $1",
    "newline and tab": "a\nb\tc",
    "leading digit": "1st",
    "emoji": "smile😀",
    "trailing blank": "blank ",
}

#: MySQL allows neither letters beyond the basic plane nor a blank at the end of a name.
MYSQL_NAMES = {label: name for label, name in NAMES.items() if label not in ("emoji", "trailing blank")}

#: Each costs a load of its own on each route, so not all of the names are tables.
TABLE_NAMES = (
    "mixed case",
    "reserved word",
    "double quote",
    "backtick",
    "63 bytes",
    "non-ASCII",
    "per cent",
    "dot",
    "newline and tab",
    "emoji",
    "trailing blank",
)
