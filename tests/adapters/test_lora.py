"""LoRA against models whose weights were changed by hand: forward, gradients, DoRA, merging, several at once, codes below."""

import math

import pytest
import torch
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model
from torch.func import functional_call

from amaru.adapters import LoRA, TiedLoRA, activate, adapt, by_sequence, chosen, detach, fold, merge, switched_off, unmerge
from amaru.errors import ConfigError
from amaru.models.quantised import quantised
from amaru.nn import Batch
from amaru.precision import Scheme, quantise
from amaru.serve.forward import Work, advance


def stirred(adapter, seed=5):
    """No factor is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
    return adapter


def by_hand(weights, adapter, scale, dora=False):
    """The formula, with loops and without anything of the package's but its parameters."""
    changed = dict(weights)
    for block in adapter.blocks.values():
        own = dict(adapter.own[block.name.replace(".", "/")].named_parameters())
        start = 0
        for site in block.sites:
            rows = slice(start, start + site.rows)
            start = rows.stop
            weight = changed[f"{site.path}.weight"]
            new = weight[site.start : site.stop] + scale * (own["B"][rows] @ own["A"])
            if dora:
                norm = torch.stack([row.detach().square().sum().sqrt() for row in new])
                new = new * (own["magnitude"][rows] / norm)[:, None]
            changed[f"{site.path}.weight"] = torch.cat([weight[: site.start], new, weight[site.stop :]])
    return changed


def setting(family="nemotron_h", seed=1, dtype=torch.float64):
    config = FAMILIES[family](seed)
    return random_model(config, dtype=dtype), Batch.of(random_ids(config.vocab, 5, 8))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_beginning_is_the_model_as_it_was(family):
    decoder, batch = setting(family)
    before = decoder(batch)
    adapter = adapt(decoder, LoRA(rank=2))
    assert torch.equal(decoder(batch), before)
    assert [p for p in decoder.parameters() if p.requires_grad] == list(adapter.parameters())


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_and_gradients_are_those_of_the_changed_weights(family, dora):
    decoder, batch = setting(family)
    weights = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
    plain, _ = setting(family)
    adapter = stirred(adapt(decoder, LoRA(rank=2, alpha=3, dora=dora, fuse=family == "llama")))
    parameters = list(adapter.parameters())
    results = decoder(batch), functional_call(plain, by_hand(weights, adapter, 3 / 2, dora), (batch,))
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-9)
    gradients = [torch.autograd.grad(result.square().mean(), parameters) for result in results]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


