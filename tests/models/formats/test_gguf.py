"""GGUF files as the gguf package's own reader sees them, back again under our names, and one sentence for each that is damaged."""

import json
import math
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tests.models.random_models import random_config, random_model, random_moe
from tokenizers import Regex, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from torch import Tensor

from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError, ConfigError
from amaru.models import Decoder, DecoderConfig
from amaru.models.formats.gguf import GGUF, TYPES, refuses, remarks, write
from amaru.models.formats.gguf.vocabulary import CUTS, vocabulary
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.moe import MoE
from amaru.nn.rope import Rope

PATTERN = "M-*M-*-"


def model(seed: int = 0, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> Decoder:
    """Widths differ from layer to layer where GGUF can say so: feed-forward, query and KV heads."""
    config = random_config(seed, PATTERN, tied=tied)
    layers = list(config.layers)
    layers[1], layers[4] = MLP(ffn=64), MLP(ffn=9)
    assert isinstance(layers[2], Attention)
    layers[5] = replace(layers[2], query_heads=6, kv_heads=2)
    return random_model(replace(config, layers=tuple(layers)), seed, dtype)


def with_experts(seed: int, dtype: torch.dtype = torch.float32) -> Decoder:
    return random_model(random_config(seed, "ME*ME"), seed, dtype)


def reader(decoder: Decoder) -> Callable[[str], Tensor]:
    weights = {name: weight.detach() for name, weight in decoder.named_parameters()}
    return weights.__getitem__


def written(path: Path, decoder: Decoder, kind: str, tokenizer: Tokenizer | None = None) -> Path:
    write(path, decoder.config, reader(decoder), kind, tokenizer)
    return path


def fields(path: Path) -> dict[str, Any]:
    """All keys, as the gguf package reads them."""
    return {name: field.contents() for name, field in GGUFReader(path).fields.items() if not name.startswith("GGUF.")}


def theirs(path: Path) -> dict[str, np.ndarray]:
    """Tensors as fp32, unpacked here by hand; shapes outermost first."""
    found = {}
    for tensor in GGUFReader(path).tensors:
        data, shape = np.ascontiguousarray(tensor.data), tuple(int(n) for n in tensor.shape[::-1])
        match tensor.tensor_type.name:
            case "F32" | "F16":
                values = data.astype(np.float32)
            case "BF16":
                values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            case "Q8_0":
                blocks = data.reshape(-1, 34)
                values = blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 2:].copy().view(np.int8)
        found[tensor.name] = values.reshape(shape)
    return found


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("seed", range(3))
def test_their_reader_finds_our_weights(kind: str, seed: int, tmp_path: Path) -> None:
    decoder = model(seed, tied=seed == 1)
    found = theirs(written(tmp_path / "model.gguf", decoder, kind))
    weights = {name: weight.detach() for name, weight in decoder.named_parameters()}
    mamba = decoder.config.layers[0]
    assert isinstance(mamba, Mamba2)
    rounded = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
    matrices = {
        "token_embd.weight": "embedding.weight",
        "blk.0.ssm_in.weight": "layers.0.mixer.in_proj.weight",
        "blk.3.ssm_out.weight": "layers.3.mixer.out_proj.weight",
        "blk.5.attn_q.weight": "layers.5.mixer.q_proj.weight",
        "blk.2.attn_k.weight": "layers.2.mixer.k_proj.weight",
        "blk.2.attn_v.weight": "layers.2.mixer.v_proj.weight",
        "blk.5.attn_output.weight": "layers.5.mixer.o_proj.weight",
        "blk.4.ffn_up.weight": "layers.4.mixer.up_proj.weight",
        "blk.1.ffn_down.weight": "layers.1.mixer.down_proj.weight",
    }
    exact = {
        "output_norm.weight": weights["norm.weight"],
        "blk.6.attn_norm.weight": weights["layers.6.norm.weight"],
        "blk.0.ssm_conv1d.weight": weights["layers.0.mixer.conv1d.weight"][:, 0],
        "blk.0.ssm_conv1d.bias": weights["layers.0.mixer.conv1d.bias"],
        "blk.3.ssm_dt.bias": weights["layers.3.mixer.dt_bias"],
        "blk.3.ssm_d": weights["layers.3.mixer.D"][:, None],
        "blk.3.ssm_norm.weight": weights["layers.3.mixer.norm.weight"].view(mamba.groups, -1),
    }
    for name, ours in matrices.items():
        assert np.array_equal(found[name], weights[ours].to(rounded).float().numpy()), name
    for name, values in exact.items():
        assert np.array_equal(found[name], values.numpy()), name
    decay = -np.exp(weights["layers.3.mixer.A_log"].double().numpy())[:, None]
    assert np.array_equal(found["blk.3.ssm_a"], decay.astype(np.float32))
    assert len(found) == len(decoder.config.tensors()) and ("output.weight" in found) == (seed != 1)


