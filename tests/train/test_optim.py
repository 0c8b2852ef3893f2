"""Which weights decay, and AdamW against its formula written out."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from tests.train.small import fresh_model, run, start
from torch import nn

from amaru.errors import ConfigError
from amaru.train.optim import adamw, parameter_groups


def test_matrices_decay_and_vectors_do_not(model) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, kept = ({names[parameter] for parameter in group["params"]} for group in parameter_groups(model, 0.1))
    assert {"embedding.weight", "head.weight", "layers.0.mixer.conv1d.weight", "layers.0.mixer.in_proj.weight"} <= decayed
    mamba = {f"layers.0.mixer.{name}" for name in ("A_log", "D", "dt_bias", "conv1d.bias", "norm.weight")}
    assert kept == mamba | {"norm.weight", "layers.0.norm.weight", "layers.1.norm.weight", "layers.2.norm.weight"}
    assert decayed | kept == set(names.values())


def test_two_steps_by_hand() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, dtype=torch.float64)
    lr, (b1, b2), decay, eps = 0.01, (0.9, 0.95), 0.1, 1e-8
    optimizer = adamw(layer, lr=lr, betas=(b1, b2), weight_decay=decay)
    expected = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    m, v = ({name: torch.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    for t in (1, 2):
        for name, parameter in layer.named_parameters():
            g = parameter.grad = torch.randn_like(parameter)
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g**2
            shrink = 1 - lr * (decay if name == "weight" else 0)
            update = m[name] / (1 - b1**t) / ((v[name] / (1 - b2**t)).sqrt() + eps)
            expected[name] = expected[name] * shrink - lr * update
        optimizer.step()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-12, atol=1e-12)


def test_every_step_is_torchs_to_the_bit(model) -> None:
    twin = copy.deepcopy(model)
    ours = adamw(model, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    theirs = torch.optim.AdamW(parameter_groups(twin, 0.1), lr=0.01, betas=(0.9, 0.95), fused=True)
    torch.manual_seed(0)
    for step in range(4):
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            other.grad = mine.grad = torch.randn_like(mine) if step or mine.dim() > 1 else None  # some come later than others
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
            optimizer.step()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert ours.state[mine].keys() == theirs.state[other].keys()
        assert all(torch.equal(ours.state[mine][name], tensor) for name, tensor in theirs.state[other].items())
    ours.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def run_without_compiler(out: Path) -> None:
    run(out, fresh_model())
    if "torch._dynamo" in sys.modules:
        (out / "imported").touch()


def test_training_does_not_import_the_compiler(tmp_path) -> None:
    start(run_without_compiler, tmp_path).join()
    assert (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "imported").exists()


def test_refusals(model) -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        parameter_groups(model.requires_grad_(False), 0.1)
    with pytest.raises(ConfigError, match=r"embedding\.weight is torch\.bfloat16; training keeps weights in at least fp32"):
        parameter_groups(model.requires_grad_(True).to(torch.bfloat16), 0.1)
