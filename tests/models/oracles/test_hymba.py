"""Hymba against the step-by-step oracle: released names and config.json in, the same logits and gradients out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.oracles.hymba import hymba_logits, inner_width, key_width, producer, random_config, random_weights, shapes
from tests.models.random_models import random_ids, random_model
from torch import Tensor

from amaru.models.checkpoint import load, save
from amaru.models.families import family_for, hymba, own
from amaru.nn import Batch

SEEDS = (0, 2, 4, 7, 8, 10)
LENGTHS = (29, 1, 14)


def written(path: Path, values: Mapping[str, Any], weights: dict[str, Tensor]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(values))
    save_file(weights, path / "model.safetensors")
    return path


@pytest.fixture(params=SEEDS)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    values = random_config(request.param)
    weights = random_weights(values, request.param)
    return written(tmp_path / "released", values, weights), values, weights


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def test_the_random_shapes_reach_what_they_are_for() -> None:
    configs = [random_config(seed) for seed in SEEDS]
    assert {len(group) for config in configs for group in config["kv_reuse_group"]} == {2, 3}
    assert any(len(config["kv_reuse_group"]) > 1 for config in configs)
    assert {len(config["global_attn_idx"]) for config in configs} == {1, 2, 3}
    assert {config["num_memory_tokens"] for config in configs} == {3, 5, 9}
    assert max(config["sliding_window"] for config in configs) + 1 < LENGTHS[0]
    assert any(config["num_key_value_heads"] < config["num_attention_heads"] for config in configs)
    assert all(config["num_attention_heads"] * config["v_head_dim"] == inner_width(config) for config in configs)
    assert any(config["kq_head_dim"] == -1 for config in configs) and any(key_width(config) > config["v_head_dim"] for config in configs)


def test_the_oracle_has_the_published_shapes() -> None:
    """Rows of the input projection, the count of caches and of parameters of the 1.5B model (specification: 1,522,797,824)."""
    window_runs = [range(1, 15), range(16, 18), range(19, 31)]
    groups = [[first, first + 1] for run in window_runs for first in run[::2]]
    groups = [[16, 17, 18] if group[0] == 16 else group for group in groups]
    values = random_config(0) | {
        "hidden_size": 1600,
        "num_attention_heads": 25,
        "num_key_value_heads": 5,
        "num_hidden_layers": 32,
        "global_attn_idx": [0, 15, 31],
        "kv_reuse_group": groups,
        "mamba_expand": 2,
        "v_head_dim": 128,
        "kq_head_dim": -1,
        "mamba_dt_rank": 100,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "intermediate_size": 5504,
        "num_memory_tokens": 128,
        "vocab_size": 32001,
    }
    found = shapes(values)
    assert found["model.layers.0.mamba.in_proj.weight"] == (8960, 1600)
    assert found["model.layers.18.mamba.in_proj.weight"] == (8000, 1600)
    assert len({producer(values, index) for index in range(32)}) == 17
    assert sum(torch.Size(shape).numel() for shape in found.values()) == 1_522_797_824


@torch.no_grad()
def test_logits_are_those_of_the_paper(released: tuple[Path, dict[str, Any], dict[str, Tensor]]) -> None:
    path, values, weights = released
    sequences = random_ids(values["vocab_size"], *LENGTHS)
    expected = torch.cat([hymba_logits(weights, values, ids) for ids in sequences])
    exact, single = load(path), load(path, torch.float32)
    assert exact.embedding.weight.dtype == torch.float64
    assert difference(exact(Batch.of(sequences)), expected) < 1e-9
    assert difference(single(Batch.of(sequences)), expected) < 1e-4


@torch.no_grad()
def test_a_document_many_windows_long_is_that_of_the_paper_whole_and_in_pieces(tmp_path: Path) -> None:
    values = random_config(7)
    weights = random_weights(values, 7)
    decoder, ids = load(written(tmp_path / "released", values, weights)), random_ids(values["vocab_size"], 300)[0]
    expected, state, parts = hymba_logits(weights, values, ids), decoder.new_state(1, 300), []
    assert difference(decoder(Batch.of([ids])), expected) < 1e-9
    for start, piece in zip((0, 270, 271), ids.split([270, 1, 29]), strict=True):
        parts.append(decoder(Batch.of([piece], starts=[start], slots=[0]), state))
    assert difference(torch.cat(parts), expected) < 1e-9


def test_every_gradient_is_that_of_the_paper(released: tuple[Path, dict[str, Any], dict[str, Tensor]]) -> None:
    path, values, weights = released
    sequences = random_ids(values["vocab_size"], *LENGTHS, seed=3)
    pull = torch.randn(sum(LENGTHS), values["vocab_size"], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for tensor in weights.values():
        tensor.requires_grad_()
    (torch.cat([hymba_logits(weights, values, ids) for ids in sequences]) * pull).sum().backward()
    decoder = load(path)
    (decoder(Batch.of(sequences)) * pull).sum().backward()
    ours = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    stored = family_for(decoder.config).stored(decoder.config)
    assert {entry.name for entry in stored} == weights.keys()
    assert {entry.ours for entry in stored} == ours.keys()
    for entry in stored:
        expected, found = weights[entry.name].grad, ours[entry.ours]
        assert expected is not None and expected.abs().max() > 0, entry.name
        assert found is not None and difference(found, expected) < 1e-9 * float(expected.abs().max()), entry.name


@torch.no_grad()
def test_what_is_written_again_is_a_released_checkpoint(
    released: tuple[Path, dict[str, Any], dict[str, Tensor]], tmp_path: Path
) -> None:
    """Bit for bit the same tensors under the same names, and a config.json that the oracle reads as the same model."""
    path, values, weights = released
    save(load(path), tmp_path / "again")
    again, told = load_file(tmp_path / "again" / "model.safetensors"), json.loads((tmp_path / "again" / "config.json").read_text())
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    ids = random_ids(values["vocab_size"], LENGTHS[0])[0]
    assert difference(hymba_logits(again, told, ids), hymba_logits(weights, values, ids)) < 1e-12
    for name in values.keys() & told.keys() - {"torch_dtype", "transformers_version"}:
        assert told[name] == values[name], name


@torch.no_grad()
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_a_plan_that_the_released_config_cannot_say_is_written_as_amarus_own(seed: int, tmp_path: Path) -> None:
    """A window layer that reads the cache of the global layer before it."""
    config = hymba.read_config(random_config(seed))
    layers = list(config.layers)
    assert layers[0].window is None and layers[2].window is not None  # type: ignore[union-attr]
    layers[2] = replace(layers[2], shares_kv=True)  # type: ignore[type-var]
    decoder = random_model(replace(config, layers=tuple(layers)), seed)
    save(decoder, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.config == decoder.config
    assert family_for(config) is hymba and family_for(decoder.config) is own
    assert all(torch.equal(read, held) for read, held in zip(again.parameters(), decoder.parameters(), strict=True))