def test_q8_0_is_within_half_a_step_of_each_block(tmp_path: Path) -> None:
    decoder = model()
    counts = write(tmp_path / "model.gguf", decoder.config, reader(decoder), "q8_0")
    found, types = theirs(tmp_path / "model.gguf"), {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "model.gguf").tensors}
    weight = decoder.state_dict()["layers.1.mixer.down_proj.weight"].numpy()
    assert types["blk.1.ffn_down.weight"] == "Q8_0" and weight.shape[1] == 64
    steps = np.abs(weight.reshape(-1, 32)).max(1, keepdims=True) / 127
    assert (np.abs(found["blk.1.ffn_down.weight"] - weight).reshape(-1, 32) <= steps * (0.5 + 127 * 2**-11)).all()
    assert types["blk.4.ffn_down.weight"] == "BF16"  # rows of 9 numbers make no block of 32
    assert counts == {kind.lower(): list(types.values()).count(kind) for kind in set(types.values())}


@pytest.mark.parametrize("seed", range(4))
def test_a_mixture_of_experts_is_llama_cpp_s_other_architecture(seed: int, tmp_path: Path) -> None:
    decoder = with_experts(seed)
    moe = decoder.config.layers[1]
    assert isinstance(moe, MoE)
    path = written(tmp_path / "model.gguf", decoder, "f32")
    found, keys, weights = theirs(path), fields(path), decoder.state_dict()
    asked = {
        "general.architecture": "nemotron_h_moe",
        "nemotron_h_moe.feed_forward_length": [0, moe.ffn, 0, 0, moe.ffn],
        "nemotron_h_moe.expert_count": moe.experts,
        "nemotron_h_moe.expert_used_count": moe.top_k,
        "nemotron_h_moe.expert_feed_forward_length": moe.ffn,
        "nemotron_h_moe.expert_shared_feed_forward_length": moe.shared_ffn,
        "nemotron_h_moe.expert_group_count": moe.groups,
        "nemotron_h_moe.expert_group_used_count": moe.top_groups,
        "nemotron_h_moe.expert_weights_norm": moe.normalised,
        "nemotron_h_moe.expert_weights_scale": pytest.approx(moe.scale, rel=1e-7),
    } | ({"nemotron_h_moe.moe_latent_size": moe.latent} if moe.latent else {})
    assert {name: keys.get(name) for name in asked} == asked
    expected = {
        "ffn_gate_inp.weight": "gate.weight",
        "exp_probs_b.bias": "gate.e_score_correction_bias",
        "ffn_up_exps.weight": "experts.up_proj",
        "ffn_down_exps.weight": "experts.down_proj",
        "ffn_up_shexp.weight": "shared_experts.up_proj.weight",
        "ffn_down_shexp.weight": "shared_experts.down_proj.weight",
    } | ({"ffn_latent_down.weight": "fc1_latent_proj.weight", "ffn_latent_up.weight": "fc2_latent_proj.weight"} if moe.latent else {})
    for name, ours in expected.items():
        assert np.array_equal(found[f"blk.4.{name}"], weights[f"layers.4.mixer.{ours}"].numpy()), name
    back = GGUF(path)
    assert [layer for layer in back.config.layers if isinstance(layer, MoE)] == [moe, moe]
    assert all(torch.equal(back.read(name), weights[name]) for name in back.names if not name.endswith("A_log"))


