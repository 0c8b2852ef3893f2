"""Every checker of IFEval with answers that follow and answers that do not; the arguments are those of its files."""

import inspect

import pytest

from amaru.errors import DataError
from amaru.instructions import CHECKS, check_of, instructions_of

CASES = {
    "keywords:existence": [
        ({"keywords": ["Rose", "thorn"]}, ["a ROSE has thorns"], ["a rose", "thorn"]),
    ],
    "keywords:frequency": [
        ({"keyword": "rose", "relation": "at least", "frequency": 2}, ["a Rose is a rose", "primroses and roses"], ["a rose"]),
        ({"keyword": "rose", "relation": "less than", "frequency": 2}, ["a rose", "none"], ["rose rose"]),
    ],
    "keywords:forbidden_words": [
        ({"forbidden_words": ["bad", "can"]}, ["badly", "a candle"], ["it is BAD.", "I can"]),
    ],
    "keywords:letter_frequency": [
        ({"letter": "E", "let_relation": "at least", "let_frequency": 3}, ["Eve sees"], ["eve"]),
        ({"letter": "!", "let_relation": "less than", "let_frequency": 1}, ["calm"], ["oh!"]),
    ],
    "language:response_language": [
        ({"language": "de"}, ["Das ist nicht der Weg, den wir gehen.", "12 + 5"], ["This is not the way.", "Это не тот путь."]),
    ],
    "length_constraints:number_sentences": [
        (
            {"relation": "at least", "num_sentences": 3},
            ["One. Two! Three?", "Mr. A. Smith came. He sat. “Why?” Yes"],
            ["One. Two e.g. this one."],
        ),
        ({"relation": "less than", "num_sentences": 2}, ["1. First of a list\n2. Second", "It costs 3.5 million"], ["One. Two."]),
    ],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, ["one\n***\ntwo", "***\none\n\n***\ntwo\n***"], ["one", "one *** *** two", "one *** two *** three"]),
    ],
    "length_constraints:number_words": [
        ({"relation": "at least", "num_words": 4}, ["one two three four", "don't do that"], ["one two three"]),
        ({"relation": "less than", "num_words": 3}, ["one two"], ["one two three"]),
    ],
    "length_constraints:nth_paragraph_first_word": [
        (
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "firms"},
            ["a\n\nFirms, all", 'a\n\n"Firms" b'],
            ["a\n\nfirm b", "firms\n\na", "a\n\nfirms\n\nc", "firms"],
        ),
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, ["[name], of [town]", "[a][b][c]"], ["[name]", "(a) (b)"]),
    ],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, ["bye\nP.S. more", "bye p. s. more"], ["bye PS more"]),
        ({"postscript_marker": "P.P.S"}, ["P.P.S more", "p. p. s"], ["P.S. more"]),
    ],
    "detectable_format:number_bullet_lists": [
        ({"num_bullets": 2}, ["* a\n* b", "- a\n  - b", "* a\n- b\n**c**"], ["* a", "* a\n* b\n* c"]),
    ],
    "detectable_format:constrained_response": [
        ({}, ["My answer is no.", "So: My answer is maybe."], ["my answer is yes", "No."]),
    ],
    "detectable_format:number_highlighted_sections": [
        ({"num_highlights": 2}, ["*a* and *b*", "**a** and *b*"], ["*a*", "* * *b*", "*a\nb* c"]),
    ],
    "detectable_format:multiple_sections": [
        ({"section_spliter": "Section", "num_sections": 2}, ["Section 1\na\nSection 2\nb"], ["Section 1 a", "Section one Section two"]),
    ],
    "detectable_format:json_format": [
        ({}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "```\n[]\n```"], ["{'a': 1}", 'Here: {"a": 1}']),
    ],
    "detectable_format:title": [
        ({}, ["<<A day>>\nText"], ["<A day>", "<< >>", "<<a\nb>>"]),
    ],
    "combination:two_responses": [
        ({}, ["one\n******\ntwo", "******one******two"], ["one", "one******one", "a******b******c", "a************b"]),
    ],
    "combination:repeat_prompt": [
        ({"prompt_to_repeat": "Say it."}, ["say IT. Done"], ["I say it."]),
    ],
    "startend:end_checker": [
        ({"end_phrase": "The end."}, ["so, the END. ", '"the end."'], ["The end. Really"]),
    ],
    "startend:quotation": [
        ({}, [' "all of it" '], ['"all" of it', '"', "'all'"]),
    ],
    "change_case:capital_word_frequency": [
        ({"capital_relation": "at least", "capital_frequency": 2}, ["NASA and ESA", "WELL-KNOWN IDEA"], ["NASA and Esa"]),
        ({"capital_relation": "less than", "capital_frequency": 1}, ["none"], ["ONE"]),
    ],
    "change_case:english_capital": [
        ({}, ["THIS IS THE WAY!"], ["THIS is", "DAS IST NICHT DER WEG"]),
    ],
    "change_case:english_lowercase": [
        ({}, ["this is the way"], ["This is the way", "das ist nicht der weg"]),
    ],
    "punctuation:no_comma": [
        ({}, ["one and two"], ["one, two"]),
    ],
}


def test_every_checker_has_cases() -> None:
    assert CASES.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", CASES)
def test_those_that_follow_pass_and_the_others_do_not(name: str) -> None:
    for arguments, following, failing in CASES[name]:
        check = check_of(name, arguments)
        assert [text for text in following if not check(text)] == []
        assert [text for text in failing if check(text)] == []


def test_arguments_of_the_hub_have_every_name_and_none_for_most() -> None:
    hub = dict.fromkeys(("num_words", "relation", "keyword", "letter"), None) | {"num_words": 2.0, "relation": "at least"}
    assert check_of("length_constraints:number_words", hub)("two words")


def test_what_is_unknown_is_said() -> None:
    with pytest.raises(ValueError, match="not one of IFEval's 25"):
        check_of("poetry:rhyme", {})
    with pytest.raises(ValueError, match="takes num_words, relation"):
        check_of("length_constraints:number_words", {"num_words": 3})
    with pytest.raises(ValueError, match=r"counts in whole numbers; got 2\.5"):
        check_of("length_constraints:number_words", {"num_words": 2.5, "relation": "at least"})
    with pytest.raises(DataError, match="at least"):
        check_of("length_constraints:number_words", {"num_words": 3, "relation": "more than"})("text")


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("length_constraints:number_words", {"num_words": 3, "relation": "more than"}, "compares by"),
        ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}, "cannot be checked with {'num_words': '3'"),
        ("keywords:frequency", {"keyword": 3, "relation": "at least", "frequency": 1}, "cannot be checked with"),
        ("keywords:existence", 3, "each set of arguments must be an object"),
    ],
)
def test_arguments_that_nothing_can_be_checked_by_are_told_where_a_row_is_read(kind, arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        instructions_of({"instruction_id_list": [kind], "kwargs": [arguments]})


def test_arguments_are_named_as_in_the_files() -> None:
    assert all(next(iter(inspect.signature(check).parameters)) == "text" for check in CHECKS.values())
