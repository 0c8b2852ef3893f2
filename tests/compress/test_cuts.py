"""Every axis of every family: what declarations allow leaves outputs alone, what they forbid does not, a cut is the masked model."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compress.families import FAMILIES, family_batch, family_decoder, family_texts, free_axes, random_cut
from tests.compress.formulas import masked_logits

from amaru.axes import Selection, keep_by_position
from amaru.compress import cut_checkpoint, cut_config, cut_decoder
from amaru.models import Decoder, cost
from amaru.models.checkpoint import load, save
from amaru.nn import Attention

AXES = [(family, axis) for family, config in FAMILIES.items() for axis in free_axes(config)]


@torch.no_grad()
def logits(decoder: Decoder, batch=None) -> np.ndarray:
    return decoder(batch or family_batch()).numpy()


def half(axis) -> int:
    return max(axis.least, -(-axis.size // 2))


@pytest.mark.parametrize(("family", "axis"), AXES)
def test_permuting_an_axis_under_its_parents_changes_nothing(family, axis):
    parent = family_decoder(family)
    permutation = random_cut(parent.config, lambda axis: axis.size, [axis])
    student, batch = cut_decoder(parent, permutation), family_batch()
    assert student.config == parent.config
    assert any(not torch.equal(new, old) for new, old in zip(student.parameters(), parent.parameters(), strict=True))
    if axis == "vocab":
        order = permutation.network["vocab"].indices
        renamed = replace(batch, ids=torch.from_numpy(np.argsort(order))[batch.ids])
        assert np.abs(logits(student, renamed) - logits(parent)[:, order]).max() < 1e-10
    else:
        assert np.abs(logits(student) - logits(parent)).max() < 1e-9


def exchanged(axis, axes) -> Selection | None:
    """The last index of the first parent and the first one of the next change places; of a fixed axis all move on by one."""
    places = int(np.prod([axes[parent].size for parent in axis.parents]))
    if axis.fixed:
        return Selection(np.roll(np.arange(axis.size), 1)) if axis.size > 1 else None
    order = np.arange(places * axis.size)
    order[[axis.size - 1, axis.size]] = order[[axis.size, axis.size - 1]]
    return keep_by_position(axis, order.tolist(), axes)


def forced(decoder: Decoder, name: str) -> Decoder:
    """The decoder with what its axes forbid done to one of them in every layer, past all checks."""
    twin = copy.deepcopy(decoder)
    weights = dict(twin.named_parameters())
    for tensor, (spec, axes) in decoder.config.tensors().items():
        if name in spec.layout.axes and (selection := exchanged(axes[name], axes)):
            for dimension, rows in enumerate(spec.layout.surviving(axes, {name: selection})):
                if rows is not None:
                    weights[tensor].data = weights[tensor].data.index_select(dimension, torch.tensor(rows))
    return twin


def forbidden():
    for family, config in FAMILIES.items():
        tensors = config.tensors().values()
        axes = {name: axes[name] for spec, axes in tensors for name in sorted(spec.layout.axes)}
        for name, axis in axes.items():
            places = int(np.prod([next(axes[p].size for _, axes in tensors if p in axes and name in axes) for p in axis.parents]))
            if (axis.fixed and axis.size > 1) or (axis.parents and places > 1):
                yield family, name


@pytest.mark.parametrize(("family", "axis"), list(forbidden()))
def test_what_an_axis_forbids_changes_the_function(family, axis):
    parent = family_decoder(family)
    assert np.abs(logits(forced(parent, axis)) - logits(parent)).max() > 1e-3


def narrowing(family, axis):
    """The axis, and what a layer makes go with it; None where some layer of the family cannot be narrowed there at all."""
    layers = [layer for layer in FAMILIES[family].layers if axis in layer.axes()]
    if axis in ("qk_channel", "v_channel") and any(isinstance(layer, Attention) for layer in layers):
        return None if any(layer.axes()["qk_channel"].fixed for layer in layers) else ["qk_channel", "v_channel"]
    return [axis]


CUTS = [(family, "+".join(names)) for family, axis in AXES if (names := narrowing(family, axis)) and axis == names[0]]


@pytest.mark.parametrize(("family", "axes"), [*CUTS, *((family, "all") for family in FAMILIES)])
def test_a_cut_is_the_masked_model_with_every_mean_over_what_stays(family, axes):
    parent = family_decoder(family)
    every = {name for _, cut in [case for case in CUTS if case[0] == family] for name in cut.split("+")}
    names = sorted(every) if axes == "all" else axes.split("+")
    cut = random_cut(parent.config, half, names, drop=(1,) if axes == "all" else ())
    batch, texts = family_batch(), [text.numpy() for text in family_texts()]
    if "vocab" in names:
        left = cut.network["vocab"].indices
        texts = [left[text % len(left)] for text in texts]
        batch = replace(batch, ids=batch.ids % len(left))
    student = cut_decoder(parent, cut)
    assert np.abs(logits(student, batch) - masked_logits(parent, cut, texts)).max() < 1e-9
    assert sum(weight.numel() for weight in student.parameters()) == cost.parameters(cut_config(parent.config, cut))
    assert cost.parameters(student.config) < cost.parameters(parent.config)


def test_the_formulas_are_the_models_where_nothing_is_cut():
    for family in FAMILIES:
        parent = family_decoder(family)
        whole = random_cut(parent.config, lambda axis: axis.size, [])
        assert np.abs(logits(parent) - masked_logits(parent, whole, [text.numpy() for text in family_texts()])).max() < 1e-9, family


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_cut_on_disk_as_in_memory(tmp_path, family):
    parent = family_decoder(family)
    save(parent, tmp_path / "parent")
    names = sorted({name for _, axes in [case for case in CUTS if case[0] == family] for name in axes.split("+")})
    cut = random_cut(parent.config, half, names, drop=(1,))
    cut_checkpoint(tmp_path / "parent", cut, tmp_path / "student")
    written, student = load(tmp_path / "student"), cut_decoder(parent, cut)
    assert written.config == student.config
    assert all(torch.equal(one, other) for one, other in zip(written.parameters(), student.parameters(), strict=True))
