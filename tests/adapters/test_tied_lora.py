"""Tied-LoRA: the paper's counts to the digit, the formula by hand, what is shared, and that everything that may be asked for learns."""

from copy import deepcopy
from itertools import combinations

import pytest
import torch
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model
from torch.func import functional_call

from amaru.adapters import TiedLoRA, adapt, merge, unmerge
from amaru.errors import ConfigError
from amaru.models import DecoderConfig
from amaru.nn import MLP, Attention, Batch

QKV = ("q_proj", "k_proj", "v_proj")
LLAMA2_7B = DecoderConfig(
    vocab=32000,
    hidden=4096,
    layers=(Attention(query_heads=32, kv_heads=32, channels=128), MLP(ffn=11008, gated=True, activation="silu")) * 32,
)
TABLE = {  # rank: LoRA, TL5, VeRA-equivalent, TL6
    2: (1_048_576, 32_768, 393_280, 426_048),
    8: (4_194_304, 131_072, 393_472, 524_544),
    16: (8_388_608, 262_144, 393_728, 655_872),
    32: (16_777_216, 524_288, 394_240, 918_528),
    64: (33_554_432, 1_048_576, 395_264, 1_443_840),
    128: (67_108_864, 2_097_152, 397_312, 2_494_464),
}
SUBSETS = [subset for size in (1, 2, 3, 4) for subset in combinations("ABuv", size)]
TYINGS = [("A", "B"), ("A",), ("B",), ()]


@pytest.mark.parametrize("rank", TABLE)
def test_counts_are_those_of_the_paper(rank):
    names = ("LoRA", "TL5", "VeRA-equivalent", "TL6")
    assert tuple(TiedLoRA.named(name, rank=rank, targets=QKV).trained_count(LLAMA2_7B) for name in names) == TABLE[rank]


@pytest.mark.parametrize("trained", SUBSETS, ids="".join)
@pytest.mark.parametrize("tied", TYINGS, ids=lambda tied: "".join(tied) or "none")
def test_counts_of_every_subset_follow_from_what_it_shares(tied, trained):
    depth, d, r = 32, 4096, 8
    sizes = {"A": d * r, "B": 3 * d * r, "u": r, "v": 3 * d}
    expected = sum(sizes[factor] * (1 if factor in tied else depth) for factor in trained)
    assert TiedLoRA(rank=r, tied=tied, trained=trained, targets=QKV).trained_count(LLAMA2_7B) == expected


def stirred(adapter):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
    return adapter


@pytest.mark.parametrize("tied", TYINGS, ids=lambda tied: "".join(tied) or "none")
@pytest.mark.parametrize("family", ["llama", "qwen2", "nemotron_h", "hymba"])
def test_forward_is_that_of_the_changed_weights(family, tied):
    config = FAMILIES[family](1)
    decoder, plain = (random_model(config, dtype=torch.float64) for _ in range(2))
    batch = Batch.of(random_ids(config.vocab, 5, 6))
    adapter = stirred(adapt(decoder, TiedLoRA(rank=2, tied=tied, damped=True, fuse=family != "qwen2")))
    weights = dict(plain.named_parameters())
    for block in adapter.blocks.values():
        A, B, u, v = (adapter.change(block.name).factor(name) for name in ("A", "B", "u", "v"))
        whole = torch.diag(v) @ B @ torch.diag(u) @ A / 2**0.5
        for site, rows in zip(block.sites, whole.split([site.rows for site in block.sites]), strict=True):
            weights[f"{site.path}.weight"] = weights[f"{site.path}.weight"] + rows
    after = decoder(batch)
    torch.testing.assert_close(after, functional_call(plain, weights, (batch,)), atol=1e-9, rtol=1e-9)
    merge(decoder)
    torch.testing.assert_close(decoder(batch), after, atol=1e-9, rtol=1e-9)
    unmerge(decoder)
    assert torch.equal(decoder(batch), after)


