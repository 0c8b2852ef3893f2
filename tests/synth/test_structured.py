"""What models really write, and what must be read out of it; the schema's checks against jsonschema-rs."""

import json

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.errors import ConfigError
from amaru.synth.budget import Usage
from amaru.synth.call import Answer
from amaru.synth.schema import check_schema, list_schema, problem
from amaru.synth.structured import Unusable, read_list, read_object


def answer(text, finish="stop"):
    return Answer(text, finish, Usage())


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('{"items": ["Food", "Work"]}', ["Food", "Work"]),
        ('["Food", "Work"]', ["Food", "Work"]),
        ('```json\n{"items": ["Food", "Work"]}\n```', ["Food", "Work"]),
        ('Sure!\n\n```\n["Food",\n "Work",]\n```\nMore?', ["Food", "Work"]),
        ("{'topics': ['Food', \"Children's books\"]}", ["Food", "Children's books"]),
        ("1. Food\n2. Work", ["Food", "Work"]),
        ("Here they are:\n\n1) **Food**\n2) Work: and play", ["Food", "Work: and play"]),
        ("- 1984\n- Yes", ["1984", "Yes"]),
        ("[1984, true]", ["1984", "true"]),
        ("[1] Food\n[2] Work", ["Food", "Work"]),
        ("```\n* Food\n* Work\n```", ["Food", "Work"]),
        ('{"items": [{"topic": "Food"}, {"topic": "Work"}]}', ["Food", "Work"]),
        ('["a  b", "c\nd"]', ["a b", "c d"]),
        ('The list [see below] is: ["Food", "Work"]', ["Food", "Work"]),
        ("- Use a[0] first\n- Then {x}", ["Use a[0] first", "Then {x}"]),
    ],
)
def test_lists_as_models_write_them(text, items):
    assert read_list(answer(text), 2) == items


@pytest.mark.parametrize(
    ("text", "finish", "words"),
    [
        ('["Food"]', "stop", "1 different items, 2 were asked for"),
        ('["Food", "Food"]', "stop", "1 different items, 2"),
        ('["Food", ""]', "stop", "1 different items, 2"),
        ("Food and work", "stop", "0 different items"),
        ('{"items": ["Food", "Wo', "stop", "0 different items"),
        ('["Food", "Work"]', "length", "ended by 'length'"),
        (" ", "stop", "empty"),
        ("[" * 3000, "stop", "0 different items"),
        ("[" * 900 + "]" * 900, "stop", "0 different items"),
    ],
)
def test_fewer_items_than_asked_are_never_accepted(text, finish, words):
    with pytest.raises(Unusable, match=words):
        read_list(answer(text, finish), 2)


def test_more_items_than_asked_are_cut_to_the_first():
    assert read_list(answer('["a", "b", "c"]'), 2) == ["a", "b"]


def test_half_a_letter_in_json_is_the_sign_for_a_lost_one():
    assert read_list(answer(r'{"items": ["a\ud83d", "\ud83d\ude00"]}'), 2) == ["a\ufffd", "\U0001f600"]
    assert read_object(answer(r'{"score": 1, "why": "\udc00"}'), SCORE) == {"score": 1, "why": "\ufffd"}


SCORE = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 4}, "why": {"type": "string"}},
    "required": ["score", "why"],
}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 3, "why": "good"}', 3),
        ('I think: {"score": "3", "why": 4}.', 3),
        ('{"score": 9, "why": "x"} no, rather {"score": 2, "why": "{y}"}', 2),
        ("```\n{'score': 1, 'why': 'it\\'s \"bad\"',}\n```", 1),
    ],
)
def test_objects_as_models_write_them(text, score):
    assert read_object(answer(text), SCORE)["score"] == score


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"score": 3}', "lacks why"),
        ('{"score": 7, "why": ""}', "score is 7, more than 4"),
        ('{"score": "high", "why": ""}', "not of type integer"),
        ("[3]", "no JSON object"),
    ],
)
def test_objects_that_do_not_fit_are_refused_with_what_is_wrong(text, words):
    with pytest.raises(Unusable, match=words):
        read_object(answer(text), SCORE)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 2.0]) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
bounds = st.integers(0, 3)
leaves = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null", ["string", "null"]]),
        "enum": st.lists(values, min_size=1, max_size=3),
        "required": st.lists(st.sampled_from("xyz"), unique=True),
        "additionalProperties": st.booleans(),
        **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum"), bounds),
    },
)
schemas = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda leaf, items, properties: {**leaf, "items": items, "properties": properties},
        leaves, inner, st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(schemas, values)
def test_a_value_fits_where_jsonschema_says_so(schema, value):
    check_schema(schema)
    assert (problem(value, schema) is None) == jsonschema_rs.is_valid(schema, value)


def test_keywords_that_are_not_checked_are_refused():
    with pytest.raises(ConfigError, match="pattern, which answers are not checked for"):
        check_schema({"properties": {"a": {"pattern": "x"}}})
    check_schema(json.loads(json.dumps(list_schema(3))))


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("minimum", "3", "a number; it is '3'"),
        ("maxItems", 2.5, "a whole number from 0"),
        ("required", "score", "a list of names"),
        ("enum", [], "a list with values"),
        ("type", 5, "a name or a list of names"),
        ("properties", ["a"], "a mapping of names"),
        ("additionalProperties", {}, "true or false"),
    ],
)
def test_values_of_keywords_that_nothing_can_be_held_to_are_refused(keyword, value, words):
    with pytest.raises(ConfigError, match=f"schema.a: {keyword} must be {words}"):
        check_schema({"type": "object", "properties": {"a": {keyword: value}}})
