"""What sensors remember: files that are being written, and tables that come back to what they were."""

from __future__ import annotations

from synqx_dagster.connectors.protocol import SourceFile
from synqx_dagster.defs.watching import MAX_FILES, MAX_RUNS, FilesCursor, TableCursor


def take(cursor: FilesCursor, now: float, *files: SourceFile) -> tuple[FilesCursor, list[str]]:
    taken = cursor.take(files, now=now, stable_seconds=30)
    return FilesCursor.from_json(cursor.to_json()), [file.path for file, _ in taken]


def test_a_file_is_taken_once_it_has_stayed_the_same() -> None:
    cursor, taken = take(FilesCursor(), 0, SourceFile("in/a.csv", 1, "m1"))
    assert taken == []
    cursor, taken = take(cursor, 29, SourceFile("in/a.csv", 1, "m1"))
    assert taken == []
    cursor, taken = take(cursor, 30, SourceFile("in/a.csv", 1, "m1"))
    assert taken == ["in/a.csv"]
    cursor, taken = take(cursor, 99, SourceFile("in/a.csv", 1, "m1"))
    assert taken == []


def test_a_file_that_grows_is_not_taken() -> None:
    cursor = FilesCursor()
    for moment in range(0, 200, 20):
        cursor, taken = take(cursor, moment, SourceFile("a", moment, "m"))
        assert taken == []
    cursor, taken = take(cursor, 200, SourceFile("a", 180, "m"))
    assert taken == []
    cursor, taken = take(cursor, 230, SourceFile("a", 180, "m"))
    assert taken == ["a"]


def test_a_file_with_another_content_is_a_new_one_with_another_key() -> None:
    cursor = FilesCursor()
    keys = []
    for mark, start in (("m1", 0), ("m2", 100)):
        cursor.take([SourceFile("a", 1, mark)], now=start, stable_seconds=30)
        keys += [key for _, key in cursor.take([SourceFile("a", 1, mark)], now=start + 30, stable_seconds=30)]
    assert len(set(keys)) == 2


def test_what_is_gone_is_forgotten() -> None:
    cursor, _ = take(FilesCursor(), 0, SourceFile("a", 1, "m"), SourceFile("b", 1, "m"))
    cursor, _ = take(cursor, 30, SourceFile("a", 1, "m"), SourceFile("b", 1, "m"))
    cursor, _ = take(cursor, 60, SourceFile("b", 1, "m"))
    assert len(cursor.taken) == 1
    cursor, taken = take(cursor, 90, SourceFile("a", 1, "m"), SourceFile("b", 1, "m"))
    cursor, taken = take(cursor, 120, SourceFile("a", 1, "m"), SourceFile("b", 1, "m"))
    assert taken == ["a"]


def test_the_cursor_of_many_files_is_small_and_names_none() -> None:
    path = "a/long/path/of/canary/" + "x" * 200
    files = [SourceFile(f"{path}{number}", 1, "m") for number in range(MAX_FILES)]
    cursor = FilesCursor()
    cursor.take(files, now=0, stable_seconds=0)
    assert len(cursor.to_json()) < 300_000
    assert "canary" not in cursor.to_json()


def test_many_files_are_taken_by_several_looks() -> None:
    files = [SourceFile(f"f{number:04}", 1, "m") for number in range(MAX_RUNS * 2 + 5)]
    cursor, taken = take(FilesCursor(), 0, *files)
    found: list[str] = []
    for moment in (30, 31, 32, 33):
        cursor, taken = take(cursor, moment, *files)
        assert len(taken) <= MAX_RUNS
        found += taken
    assert sorted(found) == [file.path for file in files]


def test_cursors_that_somebody_else_wrote_count_as_none() -> None:
    for text in (None, "", "[]", "{", '{"seen": 1}', "7"):
        assert TableCursor.from_json(text) is None
        assert FilesCursor.from_json(text) == FilesCursor()
    assert TableCursor.from_json(TableCursor("x", 3).to_json()) == TableCursor("x", 3)
