"""Plain values to records, and what is wrong with them in words that a user of YAML or JSON understands.

Guarantee: a value keeps its type (the text "5432" is no port, 1 is not true), every problem is found in one pass, and
no message repeats a value.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from synqx_dagster.catalog.snapshot import AnySecret, nearest, secrets_of
from synqx_dagster.catalog.yaml_tree import FieldPath, parse_path
from synqx_dagster.model import RECORD_TYPES, EnvSecret, Record, RecordKind, SealedSecret


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field. The path leads to the value, or to where it should be."""

    path: FieldPath
    message: str
    hint: str | None = None


class InvalidRecordError(Exception):
    """The values make no record; carries every problem."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        self.problems = problems
        super().__init__(f"{len(problems)} problems")


def build_record(kind: RecordKind, values: Mapping[str, Any]) -> Record:
    """Make a record of plain values, as YAML and JSON have them.

    Raises:
        InvalidRecordError: They do not fit; has every problem.
    """
    record_type = RECORD_TYPES[kind]
    try:
        # Through JSON: pydantic's strict mode takes a list for a tuple only there.
        record = record_type.model_validate_json(json.dumps(dict(values)), strict=True)
    except pydantic.ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        # Without the cause: it holds the values.
        raise InvalidRecordError(list(_explain(record_type, values, errors))) from None
    problems = [
        problem
        for field, secret in secrets_of(record).items()
        if isinstance(secret, SealedSecret) and (problem := _why_not_sealed(parse_path(field), values))
    ]
    if problems:
        raise InvalidRecordError(problems)
    return record


def explain(model: type[BaseModel], values: Mapping[str, Any], error: pydantic.ValidationError) -> list[FieldProblem]:
    """What is wrong with values that a part of a record refused; paths begin at the part."""
    return list(_explain(model, values, error.errors(include_url=False, include_input=False)))


def _why_not_sealed(path: FieldPath, values: Mapping[str, Any]) -> FieldProblem | None:
    value = _value_at(values, path)
    if "version" in value:
        return FieldProblem((*path, "version"), "only the catalog gives versions; write {sealed: true}")
    if "sealed" not in value:  # Its default makes {} one, too.
        return FieldProblem(path, f"must be {_describe(get_args(AnySecret))}")
    return None


# --- from pydantic's errors to ours -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where an error is, in terms of the user's values."""

    path: FieldPath
    #: Keys that are known there; empty where it is no record or part of one.
    known_keys: tuple[str, ...]
    #: What is expected at the place.
    annotation: Any
    #: Path of the outermost union without a discriminator on the way, the alternatives, and the one that was tried.
    union_path: FieldPath | None = None
    alternatives: tuple[Any, ...] = ()
    branch: Any = None


def _explain(
    record_type: type[BaseModel], values: Mapping[str, Any], errors: list[ErrorDetails]
) -> Iterator[FieldProblem]:
    placed = [(_place(record_type, values, error["loc"]), error) for error in errors]
    seen: set[FieldPath] = set()
    for place, error in placed:
        if place.union_path is not None:
            if place.union_path not in seen:
                seen.add(place.union_path)
                group = [item for item in placed if item[0].union_path == place.union_path]
                yield from _explain_union(values, group)
        elif not _is_consequence(place, error, values):
            yield _explain_one(place, error, values)


def _is_consequence(place: _Place, error: ErrorDetails, values: Any) -> bool:
    """Whether pydantic says it only because of another error, which it reports too."""
    if error["type"] == "too_short":
        # Items that are wrong count as none.
        value = _value_at(values, place.path)
        return isinstance(value, list | dict) and len(value) >= error["ctx"]["min_length"]
    return error["type"] == "missing" and bool(place.path) and isinstance(place.path[-1], int)


def _explain_union(values: Any, group: list[tuple[_Place, ErrorDetails]]) -> Iterator[FieldProblem]:
    first = group[0][0]
    assert first.union_path is not None
    value = _value_at(values, first.union_path)
    meant = _meant_alternative(value, first.alternatives)
    if meant is None:
        yield FieldProblem(first.union_path, f"must be {_describe(first.alternatives)}")
        return
    for place, error in group:
        if place.branch is meant:
            yield _explain_one(place, error, values)


def _meant_alternative(value: Any, alternatives: tuple[Any, ...]) -> Any:
    if isinstance(value, dict):
        models = [item for item in alternatives if isinstance(item, type) and issubclass(item, BaseModel)]
        matching = [model for model in models if model.model_fields.keys() & value.keys()]
        return matching[0] if matching else None
    if isinstance(value, list):
        return next((item for item in alternatives if get_origin(item) is tuple), None)
    if isinstance(value, str):
        return next((item for item in alternatives if _strip(item) is str), None)
    return None


def _hint_of_missing(name: str | int, annotation: Any) -> str | None:
    """What to write where a whole object is missing: its required keys."""
    model = _strip(annotation)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    required = [key for key, field in model.model_fields.items() if field.is_required()]
    return f"write {name}: {{{', '.join(f'{key}: ...' for key in required)}}}" if required else None