def test_what_a_user_should_know_is_said() -> None:
    config = model().config
    matrices = [found for name, found in config.tensors().items() if "_proj" in name or name in ("embedding.weight", "head.weight")]
    odd = sum(spec.layout.shape(axes)[-1] % 32 > 0 for spec, axes in matrices)
    assert [remark.split(" ")[:5] for remark in remarks(config, "q8_0", trained())] == [[str(odd), "matrices", "stay", "in", "bf16,"]]
    assert list(remarks(config, "f16", None)) == ["no tokenizer is in it, so llama.cpp takes and gives token ids only"]


def test_metadata_is_what_llama_cpp_asks_for(tmp_path: Path) -> None:
    decoder = model()
    config, mamba = decoder.config, decoder.config.layers[0]
    assert isinstance(mamba, Mamba2)
    found = fields(written(tmp_path / "tiny.gguf", decoder, "bf16"))
    heads = config.layers[2]
    assert isinstance(heads, Attention)
    asked = {
        "general.architecture": "nemotron_h",
        "general.name": "tiny",
        "general.file_type": 32,
        "tokenizer.ggml.model": "none",
        "nemotron_h.block_count": 7,
        "nemotron_h.vocab_size": config.vocab,
        "nemotron_h.embedding_length": config.hidden,
        "nemotron_h.feed_forward_length": [0, 64, 0, 0, 9, 0, config.layers[6].ffn],  # type: ignore[union-attr]
        "nemotron_h.attention.head_count_kv": [0, 0, heads.kv_heads, 0, 0, 2, 0],
        "nemotron_h.attention.key_length": heads.channels,
        "nemotron_h.attention.value_length": heads.channels,
        "nemotron_h.ssm.inner_size": mamba.heads * mamba.channels,
        "nemotron_h.ssm.time_step_rank": mamba.heads,
        "nemotron_h.ssm.group_count": mamba.groups,
        "nemotron_h.ssm.state_size": mamba.state,
        "nemotron_h.ssm.conv_kernel": mamba.taps,
    }
    assert {name: found.get(name) for name in asked} == asked
    assert found["nemotron_h.attention.layer_norm_rms_epsilon"] == pytest.approx(config.norm_eps, rel=1e-7)
    assert min(found["nemotron_h.attention.head_count"]) > 0 and found["nemotron_h.attention.head_count"][5] == 6


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_every_tensor_comes_back(kind: str, stored: torch.dtype, tmp_path: Path) -> None:
    decoder = model(3, tied=stored == torch.bfloat16, dtype=stored)
    source = GGUF(written(tmp_path / "model.gguf", decoder, kind))
    config = tuple(replace(layer, chunk_size=128) if isinstance(layer, Mamba2) else layer for layer in decoder.config.layers)
    assert source.config == replace(decoder.config, layers=config)  # a chunk size is no part of the function
    assert source.names == list(decoder.config.tensors())
    for name, weight in decoder.state_dict().items():
        if name == "head.weight" and decoder.config.tied:
            continue
        back = source.read(name)
        assert (back.shape, back.dtype) == (weight.shape, source.dtype(name)), name
        assert torch.equal(source.rows(name, 1, 3), back[1:3]), name
        assert ((back.double() - weight.double()).abs() <= weight.double().abs() * 2**-8 + source.rounding(name, weight.double())).all()
        if name.endswith("A_log"):
            assert (back - weight.float()).abs().max() <= 2 * 2**-24 * weight.float().abs().clamp(min=1).max(), name
        elif kind != "q8_0" or back.dtype != torch.float32:
            assert torch.equal(back, weight.to(back.dtype)), name
    if kind == "q8_0":
        unpacked = theirs(tmp_path / "model.gguf")["blk.1.ffn_down.weight"]
        assert np.array_equal(source.read("layers.1.mixer.down_proj.weight").numpy(), unpacked)


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    decoder = model()
    weights, alive = reader(decoder), []

    def read(name: str) -> Tensor:
        assert not [one for one in alive if one() is not None], name
        tensor = weights(name).clone()
        alive.append(weakref.ref(tensor))
        return tensor

    write(tmp_path / "model.gguf", decoder.config, read, "bf16")
    assert len(alive) == len(decoder.config.tensors())


