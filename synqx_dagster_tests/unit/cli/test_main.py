"""The root command: help, exit codes, and what a user sees of failures."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from synqx_dagster.cli import main
from synqx_dagster.cli.options import SynqxCommand, SynqxSubgroup, json_option, pass_output
from synqx_dagster.cli.output import Output
from synqx_dagster.errors import (
    ConfigurationError,
    InvalidInputError,
    Problem,
    SealedError,
    SourceLocation,
    SynqxError,
)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def invoke_failing(monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> Callable[..., Result]:
    """Run a command named `work` that raises an error, with arguments."""

    def invoke(error: BaseException | None, *arguments: str) -> Result:
        @click.command(cls=SynqxCommand)
        @json_option
        @pass_output
        def work(output: Output) -> None:
            print("a library talks")
            if error is not None:
                raise error
            output.result({"done": True}, lambda: output.print("done"))

        monkeypatch.setattr(main.SynqxGroup, "list_commands", lambda self, ctx: ["work"])
        monkeypatch.setattr(main.SynqxGroup, "get_command", lambda self, ctx, name: work)
        return runner.invoke(main.cli, ["work", *arguments])

    return invoke


def all_commands() -> list[tuple[str, click.Command]]:
    context = click.Context(main.cli, info_name="synqx")
    found: list[tuple[str, click.Command]] = []
    for name in main.cli.list_commands(context):
        command = main.cli.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found.extend((f"{name} {sub}", item) for sub, item in command.commands.items())
    return found


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=[name for name, _ in all_commands()])
def test_help_of_every_command_is_whole(name: str, command: click.Command, runner: CliRunner) -> None:
    result = runner.invoke(main.cli, [*name.split(), "--help"])

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Usage: synqx {name}")
    assert command.help


def test_the_root_help_says_what_the_commands_say() -> None:
    for name, command in all_commands():
        if " " not in name:
            own = (command.help or "").strip().splitlines()[0]
            assert main._COMMANDS[name].help == own


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=[name for name, _ in all_commands()])
def test_every_command_takes_debug_and_json(name: str, command: click.Command) -> None:
    if isinstance(command, click.Group):
        assert isinstance(command, SynqxSubgroup)
        return
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--debug" in options
    if name not in {"dev", "demo", "serve"}:
        assert "--json" in options


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SynqxError("it broke"), 1),
        (ConfigurationError("wrong"), 2),
        (SealedError("sealed"), 3),
        (RuntimeError("secret-canary"), 1),
        (click.UsageError("usage"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (click.exceptions.Exit(1), 1),
        (None, 0),
    ],
)
def test_exit_codes(invoke_failing: Callable[..., Result], error: BaseException | None, code: int) -> None:
    assert invoke_failing(error).exit_code == code


def test_an_error_says_what_and_what_to_do_on_standard_error(invoke_failing: Callable[..., Result]) -> None:
    result = invoke_failing(ConfigurationError("the port is taken", hint="choose another"))

    assert result.stderr == "Error: the port is taken\n  choose another\n"


def test_problems_are_listed_with_their_place(invoke_failing: Callable[..., Result]) -> None:
    problems = [
        Problem("unknown key 'prot'", SourceLocation("a.yaml", 7, "prot"), hint="did you mean 'port'?"),
        Problem("no such schema", SourceLocation("b.yaml", 2)),
    ]
    result = invoke_failing(InvalidInputError(problems))

    assert result.stderr.splitlines() == [
        "Error: 2 problems found",
        "  a.yaml:7 prot: unknown key 'prot' (did you mean 'port'?)",
        "  b.yaml:2: no such schema",
    ]


def test_an_unexpected_error_is_one_line_without_its_message(invoke_failing: Callable[..., Result]) -> None:
    result = invoke_failing(RuntimeError("secret-canary"))

    assert "secret-canary" not in result.output
    assert result.stderr.startswith("Error: internal: RuntimeError in ")
    assert "--debug" in result.stderr
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(invoke_failing: Callable[..., Result]) -> None:
    result = invoke_failing(RuntimeError("the reason"), "--debug")

    assert "Traceback" in result.stderr
    assert "the reason" in result.stderr


def test_json_prints_one_document_and_nothing_else(invoke_failing: Callable[..., Result]) -> None:
    result = invoke_failing(None, "--json")

    assert json.loads(result.stdout) == {"done": True}
    assert "a library talks" in result.stderr


def test_json_prints_an_error_as_the_document(invoke_failing: Callable[..., Result]) -> None:
    problem = Problem("bad", SourceLocation("a.yaml", 3, "port"))
    result = invoke_failing(InvalidInputError([problem]), "--json")

    error = json.loads(result.stdout)["error"]
    assert error["type"] == "InvalidInputError"
    assert error["problems"] == [
        {"message": "bad", "file": "a.yaml", "line": 3, "field": "port", "hint": None},
    ]
    assert "a.yaml:3 port: bad" in result.stderr


def test_json_prints_a_usage_error_as_the_document(invoke_failing: Callable[..., Result]) -> None:
    result = invoke_failing(None, "--json", "--nonsense")

    assert result.exit_code == 2
    assert "--nonsense" in json.loads(result.stdout)["error"]["message"]


def test_an_unknown_command_names_the_nearest(runner: CliRunner) -> None:
    result = runner.invoke(main.cli, ["aply"])

    assert result.exit_code == 2
    assert "did you mean 'apply'?" in result.stderr


def test_an_unknown_subcommand_names_the_nearest(runner: CliRunner) -> None:
    result = runner.invoke(main.cli, ["connections", "tset"])

    assert result.exit_code == 2
    assert "did you mean 'test'?" in result.stderr


def test_without_arguments_it_shows_help(runner: CliRunner) -> None:
    result = runner.invoke(main.cli, [])

    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: synqx")


def test_version(runner: CliRunner) -> None:
    result = runner.invoke(main.cli, ["--version"])

    assert result.exit_code == 0
    assert result.stdout.startswith("synqx ")


def test_terminal_escapes_in_a_message_are_spelled_out(invoke_failing: Callable[..., Result]) -> None:
    result = invoke_failing(ConfigurationError("no table \x1b[31mred\u202e"))

    assert "\x1b" not in result.stderr
    assert "\\x1b[31mred\\u202e" in result.stderr
