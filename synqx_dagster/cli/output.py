"""Where a command writes: results to standard output, everything else to standard error.

Under ``--json`` standard output carries exactly one JSON document: while a command runs, what libraries print there
goes to standard error, at the level of the file descriptor. rich is imported when something is drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

#: Control characters and direction overrides: data must not be able to drive the terminal.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Width of tables in pipes and files, where nothing needs to be cut.
_PIPED_WIDTH = 400


def printable(text: str, *, keep_lines: bool = False) -> str:
    """Text with control characters spelled out (``\\x1b``), so that it cannot drive a terminal."""

    def spell(match: re.Match[str]) -> str:
        character = match[0]
        if keep_lines and character in "\n\t":
            return character
        return character.encode("unicode_escape").decode("ascii")

    return _UNPRINTABLE.sub(spell, text)


def new_table() -> Table:
    """A table without columns, as all commands draw them."""
    from rich import box
    from rich.table import Table

    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        border_style="dim",
        show_edge=False,
    )


def discard_broken_pipe() -> bool:
    """Flush standard output; False when its reader has gone, in which case nothing more is written there."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    except ValueError:
        return True  # closed by a test runner: nothing is pending
    return True


class Output:
    """The two streams of one command.

    Attributes:
        as_json: The result is one JSON document.
        debug: Failures show a traceback.
    """

    def __init__(self, *, as_json: bool = False, debug: bool = False) -> None:
        self.as_json = as_json
        self.debug = debug
        self._json_stream: TextIO | None = None
        self._emitted = False

    @classmethod
    def for_arguments(cls, arguments: Sequence[str]) -> Output:
        """Read ``--json`` and ``--debug`` off the command line, so that usage errors honour them, too."""
        options = list(arguments)
        if "--" in options:
            options = options[: options.index("--")]
        return cls(as_json="--json" in options, debug="--debug" in options)

    @contextlib.contextmanager
    def guarded_stdout(self) -> Iterator[None]:
        """Under ``--json``, keep standard output for the document alone while the block runs."""
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(errors="backslashreplace")
        if not self.as_json:
            yield
            return
        stdout, saved = sys.stdout, _redirect_descriptor(sys.stdout)
        self._json_stream = stdout if saved is None else os.fdopen(saved, "w", encoding="utf-8")
        sys.stdout = sys.stderr
        try:
            yield
        finally:
            sys.stdout = stdout
            if saved is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._json_stream.close()

    # --- results -------------------------------------------------------------------------------------------

    def result(self, document: Mapping[str, Any] | Sequence[Any], draw: Callable[[], None]) -> None:
        """Print a command's result: the document under ``--json``, else what `draw` prints."""
        if self.as_json:
            self._emit(document)
        else:
            draw()

    def json_line(self, document: Mapping[str, Any]) -> None:
        """Print one of many documents under ``--json``, on a line of its own and at once.

        Raises:
            click.exceptions.Exit: Nobody reads them any more.
        """
        try:
            self._write(json.dumps(document, ensure_ascii=False, default=_to_json, allow_nan=False))
        except BrokenPipeError:
            raise click.exceptions.Exit(1) from None

    def emit_error(self, document: Mapping[str, Any]) -> None:
        """Print an error as the document, unless the command has printed its result already."""
        if self.as_json and not self._emitted:
            self._emit(document)

    def _emit(self, document: Mapping[str, Any] | Sequence[Any]) -> None:
        self._write(json.dumps(document, indent=2, ensure_ascii=False, default=_to_json, allow_nan=False))

    def _write(self, text: str) -> None:
        stream = self._json_stream or sys.stdout
        # A lone surrogate is the one thing that UTF-8 cannot say; JSON can, as an escape.
        stream.write(re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
        stream.flush()
        self._emitted = True

    def print(self, renderable: RenderableType = "", *, style: str | None = None) -> None:
        """Draw on standard output; in a pipe, without colours and trailing blanks."""
        console = self.console()
        if console.is_terminal:
            console.print(renderable, style=style)
            return
        with console.capture() as capture:
            console.print(renderable, style=style)
        click.echo("\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n")))

    def print_exactly(self, renderable: RenderableType, *, style: str | None = None) -> None:
        """Draw text whose lines nobody may break (log lines): a terminal wraps them, a pipe gets them whole."""
        if sys.stdout.isatty():
            self.console().print(renderable, style=style, soft_wrap=True)
        else:
            click.echo(str(renderable))

    def print_indented(self, text: str) -> None:
        """Draw a line of text two columns in; a terminal breaks it at blanks, a pipe gets it whole."""
        if sys.stdout.isatty():
            from rich.padding import Padding

            self.console().print(Padding(text, (0, 0, 0, 2)))
        else:
            click.echo(f"  {text}")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[RenderableType]],
        *,
        right: Sequence[str] = (),
        fold: Sequence[str] = (),
        title: str | None = None,
    ) -> None:
        """Draw a table; columns named in `right` are flushed right, those in `fold` break across lines first."""
        table = new_table()
        for name in columns:
            table.add_column(
                name,
                justify="right" if name in right else "left",
                overflow="fold",
                no_wrap=bool(fold) and name not in fold,
            )
        for row in rows:
            table.add_row(*row)
        if title:
            self.print(title, style="bold")
        self.print(table)

    def wide_table(
        self, columns: Sequence[str], rows: Sequence[Sequence[RenderableType]], *, right: Sequence[str] = ()
    ) -> None:
        """Draw a table of data in as many blocks as the terminal's width asks for, a few columns each.

        Cells are never folded. The first block holds the first columns, and so on; rows keep their order.
        """
        from rich.text import Text

        width = self.console().width
        cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
        widths = [
            max([max(len(line) for line in name.split("\n")), *(row[index].cell_len for row in cells)]) + 1
            for index, name in enumerate(columns)
        ]
        start = 0
        while start < len(columns):
            end, used = start + 1, widths[start]
            while end < len(columns) and used + widths[end] <= width:
                used += widths[end]
                end += 1
            if start:
                self.print()
            self.table(columns[start:end], [row[start:end] for row in cells], right=right)
            start = end

    def facts(self, pairs: Sequence[tuple[str, RenderableType]], *, indent: int = 0) -> None:
        """Draw names and values in two columns."""
        from rich.padding import Padding
        from rich.table import Table

        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs:
            table.add_row(name, value)
        self.print(Padding(table, (0, 0, 0, indent)))

    # --- everything else -------------------------------------------------------------------------------------

    def note(self, text: str, *, style: str | None = None) -> None:
        """Print a line on standard error."""
        if not sys.stderr.isatty():
            click.echo(text, err=True)  # without rich: it wraps, and costs an import
            return
        self.error_console().print(text, style=style)

    def note_problem(self, place: str, message: str, hint: str | None) -> None:
        """Print one problem of an input on standard error, on one line each for what it is and what to do."""
        if not sys.stderr.isatty():
            click.echo(f"  {place}{message}" + (f" ({hint})" if hint else ""), err=True)
            return
        from rich.text import Text

        text = Text("  ").append(place, style="cyan").append(message)
        if hint:
            text.append(f" ({hint})", style="dim")
        self.error_console().print(text)

    def console(self) -> Console:
        """A rich console on standard output."""
        return _make_console(sys.stdout)

    def error_console(self) -> Console:
        """A rich console on standard error."""
        return _make_console(sys.stderr)


def _make_console(stream: TextIO) -> Console:
    from rich.console import Console

    width = None if stream.isatty() else int(os.environ.get("COLUMNS") or _PIPED_WIDTH)
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def _redirect_descriptor(stream: TextIO) -> int | None:
    """Point file descriptor 1 at standard error; returns a copy of what it was, None when `stream` is not it."""
    try:
        if stream.fileno() != 1:
            return None
    except (OSError, ValueError):
        return None
    stream.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    return saved


def _to_json(value: object) -> Any:
    import datetime
    import pathlib

    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat()
    if isinstance(value, (pathlib.PurePath, datetime.date)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterator | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no place in a JSON document")
