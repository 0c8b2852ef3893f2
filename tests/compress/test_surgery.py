"""What a cut leaves by name and number, from memory and from disk; the published shapes; what is refused. Laws are in test_cuts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compress.families import random_cut
from tests.compress.formulas import masked_logits
from tests.compress.oracles import small_batch, small_config, small_decoder

from amaru.axes import Axis, Selection, keep
from amaru.compress import Cut, Surgery, cut_checkpoint, cut_config, cut_decoder
from amaru.errors import ConfigError
from amaru.models import Decoder, DecoderConfig, cost
from amaru.models.checkpoint import load, save
from amaru.models.families import presets
from amaru.nn import MLP, Mamba2
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.layer import tensor
from amaru.nn.mamba2 import CONV_ROWS
from amaru.nn.rope import Rope

KEPT = {"hidden": 13, "head": 2, "channel": 3, "ffn": 5}


def difference(one, other, batch):
    with torch.no_grad():
        return (one(batch) - other(batch)).abs().max().item()


class Ungrouped(Mamba2):
    """A wrong declaration: heads that belong to no group."""

    def axes(self):
        head = Axis(name="head", size=self.heads)
        return super().axes() | {"head": head, "channel": Axis(name="channel", size=self.channels, parents=("head",))}

    def tensors(self):
        flat = {
            "in_proj.weight": tensor(f"z: head channel | {CONV_ROWS} | dt: head".replace("group head", "head"), "hidden"),
            "conv1d.weight": tensor(CONV_ROWS.replace("group head", "head"), "unit", "tap"),
            "conv1d.bias": tensor(CONV_ROWS.replace("group head", "head")),
            "norm.weight": tensor("head channel"),
            "out_proj.weight": tensor("hidden", "head channel"),
        }
        return super().tensors() | {name: tensor("head") for name in ("A_log", "D", "dt_bias")} | flat

    def resized(self, sizes):
        return super().resized(sizes | {"head": sizes["head"] // sizes["group"]})


@pytest.mark.parametrize(("order", "allowed"), [([2, 0, 1, 3, 5, 4], True), ([3, 1, 2, 0, 4, 5], False)])
def test_a_layer_that_forgets_its_groups_fails_the_law(order, allowed):
    parent = small_decoder("M")
    old = parent.config.layers[0]
    wrong = Ungrouped(heads=old.heads, channels=old.channels, groups=old.groups, state=old.state, chunk_size=old.chunk_size)
    config = replace(parent.config, layers=(wrong,))
    cut = Cut((0,), {}, {0: {"head": keep(wrong.axes()["head"], order, wrong.axes())}})
    read = Surgery(config, cut).reader(lambda name: dict(parent.named_parameters())[name].detach())
    twin = small_decoder("M")
    twin.load_state_dict({name: read(name) for name in config.tensors()})
    assert (difference(parent, twin, small_batch()) < 1e-9) is allowed


def test_channels_shared_by_all_heads():
    parent = small_decoder()
    axes = parent.config.layers[0].axes()
    cut = Cut((0, 1, 2, 3, 4), within={layer: {"channel": keep(axes["channel"], [3, 0, 1], axes)} for layer in (0, 3)})
    expected = torch.from_numpy(masked_logits(parent, cut, [ids.numpy() for ids in small_batch().ids.split([9, 14])]))
    torch.testing.assert_close(cut_decoder(parent, cut)(small_batch()), expected, atol=1e-9, rtol=0)


def test_every_sliced_shape_by_name():
    parent = small_decoder()
    cut = random_cut(parent.config, lambda axis: KEPT[axis.name], list(KEPT), drop=(3, 4))
    shapes = {name: tuple(weight.shape) for name, weight in cut_decoder(parent, cut).named_parameters()}
    assert shapes == {
        "embedding.weight": (31, 13),
        "layers.0.norm.weight": (13,),
        "layers.0.mixer.in_proj.weight": (2 * 12 + 2 * 10 + 4, 13),
        "layers.0.mixer.conv1d.weight": (12 + 2 * 10, 1, 4),
        "layers.0.mixer.conv1d.bias": (32,),
        "layers.0.mixer.A_log": (4,),
        "layers.0.mixer.D": (4,),
        "layers.0.mixer.dt_bias": (4,),
        "layers.0.mixer.norm.weight": (12,),
        "layers.0.mixer.out_proj.weight": (13, 12),
        "layers.1.norm.weight": (13,),
        "layers.1.mixer.up_proj.weight": (5, 13),
        "layers.1.mixer.down_proj.weight": (13, 5),
        "layers.2.norm.weight": (13,),
        "layers.2.mixer.q_proj.weight": (24, 13),
        "layers.2.mixer.k_proj.weight": (12, 13),
        "layers.2.mixer.v_proj.weight": (12, 13),
        "layers.2.mixer.o_proj.weight": (13, 24),
        "norm.weight": (13,),
        "head.weight": (31, 13),
    }


def test_the_8b_cut_to_the_shape_of_the_4b_is_the_4b():
    parent, student = presets()["nemotron-h-8b"], presets()["nemotron-h-4b"]
    sizes = {"mamba2": {"head": 14}, "mlp": {"ffn": 12288}, "attention": {}}
    within = {
        index: {name: Selection(np.arange(kept)) for name, kept in sizes[layer.kind].items()} for index, layer in enumerate(parent.layers)
    }
    cut = Cut(tuple(range(52)), {"hidden": Selection(np.arange(3072))}, within)
    assert cut_config(parent, cut) == student
    inner, bc = 112 * 64, 2 * 8 * 128
    mamba = 3072 * (2 * inner + bc + 112) + inner * 3072 + (inner + bc) * (4 + 1) + 3 * 112 + inner + 3072
    mlp, attention = 2 * 3072 * 12288 + 3072, 3072 * 128 * (32 + 8 + 8) + 32 * 128 * 3072 + 3072
    assert cost.parameters(cut_config(parent, cut)) == 2 * 131072 * 3072 + 3072 + 24 * mamba + 24 * mlp + 4 * attention


def test_a_student_shares_no_memory_with_its_parent():
    parent = small_decoder(tied=True)
    student = cut_decoder(parent, Cut((0, 1, 2, 3, 4)))
    assert not {weight.data_ptr() for weight in student.parameters()} & {weight.data_ptr() for weight in parent.parameters()}
    assert student.head.weight is student.embedding.weight
    assert difference(parent, student, small_batch()) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_from_disk_to_disk_gives_the_same_student(tmp_path, tied):
    parent = small_decoder(tied=tied)
    save(parent, tmp_path / "parent")
    cut = random_cut(parent.config, lambda axis: KEPT[axis.name], list(KEPT), drop=(1,))
    config = cut_checkpoint(tmp_path / "parent", cut, tmp_path / "student")
    student = load(tmp_path / "student")
    assert student.config == config
    for (name, read), held in zip(student.named_parameters(), cut_decoder(parent, cut).parameters(), strict=True):
        assert torch.equal(read, held), name
    with pytest.raises(ConfigError, match="place of its parent"):
        cut_checkpoint(tmp_path / "parent", cut, tmp_path / "parent")


def test_activations_keep_their_dtype_and_fp32_tensors_stay_fp32():
    parent = Decoder(small_config()).initialise(0)
    parent.compute_dtype = torch.bfloat16
    student = cut_decoder(parent, Cut((0, 1)))
    assert student.compute_dtype == torch.bfloat16
    assert student.layers[0].mixer.A_log.dtype == torch.float32


WRONG = {
    "got \\[1, 0\\]": Cut((1, 0)),
    "got \\[0, 0\\]": Cut((0, 0)),
    "from 0 to 4": Cut((0, 5)),
    "got \\[\\]": Cut(()),
    "layers \\[1\\], which the same cut drops": Cut((0,), {}, {1: {"ffn": Selection(np.arange(2))}}),
    "no axis 'ffn' to cut; it has: group": Cut((0,), {}, {0: {"ffn": Selection(np.arange(2))}}),
    "The network has no axis 'head'": Cut((0,), {"head": Selection(np.arange(2))}),
    "indices 0 to 10; a selection names 0 to 11": Cut((1,), {}, {1: {"ffn": Selection(np.arange(12))}}),
    "'tap' is fixed": Cut((0,), {}, {0: {"tap": Selection(np.arange(3))}}),
    "one width for qk_channel and v_channel": Cut((2,), {}, {2: {"qk_channel": Selection(np.arange(3))}}),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_cuts_are_refused_in_a_sentence(sentence):
    with pytest.raises(ConfigError, match=sentence):
        cut_config(small_config(), WRONG[sentence])


def sharing_decoder() -> Decoder:
    """Layers 0, 2 and 4 are parallel heads; 2 and 4 read the cache of 0."""
    head = HybridHead(query_heads=4, kv_heads=2, qk_channels=4, v_channels=6, state=3, rank=2, rope=Rope())
    reader = replace(head, shares_kv=True)
    layers = (head, MLP(ffn=7), reader, MLP(ffn=7), reader)
    decoder = Decoder(DecoderConfig(vocab=31, hidden=10, layers=layers, meta_tokens=3)).initialise(0).double()
    decoder.compute_dtype = torch.float64
    return decoder


def test_layers_that_share_a_cache_are_cut_alike():
    decoder = sharing_decoder()
    axes = decoder.config.layers[0].axes()
    orders = {"v_channel": [[5, 0, 3, 1, 2, 4], [1, 4, 0, 2, 5, 3]], "kv_group": [1, 0]}
    order = {name: keep(axes[name], indices, axes) for name, indices in orders.items()}
    batch = small_batch()
    batch = replace(batch, ids=batch.ids % 31)
    together = cut_decoder(decoder, Cut(tuple(range(5)), within=dict.fromkeys((0, 2, 4), order)))
    torch.testing.assert_close(together(batch), decoder(batch), atol=1e-9, rtol=0)
    with pytest.raises(ConfigError, match="Layers 0 and 4 share keys and values"):
        cut_decoder(decoder, Cut(tuple(range(5)), within=dict.fromkeys((0, 2), order)))
    with pytest.raises(ConfigError, match="drops that one"):
        cut_decoder(decoder, Cut((1, 2, 3, 4)))
