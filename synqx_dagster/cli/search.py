"""`synqx search`: what of the catalog has these words."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from synqx_dagster.cli.figures import plural
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.model import RecordKind

if TYPE_CHECKING:
    from rich.text import Text

    from synqx_dagster.catalog.search import SearchHit, SearchResult
    from synqx_dagster.catalog.search_documents import SearchKind
    from synqx_dagster.catalog.words import TextPart

_KINDS = (*sorted(get_args(RecordKind)), "column")


@click.command(cls=SynqxCommand)
@click.argument("words", nargs=-1, required=True)
@click.option("--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Only things of this kind.")
@click.option("--limit", "-n", type=click.IntRange(1, 500), default=20, show_default=True, help="How many at most.")
@json_option
@pass_output
def search(output: Output, words: tuple[str, ...], kinds: tuple[SearchKind, ...], limit: int) -> None:
    """Find agents, pipelines, mappings, columns and more by their words.

    WORDS are words or their beginnings; all of them must be there. A word that nothing begins with is taken for a
    mistyped one. Exits 0 whether something is found or not.
    """
    from synqx_dagster.catalog.search import search_catalog

    text = " ".join(words)
    found = search_catalog(open_catalog(), text, kinds=kinds, limit=limit)
    documents = [_document(hit) for hit in found.hits]
    document = {
        "query": text,
        "total": found.total,
        "counts": dict(found.counts),
        "corrections": {word: list(others) for word, others in found.corrections.items()},
        "hits": documents,
    }
    output.result(document, lambda: _draw(output, found))


def _document(hit: SearchHit) -> dict[str, object]:
    return {
        "kind": hit.kind,
        "title": "".join(part.text for part in hit.title),
        "record_kind": hit.record_kind,
        "record_name": hit.record_name,
        "id": hit.agent_id or hit.number,
        "snippet": "".join(part.text for part in hit.snippet),
        "score": hit.score,
    }


def _draw(output: Output, found: SearchResult) -> None:
    for word, others in found.corrections.items():
        instead = f"looked for {', '.join(others)} instead" if others else "and none is like it"
        output.note(f"No word begins with {printable(word)!r}: {instead}.")
    if not found.hits:
        output.print("Nothing was found.")
        return
    output.table(
        ["kind", "name", "of", "where"],
        [
            [
                hit.kind,
                _marked(hit.title),
                printable(f"{hit.record_kind} {hit.record_name}") if hit.kind == "column" else "",
                _marked(hit.snippet),
            ]
            for hit in found.hits
        ],
        fold=["where"],
    )
    if found.total > len(found.hits):
        output.note(f"{plural(found.total, 'hit')} in all; --limit shows more.")


def _marked(parts: tuple[TextPart, ...]) -> Text:
    from rich.text import Text

    text = Text()
    for part in parts:
        text.append(printable(part.text.replace("\n", " ")), style="bold yellow" if part.is_match else "")
    return text
