"""How text becomes the words that a search finds, the same on every backend and for what is asked as for what is there.

Case, accents and the width of letters do not count. What stands between letters and digits parts words, also an
underscore; ``customerEmail`` is one word, and ``customer`` and ``email`` as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

#: Characters of a word that count; of a longer one the rest is not looked at.
MAX_WORD_CHARACTERS = 64

# A letter or a digit, then more of them and of the accents that stand behind their letters.
_RUN = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*")
_HUMPS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_HAS_HUMPS = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Text that every backend can keep: without NUL, other control characters and half characters."""
    return _UNPRINTABLE.sub(" ", text)


def iter_words(text: str) -> Iterator[str]:
    """The words of a text in their order, with the parts of those that are written in one."""
    for run in _RUN.findall(text):
        yield from _words_of_run(run)


def query_words(text: str, limit: int) -> tuple[str, ...]:
    """The words of what somebody asks, each once; those past the limit are left out."""
    words = dict.fromkeys(word for match in _RUN.finditer(text) for word in _fold(match[0]))
    return tuple(words)[:limit]


def _words_of_run(run: str) -> tuple[str, ...]:
    # A catalog says the same names over and over; what is long is no name, and would only fill the memory.
    return _remembered_words(run) if len(run) <= MAX_WORD_CHARACTERS else _cut_run(run)


@lru_cache(maxsize=65_536)
def _remembered_words(run: str) -> tuple[str, ...]:
    return _cut_run(run)


def _cut_run(run: str) -> tuple[str, ...]:
    words = list(_fold(run))
    if _HAS_HUMPS.search(run):
        words += [word for hump in _HUMPS.findall(run) for word in _fold(hump)]
    return tuple(words)


def _fold(run: str) -> Iterator[str]:
    if run.isascii():
        yield run.lower()[:MAX_WORD_CHARACTERS]
        return
    plain = unicodedata.normalize("NFKD", run.casefold())
    plain = "".join(character for character in plain if not unicodedata.combining(character)).casefold()
    # What was one character may be several now, and not all of them letters.
    for part in _RUN.findall(plain):
        yield part[:MAX_WORD_CHARACTERS]


# --- showing what was found ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPart:
    """A piece of a text; ``is_match``: the words that were looked for."""

    text: str
    is_match: bool = False


def mark_words(text: str, wanted: Sequence[str]) -> tuple[TextPart, ...]:
    """A text in pieces that make it up again, with those apart that begin with a wanted word."""
    parts: list[TextPart] = []
    end = 0
    for start, stop in _matches(text, wanted):
        if start > end:
            parts.append(TextPart(text[end:start]))
        parts.append(TextPart(text[start:stop], is_match=True))
        end = stop
    if end < len(text):
        parts.append(TextPart(text[end:]))
    return tuple(parts)


def cut_around(text: str, wanted: Sequence[str], characters: int) -> str:
    """A piece of a text of about so many characters, around the first wanted word; its beginning if it has none."""
    if len(text) <= characters:
        return text
    first = next((start for start, _ in _matches(text, wanted)), 0)
    start = max(0, min(first - characters // 4, len(text) - characters))
    if start:
        # At a blank if one is near: half a word reads badly.
        blank = text.find(" ", start, start + characters // 8)
        start = blank + 1 if 0 <= blank < first else start
    stop = min(len(text), start + characters)
    return ("…" if start else "") + text[start:stop].strip() + ("…" if stop < len(text) else "")


def _matches(text: str, wanted: Sequence[str]) -> Iterator[tuple[int, int]]:
    if not wanted:
        return
    prefixes = tuple(wanted)
    for match in _RUN.finditer(text):
        if any(word.startswith(prefixes) for word in _words_of_run(match[0])):
            yield match.span()
