"""Drawn instructions: the same for a seed, possible together, said with all that is asked, and kept as IFEval keeps them."""

import itertools
import json

import pytest

from amaru.errors import ConfigError
from amaru.instructions import (
    CHECKS,
    FURTHER,
    KINDS,
    WORDINGS,
    Instruction,
    asked,
    asked_from_now_on,
    asked_to_revise,
    draw,
    follows,
    instructions_of,
    record_of,
    share,
    together,
)
from amaru.instructions.drawing import CLAIMS, PARTNERS

FOLLOWING = {  # for every further kind, an answer that follows and some that do not
    "length_constraints:exact_words": ({"num_words": 3}, ["one, two three"], ["one two", "one two three four"]),
    "keywords:exact_frequency": ({"keyword": "sea", "frequency": 2}, ["Sea, sea and seas"], ["sea", "sea sea sea"]),
    "startend:first_word": ({"first_word": "sun"}, ['"Sun is up', "sun"], ["sunny", "the sun", "..."]),
    "startend:last_word": ({"last_word": "sun"}, ["under the SUN."], ["the sun is", "..."]),
    "detectable_format:numbered_list": (
        {"num_items": 2},
        ["1. a\n2. b", "Here:\n 1) a\n 2) b"],
        ["1. a", "1. a\n3. b", "2. a\n1. b", "1. a\n2. b\n3. c"],
    ),
}


@pytest.mark.parametrize("kind", FURTHER)
def test_further_kinds(kind: str) -> None:
    arguments, following, failing = FOLLOWING[kind]
    instruction = Instruction(kind, arguments)
    assert [text for text in following if not instruction.follows(text)] == []
    assert [text for text in failing if instruction.follows(text)] == []


def test_every_kind_can_be_drawn_said_and_checked() -> None:
    assert set(KINDS) == set(CHECKS) | set(FURTHER) == set(WORDINGS) == set(CLAIMS) | set(PARTNERS)
    for kind, seed in itertools.product(KINDS, range(3)):
        (found,) = draw(seed, kinds=[kind], prompt="Say it.")
        assert found.kind == kind and "{" not in found.sentence
        for name, value in found.arguments.items():
            wanted = value if isinstance(value, list) else [] if name == "language" else [str(value)]
            assert all(each in found.sentence for each in wanted)  # nothing is asked for that is not said
        found.follows("some text")  # the checker takes these arguments


def test_a_seed_decides_and_seeds_differ() -> None:
    assert draw(5, 3) == draw(5, 3)
    assert len({str(draw(seed, 2)) for seed in range(50)}) > 45
    assert "combination:repeat_prompt" not in {each.kind for seed in range(300) for each in draw(seed, 2)}


def test_those_drawn_together_decide_different_things() -> None:
    for seed in range(200):
        for one, other in itertools.combinations(draw(seed, 4, prompt="Say it."), 2):
            assert together(one.kind, other.kind) and together(other.kind, one.kind)
    assert not together("change_case:english_capital", "change_case:english_lowercase")
    assert not together("language:response_language", "keywords:existence")
    assert together("punctuation:no_comma", "change_case:english_capital")


def test_one_answer_follows_a_combination() -> None:
    some = (
        Instruction("punctuation:no_comma", {}),
        Instruction("startend:last_word", {"last_word": "end"}),
        Instruction("length_constraints:exact_words", {"num_words": 4}),
    )
    assert follows("this is the end.", some) and share("this is the end", some) == 1
    assert not follows("well, this is the end.", some) and share("well, this is the end", some) == 1 / 3
    assert not follows("Sure:\nthis is the end", some) and follows("Sure:\nthis is the end", some, loose=True)


def test_asking_in_each_kind_of_turn_says_everything() -> None:
    sentences = ["Use no commas.", "Begin with the word sun."]
    for seed in range(8):
        single = asked("Write.", sentences, seed)
        assert sorted(single.replace("Write.", "").split()) == sorted(" ".join(sentences).split()) and "Write." in single
        for text in (asked_from_now_on(sentences, seed), asked_to_revise(sentences, seed)):
            assert " ".join(sentences) in text and len(text) > len(" ".join(sentences)) + 10


def test_records_are_those_of_ifeval() -> None:
    some = draw(3, 2)
    record = json.loads(json.dumps(record_of("Write.", some)))
    assert [(each.kind, each.arguments) for each in instructions_of(record)] == [(each.kind, each.arguments) for each in some]
    with pytest.raises(ValueError, match="1 instructions and 0 sets"):
        instructions_of({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []})


def test_lengths_and_keywords_are_those_given() -> None:
    for seed in range(20):
        (words,) = draw(seed, kinds=["length_constraints:exact_words"], length=(3, 9))
        known, begins, ends = draw(seed, 3, kinds=["keywords:existence", "startend:first_word", "startend:last_word"], keywords="abcdefg")
        used = [word for each in (known, begins, ends) for value in each.arguments.values() for word in value]
        assert 3 <= words.arguments["num_words"] < 9 and set(used) <= set("abcdefg") and len(used) == len(set(used))


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ConfigError, match="no instruction 'poetry:rhyme'"):
        draw(0, kinds=["poetry:rhyme"])
    with pytest.raises(ConfigError, match="1 < low < high"):
        draw(0, length=(5, 5))
    with pytest.raises(ConfigError, match="got 2 keywords"):
        draw(0, keywords=["sun", "sea"])
    assert len(draw(0, 40)) < 12  # as many as go together, and no more
