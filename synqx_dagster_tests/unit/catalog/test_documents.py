"""Reading files: every problem of every file at once, each with its place."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from synqx_dagster.catalog import documents
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.errors import InvalidInputError
from synqx_dagster.model import RECORD_KINDS
from synqx_dagster_tests.unit.catalog import records

CONNECTION = "kind: connection\nname: {}\ndb_type: duckdb\ndatabase: /data/x.duckdb\n"


def problems_of(*paths: Path) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        read_documents(paths)
    assert caught.value.exit_code == 2
    directory = str(paths[0].parent) + os.sep
    return [str(problem).replace(directory, "") for problem in caught.value.problems]


def write(directory: Path, name: str, text: str | bytes) -> Path:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


# --- which files ---------------------------------------------------------------------------------------------------


def test_directories_are_read_recursively_and_sorted(tmp_path: Path) -> None:
    for number, name in enumerate(["b.yaml", "a.yml", "sub/c.yaml", ".hidden/d.yaml", ".e.yaml", "f.txt"]):
        write(tmp_path, name, CONNECTION.format(f"c{number}"))
    definitions = read_documents([tmp_path])
    assert [record.name for record in definitions.records] == ["c1", "c0", "c2"]


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", CONNECTION.format("shop"))
    (tmp_path / "link.yaml").symlink_to(file)
    assert len(read_documents([file, tmp_path, file]).records) == 1


def test_a_directory_that_is_mounted_by_kubernetes(tmp_path: Path) -> None:
    write(tmp_path, "..2024_01/a.yaml", CONNECTION.format("shop"))
    (tmp_path / "..data").symlink_to("..2024_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert len(read_documents([tmp_path]).records) == 1


def test_missing_and_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert problems_of(tmp_path / "none.yaml", tmp_path / "empty") == [
        "none.yaml: there is no such file or directory",
        "empty: there is no YAML file here (*.yaml, *.yml)",
    ]


def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(CONNECTION.format("shop"),))
    writer.start()
    assert [record.name for record in read_documents([pipe]).records] == ["shop"]
    writer.join()


def test_a_large_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(100 * 1024 * 1024)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the file was opened")

    monkeypatch.setattr(Path, "open", refuse)
    assert problems_of(file) == ["large.yaml: the file is larger than 10 MiB (split it into several files)"]


def test_an_endless_pipe_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 1024 * 1024)
    assert problems_of(Path("/dev/zero")) == ["zero: the file is larger than 1 MiB (split it into several files)"]


# --- encodings -----------------------------------------------------------------------------------------------------


def test_not_utf8_names_the_byte(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", b"kind: schema\nname: caf\xe9\n")
    assert problems_of(file) == [
        "a.yaml:2: the file is not UTF-8: the byte at offset 22 does not fit (save it as UTF-8)"
    ]


def test_offsets_count_the_byte_order_mark(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", b"\xef\xbb\xbfkind: schema\nname: caf\xe9\n")
    assert "offset 25" in problems_of(file)[0]


def test_utf16_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", CONNECTION.format("shop").encode("utf-16"))
    assert "offset 0" in problems_of(file)[0]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", b"\xef\xbb\xbf" + CONNECTION.format("shop").encode())
    assert read_documents([file]).records == (records.connection(database="/data/x.duckdb"),)


# --- problems ------------------------------------------------------------------------------------------------------


def test_all_problems_of_all_files(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        "a.yaml",
        "kind: connection\nname: shop\ndb_type: postgresql\nprot: 5432\nport: 70000\n"
        "---\nkind: conection\nname: x\n---\nname: y\n---\n- z\n",
    )
    second = write(
        tmp_path,
        "b.yaml",
        "kind: schema\nname: s\ncolumns:\n  - {name: a, data_type: strng}\n  - {name: b, data_tpye: string}\n",
    )
    assert problems_of(first, second, tmp_path / "c.yaml") == [
        "a.yaml:4 prot: unknown key 'prot' (did you mean 'port'?)",
        "a.yaml:5 port: must be at most 65535",
        "a.yaml:7 kind: there is no such kind of record (did you mean 'connection'?)",
        f"a.yaml:10 kind: kind is missing (kinds: {', '.join(RECORD_KINDS)})",
        "a.yaml:12: a document must be keys with values (it begins with kind: and name:)",
        "b.yaml:4 columns[0].data_type: 'strng' is not a type; did you mean 'string'? (types: string, smallint, "
        "integer, bigint, decimal, real, float, boolean, date, time, timestamp, timestamptz, json, uuid, binary)",
        "b.yaml:5 columns[1].data_type: data_type is missing",
        "b.yaml:5 columns[1].data_tpye: unknown key 'data_tpye' (did you mean 'data_type'?)",
        "c.yaml: there is no such file or directory",
    ]


def test_problems_of_a_foreign_file_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_PROBLEMS", 5)
    file = write(tmp_path, "a.yaml", "---\na: 1\n" * 20)
    found = problems_of(file)
    assert len(found) == 6
    assert found[-1] == "and 15 more problems"


def test_a_kind_may_be_anything(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "kind: [connection]\nname: x\n---\nkind: 5\n---\nkind:\nname: y\n")
    assert [text.partition(":")[2].split(" (")[0] for text in problems_of(file)] == [
        "1 kind: there is no such kind of record",
        "4 kind: there is no such kind of record",
        "6 kind: there is no such kind of record",
    ]


def test_locates_records_and_fields(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", CONNECTION.format("shop") + "---\n" + CONNECTION.format("other"))
    definitions = read_documents([file])
    assert str(definitions.locate("connection", "other", ("database",))) == f"{file}:9 database"
    assert str(definitions.locate("connection", "other", ("port",))) == f"{file}:6 port"
    assert str(definitions.locate("connection", "none", ("port",))) == "connection 'none' port"


def test_records_without_a_file_have_a_place_too() -> None:
    definitions = records.definitions(records.connection())
    assert str(definitions.locate("connection", "shop", ("port",))) == "connection 'shop' port"
