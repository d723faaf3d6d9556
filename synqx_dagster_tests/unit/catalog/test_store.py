"""Reading a catalog: whole, in parts, its secrets and its connection tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from synqx_dagster import model
from synqx_dagster.catalog import tables
from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import CatalogVersionError, ConfigurationError, IntegrityError, NotFoundError, SealedError
from synqx_dagster.model import Record, SealedSecret
from synqx_dagster_tests.unit.catalog.records import connection, definitions, mapping, pipeline, schedule, schema


def apply(catalog: Catalog, *declared: Record) -> int:
    return apply_changes(catalog, plan_changes(catalog, definitions(*declared)), author="ada", reason=None)


PROJECT = (
    connection("shop"),
    connection("warehouse"),
    connection("unused"),
    schema("customer"),
    schema("unused"),
    mapping("a", target_schema="customer", column_mappings=None),
    mapping("b"),
    mapping("unused"),
    pipeline("p", "a"),
    pipeline("q", "b"),
    schedule("nightly", pipeline="p", mapping="b"),
)


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    declared = list(PROJECT)
    apply(catalog, *declared)
    return catalog


def names_of(snapshot: CatalogSnapshot) -> set[str]:
    return {f"{record.kind} {record.name}" for record in snapshot.iter_records()}


# --- parts ---------------------------------------------------------------------------------------------------------


def test_parts_bring_what_they_refer_to(filled: Catalog) -> None:
    ends = {"connection shop", "connection warehouse"}
    assert names_of(filled.snapshot_for()) == set()
    assert names_of(filled.snapshot_for(connections=["unused"])) == {"connection unused"}
    assert names_of(filled.snapshot_for(mappings=["b"])) == {"mapping b"} | ends
    assert names_of(filled.snapshot_for(mappings=["a"])) == {"mapping a", "schema customer"} | ends
    assert names_of(filled.snapshot_for(pipelines=["p"])) == {"pipeline p", "mapping a", "schema customer"} | ends
    assert names_of(filled.snapshot_for(schedules=["nightly"])) == (
        {"schedule nightly", "pipeline p", "mapping a", "mapping b", "schema customer"} | ends
    )


def test_what_loads_a_table_is_found_by_it(catalog: Catalog) -> None:
    loads = {
        "by_table": {"operator_class": "table", "config": {"connection": "warehouse", "table": 'sales."b.c"'}},
        "by_asset": {"operator_class": "table", "destination_asset": "kept"},
    }
    extract = {
        "node_id": "given",
        "operator_type": "extract",
        "operator_class": "table",
        "config": {"connection": "shop", "table": "b.c"},
    }
    pipelines = [
        model.Pipeline(
            name=name,
            nodes=[extract, {"node_id": "end", "operator_type": "load", **load}],
            edges=[{"from_node_id": "given", "to_node_id": "end"}],
        )
        for name, load in loads.items()
    ]
    kept = model.Dataset(name="kept", connection="warehouse", table="sales.kept")
    b = mapping("b", target_table='main."b.c"')
    apply(catalog, *PROJECT[:4], mapping("a"), b, mapping("c", target_connection="unused", target_table='"b.c"'))
    apply(catalog, kept, *pipelines, pipeline("p", "a"))
    ends = {"connection shop", "connection warehouse"}

    def found(*tables: tuple[str, str], pipelines: tuple[str, ...] = ()) -> set[str]:
        return names_of(catalog.snapshot_for_loads(2, set(tables), pipelines)) - ends

    assert found(("warehouse", "b.c")) == {"mapping b", "pipeline by_table"}
    assert found(("warehouse", "kept")) == {"pipeline by_asset", "asset kept"}
    assert found(("shop", "b.c"), ("warehouse", "b"), ("warehouse", "none")) == set()
    assert found(pipelines=("p", "gone")) == {"pipeline p", "mapping a"}
    assert names_of(catalog.snapshot_for_loads(1, {("warehouse", "b.c")})) == {"mapping b"} | ends


def test_parts_of_an_old_revision(filled: Catalog) -> None:
    apply(filled, mapping("b", mode="append"))
    assert filled.snapshot_for(1, mappings=["b"]).get_mapping("b") == mapping("b")
    assert filled.snapshot_for(mappings=["b"]).get_mapping("b") == mapping("b", mode="append")
    assert filled.snapshot_for(1, mappings=["b"]).revision == 1


def test_a_name_that_is_not_there(filled: Catalog) -> None:
    with pytest.raises(NotFoundError, match=r"There is no pipeline 'pp' \(did you mean 'p'\?\)"):
        filled.snapshot_for(pipelines=["pp"])
    with pytest.raises(NotFoundError, match="There is no mapping 'b'"):
        filled.snapshot_for(0, mappings=["b"])
    with pytest.raises(NotFoundError, match=r"did you mean 'warehouse'\?"):
        filled.snapshot().get_connection("warehose")


@pytest.mark.parametrize("revision", [-1, 2])
def test_a_revision_that_is_not_there(filled: Catalog, revision: int) -> None:
    with pytest.raises(NotFoundError, match=rf"There is no revision {revision} \(revisions go from 1 to 1\)"):
        filled.snapshot(revision)


def test_snapshots_are_plain_values_and_back(filled: Catalog) -> None:
    snapshot = filled.snapshot()
    assert CatalogSnapshot.from_dict(snapshot.to_dict()) == snapshot
    with pytest.raises(CatalogVersionError):
        CatalogSnapshot.from_dict(snapshot.to_dict() | {"mappings": [{"name": "x", "later": 1}]})
    with pytest.raises(CatalogVersionError):
        CatalogSnapshot.from_dict({"revision": 1})


# --- what is not what was written ----------------------------------------------------------------------------------


def change_body(catalog: Catalog, old: str, new: str, *, digest: bool = False) -> None:
    from synqx_dagster.catalog.revisions import digest_of

    table = tables.record_version
    with catalog.write() as database:
        row = database.execute(sa.select(table).where(table.c.body.contains(old))).one()
        body = row.body.replace(old, new)
        values = {"body": body} | ({"digest": digest_of("connection", body)} if digest else {})
        database.execute(sa.update(table).where(table.c.record_id == row.record_id).values(**values))


def test_a_changed_body_is_noticed(filled: Catalog) -> None:
    change_body(filled, "/data/shop.duckdb", "/data/evil.duckdb")
    with pytest.raises(IntegrityError, match="The stored connection 'shop' is not what was written"):
        filled.snapshot()
    assert len(filled.snapshot_for(connections=["unused"])) == 1


def test_a_field_of_a_newer_version_is_told(filled: Catalog) -> None:
    change_body(filled, '"database":"/data/shop.duckdb"', '"database":"x","later":1', digest=True)
    with pytest.raises(CatalogVersionError, match="newer version"):
        filled.snapshot()


def test_a_kind_of_a_newer_version_is_told(filled: Catalog) -> None:
    with filled.write() as database:
        database.execute(sa.update(tables.record).where(tables.record.c.name == "nightly").values(kind="replication"))
    with pytest.raises(IntegrityError, match="replication"):
        filled.snapshot()


# --- secrets -------------------------------------------------------------------------------------------------------


def server(**values: object) -> Record:
    return connection("s", db_type="postgresql", host="h", database="d", username="u", **values)


def test_references(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    for content, expected in [
        (b"two\n", "two"),
        (b"two\r\n", "two"),
        (b"two\n\n", "two\n"),
        (b" two", " two"),
        (b"\r", "\r"),
        (b"", ""),
    ]:
        file.write_bytes(content)
        assert catalog.resolve_secret(server(password={"file": str(file)}), "password") == expected
    monkeypatch.setenv("SECRET_FOR_TEST", "one\n")
    assert catalog.resolve_secret(server(password={"env": "SECRET_FOR_TEST"}), "password") == "one\n"
    assert catalog.resolve_secret(server(), "password") is None
    assert catalog.resolve_secret(server(password="three"), "password") == "three"
    assert catalog.resolve_secret(server(password="three"), "host") is None


def test_an_operators_seal_keeps_references_back(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("two")
    monkeypatch.setenv("SECRET_FOR_TEST", "one")
    catalog.vault.seal()
    for reference in ({"env": "SECRET_FOR_TEST"}, {"file": str(tmp_path / "secret")}):
        with pytest.raises(SealedError, match="operator"):
            catalog.resolve_secret(server(password=reference), "password")
    assert catalog.resolve_secret(server(), "password") is None


def test_references_that_lead_nowhere(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_FOR_TEST", raising=False)
    with pytest.raises(ConfigurationError, match="environment variable SECRET_FOR_TEST is not set"):
        catalog.resolve_secret(server(password={"env": "SECRET_FOR_TEST"}), "password")
    for name, content, message in [
        ("none", None, "No such file"),
        ("binary", b"\xff\xfe", "not UTF-8"),
        ("large", b"x" * (1024 * 1024 + 1), "larger than"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match=message):
            catalog.resolve_secret(server(password={"file": str(tmp_path / name)}), "password")


def test_a_sealed_version_that_is_not_there(catalog: Catalog) -> None:
    sealed = server().model_copy(update={"password": SealedSecret(version=3)})
    with pytest.raises(IntegrityError, match="no version 3"):
        catalog.resolve_secret(sealed, "password")
    with pytest.raises(ConfigurationError, match="which version"):
        catalog.resolve_secret(sealed.model_copy(update={"password": SealedSecret()}), "password")


def test_a_moved_or_changed_envelope_is_refused(catalog: Catalog) -> None:
    apply(catalog, server(password="one"), server(password="other").model_copy(update={"name": "t"}))
    table = tables.secret
    records = catalog.snapshot()
    with catalog.write() as database:
        rows = database.execute(sa.select(table).order_by(table.c.record_id)).all()
        for row, other in zip(rows, reversed(rows), strict=True):
            database.execute(sa.update(table).where(table.c.record_id == row.record_id).values(envelope=other.envelope))
    for name in ("s", "t"):
        with pytest.raises(IntegrityError):
            catalog.resolve_secret(records.get_connection(name), "password")


# --- connection tests ----------------------------------------------------------------------------------------------


def test_the_last_test_is_kept(filled: Catalog) -> None:
    assert filled.find_test("shop") is None
    filled.save_test("shop", {"ok": False, "message": "refused", "reason": "refused", "latency_seconds": None})
    first = filled.find_test("shop")
    assert first is not None
    assert (first.last_test_status, first.message, first.report["reason"]) == ("failed", "refused", "refused")
    filled.save_test("shop", {"ok": True, "message": "fine"})
    second = filled.find_test("shop")
    assert second is not None
    assert (second.last_test_status, second.message) == ("ok", "fine")
    assert second.last_tested_at >= first.last_tested_at
    assert second.last_tested_at.utcoffset() is not None
    assert filled.latest_revision() == 1


def test_only_connections_that_are_there_have_tests(filled: Catalog) -> None:
    with pytest.raises(NotFoundError, match=r"did you mean 'shop'\?"):
        filled.save_test("shpo", {"ok": True})
    assert filled.find_test("shpo") is None
