"""Lists and objects out of what models really write: fences, prose around, numbers, colons, bullets. What is missing is never made up."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from amaru.synth.call import Answer
from amaru.synth.schema import problem

FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
ITEM = re.compile(r"^\s*(?:[-*•+]|\(?\d{1,4}[.):]|\[\d{1,4}\])\s+(\S.*)$")
JSON_LINE = re.compile(r"^\s*(?:\{|\[(?!\d{1,4}\]\s))", re.MULTILINE)  # but not the marker of `[1] Food`
EMPHASIS = re.compile(r"^(\*\*|__|[\"'`])(.*)\1$")
TRAILING_COMMA = re.compile(r",(\s*[\]}])")


class Unusable(Exception):
    """An answer that will not do, and why."""


def whole_letters(value: Any) -> Any:
    """`whole_letters(["a\\ud83d"]) == ["a\\ufffd"]`: half a letter, which JSON can say and no file can hold, is the sign for a lost one."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole_letters(each) for each in value]
    if isinstance(value, dict):
        return {whole_letters(name): whole_letters(each) for name, each in value.items()}
    return value


def whole_text(answer: Answer) -> str:
    """`whole_text(Answer(" Paris. ", "stop", usage)) == "Paris."`; raises `Unusable` for one that is empty or was cut off."""
    if answer.finish not in ("stop", "eos", "end_turn"):
        raise Unusable(f"the answer ended by '{answer.finish}' before it was whole")
    if not (text := answer.content.strip()):
        raise Unusable("the answer is empty")
    return text


def read_list(answer: Answer, count: int) -> list[str]:
    """`read_list(Answer("1. Food\\n2. 1984", ...), 2) == ["Food", "1984"]`: the first `count` different items.

    Read as JSON (a list, or an object that holds one), else line by line where lines are marked as items. Raises `Unusable` for fewer
    items than `count`; equal ones count once.
    """
    text = whole_text(answer)
    items = list(dict.fromkeys(_listed(text)))
    if len(items) < count:
        raise Unusable(f"{len(items)} different items, {count} were asked for")
    return items[:count]


def read_object(answer: Answer, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The first object in the answer that fits the schema, with numbers and booleans read from text where the schema wants them.

    Raises `Unusable` with what is wrong with the last one that was found.
    """
    wrong = "there is no JSON object in the answer"
    for value in _values(whole_text(answer)):
        if isinstance(value, dict):
            fitted = _fitted(value, schema)
            if (found := problem(fitted, schema)) is None:
                return fitted
            wrong = found
    raise Unusable(wrong)


def _listed(text: str) -> list[str]:
    lines = [match[1] for match in map(ITEM.match, next(iter(FENCE.findall(text)), text).splitlines()) if match]
    for value in _values(text) if JSON_LINE.search(text) or not lines else ():
        inner = next((each for each in value.values() if isinstance(each, list)), None) if isinstance(value, dict) else value
        if isinstance(inner, list):
            return [word for each in inner if (word := _words(each))]
    return [word for line in lines if (word := _words(line))]


def _words(item: Any) -> str:
    """An item as text; an object with one text in it is that text, as models write `{"topic": "Food"}`."""
    if isinstance(item, dict):
        return _words(next(iter(item.values()))) if len(item) == 1 else ""
    if isinstance(item, list) or item is None:
        return ""
    text = " ".join(item.split()) if isinstance(item, str) else json.dumps(item)
    bare = EMPHASIS.match(text)
    return bare[2].strip() if bare else text


def _values(text: str) -> Iterator[Any]:
    """Every JSON list or object: what stands in fences first, then what begins at a bracket."""
    for part in (*FENCE.findall(text), text):
        start = 0
        while (start := _bracket(part, start)) >= 0:
            end, value = _decoded(part, start)
            if end:
                yield value
            start = end or start + 1


def _bracket(text: str, start: int) -> int:
    found = re.compile(r"[\[{]").search(text, start)
    return found.start() if found else -1


def _decoded(text: str, start: int) -> tuple[int, Any]:
    """The value that begins there and where it ends; 0 when none does, or one that is nested deeper than anybody asked for.

    Repaired: trailing commas, Python's quotes and words.
    """
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, start)
        return end, whole_letters(value)
    except RecursionError:  # models that repeat themselves write [[[[[...
        return 0, None
    except ValueError:
        end = _closing(text, start)
    for read in (lambda part: json.loads(TRAILING_COMMA.sub(r"\1", part), strict=False), ast.literal_eval):
        try:
            value = whole_letters(read(text[start:end]))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict | list):
            return end, value
    return 0, None


def _closing(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`; brackets inside double quotes do not count."""
    depth, quoted, escaped = 0, False, False
    for place in range(start, len(text)):
        letter = text[place]
        if escaped or letter == "\\":
            escaped = not escaped
        elif letter == '"':
            quoted = not quoted
        elif not quoted:
            depth += (letter in "[{") - (letter in "]}")
            if not depth:
                return place + 1
    return start


def _fitted(value: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and booleans that came as text, and numbers where text was asked for, become what the schema says they are."""
    properties = schema.get("properties", {})
    return {name: _as(each, properties.get(name, {}).get("type")) for name, each in value.items()}


def _as(value: Any, kind: Any) -> Any:
    if kind == "string" and isinstance(value, int | float):
        return json.dumps(value)
    if kind in ("integer", "number", "boolean") and isinstance(value, str):
        try:
            read = json.loads(value.strip().lower())
        except ValueError:
            return value
        return read if isinstance(read, int | float) else value
    return value
