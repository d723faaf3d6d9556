"""What a user sees when something fails: what is wrong, where, and what to do; never a secret.

An error of SynqX is safe to print by its own contract. Of any other exception only the type and the place are
shown, because its message may hold a cell value or a DSN; ``--debug`` prints the traceback.
"""

from __future__ import annotations

import traceback
from typing import Any

import click

from synqx_dagster.cli.output import Output, printable
from synqx_dagster.errors import InvalidInputError, Problem, SynqxError

EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_SEALED = 3
EXIT_INTERRUPTED = 130


def report_failure(error: Exception, output: Output) -> int:
    """Print an error on standard error, and under ``--json`` as the one document on standard output.

    Returns:
        The exit code.
    """
    if output.debug and not isinstance(error, click.ClickException):
        output.note(printable("".join(traceback.format_exception(error)), keep_lines=True).rstrip())
    code, message, hint = _describe(error, output)
    output.note(f"Error: {message}", style="bold red")
    problems = list(error.problems) if isinstance(error, InvalidInputError) else []
    for problem in problems:
        _print_problem(problem, output)
    if hint:
        output.note(f"  {hint}")
    output.emit_error(_document(error, message, hint, problems))
    return code


def _describe(error: Exception, output: Output) -> tuple[int, str, str | None]:
    if isinstance(error, SynqxError):
        message = printable(error.message, keep_lines=True)  # some list the differences of two tables
        return error.exit_code, message, error.hint and printable(error.hint)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else "synqx"
        return EXIT_INPUT, printable(error.format_message()), f"`{command} --help` shows how it is used"
    if isinstance(error, click.ClickException):
        return EXIT_INPUT, printable(error.format_message()), None
    place = ""
    if frames := traceback.extract_tb(error.__traceback__):
        place = f" in {_short(frames[-1].filename)}:{frames[-1].lineno}"
    hint = None if output.debug else "run the same command with --debug for the traceback"
    return EXIT_FAILED, f"internal: {type(error).__name__}{place}", hint


def _short(filename: str) -> str:
    parts = filename.replace("\\", "/").split("/")
    return "/".join(parts[-3:])


def _print_problem(problem: Problem, output: Output) -> None:
    place = f"{printable(str(problem.location))}: " if problem.location and str(problem.location) else ""
    output.note_problem(place, printable(problem.message), problem.hint and printable(problem.hint))


def _document(error: Exception, message: str, hint: str | None, problems: list[Problem]) -> dict[str, Any]:
    document: dict[str, Any] = {"type": type(error).__name__, "message": message, "hint": hint}
    if isinstance(error, SynqxError):
        document["context"] = error.context
    if isinstance(error, InvalidInputError):
        document["problems"] = [problem_document(problem) for problem in problems]
    return {"error": document}


def problem_document(problem: Problem) -> dict[str, Any]:
    """A problem as JSON has it."""
    location = problem.location
    return {
        "message": problem.message,
        "file": location.file if location else None,
        "line": location.line if location else None,
        "field": location.field if location else None,
        "hint": problem.hint,
    }
