"""Near duplicates against the similarity of all pairs, computed with Python's sets."""

import random

import numpy as np
import pytest

from amaru.data.near_duplicates import NearDuplicates, chance, normal, shingles, signature


def likeness(left, right):
    """Jaccard similarity of the sets of five characters."""
    sets = [{text[first : first + 5] for first in range(max(1, len(text) - 4))} for text in (normal(left), normal(right))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def texts():
    """Some are copies of an earlier one with a few words exchanged."""
    stems, ends = ("stone", "river", "cloud", "llama", "snake"), ("ly", "ing", "", "s", "ed", "er")
    draw, words = random.Random(0), [f"{stem}{end}" for stem in stems for end in ends]
    found = [" ".join(draw.choices(words, k=30)) for _ in range(40)]
    for _ in range(120):
        copy = draw.choice(found).split()
        for place in draw.sample(range(len(copy)), draw.randrange(5)):
            copy[place] = draw.choice(words)
        found.append(" ".join(copy))
    return found


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_the_rows_that_stay_are_those_of_comparing_all_pairs(threshold):
    kept: list[str] = []
    duplicates = NearDuplicates(threshold)
    copies = 0
    for text in texts():
        found = duplicates.add(text, text)
        closest = max((likeness(text, other) for other in kept), default=0.0)
        assert (found is not None) == (closest >= threshold)
        if found is None:
            kept.append(text)
        else:
            copies += 1
            assert found.similarity == pytest.approx(closest) and likeness(text, found.name) == found.similarity
    assert 20 < copies < 120  # neither none nor all


def test_a_signature_agrees_as_often_as_two_texts_are_alike():
    left, right = " ".join(map(str, range(400))), " ".join(map(str, range(100, 500)))
    agree = np.mean(signature(shingles(left)) == signature(shingles(right)))
    assert agree == pytest.approx(likeness(left, right), abs=3 * (0.25 / 128) ** 0.5)  # three standard deviations of a mean of 128


def test_bands_compare_as_many_pairs_as_the_formula_says():
    draw = random.Random(1)
    found, pairs = 0, 300
    for _ in range(pairs):
        left = "".join(draw.choices("abcdefghij", k=120))
        right = left[:84] + "".join(draw.choices("abcdefghij", k=36))
        duplicates = NearDuplicates(0.01, bands=8)
        duplicates.add("left", left)
        found += duplicates.add("right", right) is not None
    assert found / pairs == pytest.approx(chance(80 / 152, 8), abs=0.02)  # 80 runs of five are in both, 72 in the two others
    assert chance(0.8, 32) > 0.9999999


def test_case_blanks_and_punctuation_make_no_difference_and_short_texts_are_compared_whole():
    duplicates = NearDuplicates(0.9)
    assert duplicates.add("a", "What is  a Llama?") is None
    assert duplicates.add("b", "what is a llama").name == "a"
    assert duplicates.add("c", "no") is None and duplicates.add("d", "yes") is None and duplicates.add("e", "No!").name == "c"
    assert duplicates.add("f", "") is None and duplicates.add("g", "...") == ("f", 1.0)