@pytest.mark.parametrize("trained", SUBSETS, ids="".join)
@pytest.mark.parametrize("tied", TYINGS, ids=lambda tied: "".join(tied) or "none")
def test_every_subset_begins_at_the_base_and_learns_from_any_start(tied, trained):
    config = random_config(2, "MM*")
    batch = Batch.of(random_ids(config.vocab, 9))
    for start in trained:
        decoder = random_model(config, dtype=torch.float64)
        before = decoder(batch)
        adapter = adapt(decoder, TiedLoRA(rank=3, tied=tied, trained=trained, start=start))
        assert torch.equal(decoder(batch), before)
        frozen = {name: p.clone() for name, p in adapter.named_parameters() if not p.requires_grad}
        learning = [p for p in adapter.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learning, lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            decoder(batch).square().mean().backward()
            optimizer.step()
        assert all(parameter.grad.abs().sum() > 0 for parameter in learning)
        assert all(torch.equal(p, frozen[name]) for name, p in adapter.named_parameters() if name in frozen)


def test_what_no_gradient_would_reach_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="nothing would learn"):
        TiedLoRA(trained=())
    with pytest.raises(ConfigError, match="With B zero and not trained the change stays zero, and no gradient reaches A, u"):
        TiedLoRA(trained=("A", "u"), start="B")
    with pytest.raises(ConfigError, match="may have A and B; got v"):
        TiedLoRA(tied=("A", "v"))
    with pytest.raises(ConfigError, match="names a factor twice"):
        TiedLoRA(trained=("A", "A"))
    with pytest.raises(ConfigError, match="No configuration is called 'TL3'"):
        TiedLoRA.named("TL3")


def test_equal_projections_of_mamba_layers_share_and_others_do_not():
    config = random_config(0, "MM-*-M")
    decoder = random_model(config)
    adapter = adapt(decoder, TiedLoRA(rank=2, targets=("mamba", "mlp")))
    assert [name.rpartition("/")[0] for name in adapter.groups] == ["mamba2/in_proj", "mamba2/out_proj", "mlp/up_proj", "mlp/down_proj"]
    factors = [adapter.change(f"layers.{index}.mixer.in_proj") for index in (0, 1, 5)]
    assert len({id(each.factor("A")) for each in factors}) == 1 and len({id(each.factor("u")) for each in factors}) == 3
    assert len(list(adapter.parameters())) == len({id(p) for p in decoder.parameters() if p.requires_grad})
    copied = deepcopy(decoder).adapters["default"]
    assert {id(p) for p in copied.parameters()}.isdisjoint(id(p) for p in adapter.parameters())
    assert copied.change("layers.0.mixer.in_proj").factor("A") is copied.change("layers.5.mixer.in_proj").factor("A")
    decoder.double()
    assert factors[0].factor("B") is factors[2].factor("B") and factors[0].factor("B").dtype == torch.float64


def test_names_are_the_papers_where_they_are_certain():
    assert [TiedLoRA.named(name).called for name in ("LoRA", "TL5", "TL6", "VeRA-equivalent")] == ["LoRA", "TL5", "TL6", "VeRA-equivalent"]
    assert TiedLoRA(tied=("B", "A"), trained=("v", "A")).called == "A and B tied, training A, v"
    assert TiedLoRA(tied=(), trained=("u", "v")).called == "nothing tied, training u, v"


def test_draws_are_as_wide_as_they_should_be_and_the_same_for_a_seed():
    for init, std in (("kaiming", 1 / (3 * 4096) ** 0.5), ("normal", 0.5), ("xavier", (2 / (4096 + 64)) ** 0.5)):
        config = DecoderConfig(vocab=8, hidden=4096, layers=(Attention(query_heads=1, kv_heads=1, channels=64),))
        decoders = [random_model(config) for _ in range(2)]
        method = TiedLoRA(rank=64, targets=("q_proj",), init=init, std=0.5, seed=4)
        first, second = (adapt(decoder, method).change("layers.0.mixer.q_proj").factor("A") for decoder in decoders)
        assert torch.equal(first, second) and float(first.detach().std()) == pytest.approx(std, rel=0.02)
