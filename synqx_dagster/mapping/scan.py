"""A lexer that finds what is text, comment and code in a piece of SQL, independently of the parser.

It guarantees that a piece of SQL it lets through ends where it seems to end: quotes, comments and brackets
are closed, there is one statement, and no comment runs as code. The parser is checked against it because
parsers and servers disagree on exactly these matters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from synqx_dagster.errors import QueryRefusedError

#: Brackets may be nested this deep; the parser recurses and needs several frames for each level.
MAX_DEPTH = 40

#: Brackets after names of types (``array[``, ``text(``): the parser tries each of them in two ways, so that its time
#: doubles with every level; 20 levels take minutes.
MAX_TYPE_DEPTH = 6

_WORD = re.compile(r"[^\W\d][\w$]*")
_NUMBER = re.compile(r"\d[\w.]*")
_SINGLE = r"'(?:[^']|'')*'"
_SINGLE_ESCAPED = r"'(?:[^'\\]|\\.|'')*'"
_DOUBLE = r'"(?:[^"]|"")*"'
_DOUBLE_ESCAPED = r'"(?:[^"\\]|\\.|"")*"'
_BACKTICK = r"`(?:[^`]|``)*`"
_BRACKET = r"\[[^\]]*\]"
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_CLOSING = {")": "(", "]": "[", "}": "{"}


def _compiled(text: str) -> re.Pattern[str]:
    return re.compile(text, re.DOTALL)


@dataclass(frozen=True)
class _Lexicon:
    """How a dialect writes literals, names and comments."""

    strings: dict[str, re.Pattern[str]]
    names: dict[str, re.Pattern[str]]
    line_comment: re.Pattern[str]
    nested_comments: bool = False
    dollar_quotes: bool = False
    escape_strings: bool = False


_DASHES = re.compile(r"--[^\r\n]*")
_LEXICONS = {
    "postgres": _Lexicon(
        strings={"'": _compiled(_SINGLE)},
        names={'"': _compiled(_DOUBLE)},
        line_comment=_DASHES,
        nested_comments=True,
        dollar_quotes=True,
        escape_strings=True,
    ),
    "mysql": _Lexicon(
        strings={"'": _compiled(_SINGLE_ESCAPED), '"': _compiled(_DOUBLE_ESCAPED)},
        names={"`": _compiled(_BACKTICK)},
        # MySQL wants a blank or a control character after the dashes: 1--1 is a subtraction
        line_comment=re.compile(r"--(?=[\s\x01-\x1f]|\Z)[^\n]*|#[^\n]*"),
    ),
    "sqlite": _Lexicon(
        strings={"'": _compiled(_SINGLE)},
        names={'"': _compiled(_DOUBLE), "`": _compiled(_BACKTICK), "[": _compiled(_BRACKET)},
        line_comment=re.compile(r"--[^\n]*"),
    ),
    "duckdb": _Lexicon(
        strings={"'": _compiled(_SINGLE)},
        names={'"': _compiled(_DOUBLE)},
        line_comment=_DASHES,
        dollar_quotes=True,
        escape_strings=True,
    ),
}
_LEXICONS["tsql"] = _Lexicon(
    strings={"'": _compiled(_SINGLE)},
    names={'"': _compiled(_DOUBLE), "[": _compiled(r"\[(?:[^\]]|\]\])*\]")},
    line_comment=_DASHES,
    nested_comments=True,
)
for _name in ("bigquery", "databricks", "doris", "hive", "spark", "starrocks"):
    # A backslash escapes in their literals, and both kinds of quotes make one.
    _LEXICONS[_name] = replace(_LEXICONS["mysql"], line_comment=_DASHES)
_STANDARD = _Lexicon(strings={"'": _compiled(_SINGLE)}, names={'"': _compiled(_DOUBLE)}, line_comment=_DASHES)
_ESCAPE_STRING = _compiled(_SINGLE_ESCAPED)


@cache
def _type_words(dialect: str) -> frozenset[str]:
    """The words that the parser takes for the beginning of a type."""
    from sqlglot import Dialect

    rules = Dialect.get_or_raise(dialect)
    keywords = rules.tokenizer_class.KEYWORDS
    types = rules.parser_class.TYPE_TOKENS
    return frozenset(word.lower() for word, token in keywords.items() if token in types) | {"row", "if"}


@dataclass(frozen=True)
class Scanned:
    """What the lexer found.

    Attributes:
        text: The SQL without comments and without semicolons at its end; safe to put into brackets.
        first_word: The first word in lower case, or the first other character; empty for no code at all.
        calls: Names in lower case that an opening bracket follows, quoted or not.
    """

    text: str
    first_word: str
    calls: tuple[str, ...]


class _Scanner:
    def __init__(self, sql: str, dialect: str) -> None:
        self.sql = sql
        self.dialect = dialect
        self.lexicon = _LEXICONS.get(dialect, _STANDARD)
        self.position = 0
        self.open: list[str] = []
        #: Whether each open bracket stands after the name of a type, or is an index.
        self.typed: list[bool] = []
        self.pieces: list[str] = []
        self.cases = 0
        #: How many indexes stand in a row, as in a[1][2][3], and the last character of code.
        self.indexes = 0
        self.last = ""
        self.ended = False
        self.first_word = ""
        self.name = ""
        self.calls: list[str] = []

    def refuse(self, message: str, hint: str | None = None) -> QueryRefusedError:
        line = self.sql.count("\n", 0, self.position) + 1
        column = self.position - (self.sql.rfind("\n", 0, self.position) + 1) + 1
        return QueryRefusedError(f"line {line}, column {column}: {message}", hint=hint, line=line, column=column)

    def run(self) -> Scanned:
        while self.position < len(self.sql):
            self._step()
        if self.open:
            raise self.refuse(f"a {self.open[-1]} is not closed")
        return Scanned("".join(self.pieces).strip(), self.first_word, tuple(self.calls))

    def _step(self) -> None:
        sql, position, lexicon = self.sql, self.position, self.lexicon
        character = sql[position]
        if character == "\x00":
            raise self.refuse("a NUL character")
        if "\ud800" <= character <= "\udfff":
            raise self.refuse("half a character (a lone surrogate)")
        if character.isspace():
            self._take(position + 1, code=False)
        elif match := lexicon.line_comment.match(sql, position):
            self._blank(match.end())
        elif sql.startswith("/*", position):
            self._blank(self._comment_end())
        elif character == ";":
            self.ended = True
            self._blank(position + 1)
        elif character in lexicon.strings:
            self._quoted(lexicon.strings[character], "string")
        elif character in lexicon.names:
            end = self._quoted(lexicon.names[character], "quoted name")
            self.name = sql[position + 1 : end - 1].replace(character * 2, character).lower()
        elif lexicon.dollar_quotes and character == "$" and (match := _DOLLAR.match(sql, position)):
            end = sql.find(match[0], match.end())
            if end < 0:
                raise self.refuse("a dollar-quoted string is not closed")
            self._take(end + len(match[0]))
        elif match := _WORD.match(sql, position):
            self._word(match)
        elif match := _NUMBER.match(sql, position):
            self._take(match.end())
        else:
            self._symbol(character)

    def _word(self, match: re.Match[str]) -> None:
        word, end = match[0].lower(), match.end()
        following = self.sql[end : end + 2]
        if word == "u" and following in {"&'", '&"'}:
            raise self.refuse("U& text is not supported", "write the characters themselves")
        if self.lexicon.escape_strings and word == "e" and following[:1] == "'":
            self._quoted(_ESCAPE_STRING, "string", start=end)
            return
        if word == "case":
            self.cases += 1
        elif word == "end":
            self.cases = max(self.cases - 1, 0)
        if self.cases > MAX_DEPTH:
            # the parser's time grows with a high power of this depth: 3,000 of them took 25 s
            raise self.refuse(f"CASE is nested deeper than {MAX_DEPTH}")
        self._take(end, word)
        self.name = word

    def _symbol(self, character: str) -> None:
        if character in "([{":
            self._open(character)
        elif character in _CLOSING:
            if not self.open or self.open.pop() != _CLOSING[character]:
                raise self.refuse(f"a {character} closes nothing")
            self.typed.pop()
        self._take(self.position + 1, character)

    def _open(self, character: str) -> None:
        if character == "(" and self.name:
            self.calls.append(self.name)
        self.open.append(character)
        self.typed.append(bool(self.name) and (character == "[" or self.name in _type_words(self.dialect)))
        self.indexes = self.indexes + 1 if character == "[" and self.last == "]" else 0
        if self.indexes > MAX_DEPTH:
            # the parser's time grows with a high power of their number: 1,000 of them took 20 s
            raise self.refuse(f"more than {MAX_DEPTH} indexes in a row")
        if len(self.open) > MAX_DEPTH:
            raise self.refuse(f"brackets are nested deeper than {MAX_DEPTH}")
        if sum(self.typed) > MAX_TYPE_DEPTH:
            raise self.refuse(f"brackets after names of types are nested deeper than {MAX_TYPE_DEPTH}")

    def _quoted(self, pattern: re.Pattern[str], what: str, start: int | None = None) -> int:
        match = pattern.match(self.sql, self.position if start is None else start)
        if match is None:
            raise self.refuse(f"a {what} is not closed")
        if "\x00" in match[0]:
            raise self.refuse(f"a NUL character in a {what}")
        self._take(match.end(), match[0][0])
        return match.end()

    def _comment_end(self) -> int:
        start = self.position
        if self.dialect == "mysql" and re.match(r"/\*M?!", self.sql[start : start + 4]):
            raise self.refuse("a comment that the server runs as code", "write the code without /*! */")
        depth, position = 1, start + 2
        while depth:
            end = self.sql.find("*/", position)
            if end < 0:
                raise self.refuse("a comment is not closed")
            inner = self.sql.find("/*", position, end) if self.lexicon.nested_comments else -1
            if inner >= 0:
                depth, position = depth + 1, inner + 2
            else:
                depth, position = depth - 1, end + 2
        return position

    def _take(self, end: int, first_word: str = "?", *, code: bool = True) -> None:
        if code:
            if self.ended:
                raise self.refuse("more than one statement", "give exactly one SELECT")
            self.first_word = self.first_word or first_word
            self.name = ""
            self.last = self.sql[end - 1]
        self.pieces.append(self.sql[self.position : end])
        self.position = end

    def _blank(self, end: int) -> None:
        self.pieces.append(" ")
        self.position = end


def scan(sql: str, dialect: str) -> Scanned:
    """Split SQL into code, literals and comments as the dialect's server does.

    Raises:
        QueryRefusedError: More than one statement, an unclosed quote, comment or bracket, a NUL character,
            a MySQL version comment, ``U&`` text, or brackets nested too deep; says line and column.
    """
    return _Scanner(sql, dialect).run()
