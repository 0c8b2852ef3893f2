"""Probes are as long as asked for, hide what they ask for where they say, and are answered by whoever reads them."""

import re
from random import Random

import pytest
from tests.eval.small import small_subject

from amaru.errors import ConfigError
from amaru.eval.long_context.grid import Place, ProbeTask
from amaru.eval.long_context.probes import PROBES, key_value, passkey, share_found
from amaru.eval.task import measure


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("length", [4000, 9000])
def test_prompt_and_answer_fill_the_length(name: str, length: int) -> None:
    tokenizer = small_subject().tokenizer
    task = ProbeTask(name, (length,), (0.5,), 1)
    made = task.made(Place(length, 0.5, 0), tokenizer)
    tokens = len(tokenizer.encode(made.prompt)) + made.max_tokens
    assert 0.9 * length < tokens <= length
    assert task.made(Place(length, 0.5, 0), tokenizer) == made != task.made(Place(length, 0.5, 1), tokenizer)
    if name != "variables":  # whose later names stand in the text as well, but their value must be followed
        assert share_found(made.prompt, made.answers) == 1
    assert share_found("", made.answers) == 0


@pytest.mark.parametrize("depth", [0.0, 0.25, 1.0])
def test_what_is_hidden_lies_at_its_depth(depth: float) -> None:
    made = passkey(Random(1), 400, depth)
    body = made.prompt.split("\n\n")[1]
    assert body.index("The pass key is") / len(body) == pytest.approx(depth, abs=0.03)
    pairs = re.findall(r'"([-\w]+)": "([-\w]+)"', (made := key_value(Random(1), 400, depth)).prompt)
    (place,) = [index for index, (_, value) in enumerate(pairs) if value == made.answers[0]]
    assert place == round(400 * depth) and f'Key: "{pairs[place][0]}"' in made.prompt


def test_needles_and_variables_and_words_can_be_found_by_rule() -> None:
    made = PROBES["needles"].make(Random(3), 200, 0.0)
    city = re.findall(r"What are all 4 numbers of (\w+)\?", made.prompt)[0]
    assert set(re.findall(rf"One of the numbers of {city} is (\d+)\.", made.prompt)) == set(made.answers)
    made = PROBES["variables"].make(Random(3), 200, 0.0)
    held = {}
    for name, value in re.findall(r"(VAR_\w+) = (\w+)\.", made.prompt):
        held[name] = held.get(value, value)  # in the order of the text
    asked = re.findall(r"have the value (\d+)\?", made.prompt)[0]
    assert [name for name, value in held.items() if value == asked] == list(made.answers)
    made = PROBES["common-words"].make(Random(3), 50, 0.0)
    words = made.prompt.split("\n\n")[1].split()
    assert sorted(set(words), key=words.count)[-10:] and {word for word in words if words.count(word) == 30} == set(made.answers)


def test_shares_count_whole_words() -> None:
    assert share_found("1234567 and 76543210.", ("1234567", "7654321")) == 0.5


def test_a_grid_has_a_cell_for_each_length_and_depth() -> None:
    task = ProbeTask("passkey", (400, 500), (0.0, 1.0), 2)
    result = measure(task, small_subject())
    assert len(result.items) == len(task) == 8
    assert list(result.cells) == ["400 0.00", "400 1.00", "500 0.00", "500 1.00"]
    assert all(cell.count == 2 for cell in result.cells.values())
    assert len(ProbeTask("variables", (400, 500), (0.0, 1.0), 2)) == 4


def test_a_length_that_is_too_short_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="takes at least"):
        measure(ProbeTask("common-words", (100,), (0.0,), 1), small_subject())
    with pytest.raises(ConfigError, match="no probe 'needle'"):
        ProbeTask("needle", (100,), (0.0,), 1)
