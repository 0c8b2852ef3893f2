"""Surviving rows against loops that spell out every index, and the algebra's own laws."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.axes import Axis, Layout, keep, parse, part, shard, size, surviving_rows
from amaru.errors import ConfigError

AXES = {
    axis.name: axis
    for axis in (
        Axis(name="group", size=3),
        Axis(name="head", size=4, parents=("group",)),
        Axis(name="channel", size=2, parents=("group", "head")),
        Axis(name="state", size=5, parents=("group",)),
        Axis(name="tap", size=4, fixed=True),
    )
}
IN_PROJ = parse("z: group head channel | x: group head channel | B: group state | dt: group head")


def spelled_out(selections):
    """The rows of IN_PROJ by explicit loops over every kept index."""

    def kept(name, *outer):
        if name not in selections:
            return range(AXES[name].size)
        indices = selections[name].indices
        return indices if indices.ndim == 1 else indices[outer]

    heads = [(g, h) for g in kept("group") for h in kept("head", g)]
    inner = [(g * 4 + h) * 2 + c for g, h in heads for c in kept("channel", g, h)]
    states = [g * 5 + n for g in kept("group") for n in kept("state", g)]
    return [*inner, *(24 + row for row in inner), *(48 + row for row in states), *(63 + g * 4 + h for g, h in heads)]


def random_selections(rng):
    counts = {name: rng.integers(1, AXES[name].size + 1) for name in ("group", "head", "channel", "state")}
    selections = {}
    for name, count in counts.items():
        axis = AXES[name]
        outer = tuple(AXES[parent].size for parent in axis.parents)
        shared = rng.random() < 0.3
        lists = [rng.permutation(axis.size)[:count] for _ in range(1 if shared else int(np.prod(outer)))]
        selections[name] = keep(axis, lists[0] if shared else np.reshape(lists, (*outer, count)), AXES)
    return selections


@given(st.integers(0, 2**32 - 1))
def test_surviving_rows_equal_explicit_loops(seed):
    selections = random_selections(np.random.default_rng(seed))
    assert surviving_rows(IN_PROJ, AXES, selections).tolist() == spelled_out(selections)


def test_nothing_selected_keeps_everything():
    assert surviving_rows(IN_PROJ, AXES, {}).tolist() == list(range(size(IN_PROJ, AXES)))


def test_parts_inside_a_product_as_megatron_fuses_qkv():
    axes = {"kv": Axis(name="kv", size=2), "q": Axis(name="q", size=2, parents=("kv",)), "d": Axis(name="d", size=3)}
    fused = parse("kv (q: q d | k: d | v: d)")
    assert size(fused, axes) == 2 * (6 + 3 + 3)
    rows = surviving_rows(fused, axes, {"q": keep(axes["q"], [[1], [0]], axes)})
    expected = [3, 4, 5, 6, 7, 8, 9, 10, 11] + [12 + r for r in (0, 1, 2, 6, 7, 8, 9, 10, 11)]
    assert rows.tolist() == expected


def test_part_finds_rows_and_expression():
    rows, inner = part(IN_PROJ, "B", AXES)
    assert (rows, str(inner)) == (slice(48, 63), "group x state")


def test_shards_of_every_part_make_up_the_whole():
    rows = [surviving_rows(IN_PROJ, AXES, {"group": shard(AXES["group"], rank, 3)}) for rank in range(3)]
    assert sorted(itertools.chain(*rows)) == list(range(size(IN_PROJ, AXES)))
    with pytest.raises(ConfigError, match="3 indices, which 2 processes cannot share"):
        shard(AXES["group"], 0, 2)


def test_layout_shape_and_text():
    layout = Layout.of("group head", "tap")
    assert layout.shape(AXES) == (12, 4) and layout.numel(AXES) == 48
    assert str(layout) == "[group x head] [tap]"
    assert layout.surviving(AXES, {}) == (None, None)


@pytest.mark.parametrize(
    ("axis", "indices", "sentence"),
    [
        ("head", [], "at least one of its 4"),
        ("head", [4], "indices 0 to 3"),
        ("head", [1, 1], "keeps an index twice"),
        ("head", [[0], [1]], r"\[kept\] or \[3, kept\]"),
        ("head", [[0], [1, 2], [3]], "equally many"),
        ("tap", [0, 1, 2], "is fixed"),
        ("tap", [1, 0, 2, 3], "is fixed"),
    ],
)
def test_wrong_selections_are_refused(axis, indices, sentence):
    with pytest.raises(ConfigError, match=sentence):
        keep(AXES[axis], indices, AXES)


@pytest.mark.parametrize("text", ["", "a |", "(a", "a: b | c", "a - b"])
def test_wrong_expressions_are_refused(text):
    with pytest.raises((ValueError, IndexError)):
        parse(text)
