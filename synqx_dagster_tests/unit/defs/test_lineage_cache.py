"""Lineage that was traced before, and every way in which its file can be of no use."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster import model
from synqx_dagster.defs import lineage_cache
from synqx_dagster.defs.lineage_cache import LineageCache, trace_unconnected
from synqx_dagster.mapping.lineage import Lineage
from synqx_dagster.model import TableName
from synqx_dagster_tests.unit.defs.fakes import mapping, schema

DIALECT = "postgres"
QUERY = mapping("q", source_query="select c.id, b.city as place, now() as t from customer c join adr.b b on true")
TABLE = mapping("t", target_schema="customer")
ODD = mapping("o", source_query='select "Größe" as "ta ""ble", ? from')
MAPPINGS = (QUERY, TABLE, ODD)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the mappings that were really traced."""
    names: list[str] = []

    def trace(record: model.Mapping, target: model.Schema | None, dialect: str) -> Lineage:
        names.append(record.name)
        return trace_unconnected(record, target, dialect)

    monkeypatch.setattr(lineage_cache, "trace_unconnected", trace)
    return names


def load(home: Path, *mappings: model.Mapping) -> list[Lineage]:
    """What one process does with the cache."""
    cache = LineageCache(home)
    found = [cache.trace(record, schema() if record.target_schema else None, DIALECT) for record in mappings]
    cache.save()
    return found


def file_of(home: Path) -> Path:
    return home / "cache" / "lineage.json"


def test_what_was_traced_once_is_not_traced_again(tmp_path, traced):
    first = load(tmp_path, *MAPPINGS)
    assert traced == ["q", "t", "o"]
    assert load(tmp_path, *MAPPINGS) == first
    assert traced == ["q", "t", "o"]
    assert first == [trace_unconnected(item, schema() if item is TABLE else None, DIALECT) for item in MAPPINGS]
    assert first[0].tables == (TableName("customer"), TableName("b", "adr"))
    assert first[1].columns == {"id": ((TableName("src_t"), "id"),), "name": ((TableName("src_t"), "name"),)}


def test_only_what_changed_is_traced_anew(tmp_path, traced):
    load(tmp_path, *MAPPINGS)
    traced.clear()
    changed = TABLE.model_copy(update={"source_table": "elsewhere"})
    (lineage,) = load(tmp_path, changed)
    assert traced == ["t"]
    assert lineage.tables == (TableName("elsewhere"),)


def test_the_file_holds_what_the_last_load_used_and_no_sql(tmp_path, traced):
    load(tmp_path, *MAPPINGS)
    load(tmp_path, QUERY, mapping("new"))
    entries = json.loads(file_of(tmp_path).read_bytes().partition(b"\n")[2])
    assert len(entries) == 2
    assert b"select" not in file_of(tmp_path).read_bytes().lower()
    traced.clear()
    load(tmp_path, *MAPPINGS)
    assert traced == ["t", "o"]


def test_a_load_that_traced_nothing_writes_nothing(tmp_path):
    load(tmp_path, *MAPPINGS)
    before = file_of(tmp_path).stat()
    load(tmp_path, *MAPPINGS)
    load(tmp_path, QUERY)
    assert file_of(tmp_path).stat().st_ino == before.st_ino


def test_only_the_owner_may_read_it(tmp_path):
    load(tmp_path, *MAPPINGS)
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_of(tmp_path).parent.stat().st_mode) == 0o700


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_name_changed(content: bytes) -> bytes:
    assert b"customer" in content
    return content.replace(b"customer", b"kustomer")


