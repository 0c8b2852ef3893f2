"""Other orders of the same rows, against loops that spell them out, and there and back on drawn declarations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.axes import Axis, parse, part_rows, repack, size
from amaru.axes.expression import Concat, Leaf, Product

AXES = {
    axis.name: axis
    for axis in (
        Axis(name="kv", size=3),
        Axis(name="query", size=2, parents=("kv",)),
        Axis(name="channel", size=4),
        Axis(name="wide", size=5),
        Axis(name="half", size=2),
        Axis(name="pair", size=2),
    )
}
OURS = parse("q: kv query channel | k: kv channel | v: kv wide")
FUSED = parse("kv (q: query channel | k: channel | v: wide)")


def fused_by_hand(q, k, v):
    return np.concatenate([row for kv in range(3) for row in (q[kv * 8 : kv * 8 + 8], k[kv * 4 : kv * 4 + 4], v[kv * 5 : kv * 5 + 5])])


def test_fused_qkv_is_group_by_group():
    q, k, v = np.arange(24), np.arange(100, 112), np.arange(200, 215)
    ours, fused = np.concatenate([q, k, v]), fused_by_hand(q, k, v)
    assert ours[repack(OURS, FUSED, AXES)].tolist() == fused.tolist()
    assert fused[repack(FUSED, OURS, AXES)].tolist() == ours.tolist()


def test_rows_of_a_part_inside_a_product():
    fused = fused_by_hand(np.arange(24), np.full(12, -1), np.full(15, -2))
    assert fused[part_rows(FUSED, "q", AXES)].tolist() == list(range(24))
    assert set(fused[part_rows(FUSED, "v", AXES)]) == {-2}


def test_a_part_alone_and_an_order_of_leaves():
    assert repack(OURS, parse("k: channel kv"), AXES).tolist() == [24 + kv * 4 + channel for channel in range(4) for kv in range(3)]
    assert repack(parse("kv half pair"), parse("kv pair half"), AXES).reshape(3, 4)[1].tolist() == [4, 6, 5, 7]


def test_declarations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="has no part 'x'"):
        repack(OURS, parse("x: kv"), AXES)
    with pytest.raises(ValueError, match="differ in the axes of part 'k'"):
        repack(OURS, parse("k: kv wide"), AXES)


def shuffled(rng, leaves):
    order = [Leaf(leaves[place]) for place in rng.permutation(len(leaves))]
    return order[0] if len(order) == 1 else Product(tuple(order))


def drawn(rng, parts):
    """The parts in a drawn order, each with its leaves in a drawn order; axes that all share may stand before the parenthesis."""
    names = [str(name) for name in rng.permutation(list(parts))]
    shared = [axis for axis in AXES if all(axis in leaves for leaves in parts.values())]
    outer = [axis for axis in shared if all(len(leaves) > 1 for leaves in parts.values()) and rng.random() < 0.7][:1]
    inner = Concat(tuple(names), tuple(shuffled(rng, [leaf for leaf in parts[name] if leaf not in outer]) for name in names))
    return Product((Leaf(outer[0]), inner)) if outer else inner


@given(st.integers(0, 2**32 - 1))
def test_there_and_back_is_exact(seed):
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c"][: rng.integers(1, 4)]
    parts = {name: [str(axis) for axis in rng.choice(list(AXES), size=rng.integers(1, 5), replace=False)] for name in names}
    one, other = drawn(rng, parts), drawn(rng, parts)
    rows = rng.integers(0, 2**40, size(one, AXES))
    moved = rows[repack(one, other, AXES)]
    assert sorted(moved) == sorted(rows)
    assert moved[repack(other, one, AXES)].tolist() == rows.tolist()
    for name in names:
        assert sorted(moved[part_rows(other, name, AXES)]) == sorted(rows[part_rows(one, name, AXES)])
