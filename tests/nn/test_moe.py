"""The mixture of experts against a loop over tokens, against transformers' layer, and against what its axes promise."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amaru.axes import Axis, keep
from amaru.errors import ConfigError
from amaru.nn import Batch, MoE
from amaru.nn.moe import MoEMixer

HIDDEN = 14
NETWORK = {"hidden": Axis(name="hidden", size=HIDDEN, scope="network")}


def drawn(seed: int) -> MoE:
    """Shapes by chance, among them one expert for all and all experts for each."""
    draw = random.Random(seed)
    groups = draw.choice((1, 1, 2, 3))
    each, top_groups = draw.choice((2, 3, 5)), draw.randint(1, groups)
    return MoE(
        experts=groups * each,
        top_k=draw.randint(1, top_groups * each),
        ffn=draw.choice((5, 9)),
        shared_ffn=draw.choice((6, 11)),
        groups=groups,
        top_groups=top_groups,
        normalised=draw.random() < 0.5,
        scale=draw.choice((1.0, 2.5)),
        latent=draw.choice((None, 6, 17)),
    )


SEEDS = range(14)


def test_the_drawn_shapes_are_of_every_sort() -> None:
    shapes = [drawn(seed) for seed in SEEDS]
    assert {shape.normalised for shape in shapes} == {True, False}
    assert {shape.latent for shape in shapes} == {None, 6, 17}
    assert any(1 < shape.top_groups < shape.groups for shape in shapes) and any(shape.groups == 1 for shape in shapes)
    assert any(shape.top_k == 1 for shape in shapes) and any(shape.top_k == shape.experts for shape in shapes)


@torch.no_grad()
def mixer(config: MoE, seed: int = 0, dtype: torch.dtype = torch.float64) -> MoEMixer:
    """Every parameter drawn, the correction so wide that it changes the choice."""
    generator = torch.Generator().manual_seed(seed)
    built = config.build(HIDDEN, 1e-5)
    for parameter in built.parameters():
        parameter.normal_(0, 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.3, generator=generator)
    return built.to(dtype)


def tokens(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, HIDDEN, dtype=dtype, generator=torch.Generator().manual_seed(100 + seed))


def run(built: MoEMixer, x: Tensor) -> Tensor:
    return built(x, Batch.of([torch.zeros(len(x), dtype=torch.int64)]))


def largest(tensor: Tensor) -> float:
    return tensor.detach().abs().max().item()


def choice(config: MoE, scores: list[float]) -> list[int]:
    """Experts of one token, by sorting in plain Python."""
    size = config.experts // config.groups
    members = [list(range(group * size, (group + 1) * size)) for group in range(config.groups)]
    worth = [sum(sorted((scores[expert] for expert in group), reverse=True)[:2]) for group in members]
    best = sorted(range(config.groups), key=lambda group: -worth[group])[: config.top_groups]
    return sorted((expert for group in best for expert in members[group]), key=lambda expert: -scores[expert])[: config.top_k]


def one_token(config: MoE, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What one token becomes, from the definition."""
    probability = torch.sigmoid(weights["gate.weight"] @ x)
    chosen = choice(config, (probability + weights["gate.e_score_correction_bias"]).tolist())
    total = sum(float(probability[expert]) for expert in chosen) if config.normalised else 1.0
    inside = weights["fc1_latent_proj.weight"] @ x if config.latent else x
    routed = torch.zeros_like(inside)
    for expert in chosen:
        ffn = torch.relu(weights["experts.up_proj"][expert] @ inside) ** 2
        routed += config.scale * probability[expert] / total * (weights["experts.down_proj"][expert] @ ffn)
    routed = weights["fc2_latent_proj.weight"] @ routed if config.latent else routed
    shared = weights["shared_experts.down_proj.weight"] @ torch.relu(weights["shared_experts.up_proj.weight"] @ x) ** 2
    return routed + shared