@pytest.mark.parametrize(
    "damage",
    [truncated, one_name_changed, lambda _: b"", lambda _: b"\xff\x00\n{}", lambda _: b"{}", lambda old: old[:64]],
)
def test_a_damaged_file_is_as_good_as_none(tmp_path, traced, damage: Callable[[bytes], bytes], caplog):
    first = load(tmp_path, *MAPPINGS)
    path = file_of(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    traced.clear()
    with caplog.at_level("INFO", "synqx_dagster"):
        assert load(tmp_path, *MAPPINGS) == first
    assert len(traced) == 3
    assert "damaged" in caplog.text
    assert len(caplog.records) == 1
    assert path.read_bytes() == whole


def test_other_code_traces_anew(tmp_path, traced, monkeypatch):
    load(tmp_path, *MAPPINGS)
    traced.clear()
    monkeypatch.setattr(lineage_cache, "_code_digest", lambda: b"the next release")
    load(tmp_path, *MAPPINGS)
    load(tmp_path, *MAPPINGS)
    assert len(traced) == 3


def test_the_code_that_counts_is_the_compilers_and_the_models(monkeypatch, tmp_path):
    digest = lineage_cache._code_digest()
    assert digest is not None
    (tmp_path / "changed.py").write_text("# another release")
    for package in ("mapping", "model"):
        with monkeypatch.context() as patch:
            module = getattr(lineage_cache.synqx_dagster, package)
            patch.setattr(module, "__path__", [str(tmp_path)])
            changed = lineage_cache._code_digest.__wrapped__()
        assert changed not in (None, digest)
    with monkeypatch.context() as patch:
        patch.setattr(lineage_cache.importlib.metadata, "version", lambda name: f"{name} 99")
        assert lineage_cache._code_digest.__wrapped__() != digest


def test_code_that_is_not_in_files_keeps_nothing(tmp_path, traced, monkeypatch):
    monkeypatch.setattr(lineage_cache, "__file__", str(tmp_path / "archive.zip" / "lineage_cache.py"))
    code = lineage_cache._code_digest.__wrapped__()
    assert code is None
    monkeypatch.setattr(lineage_cache, "_code_digest", lambda: code)
    load(tmp_path, *MAPPINGS)
    load(tmp_path, *MAPPINGS)
    assert len(traced) == 6
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_not_there_is_not_made(tmp_path, traced):
    home = tmp_path / "nowhere"
    load(home, *MAPPINGS)
    load(home, *MAPPINGS)
    assert len(traced) == 6
    assert not home.exists()


def test_a_home_that_cannot_be_written_changes_nothing_but_the_time(tmp_path, traced, caplog):
    (tmp_path / "cache").write_text("a file where the directory would be")
    with caplog.at_level("INFO", "synqx_dagster"):
        first = load(tmp_path, *MAPPINGS)
        assert load(tmp_path, *MAPPINGS) == first
    assert "cannot be" in caplog.text
    assert len(traced) == 6


def test_a_draft_that_cannot_take_its_place_is_removed(tmp_path):
    file_of(tmp_path).mkdir(parents=True)
    (file_of(tmp_path) / "occupied").touch()
    load(tmp_path, *MAPPINGS)
    assert [path.name for path in file_of(tmp_path).parent.iterdir()] == ["lineage.json"]


def test_several_at_once_never_read_half_a_file(tmp_path, caplog):
    expected = [trace_unconnected(item, schema() if item is TABLE else None, DIALECT) for item in MAPPINGS]
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(20):
            # Each turn traces something new, so each turn writes.
            found = load(tmp_path, *MAPPINGS, mapping(f"m_{number}_{turn}"))
            if found[:3] != expected:
                wrong.append(found)

    with caplog.at_level("INFO", "synqx_dagster"):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert caplog.records == []
    assert [path.name for path in file_of(tmp_path).parent.iterdir()] == ["lineage.json"]


names = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable())
tables = st.builds(TableName, names, st.none() | names)
lineages = st.builds(
    Lineage,
    st.lists(tables, max_size=3).map(tuple),
    st.dictionaries(names, st.lists(st.tuples(st.none() | tables, names), max_size=3).map(tuple), max_size=4),
)


@settings(max_examples=100)
@given(lineages)
def test_any_lineage_comes_back_as_it_was(lineage):
    assert lineage_cache._decode(json.loads(json.dumps(lineage_cache._encode(lineage)))) == lineage
