"""YAML text to plain values with the line of each: the part of YAML that has one meaning, and nothing else.

Guarantee: no alias, anchor, tag or duplicate key is read; depth, size and time are bounded; and a plain scalar is a
number, true, false or null only where YAML 1.2's JSON schema says so. All else is text exactly as it was written:
``no``, ``0o17``, ``017``, ``1:30``, ``1_000`` and ``2024-01-01`` do not turn into something else. PyYAML's own
construction would read YAML 1.1, where the first is False, the third 15 and the fourth 90.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from synqx_dagster.errors import Problem, SourceLocation

MAX_DEPTH = 32
_TOO_DEEP = f"the document is nested more than {MAX_DEPTH} levels deep"
#: Each value costs some 200 bytes of memory with its place; a file of the largest size needs fewer.
MAX_VALUES = 1_000_000
#: Longer numbers are text, or a mistake.
_MAX_NUMBER_CHARACTERS = 40

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}

#: libyaml where PyYAML has it: ten times as fast, the same events.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Keys and list positions that lead from a document to a value.
FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """One document of a file: its value, and the one-based line where each part of it begins."""

    file: str
    value: Any
    lines: dict[FieldPath, int] = field(repr=False)

    def locate(self, path: FieldPath = ()) -> SourceLocation:
        """The place of a value; of what encloses it where the value itself is missing."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return SourceLocation(self.file, self.lines.get(known), format_path(path) or None)


def format_path(path: FieldPath) -> str:
    """A field path as users read it: ``columns[2].data_type``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse_path(text: str) -> FieldPath:
    """Read what `format_path` wrote; ``columns.2.data_type`` is the same."""
    parts = [part for part in re.split(r"[.\[\]]+", text) if part]
    return tuple(int(part) if part.isdigit() else part for part in parts)


def resolve_plain(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MAX_NUMBER_CHARACTERS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            # 1e400 is not infinity.
            return number if abs(number) != float("inf") else text
    return text


class _RefusedError(Exception):
    """The file cannot be read further; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.message)


def parse_documents(text: str, file: str) -> tuple[list[Document], list[Problem]]:
    """Read the documents of a file; empty ones are left out.

    Returns:
        The documents, and every problem. A duplicate key does not end the reading of the file; what makes its
        structure doubtful does.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    try:
        for document in _iter_documents(text, file, problems):
            if document.value is not None:
                documents.append(document)
    except _RefusedError as refused:
        problems.append(refused.problem)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        # Only the parser's own words: its snippet of the text may hold a password.
        reason = " ".join(part for part in (exc.context, exc.problem) if part) or "syntax error"
        line = mark.line + 1 if mark else None
        # Newer versions of libyaml have a bound of their own, which they may come to before a node is made.
        too_deep = "nesting depth" in reason
        what = _TOO_DEEP if too_deep else f"this is not YAML: {reason}"
        problems.append(Problem(what, SourceLocation(file, line)))
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1 if isinstance(exc.position, int) else None
        problems.append(Problem("the file holds a control character", SourceLocation(file, line)))
    except yaml.YAMLError as exc:
        problems.append(Problem(f"this is not YAML ({type(exc).__name__})", SourceLocation(file)))
    return documents, problems


@dataclass
class _Collection:
    """A list or mapping that is being read."""

    path: FieldPath
    values: list[Any] | dict[str, Any]
    key: str | None = None
    #: The key was there before: its value is read and left out.
    drop: bool = False


def _iter_documents(text: str, file: str, problems: list[Problem]) -> Iterator[Document]:
    stack: list[_Collection] = []
    root: Any = None
    lines: dict[FieldPath, int] = {}
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if count > MAX_VALUES:
            raise _refused(f"the file holds more than {MAX_VALUES} values", file, line, "split it")
        match event:
            case yaml.DocumentStartEvent():
                root, lines = None, {}
            case yaml.DocumentEndEvent():
                yield Document(file, root, lines)
            case yaml.AliasEvent():
                raise _refused("aliases (*name) are not read", file, line, "write the value out")
            case yaml.ScalarEvent() | yaml.CollectionStartEvent():
                _refuse_decoration(event, file, line)
                parent = stack[-1] if stack else None
                if parent is not None and isinstance(parent.values, dict) and parent.key is None:
                    _read_key(event, parent, file, line, lines, problems)
                    continue
                path = _child_path(parent)
                if parent is None or not parent.drop:
                    lines.setdefault(path, line)
                value = _start_value(event, path, stack, file, line)
                if parent is None:
                    root = value
                else:
                    _attach(parent, value)
            case yaml.CollectionEndEvent():
                stack.pop()


def _start_value(
    event: yaml.ScalarEvent | yaml.CollectionStartEvent,
    path: FieldPath,
    stack: list[_Collection],
    file: str,
    line: int,
) -> Any:
    if isinstance(event, yaml.ScalarEvent):
        _refuse_characters(event.value, file, line)
        # `implicit[0]`: written without quotes. The two parsers of PyYAML spell the style differently.
        return resolve_plain(event.value) if event.implicit[0] else event.value
    if len(stack) >= MAX_DEPTH:
        raise _refused(_TOO_DEEP, file, line)
    values: list[Any] | dict[str, Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
    stack.append(_Collection(path, values))
    return values


def _child_path(parent: _Collection | None) -> FieldPath:
    if parent is None:
        return ()
    if isinstance(parent.values, list):
        return (*parent.path, len(parent.values))
    assert parent.key is not None
    return (*parent.path, parent.key)


def _attach(parent: _Collection, value: Any) -> None:
    if isinstance(parent.values, list):
        parent.values.append(value)
        return
    assert parent.key is not None
    if not parent.drop:
        parent.values[parent.key] = value
    parent.key, parent.drop = None, False


def _read_key(
    event: yaml.ScalarEvent | yaml.CollectionStartEvent,
    parent: _Collection,
    file: str,
    line: int,
    lines: dict[FieldPath, int],
    problems: list[Problem],
) -> None:
    if not isinstance(event, yaml.ScalarEvent):
        raise _refused("a key must be text", file, line)
    _refuse_characters(event.value, file, line)
    key = event.value
    assert isinstance(parent.values, dict)
    if event.implicit[0] and key == "<<":
        raise _refused("merge keys (<<) are not read", file, line, "write the values out")
    path = (*parent.path, key)
    parent.key, parent.drop = key, key in parent.values
    if parent.drop:
        first = f" (first in line {lines[path]})" if path in lines else ""
        problems.append(
            Problem(f"the key {key!r} is given twice{first}", SourceLocation(file, line, format_path(path)))
        )
    else:
        lines[path] = line


def _refuse_decoration(event: yaml.ScalarEvent | yaml.CollectionStartEvent, file: str, line: int) -> None:
    if event.anchor is not None:
        raise _refused("anchors (&name) are not read", file, line, "write the value out where it is needed")
    if event.tag is not None:
        raise _refused(f"tags ({event.tag!r}) are not read", file, line, "put text that begins with ! in quotes")


def _refuse_characters(text: str, file: str, line: int) -> None:
    if _NOT_TEXT.search(text):
        raise _refused("the text holds a NUL character or half of a surrogate pair", file, line)


def _refused(message: str, file: str, line: int, hint: str | None = None) -> _RefusedError:
    return _RefusedError(Problem(message, SourceLocation(file, line), hint))
