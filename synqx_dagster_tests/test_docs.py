"""The documentation against the product: commands, examples, links and the first lines of the README."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in ("docs", "examples", "deploy") for page in (ROOT / name).rglob("*.md"))],
)
YAML_BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE_BLOCK = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def iter_commands(group: click.Group, prefix: str = "synqx") -> Iterator[tuple[str, click.Command]]:
    """Every command with its whole name, groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from iter_commands(command, f"{prefix} {name}")


# --- commands ------------------------------------------------------------------------------------------------


def test_every_command_is_documented() -> None:
    text = _with_alternatives((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))
    commands = [name for name, command in iter_commands(cli) if not command.hidden]
    assert len(commands) > 20
    assert [name for name in commands if not re.search(rf"`{name}\b", text)] == []


def _with_alternatives(text: str) -> str:
    """Write ``synqx vault seal | open`` out as ``synqx vault seal`, `synqx vault open``."""
    return re.sub(
        r"`synqx (\w+) ([a-z-]+(?: \| [a-z-]+)+)`",
        lambda match: ", ".join(f"`synqx {match[1]} {name}`" for name in match[2].split(" | ")),
        text,
    )


def test_every_documented_command_exists() -> None:
    known = {name for name, _ in iter_commands(cli)}
    unknown = []
    for page in PAGES:
        for words in re.findall(r"\bsynqx ((?:[a-z][a-z-]* ?)+)", _code_of(page.read_text(encoding="utf-8"))):
            parts = words.split()
            if not any(f"synqx {' '.join(parts[:count])}" in known for count in range(1, len(parts) + 1)):
                unknown.append(f"{page_id(page)}: synqx {words}")
    assert unknown == []


def _code_of(text: str) -> str:
    """The code spans and shell blocks of a page, in which `synqx` is the command."""
    blocks = re.findall(r"^```(?:console|sh|bash|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`(synqx [^`\n]+)`(?!`)", CODE_BLOCK.sub("", text))
    return "\n".join([*blocks, *spans])


def test_options_in_the_documentation_exist() -> None:
    commands = dict(iter_commands(cli))
    wrong = []
    for page in PAGES:
        for line in _code_of(page.read_text(encoding="utf-8")).splitlines():
            match = re.search(r"\bsynqx ((?:[a-z][a-z-]* ?)+)", line)
            if match is None:
                continue
            parts = match[1].split()
            names = [f"synqx {' '.join(parts[:count])}" for count in range(len(parts), 0, -1)]
            command = next((commands[name] for name in names if name in commands), None)
            if command is None:
                continue
            known = {"--help", *(option for item in command.params for option in (*item.opts, *item.secondary_opts))}
            call = re.split(r" (?:#|&&|\|) ?", line[match.start() :])[0]
            wrong += [
                f"{page_id(page)}: {call.strip()}: {option}"
                for option in re.findall(r"(?<=\s)--[a-z-]+", call)
                if option not in known
            ]
    assert wrong == []


# --- YAML ----------------------------------------------------------------------------------------------------


def iter_yaml_examples() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, block in enumerate(YAML_BLOCK.findall(page.read_text(encoding="utf-8")), 1):
            if re.search(r"^kind:", block, re.MULTILINE):
                yield f"{page_id(page)}#{number}", block


YAML_EXAMPLES = dict(iter_yaml_examples())


def test_there_are_yaml_examples() -> None:
    assert any(name.startswith("README.md") for name in YAML_EXAMPLES)


@pytest.mark.parametrize("name", YAML_EXAMPLES)
def test_yaml_in_the_documentation_is_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(YAML_EXAMPLES[name], encoding="utf-8")
    assert read_documents([file]).records


def test_the_readme_is_a_whole_project(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(YAML_EXAMPLES["README.md#1"], encoding="utf-8")
    assert check_definitions(read_documents([file]), known=None) == []


EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_whole_project(path: Path) -> None:
    assert check_definitions(read_documents([path]), known=None) == []
    assert f"]({path.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


# --- links and promises ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_the_readme_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (.+?)(?: +#.*)?$", text, re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]
    assert text.index("$ make demo") < 40


def test_ci_runs_the_readmes_test_command_first_and_no_test_twice() -> None:
    steps = re.findall(r"^step (.+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert steps == ["scripts/install-system-packages", "make test", "make check", "make demo"]
    (checks,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert "ruff" in checks
    assert "PYTEST" not in checks


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)) == set(phony.split())


def test_the_page_of_benchmarks_is_what_the_results_say_and_names_every_bar(tmp_path: Path) -> None:
    drawn = tmp_path / "benchmarks.md"
    command = [sys.executable, "-m", "benchmarks.run", "--page-only", "--page", str(drawn)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert drawn.read_text(encoding="utf-8") == text
    assert text.count("| not measured |") + len(re.findall(r"\| (?:yes|\*\*no\*\*|void) \|", text)) > 20


def test_every_decision_is_listed() -> None:
    directory = ROOT / "docs" / "decisions"
    text = (directory / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in directory.glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in text} == set()


def test_every_dependency_has_a_decision() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = set(re.findall(r'"([A-Za-z0-9-]+)(?:[<>=~!].*)?"', _section(pyproject, "dependencies = [", "\n]")))
    assert "dagster" in dependencies
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert {name for name in dependencies if not re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)} == set()


def _section(text: str, start: str, end: str) -> str:
    begin = text.index(start)
    return text[begin : text.index(end, begin)]