@torch.no_grad()
@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_the_definition_applied_to_each_token(seed: int) -> None:
    config = drawn(seed)
    built, x = mixer(config, seed), tokens(23, seed)
    weights = dict(built.named_parameters())
    expected = torch.stack([one_token(config, weights, token) for token in x])
    assert largest(run(built, x) - expected) < 1e-12
    for place in (0, 7, 22):
        assert largest(run(built, x[place : place + 1]) - expected[place]) < 1e-12


def stock_layer(config: MoE) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMoE

    said = transformers.NemotronHConfig(
        hidden_size=HIDDEN,
        n_routed_experts=config.experts,
        num_experts_per_tok=config.top_k,
        moe_intermediate_size=config.ffn,
        moe_shared_expert_intermediate_size=config.shared_ffn,
        n_group=config.groups,
        topk_group=config.top_groups,
        norm_topk_prob=config.normalised,
        routed_scaling_factor=config.scale,
        moe_latent_size=config.latent,
    )
    said._experts_implementation = "eager"
    return NemotronHMoE(said)


@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_and_gradients_are_those_of_transformers(seed: int) -> None:
    config = drawn(seed)
    built, theirs = mixer(config, seed, torch.float32), stock_layer(config)
    theirs.load_state_dict(built.state_dict())
    x = tokens(31, seed, torch.float32).requires_grad_()
    pull = tokens(31, seed + 50, torch.float32)
    named = dict(theirs.named_parameters())
    ours = {name: parameter for name, parameter in built.named_parameters() if name in named}
    assert built.state_dict().keys() - ours.keys() == {"gate.e_score_correction_bias"}  # a buffer there: no gradient
    y, expected = run(built, x), theirs(x)
    assert largest(y - expected) < 2e-6 * largest(expected)
    found = torch.autograd.grad((y * pull).sum(), [x, *ours.values()])
    wanted = torch.autograd.grad((expected * pull).sum(), [x, *(named[name] for name in ours)])
    for name, one, other in zip(["x", *ours], found, wanted, strict=True):
        assert largest(one - other) < 1e-5 * max(largest(other), 1.0), name  # a single normalised weight is 1: none reaches the router
    moves = config.top_k > 1 or not config.normalised
    assert (largest(wanted[1 + list(ours).index("gate.weight")]) > 0.01) == moves


def test_a_gradient_is_the_slope_of_the_loss() -> None:
    """In fp64, between two points at which the same experts are chosen."""
    built, x = mixer(drawn(3), 3), tokens(9, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: run(built, each), (x,), eps=1e-7, atol=1e-6)


SMALL: dict[str, Any] = {"ffn": 5, "shared_ffn": 6}


def test_of_equal_scores_the_first_experts_are_chosen() -> None:
    built = mixer(MoE(experts=40, top_k=3, **SMALL))
    with torch.no_grad():
        built.gate.weight.fill_(0)
        built.gate.e_score_correction_bias.fill_(0.25)
        built.gate.e_score_correction_bias[[30, 11]] = 0.5
    chosen, weights = built.gate(tokens(50))
    assert chosen.tolist() == [[11, 30, 0]] * 50
    assert torch.allclose(weights, torch.full_like(weights, 1 / 3), rtol=0, atol=1e-15)


def test_of_equal_groups_the_first_are_open() -> None:
    built = mixer(MoE(experts=12, top_k=4, groups=6, top_groups=3, **SMALL))
    with torch.no_grad():
        built.gate.weight.fill_(0)
        built.gate.e_score_correction_bias.fill_(0)
        built.gate.e_score_correction_bias[9] = 1.0
    assert built.gate(tokens(3))[0].tolist() == [[9, 0, 1, 2]] * 3  # group 4, then groups 0 and 1


