"""YAML documents to records and back: what users keep under version control.

Guarantee: all problems of all files are reported at once, each with its place; what `write_documents` writes,
`read_documents` reads as the same records.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synqx_dagster.catalog.snapshot import nearest
from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.catalog.yaml_tree import Document, FieldPath, format_path, parse_documents
from synqx_dagster.catalog.yaml_writer import write_documents
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import RECORD_KINDS, Record, RecordKind

__all__ = [
    "MAX_FILE_BYTES",
    "Definitions",
    "UnreadRecords",
    "cap_problems",
    "read_documents",
    "scan_documents",
    "write_documents",
]

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_PROBLEMS = 1000
#: The name of a record as text that is no YAML has it.
_NAMES = re.compile(r"^name\s*:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class UnreadRecords:
    """What was declared and could not be read, so that nobody is told that it is missing as well.

    Attributes:
        named: Kinds and names; the kind is None where it is not one, or where the text is no YAML.
        unnamed: Kinds of records without a name.
    """

    named: frozenset[tuple[RecordKind | None, str]] = frozenset()
    unnamed: frozenset[RecordKind | None] = frozenset()

    def may_hold(self, kind: RecordKind, name: str) -> bool:
        """Whether a record may be among them."""
        return not {(kind, name), (None, name)}.isdisjoint(self.named) or not {kind, None}.isdisjoint(self.unnamed)


@dataclass(frozen=True)
class Definitions:
    """Records that a user declared, in the order of the files; two may have one name until they are checked.

    Attributes:
        records: The records.
        documents: Where each of them is written, in the same order; empty for records that are in no file.
        problems: What is wrong with the files and with single records. What is declared may be applied only if there
            are none, here and in what `check_definitions` finds.
        unread: What is written there and made no record.
    """

    records: tuple[Record, ...]
    documents: tuple[Document, ...] = field(default=(), repr=False)
    problems: tuple[Problem, ...] = field(default=(), repr=False)
    unread: UnreadRecords = field(default_factory=lambda: UnreadRecords(), repr=False)

    def locate(self, kind: RecordKind, name: str, field_path: FieldPath = ()) -> SourceLocation:
        """The place of a record, or of a field of it; the first one where a name is given twice."""
        for index, record in enumerate(self.records):
            if record.kind == kind and record.name == name:
                return self.locate_at(index, field_path)
        return locate_unwritten(kind, name, field_path)

    def locate_at(self, index: int, field_path: FieldPath = ()) -> SourceLocation:
        """The place of the record at a position."""
        if index < len(self.documents):
            return self.documents[index].locate(field_path)
        record = self.records[index]
        return locate_unwritten(record.kind, record.name, field_path)


def locate_unwritten(kind: RecordKind, name: str, field_path: FieldPath = ()) -> SourceLocation:
    """The place of a record that is in no file."""
    path = f" {format_path(field_path)}" if field_path else ""
    return SourceLocation(field=f"{kind} {name!r}{path}")


def read_documents(paths: Sequence[Path]) -> Definitions:
    """Read YAML files, and those of directories: ``*.yaml`` and ``*.yml``, recursive, sorted, without hidden ones.

    Raises:
        InvalidInputError: Something is wrong with them; has every problem of every file.
    """
    definitions = scan_documents(paths)
    if definitions.problems:
        raise InvalidInputError(cap_problems(definitions.problems))
    return definitions


def scan_documents(paths: Sequence[Path]) -> Definitions:
    """Read YAML files as `read_documents` does, but go on after problems: the result has them, and what is sound."""
    problems: list[Problem] = []
    records: list[Record] = []
    documents: list[Document] = []
    named: set[tuple[RecordKind | None, str]] = set()
    unnamed: set[RecordKind | None] = set()
    for file in _iter_files(paths, problems):
        text = _read_text(file, problems)
        if text is None:
            unnamed.add(None)
            continue
        found, wrong = parse_documents(text, str(file))
        file_problems = list(wrong)
        if wrong:
            # Reading may have ended there; whatever looks like a name may be one of a record behind it.
            named.update((None, name) for name in _NAMES.findall(text))
        for document in found:
            record = _read_record(document, file_problems)
            if record is not None:
                records.append(record)
                documents.append(document)
                continue
            kind, name = _identify(document)
            if name is None:
                unnamed.add(kind)
            else:
                named.add((kind, name))
        problems.extend(sorted(file_problems, key=_line_of))
    unread = UnreadRecords(frozenset(named), frozenset(unnamed))
    return Definitions(tuple(records), tuple(documents), tuple(problems), unread)


def _identify(document: Document) -> tuple[RecordKind | None, str | None]:
    """Kind and name of a document that makes no record, as far as it tells."""
    values = document.value if isinstance(document.value, dict) else {}
    kind = next((known for known in RECORD_KINDS if known == values.get("kind")), None)
    name = values.get("name")
    return kind, name if isinstance(name, str) else None


def cap_problems(problems: Sequence[Problem]) -> Sequence[Problem]:
    """A file that is no SynqX file at all would otherwise fill the screen for minutes."""
    left_out = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], Problem(f"and {left_out} more problems")] if left_out > 0 else problems


def _line_of(problem: Problem) -> int:
    return (problem.location.line if problem.location else None) or 0


def _read_record(document: Document, problems: list[Problem]) -> Record | None:
    values = document.value
    if not isinstance(values, dict):
        problems.append(
            Problem(
                "a document must be keys with values",
                document.locate(),
                "it begins with kind: and name:",
            )
        )
        return None
    kind = next((known for known in RECORD_KINDS if known == values.get("kind")), None)
    if kind is None:
        problems.append(_unknown_kind(document, values))
        return None
    try:
        return build_record(kind, {key: value for key, value in values.items() if key != "kind"})
    except InvalidRecordError as exc:
        problems.extend(
            Problem(problem.message, document.locate(problem.path), problem.hint) for problem in exc.problems
        )
        return None


def _unknown_kind(document: Document, values: dict[str, object]) -> Problem:
    kinds = f"kinds: {', '.join(RECORD_KINDS)}"
    if "kind" not in values:
        return Problem("kind is missing", document.locate(("kind",)), kinds)
    kind = values["kind"]
    near = nearest(kind, RECORD_KINDS) if isinstance(kind, str) else None
    hint = f"did you mean {near!r}?" if near else kinds
    return Problem("there is no such kind of record", document.locate(("kind",)), hint)


# --- files ------------------------------------------------------------------------------------------------------


def _iter_files(paths: Iterable[Path], problems: list[Problem]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            files = sorted(_walk(path))
            if not files:
                problems.append(Problem("there is no YAML file here (*.yaml, *.yml)", SourceLocation(str(path))))
        elif path.exists():
            files = [path]
        else:
            problems.append(Problem("there is no such file or directory", SourceLocation(str(path))))
            continue
        for file in files:
            resolved = file.resolve()
            if resolved not in seen:
                seen.add(resolved)
                yield file


def _walk(directory: Path) -> Iterator[Path]:
    for parent, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in files:
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def _read_text(file: Path, problems: list[Problem]) -> str | None:
    place = SourceLocation(str(file))
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size > MAX_FILE_BYTES:
            problems.append(_too_large(place))
            return None
        with file.open("rb") as stream:
            # A pipe does not say how much will come.
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        problems.append(Problem(f"the file cannot be read: {exc.strerror}", place))
        return None
    if len(data) > MAX_FILE_BYTES:
        problems.append(_too_large(place))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        # `exc.object` has no byte order mark any more.
        offset = exc.start + len(data) - len(exc.object)
        line = data.count(b"\n", 0, offset) + 1
        problems.append(
            Problem(
                f"the file is not UTF-8: the byte at offset {offset} does not fit",
                SourceLocation(str(file), line),
                "save it as UTF-8",
            )
        )
        return None


def _too_large(place: SourceLocation) -> Problem:
    limit = MAX_FILE_BYTES // (1024 * 1024)
    return Problem(f"the file is larger than {limit} MiB", place, "split it into several files")
