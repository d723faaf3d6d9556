"""The reference names every field that a record may have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from synqx_dagster.model import RECORD_TYPES, LiteralSecret, RecordKind, SealedSecret

PAGE = Path(__file__).parents[3] / "docs" / "catalog.md"

#: Not for users to write.
INTERNAL = {(SealedSecret, "version"), (LiteralSecret, "value")}


def fields_of(annotation: Any) -> Iterator[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if (annotation, name) not in INTERNAL:
                yield name
                yield from fields_of(field.annotation)
        return
    for argument in get_args(annotation):
        yield from fields_of(argument)


@pytest.mark.parametrize("kind", RECORD_TYPES)
def test_every_field_is_documented(kind: RecordKind) -> None:
    words = set(re.findall(r"\w+", PAGE.read_text(encoding="utf-8")))
    assert sorted(set(fields_of(RECORD_TYPES[kind])) - words) == []
