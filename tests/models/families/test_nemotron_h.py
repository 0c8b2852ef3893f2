"""Nemotron-3's side of the family: what was published, configs in both directions, and files that hold one expert too few."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.random_models import random_model

from amaru.errors import AmaruError, CheckpointError
from amaru.models import DecoderConfig
from amaru.models.checkpoint import Checkpoint, load, save
from amaru.models.cost import parameters
from amaru.models.families import config_of, family_for, nemotron_h, own
from amaru.nn import MLP, Attention, Mamba2, MoE

EXPERTS = MoE(experts=6, top_k=2, ffn=5, shared_ffn=7, groups=3, top_groups=2, scale=2.5, normalised=False, latent=4)
STACK = (Mamba2(heads=4, channels=3, groups=2, state=5), EXPERTS, Attention(query_heads=2, kv_heads=1, channels=4), MLP(ffn=9), EXPERTS)
SMALL = DecoderConfig(vocab=31, hidden=10, layers=STACK)

# The fields of config.json of nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 that say what the model computes.
NANO = {
    "model_type": "nemotron_h",
    "attention_bias": False,
    "chunk_size": 128,
    "conv_kernel": 4,
    "expand": 2,
    "head_dim": 128,
    "hidden_size": 2688,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "intermediate_size": 1856,
    "layer_norm_epsilon": 1e-05,
    "mamba_head_dim": 64,
    "mamba_hidden_act": "silu",
    "mamba_num_heads": 64,
    "mamba_proj_bias": False,
    "max_position_embeddings": 262144,
    "mlp_bias": False,
    "mlp_hidden_act": "relu2",
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_group": 1,
    "n_groups": 8,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 52,
    "num_key_value_heads": 2,
    "routed_scaling_factor": 2.5,
    "sliding_window": None,
    "ssm_state_size": 128,
    "tie_word_embeddings": False,
    "time_step_min": 0.001,
    "topk_group": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "vocab_size": 131072,
}


def test_nano_is_what_its_config_says_and_its_index_counts() -> None:
    """6,243 tensors and 31,577,937,344 parameters, in which the corrections of 23 x 128 experts are not counted."""
    config = config_of("nemotron-3-nano-30b-a3b")
    assert nemotron_h.read_config(NANO) == config
    assert parameters(config) - 23 * 128 == 31_577_937_344
    assert len(nemotron_h.stored(config)) == len({each.name for each in nemotron_h.stored(config)}) == 6_243


@pytest.mark.parametrize("changes", [{}, {"latent": None}, {"groups": 1, "top_groups": 1}, {"normalised": True, "scale": 1.0}], ids=str)
def test_a_config_survives_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    """Written here, read and written by transformers, read here."""
    transformers = pytest.importorskip("transformers")
    moe = replace(EXPERTS, **changes)
    config = replace(SMALL, layers=tuple(moe if isinstance(layer, MoE) else layer for layer in STACK))
    values = nemotron_h.write_config(config)
    assert nemotron_h.read_config(values) == config
    transformers.NemotronHConfig(**values).save_pretrained(tmp_path)
    again = json.loads((tmp_path / "config.json").read_text())
    assert again["layers_block_type"] == ["linear_attention", "moe", "full_attention", "mlp", "moe"]
    assert nemotron_h.read_config(again) == config


def test_what_transformers_leaves_unsaid_is_its_default() -> None:
    transformers = pytest.importorskip("transformers")
    values = nemotron_h.write_config(SMALL)
    for name in ("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "moe_latent_size", "n_shared_experts"):
        del values[name]
    theirs = transformers.NemotronHConfig(**values)
    moe = nemotron_h.read_config(values).layers[1]
    assert isinstance(moe, MoE)
    found = (moe.groups, moe.top_groups, moe.normalised, moe.scale, moe.latent)
    assert found == (theirs.n_group, theirs.topk_group, theirs.norm_topk_prob, theirs.routed_scaling_factor, theirs.moe_latent_size)


WRONG_VALUES: list[tuple[dict[str, Any], str]] = [
    *(({"n_routed_experts": value}, "n_routed_experts") for value in (0, -1, 2.5, "6", True, None, 10**7, 2**40)),
    *(({"num_experts_per_tok": value}, "num_experts_per_tok") for value in (0, "2", None)),
    ({"num_experts_per_tok": 5}, "at most the 4 experts"),
    *(({"moe_intermediate_size": value}, "moe_intermediate_size") for value in (0, None, [8], 2**40)),
    *(({"moe_shared_expert_intermediate_size": value}, "moe_shared_expert") for value in (0, None, 2.5, -3)),
    *(({"moe_latent_size": value}, "moe_latent_size") for value in (0, -4, 1.5, "4", False)),
    *(({"norm_topk_prob": value}, "norm_topk_prob") for value in (1, "true", None)),
    *(({"routed_scaling_factor": value}, "routed_scaling_factor") for value in (0, -1.0, "2.5", None, float("inf"), float("nan"))),
    *(({"n_group": value}, "n_group") for value in (0, "3", 1.0)),
    ({"n_group": 4}, "fill its groups"),
    ({"n_group": 6}, "two in each"),
    ({"topk_group": 4}, "at most groups"),
    *(({"n_shared_experts": value}, "n_shared_experts") for value in (0, 2, None, "1")),
    ({"mlp_hidden_act": "silu"}, "mlp_hidden_act"),
    ({"num_nextn_predict_layers": 1}, r"no heads for later tokens: take out mtp\.\* and set it to 0"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG_VALUES, ids=[str(changes) for changes, _ in WRONG_VALUES])
def test_a_field_that_asks_for_another_function_is_refused_in_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AmaruError, match=said) as caught:
        nemotron_h.read_config(nemotron_h.write_config(SMALL) | changes)
    assert "\n" not in str(caught.value)


def test_a_stack_too_large_to_be_listed_is_refused_at_once() -> None:
    """10,000 layers of experts would be a billion names."""
    values = nemotron_h.write_config(SMALL)
    began = time.monotonic()
    for pattern, said in (("E" * 9_999, "n_routed_experts"), ("M" * 5_000_000, "layers")):
        with pytest.raises(CheckpointError, match=said):
            nemotron_h.read_config(values | {"hybrid_override_pattern": pattern, "layers_block_type": None, "n_routed_experts": 50_000})
    assert time.monotonic() - began < 2


def test_stacks_that_its_config_cannot_say_go_into_our_own() -> None:
    assert family_for(SMALL) is nemotron_h
    uneven = replace(SMALL, layers=(*STACK, replace(EXPERTS, top_k=1)))
    smooth = replace(SMALL, layers=(EXPERTS, MLP(ffn=9, activation="silu")))
    for config in (uneven, smooth):
        assert nemotron_h.refuses(config) and family_for(config) is own


def test_experts_are_single_tensors_in_a_nemotron_file_and_one_in_our_own(tmp_path: Path) -> None:
    uneven = replace(SMALL, layers=(EXPERTS, replace(EXPERTS, experts=9)))
    first = (SMALL, 6, "backbone.layers.4.mixer.experts.5.up_proj.weight")
    for config, each, name in (first, (uneven, 1, "layers.1.mixer.experts.up_proj")):
        decoder = random_model(config)
        save(decoder, tmp_path / "model")
        files = load_file(tmp_path / "model" / "model.safetensors")
        assert name in files and len([file for file in files if "experts" in file and "up_proj" in file]) == 2 * each + 2  # two shared
        again = load(tmp_path / "model")
        assert again.config == config
        for (name, one), other in zip(decoder.named_parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other), name


UP = "backbone.layers.1.mixer.experts.3.up_proj.weight"
DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("one expert missing", {UP: None}, UP),
    ("one expert too many", {UP.replace("experts.3", "experts.6"): torch.zeros(5, 4)}, r"experts\.6"),
    ("one expert of another shape", {UP: torch.zeros(4, 5)}, UP),
    ("one expert in another dtype", {UP: torch.zeros(5, 4, dtype=torch.bfloat16)}, UP),
    ("heads for later tokens", {"mtp.layers.0.mixer.gate.weight": torch.zeros(6, 10)}, r"mtp\.layers\.0"),
    ("experts as in memory", {UP.replace(".3", "").removesuffix(".weight"): torch.zeros(6, 5, 4)}, r"experts\.up_proj"),
]


@pytest.mark.parametrize(("changes", "said"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_file_with_other_experts_than_its_config_names_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    save(random_model(SMALL), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file) | changes
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, file)
    with pytest.raises(CheckpointError, match=said) as caught:
        load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_in_bfloat16_the_router_stays_in_fp32_as_transformers_needs_it(tmp_path: Path) -> None:
    save(random_model(SMALL), tmp_path / "model", dtype=torch.bfloat16)
    checkpoint = Checkpoint(tmp_path / "model")
    wide = {name.rsplit("mixer.", 1)[1] for name in checkpoint.names if checkpoint.dtype(name) == torch.float32}
    assert wide == {"A_log", "D", "dt_bias", "gate.weight", "gate.e_score_correction_bias"}
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16, experts_implementation="eager")
    correction = checkpoint.read("layers.1.mixer.gate.e_score_correction_bias")
    assert torch.equal(theirs.model.layers[1].mixer.gate.e_score_correction_bias, correction)