def test_segments_the_head_and_ranks_of_their_own():
    config = random_config(0, "M*-")
    decoder, plain = (random_model(config, dtype=torch.float64) for _ in range(2))
    batch = Batch.of(random_ids(config.vocab, 9))
    targets = ("in_proj.x", "in_proj.dt", "attention", "head")
    adapter = stirred(adapt(decoder, LoRA(rank=2, alpha=None, targets=targets, ranks={"in_proj.x": 3, "k_proj": 1})))
    assert {name: block.rank for name, block in adapter.blocks.items()} == {
        site.name: {"x": 3}.get(site.segment, 1 if site.name.endswith("k_proj") else 2) for site in chosen(config, targets)
    }
    weights = by_hand(dict(plain.named_parameters()), adapter, 1.0)
    torch.testing.assert_close(decoder(batch), functional_call(plain, weights, (batch,)), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(decoder.head.weight, weights["head.weight"])  # what a loss at the head reads


def test_scales_of_lora_and_rslora():
    assert LoRA(rank=4, alpha=8).scale(4) == 2 and LoRA(rank=4, alpha=8, rslora=True).scale(4) == 4
    assert LoRA(rank=16, alpha=8, rslora=True).scale(9) == pytest.approx(8 / math.sqrt(9))


def test_what_ranks_and_names_mean_nothing_is_said():
    config = random_config(0, "M*-")
    with pytest.raises(ConfigError, match="'up_proj', which is none of what is reached: q_proj"):
        LoRA(targets=("attention",), ranks={"up_proj": 2}).blocks(config)
    with pytest.raises(ConfigError, match="share A, so they have one rank"):
        LoRA(rank=1, targets=("q_proj", "k_proj"), fuse=True, ranks={"q_proj": 2}).blocks(config)
    with pytest.raises(ConfigError, match="1 or more; got q_proj=0"):
        LoRA(ranks={"q_proj": 0})
    decoder = random_model(config)
    adapt(decoder, LoRA(rank=1), "one")
    for name in ("one", "a.b", "keys", ""):
        with pytest.raises(ConfigError, match=f"not taken; got '{name}'"):
            adapt(decoder, LoRA(rank=1), name)
    with pytest.raises(ConfigError, match="no adapter 'two' on this model; there is: one"):
        activate(decoder, "two")


def test_several_are_added_up_and_each_can_be_alone():
    decoder, batch = setting()
    before = decoder(batch)
    first = stirred(adapt(decoder, LoRA(rank=2, targets=("mlp", "mamba")), "first"), 1)
    alone = decoder(batch)
    stirred(adapt(decoder, LoRA(rank=3, targets=("in_proj",)), "second"), 2)
    assert not any(p.requires_grad for p in first.parameters())
    both = random_model(decoder.config, dtype=torch.float64)
    weights = dict(both.named_parameters())
    for name in ("first", "second"):
        weights = by_hand(weights, decoder.adapters[name], 16 / decoder.adapters[name].method.rank)
    activate(decoder, "first", "second")
    torch.testing.assert_close(decoder(batch), functional_call(both, weights, (batch,)), atol=1e-9, rtol=1e-9)
    with switched_off(decoder):
        assert torch.equal(decoder(batch), before)
    activate(decoder, "first")
    assert torch.equal(decoder(batch), alone)
    activate(decoder)
    assert torch.equal(decoder(batch), before)
    for name in ("second", "first"):
        detach(decoder, name)
    assert list(dict(decoder.named_parameters())) == list(dict(both.named_parameters()))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_merging_is_exact_and_is_undone_to_the_bit(dora):
    decoder, batch = setting(dtype=torch.float32)
    weights = {name: parameter.clone() for name, parameter in decoder.named_parameters()}
    adapter = stirred(adapt(decoder, LoRA(rank=2, dora=dora)))
    adapted = decoder(batch)
    merged = merge(decoder)
    assert len(merged) == len(chosen(decoder.config, ("all",))) and all(row.difference <= 2**-24 for row in merged)
    torch.testing.assert_close(decoder(batch), adapted, atol=2e-5, rtol=2e-5)
    for refused in (lambda: merge(decoder), lambda: activate(decoder), lambda: detach(decoder, "default")):
        with pytest.raises(ConfigError, match="unmerge them first"):
            refused()
    unmerge(decoder)
    assert torch.equal(decoder(batch), adapted)
    fold(decoder)
    torch.testing.assert_close(decoder(batch), adapted, atol=2e-5, rtol=2e-5)
    exact = by_hand({name: w.double() for name, w in weights.items()}, adapter.double(), 8.0, dora)
    for name, parameter in decoder.named_parameters():
        torch.testing.assert_close(parameter.double(), exact[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("to", ["int8", "int4"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_over_a_base_of_codes_it_is_the_same_change_of_what_the_codes_mean(to, dora):
    config = FAMILIES["nemotron_h"](1)
    decoder, plain = random_model(config), random_model(config)
    quantise(decoder, Scheme(to=to))
    with torch.no_grad():
        for name, held in quantised(decoder).items():
            plain.get_parameter(name).copy_(held.weight)
    batch = Batch.of(random_ids(config.vocab, 7))
    adapter = stirred(adapt(decoder, LoRA(rank=2, alpha=2, dora=dora)))
    expected = functional_call(plain, by_hand(dict(plain.named_parameters()), adapter, 1.0, dora), (batch,))
    torch.testing.assert_close(decoder(batch), expected, atol=2e-4, rtol=2e-4)
    decoder(batch).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
    with pytest.raises(ConfigError, match="holds codes, into which nothing can be merged"):
        merge(decoder)


def test_a_model_with_an_adapter_is_not_quantised_over_it():
    decoder, _ = setting(dtype=torch.float32)
    adapt(decoder, LoRA(rank=1))
    with pytest.raises(ConfigError, match=r"is hidden by an adapter; quantise first"):
        quantise(decoder, Scheme(to="int8"))


def test_dropout_is_of_training():
    decoder, batch = setting()
    stirred(adapt(decoder, LoRA(rank=2, dropout=0.5, targets=("all", "head"))))
    torch.manual_seed(0)
    assert not torch.equal(decoder(batch), decoder(batch))
    with pytest.raises(ConfigError, match="dropout 0"):
        _ = decoder.head.weight
    decoder.eval()
    assert torch.equal(decoder(batch), decoder(batch))


@pytest.mark.parametrize("family", ["nemotron_h", "hymba"])
def test_dropout_is_the_same_where_a_layer_is_run_again(family):
    gradients = []
    for every in (None, 1):
        decoder, batch = setting(family)
        adapter = stirred(adapt(decoder, LoRA(rank=2, dropout=0.5)))
        decoder.recompute_every = every
        torch.manual_seed(0)
        decoder(batch).square().sum().backward()
        gradients.append([parameter.grad for parameter in adapter.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True)) and gradients[0][0].abs().max() > 0


@torch.no_grad()
def test_each_sequence_of_a_batch_with_its_own_adapter():
    config = random_config(1, "M*-")
    decoder, sequences = random_model(config), random_ids(config.vocab, 4, 7, 3)
    stirred(adapt(decoder, LoRA(rank=2, targets=("all", "head"), dora=True), "first"), 1)
    stirred(adapt(decoder, TiedLoRA(rank=3, targets=("in_proj.x", "mlp")), "second"), 2)
    names, alone = ["second", None, "first"], []
    for name, ids in zip(names, sequences, strict=True):
        activate(decoder, *[name] * (name is not None))
        alone.append(decoder(Batch.of([ids])))
    batch, lengths = Batch.of(sequences), [4, 7, 3]
    with by_sequence(decoder, names, lengths):
        torch.testing.assert_close(decoder(batch), torch.cat(alone), atol=1e-5, rtol=1e-5)
    hidden, last = decoder.hidden_states, torch.tensor([3, 10, 13])
    with by_sequence(decoder, names, lengths, asked=[1, 1, 1]):
        found = decoder.logits(hidden(batch)[last])
    torch.testing.assert_close(found, torch.cat([each[-1:] for each in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder(Batch.of(sequences[2:])), alone[2], atol=1e-5, rtol=1e-5)  # what was active is again
    with pytest.raises(ConfigError, match="no adapter 'third'"), by_sequence(decoder, ["third"], [1]):
        pass


@torch.no_grad()
def test_recorded_steps_notice_that_an_adapter_was_switched():
    config = random_config(1, "M-")
    decoder = random_model(config)
    stirred(adapt(decoder, LoRA(rank=2, alpha=8)))
    state = decoder.new_state(2, 64)

    def decoded(slot):
        logits = [advance(decoder, state, [Work([3, 4, 5], 0, slot)])]
        return torch.cat([*logits, *(advance(decoder, state, [Work([7], place, slot)]) for place in (3, 4, 5))])

    found = {}
    for on in (False, True, False, True):
        activate(decoder, *["default"] * on)
        found.setdefault(on, []).append(decoded(0))
    for each in found.values():
        torch.testing.assert_close(*each, atol=1e-6, rtol=1e-6)
    assert (found[True][0] - found[False][0]).abs().max() > 1e-2