TEXTS = ["def f(x):\n    return x  # añade", " \t\n\n  spaces  ", "日本語 🦙 e\u0301", "a<|endoftext|>b", "It's 12345 o'clock"]


def trained(vocab: int = 300) -> Tokenizer:
    return Tokenizer.train(TEXTS * 20, vocab=vocab)


def test_the_tokenizer_is_written_as_it_is(tmp_path: Path) -> None:
    tokenizer, decoder = trained(290), model()
    rows = tokenizer.vocab_size + 5
    config = replace(decoder.config, vocab=rows)
    tokenizer.companions["chat_template.jinja"] = "{{ messages }}"
    write(tmp_path / "model.gguf", config, reader(random_model(config)), "f32", tokenizer)
    found = {name.removeprefix("tokenizer."): value for name, value in fields(tmp_path / "model.gguf").items() if "tokenizer" in name}
    tokens, merges = found.pop("ggml.tokens"), found.pop("ggml.merges")
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    assert tokens[: len(ids)] == sorted(ids, key=lambda token: ids[token]) and len(set(tokens)) == rows
    model_merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    assert [merge.split(" ") for merge in merges] == model_merges and len(merges) > 20
    assert found.pop("ggml.token_type") == [3, 3] + [1] * (len(ids) - 2) + [5] * 5
    assert found == {
        "ggml.model": "gpt2",
        "ggml.pre": "gpt-2",
        "ggml.bos_token_id": tokenizer.bos_id,
        "ggml.eos_token_id": tokenizer.eos_id,
        "ggml.padding_token_id": tokenizer.pad_id,
        "ggml.add_bos_token": False,
        "ggml.add_eos_token": False,
        "chat_template": "{{ messages }}",
    }


def split_by(tokenizer: Tokenizer, pattern: str) -> None:
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.backend.pre_tokenizer = pre_tokenizers.Sequence(steps)


@pytest.mark.parametrize("pattern", CUTS)
def test_the_way_to_cut_words_has_a_name_in_llama_cpp(pattern: str) -> None:
    tokenizer = trained()
    split_by(tokenizer, pattern)
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]  # the library takes the pattern
    name = vocabulary(tokenizer, 300)["tokenizer.ggml.pre"]
    assert name == CUTS[pattern].name
    told = list(remarks(model().config, "f32", tokenizer))
    assert [name in remark for remark in told] == ([True] if name == "tekken" else [])


def test_a_first_token_of_every_text_is_added_there_too() -> None:
    tokenizer = trained()
    tokenizer.backend.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    keys = vocabulary(tokenizer, 300)
    assert (keys["tokenizer.ggml.add_bos_token"], keys["tokenizer.ggml.add_eos_token"]) == (True, False)


def other_model(tokenizer: Tokenizer, **changes: Any) -> Tokenizer:
    described = json.loads(tokenizer.backend.to_str())
    described["model"] |= changes
    return replace(tokenizer, backend=Backend.from_str(json.dumps(described)))


def unreachable(tokenizer: Tokenizer) -> Tokenizer:
    """A token that no merge makes, which llama.cpp's llama-bpe would take whole."""
    vocab = json.loads(tokenizer.backend.to_str())["model"]["vocab"]
    other = other_model(tokenizer, vocab=vocab | {"zqzq": len(vocab)})
    split_by(other, next(pattern for pattern, cut in CUTS.items() if cut.name == "llama-bpe"))
    return other


def around(tokenizer: Tokenizer) -> None:
    tokenizer.backend.post_processor = processors.TemplateProcessing(single="<|padding|> $A", special_tokens=[("<|padding|>", 1)])


