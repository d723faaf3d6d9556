"""Tables of random columns, and random changes of their rows and of themselves, as SQL text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

#: Types by name, with SQL that gives a value of the row's number ``$n`` and of a random seed ``$s``.
TYPES: dict[str, str] = {
    "smallint": "(($n * 7 + $s) % 30000)::smallint",
    "integer": "($n * 31 + $s)",
    "bigint": "($n::bigint * 10000000019 + $s)",
    "numeric": "(($n + $s)::numeric / 7)",
    "numeric(20,4)": "round(($n + $s)::numeric / 7, 4)",
    "real": "(case when $n % 11 = 0 then 'nan'::real else ($n + $s) / 3.0::real end)",
    "double precision": "(case when $n % 13 = 0 then '-infinity'::float8 else ($n + $s) / 3.0::float8 end)",
    "text": "(case $n % 5 when 0 then null when 1 then '' else E'a\\tb\\\\c\\nü' || ($n + $s) end)",
    "varchar(40)": "('v' || ($n + $s))",
    "char(8)": "('c' || ($n + $s) % 1000)",
    "boolean": "(($n + $s) % 3 = 0)",
    "date": "(case when $n % 17 = 0 then 'infinity'::date else date '0044-03-15 BC' + ($n * 1000 + $s) % 900000 end)",
    "time": "(time '00:00:00.000001' + make_interval(secs => ($n + $s) % 80000))",
    "timestamp": "(timestamp '1999-12-31 23:59:59.999999' + make_interval(secs => $n * 1000 + $s))",
    "timestamptz": "(timestamptz '2024-02-29 12:00:00.5+02' + make_interval(secs => $n * 1000 + $s))",
    "uuid": "md5(($n + $s)::text)::uuid",
    "bytea": "decode(md5(($n + $s)::text), 'hex')",
    "jsonb": "jsonb_build_object('n', $n + $s, 'x', null, 'q', '\"')",
    "json": "('{\"b\": 1,  \"a\": ' || ($n + $s) || '}')::json",
    "integer[]": "array[$n, null, $s]",
    "inet": "('10.0.0.0'::inet + ($n + $s) % 100000)",
    "interval": "make_interval(days => $n % 400, secs => $s % 1000)",
}
KEY_TYPES = ("integer", "bigint", "text", "uuid", "numeric(20,4)", "timestamptz")
#: Values of keys: none is NULL, and none of two rows is the same.
KEY_VALUES = {
    "integer": "$n",
    "bigint": "$n::bigint * 10000000019",
    "text": "'k' || $n",
    "uuid": "md5($n::text)::uuid",
    "numeric(20,4)": "$n + 0.5",
    "timestamptz": "timestamptz '2020-01-01 00:00+00' + make_interval(secs => $n)",
}
#: Types that a column may be given without another value for any row.
WIDER = {"smallint": "bigint", "integer": "bigint", "varchar(40)": "varchar(80)"}


def quote(name: str) -> str:
    """An identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


