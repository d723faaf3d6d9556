"""The search index in real catalogs: in step with every revision, found by every word, and safe from every query."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from synqx_dagster.catalog import search_index, tables
from synqx_dagster.catalog.apply import ChangePlan, apply_changes, plan_changes, rollback
from synqx_dagster.catalog.changes import Change
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.hub_tables import SEARCH_TEXT, search_document
from synqx_dagster.catalog.search import MAX_QUERY_CHARACTERS, SearchResult, search_catalog
from synqx_dagster.catalog.search_documents import documents_of
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.catalog.words import iter_words
from synqx_dagster.model import Connection, LiteralSecret, Record
from synqx_dagster.settings import Settings
from synqx_dagster_tests.integration.catalog.processes import run_at_once
from synqx_dagster_tests.unit.catalog import records

CANARY = "canary7f3secret"

SHOP = [
    records.connection("shop", description="The web shop"),
    records.connection("warehouse", db_type="postgresql", host="db", database="dwh", username="u", password=CANARY),
    records.schema(
        "customer",
        columns=[
            {"name": "id", "data_type": "integer"},
            {"name": "emailAddress", "data_type": "string", "description": "Where invoices go"},
        ],
    ),
    records.mapping(
        "customers",
        source_query=f"select id, mail from people where token = '{CANARY}'",
        target_table="analytics.customer",
        column_mappings=[
            {"type": "direct", "source_columns": ["mail"], "target_fields": ["emailAddress"]},
            {"type": "expression", "expression": f"'{CANARY}'", "target_fields": ["marker"]},
            {"type": "constant", "value": CANARY, "target_fields": ["origin"]},
        ],
    ),
    records.pipeline("nightly_customers", "customers"),
    records.agent(
        "Churn guard",
        short_description="Finds customers who are about to leave",
        business_domain="Customer care",
        tools=[{"name": "Jira", "description": "Opens a ticket <script>alert(1)</script>"}],
        mappings=["customers"],
    ),
]


def write(catalog: Catalog, *declared: Record, prune: bool = False) -> int:
    plan = plan_changes(catalog, Definitions(declared), prune=prune)
    return apply_changes(catalog, plan, author="tester", reason=None)


def force(catalog: Catalog, *declared: Record) -> int:
    """Write records whose references lead nowhere."""
    known = catalog.snapshot()
    changes = [
        Change("changed" if known.find(record.kind, record.name) else "created", record.kind, record.name, (), record)
        for record in declared
    ]
    return apply_changes(catalog, ChangePlan(known.revision, tuple(changes)), author="tester", reason=None)


def found(result: SearchResult) -> list[tuple[str, str]]:
    return [(hit.kind, "".join(part.text for part in hit.title)) for hit in result.hits]


@pytest.fixture
def shop(any_catalog: Catalog) -> Catalog:
    write(any_catalog, *SHOP)
    return any_catalog


def test_words_prefixes_and_parts_of_names_are_found(shop: Catalog) -> None:
    assert found(search_catalog(shop, "churn"))[0] == ("agent", "Churn guard")
    assert ("agent", "Churn guard") in found(search_catalog(shop, "abo leav CUST"))
    assert {kind for kind, _ in found(search_catalog(shop, "address"))} == {"column", "schema"}
    assert ("column", "emailAddress") in found(search_catalog(shop, "invoices"))
    assert ("mapping", "customers") in found(search_catalog(shop, "analytics.customer"))
    assert found(search_catalog(shop, "churn nothing")) == []


def test_a_name_that_was_meant_exactly_comes_first(shop: Catalog) -> None:
    assert found(search_catalog(shop, "customers"))[0] == ("mapping", "customers")
    assert found(search_catalog(shop, "customer"))[0] == ("schema", "customer")
    assert found(search_catalog(shop, "nightly customers"))[0] == ("pipeline", "nightly_customers")


def test_a_title_counts_more_than_a_text(any_catalog: Catalog) -> None:
    write(
        any_catalog,
        records.agent("one", problem_statement="orders " * 3),
        records.agent("two orders"),
        records.agent("three", tools=[{"name": "orders"}]),
        *(records.agent(f"other {number}") for number in range(8)),
    )
    assert [name for _, name in found(search_catalog(any_catalog, "orders"))] == ["two orders", "three", "one"]


def test_hits_say_what_they_are_of_and_where_the_words_are(shop: Catalog) -> None:
    (hit,) = search_catalog(shop, "jira").hits
    assert (hit.record_kind, hit.record_name) == ("agent", "Churn guard")
    assert hit.agent_id is not None
    assert [part.text for part in hit.snippet if part.is_match] == ["Jira"]
    # As it stands: whoever makes a page of it escapes pieces of text, and not markup.
    assert "<script>" in "".join(part.text for part in hit.snippet)
    column = search_catalog(shop, "marker", kinds=["column"]).hits[0]
    assert (column.record_kind, column.record_name, column.agent_id) == ("mapping", "customers", None)


def test_kinds_and_pages(shop: Catalog) -> None:
    everything = search_catalog(shop, "customer", limit=100)
    assert everything.total == len(everything.hits) == sum(everything.counts.values())
    mappings = search_catalog(shop, "customer", kinds=["mapping"])
    assert [hit.kind for hit in mappings.hits] == ["mapping"]
    assert (mappings.total, mappings.counts) == (1, everything.counts)
    pages = [search_catalog(shop, "customer", offset=number, limit=1).hits[0] for number in range(everything.total)]
    assert pages == list(everything.hits)


def test_a_mistyped_word_is_found(shop: Catalog) -> None:
    for typed in ("custmers", "cutsomers", "customrs", "xustomers", "customerz", "cuztomers"):
        result = search_catalog(shop, typed)
        assert ("mapping", "customers") in found(result), typed
        assert "customers" in result.corrections[typed]


def test_what_is_like_nothing_is_not_found(shop: Catalog) -> None:
    for typed in ("zzzzzz", "xy", "customers zzzzzz"):
        result = search_catalog(shop, typed)
        assert (result.hits, result.total) == ((), 0)


# --- what must not be found --------------------------------------------------------------------------------------


def test_no_secret_and_no_literal_of_a_query_is_in_the_index(shop: Catalog) -> None:
    assert search_catalog(shop, CANARY).total == 0
    with shop.read() as connection:
        for name in [*(table.name for table in tables.hub_tables.metadata.sorted_tables), SEARCH_TEXT]:
            if name.startswith("synqx_search"):
                rows = connection.exec_driver_sql(f"select * from {name}").all()
                assert CANARY not in str(rows).lower()


def test_a_literal_secret_never_gets_into_a_document() -> None:
    secret = LiteralSecret(value=SecretStr(CANARY))
    connection = Connection(name="c", db_type="postgresql", username=CANARY, password=secret)
    assert CANARY not in str(list(documents_of(connection)))


# --- in step with the revisions ----------------------------------------------------------------------------------


def test_each_revision_is_searched_as_it_is(shop: Catalog) -> None:
    before = shop.latest_revision()
    assert search_catalog(shop, "refund").total == 0
    write(shop, records.agent("Churn guard", short_description="Watches refunds"))
    assert found(search_catalog(shop, "refund")) == [("agent", "Churn guard")]
    assert search_catalog(shop, "leave").total == 0
    rollback(shop, before, author="tester", reason=None)
    assert search_catalog(shop, "refund").total == 0
    assert found(search_catalog(shop, "leave")) == [("agent", "Churn guard")]
    write(shop, *(record for record in SHOP if record.kind != "agent"), prune=True)
    assert search_catalog(shop, "churn").total == 0
    assert is_in_step(shop)


def is_in_step(catalog: Catalog) -> bool:
    """Whether the index has just what making it anew would give, and is taken for current."""
    with catalog.read() as connection:
        if not search_index.is_current(connection):
            return False
    before = _documents(catalog)
    with catalog.write() as connection:
        connection.execute(sa.update(tables.hub_tables.search_state).values(format=-1))
        search_index.rebuild(connection)
    return before == _documents(catalog)


def _documents(catalog: Catalog) -> list[tuple[object, ...]]:
    columns = [column for column in search_document.c if column.name != "document_id"]
    with catalog.read() as connection:
        kept = sorted(tuple(row) for row in connection.execute(sa.select(*columns)))
        words = connection.exec_driver_sql(f"select count(*) from {SEARCH_TEXT}").scalar()
    return [*kept, (words,)]


def test_an_apply_that_fails_leaves_the_index(shop: Catalog) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("power cut")

    shop.within_commit.append(refuse)
    with pytest.raises(RuntimeError, match="power cut"):
        write(shop, records.agent("another one"))
    shop.within_commit.remove(refuse)
    assert search_catalog(shop, "another").total == 0
    assert is_in_step(shop)


def test_a_missing_or_stale_index_is_made_anew(shop: Catalog) -> None:
    for damage in (
        "delete from synqx_search_state",
        "update synqx_search_state set format = format - 1",
        "update synqx_search_state set revision = revision - 1",
    ):
        with shop.write() as connection:
            connection.exec_driver_sql("update synqx_search_document set title_words = '' where kind = 'agent'")
            connection.exec_driver_sql(damage)
        assert found(search_catalog(shop, "churn")) == [("agent", "Churn guard")]
        assert is_in_step(shop)


def test_a_stale_index_is_not_half_mended_by_the_next_revision(shop: Catalog) -> None:
    with shop.write() as connection:
        connection.exec_driver_sql("update synqx_search_state set revision = 0")
        connection.exec_driver_sql("update synqx_search_document set title_words = '' where kind = 'agent'")
    write(shop, records.agent("another one"))
    assert found(search_catalog(shop, "churn")) == [("agent", "Churn guard")]
    assert is_in_step(shop)


def test_processes_that_find_no_index_at_once_make_one(shop: Catalog) -> None:
    with shop.write() as connection:
        connection.exec_driver_sql("delete from synqx_search_state")
    results = run_at_once(_search, shop.settings, count=3)
    assert results == [[("agent", "Churn guard")]] * 3
    assert is_in_step(shop)


def _search(settings_: Settings, _number: int, meet: Callable[[], object]) -> list[tuple[str, str]]:
    with Catalog.open(settings_) as catalog:
        meet()
        return found(search_catalog(catalog, "churn"))


def test_an_empty_catalog_is_searched_without_writing(any_catalog: Catalog) -> None:
    assert search_catalog(any_catalog, "anything").total == 0
    with any_catalog.read() as connection:
        assert search_index.read_state(connection) is None


# --- laws ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """One SQLite catalog for many examples."""
    home: Path = tmp_path_factory.mktemp("kept")
    with Catalog.initialise(Settings(home=home, catalog_url=f"sqlite:///{home / 'catalog.db'}")) as catalog:
        write(catalog, *(record for record in SHOP if record.kind == "schema"), records.agent("a or not"))
        yield catalog


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=4), data=st.data())
def test_what_is_indexed_is_found_by_each_word_and_each_beginning(
    any_catalog: Catalog, texts: list[str], data: st.DataObject
) -> None:
    agent = records.agent("lawful", goals=texts, short_description=texts[0])
    force(any_catalog, agent)
    words = [word for text in texts for word in iter_words(text)]
    for word in data.draw(st.permutations(words))[:5]:
        beginning = word[: data.draw(st.integers(1, len(word)))]
        assert ("agent", "lawful") in found(search_catalog(any_catalog, beginning, limit=100)), beginning
    assert is_in_step(any_catalog)


#: What the languages of FTS5 and of tsquery, LIKE and SQL make something of.
HOSTILE = [
    "'", '"', '""', "*", "a*", "(", ")", "(a", "a)", "NEAR(a b)", "a NEAR b", "a AND", "OR", "NOT a", "-a", "^a", "a:*",
    "title:a", "{title}: a", "a & b", "a | b", "!a", "<->", "a <-> b", "a:b:c", "\\", "%", "_", "100%", "a\x00b",
    "\x00", "\ud800", "\udfff a", "'; drop table synqx_record; --", "$$", "a" * 5000, "a " * 5000, "\u202e", "🙂",
    "½ ﷺ", "\n",    "<b>x</b>", "${jndi:ldap://x}", "{{7*7}}", "İ", "ß", "\u0301", "1e999", "NaN", " ",
]  # fmt: skip


def test_no_query_breaks_the_search(shop: Catalog) -> None:
    for text in HOSTILE:
        result = search_catalog(shop, text)
        assert result.total == sum(result.counts.values()), text
        search_catalog(shop, f"customers {text}")


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(codec=None), max_size=80) | st.text(string.punctuation + " a", max_size=20))
def test_no_text_breaks_the_search(kept: Catalog, text: str) -> None:
    result = search_catalog(kept, text)
    assert result.total >= len(result.hits)


def test_a_long_query_is_cut(shop: Catalog) -> None:
    assert search_catalog(shop, "customers " + "x" * MAX_QUERY_CHARACTERS).total == 0
    assert search_catalog(shop, "customers " * 1000).total > 0
