"""What is asked on a terminal: passwords without an echo, and confirmations; what is refused changes nothing."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import WrongPasswordError
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.processes import reaped

PASSWORD = "canary-typed-password"
END_OF_INPUT = "\x04"
ANSWER_SECONDS = 120

#: Takes the terminal on standard input for its own, as a login shell does, and becomes `synqx`.
ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "synqx_dagster.cli.main", *sys.argv[1:]])
"""


class Terminal:
    """The user's end of a terminal on which a command runs."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self._process = process
        self.shown = ""
        self._seen = 0

    def answer(self, question: str, text: str) -> None:
        """Wait until something new is asked, then type. A password's question ends in a space, written after the echo
        was turned off; what is typed before that is thrown away."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while question not in self.shown[self._seen :]:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), self.shown
        self._seen = self.shown.index(question, self._seen) + len(question)
        os.write(self._descriptor, text.encode())

    def end(self) -> int:
        """Wait for the command's end; its exit code."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while self._read():
            assert time.monotonic() < deadline, self.shown
        return self._process.wait(timeout=ANSWER_SECONDS)

    def _read(self) -> bool:
        """Read what there is within a second; False at the end."""
        if not select.select([self._descriptor], [], [], 1)[0]:
            return True
        try:
            found = os.read(self._descriptor, 4096)
        except OSError:  # so Linux says that nobody has the terminal open any more
            return False
        self.shown += found.decode()
        return bool(found)


@contextmanager
def on_a_terminal(project: Project, *arguments: str) -> Iterator[Terminal]:
    user, program = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *arguments],
            cwd=project.directory,
            env=project.process_environment({"TERM": "dumb"}),
            stdin=program,
            stdout=program,
            stderr=program,
            start_new_session=True,
        )
        os.close(program)
        with reaped(process):
            yield Terminal(user, process)
    finally:
        os.close(user)


def opens(project: Project, password: str) -> bool:
    settings = load_settings({"SYNQX_HOME": str(project.home), "SYNQX_MASTER_PASSWORD": password}, project.directory)
    with Catalog.open(settings) as catalog:
        try:
            catalog.vault.unseal_from_settings(settings)
        except WrongPasswordError:
            return False
    return True


def test_a_new_password_is_asked_for_twice_and_never_shown(empty_project: Project) -> None:
    with on_a_terminal(empty_project, "init") as terminal:
        terminal.answer("New master password: ", f"{PASSWORD}\n")
        terminal.answer("The same again: ", f"{PASSWORD}\n")
        assert terminal.end() == 0, terminal.shown

    assert "opened by password" in terminal.shown
    assert PASSWORD not in terminal.shown
    assert opens(empty_project, PASSWORD)
    assert not opens(empty_project, "another")


def test_passwords_that_differ_are_asked_for_again(empty_project: Project) -> None:
    with on_a_terminal(empty_project, "init") as terminal:
        terminal.answer("New master password: ", f"{PASSWORD}\n")
        terminal.answer("The same again: ", "misspelt\n")
        terminal.answer("do not match", "")
        terminal.answer("New master password: ", f"{PASSWORD}-2\n")
        terminal.answer("The same again: ", f"{PASSWORD}-2\n")
        assert terminal.end() == 0, terminal.shown

    assert PASSWORD not in terminal.shown
    assert opens(empty_project, f"{PASSWORD}-2")


@pytest.mark.parametrize("typed", [[], [PASSWORD]], ids=["at once", "instead of the second"])
def test_an_end_of_input_leaves_nothing_behind(empty_project: Project, typed: list[str]) -> None:
    with on_a_terminal(empty_project, "init") as terminal:
        for question, text in zip(("New master password: ", "The same again: "), [*typed, None], strict=False):
            terminal.answer(question, END_OF_INPUT if text is None else f"{text}\n")
        assert terminal.end() == 130, terminal.shown

    assert "Traceback" not in terminal.shown
    assert list(empty_project.directory.iterdir()) == []


@pytest.mark.parametrize(("typed", "code", "left"), [("y\n", 0, "b"), ("n\n", 1, "a"), (END_OF_INPUT, 130, "a")])
def test_what_is_removed_is_confirmed(project: Project, typed: str, code: int, left: str) -> None:
    file = project.write("a.yaml", "kind: connection\nname: a\ndb_type: sqlite\ndatabase: a.db\n")
    assert project("apply").exit_code == 0
    file.write_text("kind: connection\nname: b\ndb_type: sqlite\ndatabase: b.db\n")

    with on_a_terminal(project, "apply", "--prune") as terminal:
        terminal.answer("Remove 1 record? [y/N]: ", typed)
        assert terminal.end() == code, terminal.shown

    assert "Traceback" not in terminal.shown
    assert ("nothing was changed" in terminal.shown) == (code == 1)
    assert [item["name"] for item in project("connections", "list", "--json").document] == [left]


def test_the_password_of_the_first_admin_is_asked_for_twice_and_never_shown(empty_project: Project) -> None:
    with on_a_terminal(empty_project, "init", "--generate-key-file", "--admin", "root") as terminal:
        terminal.answer("Password for root: ", f"{PASSWORD}\n")
        terminal.answer("The same again: ", f"{PASSWORD}\n")
        assert terminal.end() == 0, terminal.shown
    assert PASSWORD not in terminal.shown
    with on_a_terminal(empty_project, "users", "password", "root") as terminal:
        terminal.answer("New password for root: ", f"{PASSWORD}-2\n")
        terminal.answer("The same again: ", f"{PASSWORD}-2\n")
        assert terminal.end() == 0, terminal.shown
    assert PASSWORD not in terminal.shown
    [root] = empty_project("users", "list", "--json").document
    assert (root["username"], root["role"], root["has_password"]) == ("root", "admin", True)