def _explain_one(place: _Place, error: ErrorDetails, values: Any) -> FieldProblem:
    context = error.get("ctx", {})
    path = place.path
    last = path[-1] if path else ""
    match error["type"]:
        case "missing":
            return FieldProblem(path, f"{last} is missing", _hint_of_missing(last, place.annotation))
        case "extra_forbidden":
            near = nearest(str(last), place.known_keys)
            hint = f"did you mean {near!r}?" if near else f"known keys: {', '.join(place.known_keys)}"
            return FieldProblem(path, f"unknown key {str(last)!r}", hint)
        case "value_error":
            return FieldProblem(path, str(context["error"]))
        case "union_tag_not_found":
            return FieldProblem(path, "type is missing", f"types: {', '.join(_tags(place.annotation))}")
        case "union_tag_invalid":
            tags = _tags(place.annotation)
            near = nearest(str(context["tag"]), tags)
            hint = f"did you mean {near!r}?" if near else f"types: {', '.join(tags)}"
            return FieldProblem((*path, "type"), "there is no such type of column mapping", hint)
        case "literal_error":
            value = _value_at(values, path)
            close = nearest(value, _literals(place.annotation)) if isinstance(value, str) else None
            expected = context["expected"].replace("True", "true")
            return FieldProblem(path, f"must be {expected}", f"did you mean {close!r}?" if close else None)
        case "string_pattern_mismatch" if "env" in path and EnvSecret is place.branch:
            return FieldProblem(path, "must be the name of an environment variable, such as SHOP_PASSWORD")
        case _:
            return FieldProblem(path, _phrase(error["type"], context, _value_at(values, path), error["msg"]))


def _phrase(error_type: str, context: dict[str, Any], value: Any, message: str) -> str:
    match error_type:
        case "int_type" | "int_from_float" | "int_parsing":
            return "must be a whole number" + (_NO_TEXT if isinstance(value, str) else "")
        case "int_parsing_size":
            return "is too large a number"
        case "float_type":
            return "must be a number" + (_NO_TEXT if isinstance(value, str) else "")
        case "bool_type":
            return "must be true or false"
        case "string_type":
            is_scalar = isinstance(value, bool | int | float)
            return "must be text" + (": put it in quotes" if is_scalar else "")
        case "tuple_type" | "list_type":
            return "must be a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must be keys with values"
        case "string_too_short":
            return _at_least(context["min_length"], "character")
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "too_short":
            return f"must have at least {_count(context['min_length'], 'item')}"
        case "too_long":
            return f"must have at most {_count(context['max_length'], 'item')}, not {context['actual_length']}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "greater_than":
            return f"must be more than {context['gt']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "string_pattern_mismatch":
            return "has characters that are not allowed here"
        case _:
            return message.removeprefix("Value error, ").replace("Input should be", "must be")


_NO_TEXT = ": decimal digits, without quotes"


def _at_least(count: int, what: str) -> str:
    return "must not be empty" if count == 1 else f"must have at least {_count(count, what)}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


# --- walking the types ------------------------------------------------------------------------------------------


def _place(record_type: type[BaseModel], values: Any, loc: tuple[str | int, ...]) -> _Place:
    """Follow pydantic's location, which names the branches of unions among the keys."""
    annotation: Any = record_type
    path: FieldPath = ()
    known_keys: tuple[str, ...] = ()
    union_path: FieldPath | None = None
    alternatives: tuple[Any, ...] = ()
    branch: Any = None
    for part in loc:
        annotation = _strip(annotation)
        if part == "[key]":
            continue
        options = _options(annotation)
        if options:
            tagged = next((option for option in options if part in _tags(option)), None)
            if tagged is not None:
                annotation = tagged
                continue
            chosen = _branch(options, part)
            if union_path is None:
                union_path, alternatives, branch = path, options, chosen
            annotation = chosen
            continue
        known_keys = ()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            known_keys = tuple(annotation.model_fields)
            found = annotation.model_fields.get(str(part))
            annotation = found.annotation if found is not None else None
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        path = (*path, part)
    return _Place(path, known_keys, _strip(annotation), union_path, alternatives, branch)


def _strip(annotation: Any) -> Any:
    """Without ``Annotated`` and without ``| None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
            continue
        options = [option for option in _union_members(annotation) if option is not type(None)]
        if len(options) != 1:
            return annotation
        annotation = options[0]


def _union_members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()


def _options(annotation: Any) -> tuple[Any, ...]:
    return tuple(option for option in _union_members(annotation) if option is not type(None))


def _branch(options: tuple[Any, ...], label: str | int) -> Any:
    """The alternative that pydantic calls by this label."""
    for option in options:
        name = getattr(_strip(option), "__name__", "")
        if name == label and get_origin(option) is None:
            return option
    is_list = str(label).startswith("tuple[")
    return next((option for option in options if (get_origin(option) is tuple) == is_list), options[0])


def _tags(annotation: Any) -> tuple[str, ...]:
    """Values of the discriminator of a union's members, or of one of them."""
    annotation = _strip(annotation)
    members = _options(annotation) or (annotation,)
    tags: list[str] = []
    for member in members:
        fields = getattr(member, "model_fields", {})
        if "type" in fields:
            tags.extend(_literals(fields["type"].annotation))
    return tuple(tags)


def _literals(annotation: Any) -> tuple[str, ...]:
    annotation = _strip(annotation)
    if get_origin(annotation) is Literal:
        return tuple(value for value in get_args(annotation) if isinstance(value, str))
    return ()


def _describe(alternatives: tuple[Any, ...]) -> str:
    forms = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list"}
    models = {
        "EnvSecret": "{env: NAME}",
        "FileSecret": "{file: PATH}",
        "SealedSecret": "{sealed: true}",
        "LiteralSecret": "the value in quotes",
    }
    names = [
        "tuple" if get_origin(alternative) is tuple else getattr(_strip(alternative), "__name__", "")
        for alternative in alternatives
    ]
    words = [(forms | models).get(name, "another value") for name in names]
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _value_at(values: Any, path: FieldPath) -> Any:
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


__all__ = ["FieldProblem", "InvalidRecordError", "build_record"]