TOKENIZERS: dict[str, tuple[Callable[[Tokenizer], Any], str]] = {
    "normalizer": (lambda t: setattr(t.backend, "normalizer", normalizers.NFC()), "it normalizes text .NFC."),
    "another cut": (lambda t: setattr(t.backend, "pre_tokenizer", pre_tokenizers.Whitespace()), "none of gpt-2, llama-bpe, qwen2, tekken"),
    "no cut": (lambda t: setattr(t.backend, "pre_tokenizer", None), "none of gpt-2"),
    "a first space": (lambda t: setattr(t.backend, "pre_tokenizer", pre_tokenizers.ByteLevel()), "none of gpt-2"),
    "another decoder": (lambda t: setattr(t.backend, "decoder", None), "no byte-level BPE"),
    "dropout": (lambda t: other_model(t, dropout=0.1), "its dropout is 0.1"),
    "byte fallback": (lambda t: other_model(t, byte_fallback=True), "its byte_fallback is True"),
    "a token that no merge makes": (unreachable, "does not obey merges"),
    "something else around": (around, r"it puts \[1\] before and \[\] behind"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(case: str) -> None:
    change, sentence = TOKENIZERS[case]
    tokenizer = trained()
    tokenizer = change(tokenizer) or tokenizer
    with pytest.raises(CheckpointError, match=f"cannot be written into a GGUF file: .*{sentence}"):
        vocabulary(tokenizer, 400)
    with pytest.raises(CheckpointError, match="it has 300 tokens, and the model 299 rows"):
        vocabulary(trained(), 299)


def changed(index: int, **changes: Any) -> DecoderConfig:
    config = model().config
    layers = list(config.layers)
    layers[index] = replace(layers[index], **changes)  # type: ignore[type-var]
    return replace(config, layers=tuple(layers))


REFUSED: dict[str, tuple[DecoderConfig, str]] = {
    "Mamba widths": (changed(3, state=5), "one width for all Mamba layers, and this model has 2; .*--uniform"),
    "head widths": (changed(5, channels=2), "one head width for all attention layers, and this model has 2; .*--uniform"),
    "a time step limit": (changed(0, time_step_limit=(0.001, math.inf)), r"dt is clamped, .* \(0\.001, inf\)"),
    "rotary embedding": (changed(2, channels=4, rope=Rope()), "no layer of .* is like layer 2"),
    "biases": (changed(2, bias=True), "no layer of .* is like layer 2"),
    "a gate": (changed(1, gated=True), "no layer of .* is like layer 1"),
    "another activation": (changed(1, activation="silu"), "no layer of .* is like layer 1"),
    "LayerNorm": (replace(model().config, norm="layernorm1p"), "RMSNorm"),
    "no Mamba": (random_config(0, "*-*"), "needs Mamba and attention layers, and this one has 0 and 2"),
    "experts that differ": (replace(with_experts(0).config, layers=(*with_experts(0).config.layers, random_moe(3))), "one shape for all"),
    "experts and MLPs": (replace(with_experts(0).config, layers=(*with_experts(0).config.layers, MLP(ffn=9))), "one shape for all"),
    "no attention": (random_config(0, "M-M"), "needs Mamba and attention layers, and this one has 2 and 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_stack_that_gguf_cannot_say_is_refused(case: str, tmp_path: Path) -> None:
    config, sentence = REFUSED[case]
    assert refuses(config) and not refuses(model().config)
    with pytest.raises(CheckpointError, match=f"cannot be written as GGUF: .*{sentence}"):
        write(tmp_path / "model.gguf", config, lambda name: pytest.fail("a tensor was read"))
    assert not list(tmp_path.iterdir())


def test_values_beyond_f16_are_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    decoder = model()
    before = written(tmp_path / "model.gguf", decoder, "f32").read_bytes()
    with torch.no_grad():
        decoder.layers[1].mixer.up_proj.weight[0, 0] = 70000.0  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"layers\.1\.mixer\.up_proj\.weight holds values beyond 65504"):
        written(tmp_path / "model.gguf", decoder, "f16")
    assert (tmp_path / "model.gguf").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_only_a_gguf_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("my notes")
    for path in (tmp_path / "notes.gguf", tmp_path):
        with pytest.raises(CheckpointError, match="exists and is no GGUF file"):
            written(path, model(), "f32")
    with pytest.raises(ConfigError, match="f32, f16, bf16, q8_0; got 'q4_k'"):
        written(tmp_path / "model.gguf", model(), "q4_k")
    assert (tmp_path / "notes.gguf").read_text() == "my notes"


def test_without_the_package_it_is_one_sentence() -> None:
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from amaru.models.formats.gguf import write\n"
        "from amaru.models.families import presets\n"
        "write('x.gguf', presets()['nemotron-h-8b'], None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "amaru.errors.BackendError: Writing GGUF needs the gguf package; install it with: pip install 'amaru[gguf]'"


def test_every_cut_is_one_sentence(tmp_path: Path) -> None:
    whole = written(tmp_path / "model.gguf", model(), "bf16").read_bytes()
    for size in [*range(0, 2000, 7), *range(2000, len(whole), 997), len(whole) - 32]:
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf (is cut short or damaged|is no GGUF file)") as caught:
            GGUF(tmp_path / "cut.gguf")
        assert "\n" not in str(caught.value)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


HUGE = 2**62
KEY = text("general.architecture") + struct.pack("<I", 8) + text("nemotron_h")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "many values": (struct.pack("<IQQ", 3, 0, HUGE), "bytes are announced"),
    "many tensors": (struct.pack("<IQQ", 3, HUGE, 0), "bytes are announced"),
    "a long name": (struct.pack("<IQQQ", 3, 0, 1, HUGE), f"{HUGE} bytes are announced"),
    "a long list": (struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 4, HUGE), f"{4 * HUGE} bytes are announced"),
    "a long list of texts": (struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, HUGE), "bytes are announced"),
    "a list of lists": (struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1), "type 9, which is not known"),
    "an unknown type": (struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 77), "type 77, which is not known"),
    "no text": (struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2) + b"\xff\xfe", "codec can't decode"),
    "an old version": (struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
    "many dimensions": (struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I", 9), "9 dimensions"),
    "a huge tensor": (struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I2QIQ", 2, HUGE, HUGE, 0, 0), "bytes of tensor t end at"),
    "another quantisation": (struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 256, 12, 0), "tensor t has type 12"),
    "alignment": (struct.pack("<IQQ", 3, 0, 1) + text("general.alignment") + struct.pack("<II", 4, 0), "general.alignment is 0"),
    "another architecture": (struct.pack("<IQQ", 3, 0, 0), r"model\.gguf: The metadata names the architecture None"),
    "no layers": (struct.pack("<IQQ", 3, 0, 1) + KEY, "sets nemotron_h.block_count to None; 1 to"),
    "many layers": (
        struct.pack("<IQQ", 3, 0, 2) + KEY + text("nemotron_h.block_count") + struct.pack("<II", 4, 2**32 - 1),
        "sets nemotron_h.block_count to 4294967295; 1 to",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_one_sentence(case: str, tmp_path: Path) -> None:
    content, sentence = HOSTILE[case]
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + content)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        GGUF(tmp_path / "model.gguf")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_tensors_that_differ_from_the_metadata_are_listed(tmp_path: Path) -> None:
    decoder = model()
    whole = written(tmp_path / "model.gguf", decoder, "f32").read_bytes()

    def widths(first: int) -> bytes:
        return struct.pack("<Q7i", 7, first, 64, 0, 0, 9, 0, decoder.config.layers[6].ffn)  # type: ignore[union-attr]

    damage = {
        "lacks 1 tensors: blk.1.ffn_up.weight": (b"blk.1.ffn_up", b"blk.1.ffn_uq"),
        "lacks 2 tensors: blk.0.ffn_down.weight, blk.0.ffn_up.weight": (widths(0), widths(7)),
        "sets nemotron_h.feed_forward_length to .*one for each layer": (widths(0), widths(-1)),
    }
    for sentence, (old, new) in damage.items():
        assert whole.count(old) == 1
        (tmp_path / "model.gguf").write_bytes(whole.replace(old, new))
        with pytest.raises(CheckpointError, match=sentence):
            GGUF(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="There is no GGUF file"):
        GGUF(tmp_path / "absent.gguf")
