"""What reaches the two streams."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from synqx_dagster.cli.output import Output, printable


def test_arguments_after_two_dashes_are_no_options() -> None:
    assert Output.for_arguments(["run", "x", "--json", "--debug"]).as_json
    assert not Output.for_arguments(["run", "--", "--json"]).as_json


def test_printable_spells_out_what_drives_a_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\ud800") == "a\\x1b[2Jb\\nc\\ud800"
    assert printable("a\nb\tc", keep_lines=True) == "a\nb\tc"
    assert printable("Zürich 東京 🙂") == "Zürich 東京 🙂"


def test_piped_text_has_no_trailing_blanks_and_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # parallel test processes are given one
    output = Output()
    output.table(["name", "n"], [["x" * 150, "1"], ["y", "22"]], right=["n"])

    lines = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert any("x" * 150 in line for line in lines)


def test_markup_in_data_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.table(["[bold]name"], [["[red]value[/red] :smile:"]])

    text = capsys.readouterr().out
    assert "[bold]name" in text
    assert "[red]value[/red] :smile:" in text


def test_json_takes_times_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    output = Output(as_json=True)
    with output.guarded_stdout():
        print("noise")
        output.result({"at": moment, "path": Path("/tmp/x"), "text": "Zürich \ud800"}, lambda: None)

    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document == {"at": "2026-01-02T02:04:05+00:00", "path": "/tmp/x", "text": "Zürich \ud800"}
    assert captured.err == "noise\n"


def test_an_error_after_the_result_is_not_a_second_document(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    with output.guarded_stdout():
        output.result({"done": True}, lambda: None)
        output.emit_error({"error": {}})

    assert json.loads(capsys.readouterr().out) == {"done": True}


def test_wide_data_is_drawn_in_blocks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output = Output()
    output.wide_table([f"column_{n}" for n in range(6)], [[f"value {n}" for n in range(6)]])

    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 40
    assert sum("column_" in line for line in lines) == 2
    assert all(any(f"value {n}" in line for line in lines) for n in range(6))