def test_a_closed_group_gives_no_expert_even_where_all_open_ones_are_below_zero() -> None:
    built = mixer(MoE(experts=6, top_k=2, groups=3, top_groups=1, **SMALL))
    with torch.no_grad():
        built.gate.e_score_correction_bias.copy_(torch.tensor([-5.0, -5, -4, -8, -9, -2]))
    assert built.gate(tokens(8))[0].sort().values.tolist() == [[0, 1]] * 8  # the pairs are worth -10, -12 and -11


def test_the_correction_chooses_and_does_not_weigh() -> None:
    built = mixer(MoE(experts=8, top_k=2, normalised=False, **SMALL))
    x = tokens(20)
    scores = torch.sigmoid(x @ built.gate.weight.T)
    with torch.no_grad():
        built.gate.e_score_correction_bias.fill_(0)
        built.gate.e_score_correction_bias[5] = 10
    chosen, weights = built.gate(x)
    assert chosen[:, 0].tolist() == [5] * 20
    assert torch.equal(weights, scores.gather(1, chosen))
    run(built, x).sum().backward()
    assert built.gate.e_score_correction_bias.grad is None
    assert built.gate.weight.grad is not None and built.gate.weight.grad[5].abs().max() > 0


def test_an_expert_that_no_token_is_sent_to_is_not_touched() -> None:
    built, x = mixer(MoE(experts=8, top_k=2, **SMALL)), tokens(40)
    with torch.no_grad():
        built.gate.e_score_correction_bias.copy_(torch.tensor([0.0, 0, -9, 0, -9, 0, 0, -9]))
        expected = run(built, x)
        for parameter in built.experts.parameters():
            parameter[[2, 4, 7]] = torch.nan
    y = run(built, x)
    assert torch.equal(y, expected)
    y.sum().backward()
    for parameter in built.experts.parameters():
        assert parameter.grad is not None
        assert [bool(each.any()) for each in parameter.grad] == [True, True, False, True, False, True, True, False]


@torch.no_grad()
def test_the_router_scores_in_fp32_whatever_the_activations_are() -> None:
    """Scores that differ by less than bf16 can tell apart are told apart; what comes out is bf16 again."""
    built, x = mixer(MoE(experts=16, top_k=3, **SMALL), dtype=torch.float32), tokens(200, dtype=torch.bfloat16)
    chosen, weights = built.gate(x)
    exact = torch.sigmoid(x.double() @ built.gate.weight.double().T) + built.gate.e_score_correction_bias
    assert weights.dtype == torch.float32
    assert torch.equal(chosen, exact.topk(3).indices)
    rough = torch.sigmoid(x @ built.gate.weight.bfloat16().T) + built.gate.e_score_correction_bias.bfloat16()
    assert not torch.equal(chosen, rough.topk(3).indices)
    y, expected = run(built, x), run(built, x.float())
    assert y.dtype == torch.bfloat16
    assert 0 < float((y - expected).square().mean().sqrt()) < 0.02 * float(expected.square().mean().sqrt())


@torch.no_grad()
@pytest.mark.parametrize("axis", ["expert_group", "expert", "expert_ffn", "shared_ffn", "latent"])
def test_permuting_any_axis_changes_nothing(axis: str) -> None:
    config = MoE(experts=12, top_k=3, groups=4, top_groups=2, latent=6, **SMALL)
    built, x, rng = mixer(config), tokens(30), np.random.default_rng(0)
    axes = config.axes()
    outer = tuple(axes[parent].size for parent in axes[axis].parents)
    orders = np.stack([rng.permutation(axes[axis].size) for _ in range(int(np.prod(outer)))]).reshape(*outer, -1)
    moved = config.build(HIDDEN, 1e-5).double()
    weights, changed = built.state_dict(), 0
    for name, spec in config.tensors().items():
        tensor = weights[name]
        for dimension, rows in enumerate(spec.layout.surviving(axes | NETWORK, {axis: keep(axes[axis], orders, axes)})):
            tensor = tensor if rows is None else tensor.index_select(dimension, torch.tensor(rows))
        changed += not torch.equal(tensor, weights[name])
        moved.get_parameter(name).copy_(tensor)
    assert changed == {"expert_group": 4, "expert": 4, "expert_ffn": 2, "shared_ffn": 2, "latent": 4}[axis]
    assert largest(run(moved, x) - run(built, x)) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_the_declared_tensors_are_those_of_the_module(seed: int) -> None:
    config = drawn(seed)
    axes = config.axes() | NETWORK
    declared = {name: spec.layout.shape(axes) for name, spec in config.tensors().items()}
    assert declared == {name: tuple(parameter.shape) for name, parameter in config.build(HIDDEN, 1e-5).named_parameters()}
    assert config.resized({name: axis.size for name, axis in config.axes().items()}) == config


