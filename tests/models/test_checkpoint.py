"""Checkpoints on disk: bit for bit there and back, and one sentence naming the culprit for each way to be broken."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.random_models import random_config, random_model

from amaru.errors import AmaruError, CheckpointError
from amaru.models import Decoder
from amaru.models.checkpoint import Checkpoint, fingerprint, load, save, write
from amaru.models.shards import INDEX, SINGLE, write_shards
from amaru.models.tensor_file import Entry
from amaru.nn import MLP


@pytest.fixture
def decoder() -> Decoder:
    return random_model(random_config(1, "M-*-M"), 1)


@pytest.fixture
def saved(decoder: Decoder, tmp_path: Path) -> Path:
    save(decoder, tmp_path / "model")
    return tmp_path / "model"


def assert_same_weights(one: Decoder, other: Decoder) -> None:
    assert one.config == other.config
    weights, others = one.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert tensor.dtype == others[name].dtype and torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip_is_exact_in_weights_and_config(seed: int, tied: bool, tmp_path: Path) -> None:
    decoder = random_model(random_config(seed, tied=tied), seed)
    save(decoder, tmp_path / "model")
    back = load(tmp_path / "model")
    assert_same_weights(back, decoder)
    assert (back.head.weight is back.embedding.weight) == tied


def test_round_trip_in_bf16_keeps_the_fp32_parameters(decoder: Decoder, tmp_path: Path) -> None:
    save(decoder, tmp_path / "model", dtype=torch.bfloat16)
    back = load(tmp_path / "model")
    for name, tensor in decoder.state_dict().items():
        kept = name.rsplit(".", 1)[-1] in ("A_log", "D", "dt_bias")
        assert torch.equal(back.state_dict()[name], tensor if kept else tensor.bfloat16()), name
    save(back, tmp_path / "again")
    assert_same_weights(load(tmp_path / "again"), back)
    assert {p.dtype for p in load(tmp_path / "again", dtype=torch.float64).parameters()} == {torch.float64}


def test_every_weight_goes_where_it_is_asked_to(saved: Path) -> None:
    assert {parameter.device.type for parameter in load(saved, device="meta").parameters()} == {"meta"}


def test_several_shards_are_indexed_and_read_back(decoder: Decoder, saved: Path) -> None:
    weights = load_file(saved / SINGLE)
    (saved / SINGLE).unlink()
    write_shards(saved, [Entry.of(name, weight) for name, weight in weights.items()], weights.values(), shard_bytes=5000)
    shards = sorted(saved.glob("*.safetensors"))
    index = json.loads((saved / INDEX).read_text())
    assert len(shards) > 3 and {shard.name for shard in shards} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    assert all(file.stat().st_size < 5000 + 3000 or len(load_file(file)) == 1 for file in shards)
    assert_same_weights(load(saved), decoder)


def test_the_fingerprint_follows_weights_and_config_only(decoder: Decoder, saved: Path, tmp_path: Path) -> None:
    before = fingerprint(saved)
    save(decoder, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == before
    (saved / "notes.txt").write_text("unrelated")
    assert fingerprint(saved) == before
    with torch.no_grad():
        decoder.layers[0].mixer.D[0] += 1e-6  # type: ignore[index]
    save(decoder, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") != before


def edit_weights(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(path / SINGLE)
    edit(weights)
    save_file(weights, path / SINGLE)


def edit_config(path: Path, **changes: Any) -> None:
    values = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def rename(weights: dict[str, torch.Tensor], old: str, new: str) -> None:
    weights[new] = weights.pop(old)


LAYER = "backbone.layers.1.mixer.up_proj.weight"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing tensor": (lambda path: edit_weights(path, lambda w: w.pop(LAYER)), LAYER),
    "extra tensor": (lambda path: edit_weights(path, lambda w: w.update(surprise=torch.zeros(1))), "surprise"),
    "misspelt tensor": (lambda path: edit_weights(path, lambda w: rename(w, LAYER, LAYER + "s")), LAYER),
    "two names for one": (lambda path: edit_weights(path, lambda w: w.update({LAYER.replace("backbone", "model"): w[LAYER] + 1})), LAYER),
    "wrong shape": (lambda path: edit_weights(path, lambda w: w.update({LAYER: torch.zeros(3, 4)})), LAYER),
    "transposed": (lambda path: edit_weights(path, lambda w: w.update({LAYER: w[LAYER].T.contiguous()})), LAYER),
    "integers": (lambda path: edit_weights(path, lambda w: w.update({LAYER: w[LAYER].long()})), LAYER),
    "truncated weights": (lambda path: truncate(path / SINGLE, 4000), SINGLE),
    "truncated header": (lambda path: truncate(path / SINGLE, 5), SINGLE),
    "empty weights": (lambda path: truncate(path / SINGLE, 0), SINGLE),
    "no weights": (lambda path: (path / SINGLE).unlink(), SINGLE),
    "no config": (lambda path: (path / "config.json").unlink(), "config.json"),
    "truncated config": (lambda path: truncate(path / "config.json", 100), "config.json"),
    "config is a list": (lambda path: (path / "config.json").write_text("[1]"), "config.json"),
    "config not UTF-8": (lambda path: (path / "config.json").write_bytes(b"\xff\xfe{}"), "config.json"),
    "unknown family": (lambda path: edit_config(path, model_type="mamba"), "model_type"),
    "family of wrong type": (lambda path: edit_config(path, model_type=["nemotron_h"]), "model_type"),
    "no family": (lambda path: edit_config(path, model_type=...), "model_type"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_named_in_one_sentence(case: str, saved: Path) -> None:
    damage, culprit = BROKEN[case]
    damage(saved)
    with pytest.raises(CheckpointError) as caught:
        load(saved)
    assert culprit in str(caught.value) and "\n" not in str(caught.value)


WIDTHS = ["hidden_size", "vocab_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"]
MAMBA = ["mamba_num_heads", "mamba_head_dim", "ssm_state_size", "conv_kernel", "n_groups"]
NOT_WIDTHS = [0, -3, 2.5, "64", None, True, [8], 10**15, ...]
LIMITS = [5, None, [1.0], [1, 2, 3], ["a", "b"], [2.0, 1.0], [-1.0, 1.0], [0.0, {"__float__": "NaN"}], {"a": 1}, "01"]

WRONG_VALUES: list[tuple[str, Any]] = [
    *((name, value) for name in WIDTHS + MAMBA for value in NOT_WIDTHS),
    *(("chunk_size", value) for value in (0, -1, "8", ...)),
    *(("layer_norm_epsilon", value) for value in ("tiny", -1.0, 0, [1e-5], None, {"__float__": "NaN"})),
    *(("time_step_limit", value) for value in LIMITS),
    *(("tie_word_embeddings", value) for value in ("yes", 3, None)),
    *(("hybrid_override_pattern", value) for value in ("M-E-M", "M-*-MM", "M-*-", "*-M-M", "", 5, ["M"])),
    ("layers_block_type", ["linear_attention", "moe"]),
    ("layers_block_type", "M-*-M"),
    *((name, True) for name in ("attention_bias", "mlp_bias", "mamba_proj_bias", "use_bias")),
    ("use_conv_bias", False),
    ("mlp_hidden_act", "gelu"),
    ("sliding_window", 512),
    ("num_nextn_predict_layers", 1),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES, ids=[f"{name}={value}" for name, value in WRONG_VALUES])
def test_a_config_of_another_model_is_refused_before_anything_is_allocated(name: str, value: Any, saved: Path) -> None:
    """Sizes of 10^12 and more could not be allocated: a MemoryError or RuntimeError would fail the test."""
    edit_config(saved, **{name: value})
    with pytest.raises(AmaruError) as caught:
        load(saved)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


def in_shards(saved: Path) -> dict[str, Any]:
    weights = load_file(saved / SINGLE)
    (saved / SINGLE).unlink()
    write_shards(saved, [Entry.of(name, weight) for name, weight in weights.items()], weights.values(), shard_bytes=5000)
    return json.loads((saved / INDEX).read_text())


@pytest.mark.parametrize("file", ["absent.safetensors", "../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "weights.bin", 7])
def test_an_index_may_name_only_shards_that_are_there(file: Any, saved: Path) -> None:
    index = in_shards(saved)
    save_file({"x": torch.zeros(1)}, saved.parent / "outside.safetensors")
    index["weight_map"][LAYER] = file
    (saved / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="weight_map" if file == 7 else str(file).split("/")[-1]):
        Checkpoint(saved)


def test_an_index_that_puts_a_tensor_into_the_wrong_shard_is_refused(saved: Path) -> None:
    index = in_shards(saved)
    index["weight_map"][LAYER] = next(file for file in index["weight_map"].values() if file != index["weight_map"][LAYER])
    (saved / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=LAYER):
        Checkpoint(saved)


def test_a_truncated_shard_of_several_is_named(saved: Path) -> None:
    in_shards(saved)
    shard = sorted(saved.glob("*.safetensors"))[2]
    truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=shard.name):
        Checkpoint(saved)


def test_a_cut_is_told_by_the_first_tensor_that_it_cost(saved: Path) -> None:
    """Cut one byte before the end of each tensor, in the order of the file."""
    whole = (saved / SINGLE).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    ends = {name: 8 + length + entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
    assert max(ends.values()) == len(whole)
    for name, end in ends.items():
        (saved / SINGLE).write_bytes(whole[: end - 1])
        with pytest.raises(CheckpointError, match=rf"{SINGLE} is cut short .* tensor '{re.escape(name)}' lie past its end"):
            load(saved)


HEADERS: list[bytes] = [
    b"[1, 2]",
    b"5",
    b'{"a": 1}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1%s]}}' % (b"0" * 30),
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1%s]}}' % (b"0" * 5000),
    b'{"a\\nb\\u001b[31m": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    b'{"a": ' + b"[" * 100_000,
    b"\xff\xfe{}",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_hostile_header_is_one_sentence(header: bytes, saved: Path) -> None:
    (saved / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=f"{SINGLE} is cut short or damaged") as caught:
        load(saved)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 3])
def test_a_hostile_length_is_one_sentence(length: int, saved: Path) -> None:
    (saved / SINGLE).write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=f"{SINGLE} is cut short or damaged") as caught:
        load(saved)
    assert str(caught.value).isprintable()


def test_no_such_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_head_that_differs_from_what_it_is_tied_to_is_refused(saved: Path) -> None:
    edit_config(saved, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        load(saved)


def test_layers_of_different_widths_are_written_in_our_own_config(decoder: Decoder, tmp_path: Path) -> None:
    layers = list(decoder.config.layers)
    assert isinstance(layers[1], MLP)
    layers[1] = MLP(ffn=layers[1].ffn + 1)
    uneven = random_model(replace(decoder.config, layers=tuple(layers)))
    save(uneven, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "amaru"
    again = load(tmp_path / "model")
    assert again.config == uneven.config
    held = dict(again.named_parameters())
    assert all(torch.equal(held[name], weight) for name, weight in uneven.named_parameters())


def test_what_was_there_survives_a_save_that_fails(decoder: Decoder, saved: Path) -> None:
    def read(name: str) -> torch.Tensor:
        if name != "embedding.weight":
            raise OSError(28, "No space left on device")
        return decoder.embedding.weight

    before = fingerprint(saved)
    with pytest.raises(AmaruError, match="disk is full"):
        write(saved, decoder.config, read, torch.float32)
    assert fingerprint(saved) == before
    assert_same_weights(load(saved), decoder)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