@dataclass
class RandomTable:
    """One table of the source, as far as the changes need to know it."""

    name: str
    key: dict[str, str]
    columns: dict[str, str]
    identity: str
    next_number: int = 1
    generation: int = 0
    _column_numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def quoted(self) -> str:
        return quote(self.name)

    def create(self) -> str:
        """SQL that makes it, with its replica identity."""
        types = {**self.key, **self.columns}
        defined = ", ".join(f"{quote(name)} {kind}" for name, kind in types.items())
        keys = ", ".join(map(quote, self.key))
        text = f"create table {self.quoted} ({defined}, big text, primary key ({keys}));"
        text += f" alter table {self.quoted} alter column big set storage external;"
        if self.identity == "full":
            text += f" alter table {self.quoted} replica identity full;"
        elif self.identity == "index":
            index = quote(f"{self.name} identity {self.generation}")
            text += (
                f" create unique index {index} on {self.quoted} ({keys});"
                f" alter table {self.quoted} replica identity using index {index};"
            )
        return text

    def insert(self, rng: random.Random, rows: int) -> str:
        """SQL that adds rows; some have a value that is stored outside of them."""
        first, self.next_number = self.next_number, self.next_number + rows
        seed = rng.randint(0, 100_000)
        values = [KEY_VALUES[kind] for kind in self.key.values()] + [TYPES[kind] for kind in self.columns.values()]
        values.append(f"case when $n % 6 = 0 then repeat(md5($n::text), {rng.choice([100, 300])}) end")
        names = ", ".join(quote(name) for name in (*self.key, *self.columns, "big"))
        return (
            f"insert into {self.quoted} ({names}) select {', '.join(_fill(value, 'n', seed) for value in values)}"
            f" from generate_series({first}, {self.next_number - 1}) n"
        )

    def update(self, rng: random.Random) -> str:
        """SQL that changes some columns of some rows, or their large value, or nothing."""
        seed = rng.randint(0, 100_000)
        chosen = rng.sample(list(self.columns), min(len(self.columns), rng.randint(0, 3)))
        # A row's place stands for its number, which is not known here.
        number = "(abs(hashtext(ctid::text)) % 1000)"
        sets = [f"{quote(name)} = {_fill(TYPES[self.columns[name]], number, seed)}" for name in chosen]
        if rng.random() < 0.25 or not sets:
            sets.append(rng.choice(["big = null", "big = big || 'x'", f"big = repeat('z', {rng.randint(1, 9000)})"]))
        return f"update {self.quoted} set {', '.join(sets)} where {self._part(rng)}"

    def move(self, rng: random.Random) -> str:
        """SQL that gives some rows other keys, which no row has or had."""
        name, kind = next(iter(self.key.items()))
        first, self.next_number = self.next_number, self.next_number + 1_000_000
        value = _fill(KEY_VALUES[kind], "q.n", 0)
        return (
            f"update {self.quoted} t set {quote(name)} = {value} from (select ctid, {first} + row_number() over () as n"
            f" from {self.quoted} where {self._part(rng)}) q where q.ctid = t.ctid"
        )

    def delete(self, rng: random.Random) -> str:
        """SQL that removes some rows."""
        return f"delete from {self.quoted} where {self._part(rng)}"

    def alter(self, rng: random.Random) -> str:
        """SQL that changes its columns in a way that leaves the values of rows alone."""
        choices: list[Callable[[random.Random], str]] = [self._add, self._rename]
        if len(self.columns) > 1:
            choices.append(self._drop)
        if any(kind in WIDER for kind in self.columns.values()):
            choices.append(self._widen)
        return rng.choice(choices)(rng)

    def _add(self, rng: random.Random) -> str:
        name, kind = f"added {next(self._column_numbers)}", rng.choice(list(TYPES))
        self.columns[name] = kind
        default = " default 7" if kind in ("integer", "bigint", "numeric") and rng.random() < 0.5 else ""
        return f"alter table {self.quoted} add column {quote(name)} {kind}{default}"

    def _rename(self, rng: random.Random) -> str:
        old = rng.choice(list(self.columns))
        new = f"renamed {next(self._column_numbers)}"
        self.columns = {new if name == old else name: kind for name, kind in self.columns.items()}
        return f"alter table {self.quoted} rename column {quote(old)} to {quote(new)}"

    def _drop(self, rng: random.Random) -> str:
        name = rng.choice(list(self.columns))
        del self.columns[name]
        return f"alter table {self.quoted} drop column {quote(name)}"

    def _widen(self, rng: random.Random) -> str:
        name = rng.choice([name for name, kind in self.columns.items() if kind in WIDER])
        self.columns[name] = WIDER[self.columns[name]]
        if self.columns[name] not in TYPES:
            kind = self.columns[name]
            self.columns[name] = "varchar(40)"
            return f"alter table {self.quoted} alter column {quote(name)} type {kind}"
        return f"alter table {self.quoted} alter column {quote(name)} type {self.columns[name]}"

    def _part(self, rng: random.Random) -> str:
        # Hashed, so that rows of every age are met.
        modulus = rng.randint(2, 25)
        return f"abs(hashtext(({', '.join(map(quote, self.key))})::text)) % {modulus} = {rng.randrange(modulus)}"


def _fill(value: str, number: str, seed: int) -> str:
    """A value's SQL with the row's number and the seed in their places."""
    return value.replace("$n", number).replace("$s", str(seed))


def make_table(rng: random.Random, number: int) -> RandomTable:
    """A table with one to three key columns and up to eight others, under a name that needs quotes."""
    key_kinds = rng.sample(KEY_TYPES, rng.choice([1, 1, 2, 3]))
    key = {f"key {index}": kind for index, kind in enumerate(key_kinds)}
    names = ["value", 'with "quotes"', "with space", "Ünïcode", "a.b", "select", "percent%s", "v8"]
    columns = {name: rng.choice(list(TYPES)) for name in names[: rng.randint(1, 8)]}
    name = rng.choice(["plain", "Mixed Case", "dotted.name", 'quo"ted', "ta%ble"]) + f" {number}"
    return RandomTable(name, key, columns, rng.choice(["default", "default", "full", "index"]))