def test_a_cut_that_leaves_fewer_experts_than_a_token_needs_is_refused() -> None:
    config = MoE(experts=12, top_k=5, groups=4, top_groups=2, latent=6, **SMALL)
    sizes = {name: axis.size for name, axis in config.axes().items()} | {"expert_ffn": 4, "shared_ffn": 3, "latent": 2}
    smaller = MoE(experts=9, top_k=5, groups=3, top_groups=2, latent=2, ffn=4, shared_ffn=3)
    assert config.resized(sizes | {"expert_group": 3}) == smaller
    with pytest.raises(ConfigError, match="top_k must be at most the 4 experts"):
        config.resized(sizes | {"expert": 2})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"experts": 1, "top_k": 1}, "experts"),
        ({"experts": 8, "top_k": 0}, "top_k"),
        ({"experts": 8, "top_k": 9}, "top_k must be at most the 8 experts"),
        ({"experts": 8, "top_k": 5, "groups": 4, "top_groups": 2}, "top_k must be at most the 4 experts"),
        ({"experts": 8, "top_k": 1, "groups": 3}, "experts must fill its groups"),
        ({"experts": 8, "top_k": 1, "groups": 8}, "two in each"),
        ({"experts": 8, "top_k": 1, "groups": 2, "top_groups": 3}, "top_groups must be at most groups"),
        ({"experts": 8, "top_k": 1, "latent": 0}, "latent"),
        ({"experts": 8, "top_k": 1, "scale": 0.0}, "scale"),
    ],
)
def test_shapes_that_contradict_themselves_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MoE(**fields, **SMALL)


def test_flops_are_those_of_the_experts_that_a_token_is_sent_to() -> None:
    dense = MoE(experts=10, top_k=3, ffn=7, shared_ffn=11)
    assert dense.flops(20, 5) == 2 * (20 * 10 + 3 * 2 * 7 * 20 + 2 * 11 * 20)
    latent = MoE(experts=10, top_k=3, ffn=7, shared_ffn=11, latent=4)
    assert latent.flops(20, 5) == 2 * (20 * 10 + 3 * 2 * 7 * 4 + 2 * 11 * 20 + 2 * 20 * 4)


@pytest.mark.parametrize("latent", [None, 24])
def test_drawn_weights_have_the_spread_asked_for(latent: int | None) -> None:
    """What writes to the residual stream is narrower; with a latent width that is the projection, not the experts."""
    built = MoE(experts=8, top_k=2, ffn=40, shared_ffn=40, latent=latent).build(30, 1e-5)
    built.initialise(torch.Generator().manual_seed(0), 0.1, 0.02)
    spread = {name: parameter.detach().std().item() for name, parameter in built.named_parameters() if parameter.ndim > 1}
    narrow = {"shared_experts.down_proj.weight", "fc2_latent_proj.weight" if latent else "experts.down_proj"}
    assert narrow < spread.keys() and not built.gate.e_score_correction_bias.any()
    for name, found in spread.items():
        assert found == pytest.approx(0.02 if name in narrow else 0.1, rel=0.15), name
