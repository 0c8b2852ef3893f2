"""Conversions: bit for bit there and back, proven, and nothing under the name when anything fails."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.cli.small_checkpoint import TEXT
from tests.models.random_models import FAMILIES, random_config, random_model, random_nemotron4

from amaru.data.tokenizer import Tokenizer
from amaru.errors import AmaruError, CheckpointError, ConfigError, StorageError
from amaru.models import Decoder, DecoderConfig
from amaru.models import convert as conversions
from amaru.models.checkpoint import Checkpoint, load, save
from amaru.models.convert import Conversion, Job
from amaru.models.families import nemotron_h
from amaru.models.formats import format_of, open_checkpoint
from amaru.models.targets import Request, Target
from amaru.models.verify import match, verify
from amaru.nn import MLP, Attention, Mamba2

HYBRID = DecoderConfig(
    vocab=300,
    hidden=24,
    layers=(
        Mamba2(heads=8, channels=4, groups=2, state=8),
        MLP(ffn=36),
        Attention(query_heads=4, kv_heads=2, channels=8),
        Mamba2(heads=8, channels=4, groups=2, state=8),
    ),
)
UNEVEN = replace(HYBRID, layers=(*HYBRID.layers, MLP(ffn=20), Mamba2(heads=4, channels=4, groups=2, state=8)))


def convert(source: Path, out: Path, to: str, **settings: object) -> Conversion:
    return Job(Request(source=str(source), out=str(out), to=to, **settings)).run()  # type: ignore[arg-type]


def saved(path: Path, config: DecoderConfig = HYBRID, dtype: torch.dtype | None = None) -> Path:
    save(random_model(config, 2), path, Tokenizer.train([TEXT], vocab=290), dtype)
    return path


def assert_same_bits(one: Path, other: Path) -> None:
    matches, fingerprints = match(open_checkpoint(one), open_checkpoint(other), lambda text: None)
    assert matches and all(each.equal and each.max_abs == 0 for each in matches)
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("to", ["megatron", "nemo"])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_to_megatron_or_nemo_and_back_is_the_same_file(to: str, ranks: int, dtype: torch.dtype, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", dtype=dtype)
    there = convert(source, tmp_path / "there", to, ranks=ranks)
    back = convert(tmp_path / "there", tmp_path / "back", "hf")
    assert there.equal and back.equal and there.differences["float32"] == back.differences["float32"] == 0
    assert there.source_format.startswith("a Hugging Face") and back.source_format.lower().startswith(f"a {to}")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes(), name
    assert (there.tensors, there.parameters) == (len(HYBRID.tensors()), sum(p.numel() for p in load(source).parameters()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_copied_bit_for_bit(family: str, tmp_path: Path) -> None:
    save(random_model(FAMILIES[family](4), 4), tmp_path / "source", dtype=torch.bfloat16)
    found = convert(tmp_path / "source", tmp_path / "copy", "hf")
    assert found.equal and found.carried == ()
    assert ("import amaru.models.hf" in "".join(found.notes)) == (family == "amaru")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (tmp_path / "source" / "model.safetensors").read_bytes()
    assert_same_bits(tmp_path / "source", tmp_path / "copy")


def test_nemotron4_goes_to_megatron_and_back(tmp_path: Path) -> None:
    config = replace(random_nemotron4(1), tied=False)
    save(random_model(config, 1), tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "megatron", "megatron")
    convert(tmp_path / "megatron", tmp_path / "back", "hf")
    assert_same_bits(tmp_path / "source", tmp_path / "back")


def test_gguf_there_and_back_differs_by_the_rounding_of_a_logarithm_only(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    source = saved(tmp_path / "source", dtype=torch.bfloat16)
    assert convert(source, tmp_path / "model.gguf", "gguf").equal
    assert json.loads((tmp_path / "model.gguf.certificate.json").read_text())["equal"] is True
    convert(tmp_path / "model.gguf", tmp_path / "back", "hf")
    one, other = Checkpoint(source), Checkpoint(tmp_path / "back")
    for name in one.names:
        difference = (one.read(name).double() - other.read(name).double()).abs().max()
        assert difference <= (1e-6 if name.endswith("A_log") else 0), name


def test_q8_0_is_compared_by_what_its_blocks_can_hold(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    config = replace(HYBRID, hidden=32, layers=(*HYBRID.layers[:1], MLP(ffn=64), *HYBRID.layers[2:]))
    found = convert(saved(tmp_path / "source", config), tmp_path / "model.gguf", "gguf", dtype="q8_0")
    assert found.equal and 0 < found.differences["float32"] < 0.1
    assert found.verdict is not None and "of them but for rounding" in found.verdict


def test_ids_and_chat_template_come_along_through_every_format(tmp_path: Path) -> None:
    source = saved(tmp_path / "source")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | {"eos_token_id": [0, 5]}))
    there = convert(source, tmp_path / "megatron", "megatron")
    assert there.carried == ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    convert(tmp_path / "megatron", tmp_path / "back", "hf")
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {name: back[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")} == {
        "bos_token_id": 0,
        "eos_token_id": [0, 5],
        "pad_token_id": 1,
    }
    assert (tmp_path / "back" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert Tokenizer.load(tmp_path / "back").fingerprint == Tokenizer.load(source).fingerprint


def test_a_given_tokenizer_takes_the_place_of_none(tmp_path: Path) -> None:
    save(random_model(HYBRID, 2), tmp_path / "source")
    saved(tmp_path / "other")
    convert(tmp_path / "source", tmp_path / "copy", "hf", tokenizer=str(tmp_path / "other" / "tokenizer.json"))
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["pad_token_id"] == 1
    assert Tokenizer.load(tmp_path / "copy").vocab_size == Tokenizer.load(tmp_path / "other").vocab_size


def test_a_limit_of_dt_that_transformers_ignores_is_told(tmp_path: Path) -> None:
    limited = replace(HYBRID, layers=(Mamba2(heads=8, channels=4, groups=2, state=8, time_step_limit=(0.0, 0.5)),))
    save(random_model(limited, 2), tmp_path / "source")
    (note,) = convert(tmp_path / "source", tmp_path / "copy", "hf").notes
    assert "ignores the upper end of time_step_limit, 0.5 here" in note
    save(random_model(HYBRID, 2), tmp_path / "source")
    assert not convert(tmp_path / "source", tmp_path / "other", "hf").notes


def test_a_cast_is_judged_in_the_dtype_that_it_leaves(tmp_path: Path) -> None:
    source = saved(tmp_path / "source")
    found = convert(source, tmp_path / "half", "hf", dtype="bf16")
    assert found.equal and found.differences["float32"] > 1e-4 and found.differences["bfloat16"] == 0
    back = load(tmp_path / "half")
    for name, weight in load(source).named_parameters():
        kept = name.rsplit(".", 1)[-1] in ("A_log", "D", "dt_bias")
        assert torch.equal(back.get_parameter(name), weight if kept else weight.bfloat16())
    again = convert(tmp_path / "half", tmp_path / "wide", "hf", dtype="fp32")
    assert again.equal and again.differences == {"float32": 0, "bfloat16": 0}


def test_fp16_holds_what_is_small_and_not_what_is_large(tmp_path: Path) -> None:
    decoder = random_model(HYBRID, 2)
    with torch.no_grad():
        decoder.embedding.weight[0] = 1e-6  # fp16 has steps of 6e-8 there
        save(decoder, tmp_path / "small")
        decoder.norm.weight[0] = 1e6
        save(decoder, tmp_path / "large")
    assert convert(tmp_path / "small", tmp_path / "half", "hf", dtype="fp16").equal
    with pytest.raises(CheckpointError, match="not the same in both"):
        convert(tmp_path / "large", tmp_path / "half", "hf", dtype="fp16")
    assert load(tmp_path / "half").norm.weight[0] != torch.inf


def test_a_model_that_overflows_in_its_own_dtype_is_still_copied(tmp_path: Path) -> None:
    decoder = random_model(HYBRID, 2)
    with torch.no_grad():
        decoder.get_parameter("layers.1.mixer.up_proj.weight").mul_(2000)
    save(decoder, tmp_path / "source", dtype=torch.float16)
    assert convert(tmp_path / "source", tmp_path / "copy", "megatron").equal
    (*_, comparison) = verify(tmp_path / "source", tmp_path / "copy").comparisons
    assert comparison.dtype == "float16" and math.isnan(comparison.places[-1].cosine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_uniform_pads_says_so_and_prints_both_figures(dtype: torch.dtype, tmp_path: Path) -> None:
    decoder = random_model(replace(UNEVEN, norm_eps=1e-12), 2)
    save(decoder, tmp_path / "uneven", dtype=dtype)
    found = convert(tmp_path / "uneven", tmp_path / "even", "hf", uniform=True)
    assert found.equal and found.parameters > found.parameters_before
    assert found.differences["float32"] < 1e-5
    assert (dtype == torch.float32) == ("bfloat16" not in found.differences) == (found.notes == ())
    assert json.loads((tmp_path / "even" / "config.json").read_text())["model_type"] == "nemotron_h"


def test_uniform_may_be_cast_and_go_to_any_format(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    decoder = random_model(replace(UNEVEN, norm_eps=1e-5), 2)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith(("in_proj.weight", "conv1d.weight")):  # so that the gated norms see mean squares far above eps
                parameter.mul_(4)
            elif name.endswith("mixer.D"):
                parameter.copy_(parameter.abs() + 1)
    save(decoder, tmp_path / "uneven")
    for to, dtype in (("hf", "bf16"), ("megatron", None), ("gguf", "bf16"), ("gguf", "q8_0")):
        found = convert(tmp_path / "uneven", tmp_path / f"{to}-{dtype}", to, uniform=True, dtype=dtype)
        assert found.equal and found.differences["float32"] < 1e-3, (to, dtype, found.verdict)


def test_what_eps_leaves_of_padding_is_proven_and_said(tmp_path: Path) -> None:
    """A gated norm whose input is no larger than eps: the padded divisor cannot be corrected, and nothing else is different."""
    save(random_model(replace(UNEVEN, norm_eps=0.1), 2), tmp_path / "uneven")
    found = convert(tmp_path / "uneven", tmp_path / "even", "hf", uniform=True)
    assert found.equal and found.padding == found.differences["float32"] > 1e-3
    assert found.differences["float32 with the eps of padded norms"] < 1e-5
    assert "eps of padded norms" in str(found.verdict)


def test_padding_without_a_gated_norm_is_exact(tmp_path: Path) -> None:
    layers = (*HYBRID.layers, MLP(ffn=20), Attention(query_heads=2, kv_heads=1, channels=8))
    save(random_model(replace(HYBRID, layers=layers), 2), tmp_path / "uneven")
    found = convert(tmp_path / "uneven", tmp_path / "even", "hf", uniform=True)
    assert found.equal and found.padding is None and list(found.differences) == ["float32"] and found.differences["float32"] < 1e-6


def test_numbers_that_are_none_are_copied_as_they_are(tmp_path: Path) -> None:
    decoder = random_model(HYBRID, 2)
    with torch.no_grad():
        decoder.head.weight[3, 3], decoder.head.weight[4, 4] = float("nan"), float("inf")
    save(decoder, tmp_path / "source")
    Job(Request(source=str(tmp_path / "source"), out=str(tmp_path / "copy"), to="megatron")).run(verify=False)
    assert_same_bits(tmp_path / "source", tmp_path / "copy")


def listing(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("to", ["hf", "megatron", "nemo", "gguf"])
def test_a_source_that_fails_half_way_leaves_nothing_and_what_was_there(to: str, tmp_path: Path) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    source = saved(tmp_path / "source")
    convert(source, tmp_path / "out", to)
    before = listing(tmp_path / "out") if (tmp_path / "out").is_dir() else (tmp_path / "out").read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())
    job = Job(Request(source=str(source), out=str(tmp_path / "out"), to=to))
    os.truncate(source / "model.safetensors", (source / "model.safetensors").stat().st_size // 2)
    with pytest.raises(CheckpointError, match="became shorter"):
        job.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (listing(tmp_path / "out") if (tmp_path / "out").is_dir() else (tmp_path / "out").read_bytes()) == before


def test_a_copy_that_is_not_the_source_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one_bit(source, path, request, carried) -> None:
        conversions.TARGETS["megatron"].write(source, path, request, carried)
        shard = max((path / "iter_0000000").glob("*.distcp"), key=lambda file: file.stat().st_size)
        data = bytearray(shard.read_bytes())
        place = data.index(Checkpoint(tmp_path / "source").read("layers.1.mixer.up_proj.weight").numpy().tobytes()[:64])
        data[place] ^= 1
        shard.write_bytes(data)

    saved(tmp_path / "source")
    monkeypatch.setitem(conversions.TARGETS, "wrong", Target(off_by_one_bit))
    monkeypatch.setitem(conversions.FORMATS, "wrong", conversions.FORMATS["megatron"]._replace(recognises=lambda path: False))
    with pytest.raises(CheckpointError, match=r"was not kept: different: .*layers\.1\.mixer\.up_proj\.weight"):
        convert(tmp_path / "source", tmp_path / "copy", "wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_places_that_are_taken_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = saved(tmp_path / "source")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[str, str, type[AmaruError]]] = [
        ("source", "hf", ConfigError),
        (".", "hf", ConfigError),
        ("mine", "hf", CheckpointError),
        ("mine", "megatron", CheckpointError),
        ("file", "gguf", CheckpointError),
        ("empty", "gguf", CheckpointError),
        ("file", "hf", CheckpointError),
    ]
    before = listing(tmp_path)
    for place, to, error in cases:
        with pytest.raises(error, match="place"):
            Job(Request(source=str(source), out=str(tmp_path / place), to=to))
    assert listing(tmp_path) == before
    convert(source, tmp_path / "copy", "hf")
    convert(source, tmp_path / "copy", "hf", dtype="bf16")
    assert format_of(tmp_path / "copy") == "hf"


def test_settings_that_mean_nothing_are_refused() -> None:
    for settings in ({"to": "onnx"}, {"to": "hf", "dtype": "q8_0"}, {"to": "hf", "ranks": 2}, {"to": "gguf", "dtype": "fp64"}):
        with pytest.raises(ConfigError):
            Request(source="a", out="b", **settings)  # type: ignore[arg-type]


def test_what_a_target_cannot_hold_is_known_beforehand(tmp_path: Path) -> None:
    save(random_model(UNEVEN, 2), tmp_path / "uneven")
    for to in ("megatron", "gguf"):
        with pytest.raises(CheckpointError, match="width"):
            Job(Request(source=str(tmp_path / "uneven"), out=str(tmp_path / "out"), to=to))
    saved(tmp_path / "source")
    with pytest.raises(AmaruError, match="3"):
        Job(Request(source=str(tmp_path / "source"), out=str(tmp_path / "out"), to="megatron", ranks=3))


def test_a_model_larger_than_the_disk_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A checkpoint of two terabytes that takes no room: its tensors are a hole in the file."""
    config = DecoderConfig(vocab=2**20, hidden=2**18, layers=(MLP(ffn=3),))
    header, reached = {}, 0
    for stored in nemotron_h.stored(config):
        spec, axes = config.tensors()[stored.ours]
        end = reached + 4 * spec.layout.numel(axes)
        header[stored.name] = {"dtype": "F32", "shape": list(spec.layout.shape(axes)), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(header).encode()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text(json.dumps(nemotron_h.write_config(config)))
    (tmp_path / "source" / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(tmp_path / "source" / "model.safetensors", 8 + len(text) + reached)
    with pytest.raises(StorageError, match=r"needs 2199\.10 GB"):
        Job(Request(source=str(tmp_path / "source"), out=str(tmp_path / "out"), to="hf"))
    (tmp_path / ".out.123.partial").mkdir()
    with pytest.raises(StorageError, match=r"killed conversions left may be deleted .*\.out\.123\.partial"):
        Job(Request(source=str(tmp_path / "source"), out=str(tmp_path / "out"), to="hf"))


def test_a_decoder_is_what_it_was(tmp_path: Path) -> None:
    """Through three formats, the logits of a model are unchanged to the last bit."""
    config = replace(random_config(3, "M-*-M"), norm_eps=1e-5)
    layers = tuple(replace(layer, taps=4) if isinstance(layer, Mamba2) else layer for layer in config.layers)
    decoder = random_model(replace(config, layers=layers), 3)
    save(decoder, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", "megatron")
    convert(tmp_path / "b", tmp_path / "c", "hf")
    back: Decoder = load(tmp_path / "c")
    assert all(torch.equal(back.get_parameter(name), weight) for name, weight in decoder.named_parameters())


@pytest.mark.soak
@pytest.mark.parametrize("to", ["hf", "megatron", "nemo"])
def test_a_killed_conversion_leaves_what_was_there(to: str, tmp_path: Path) -> None:
    """Killed at eight moments between its start and its end, with an older copy under its name."""
    config = replace(HYBRID, vocab=40_000, hidden=256)
    save(random_model(config, 1), tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", to, dtype="bf16")
    before = listing(tmp_path / "out")
    words = [sys.executable, "-m", "amaru", "convert", str(tmp_path / "source"), str(tmp_path / "out"), "--to", to]
    start = time.monotonic()
    subprocess.run([*words[:4], str(tmp_path / "source"), str(tmp_path / "timed"), "--to", to], check=True, capture_output=True)
    whole = time.monotonic() - start
    for eighth in range(1, 9):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * eighth / 9)
        process.kill()
        process.wait()
        found = listing(tmp_path / "out")
        if found != before:  # it was finished: then it is whole
            assert_same_bits(tmp_path / "source", tmp_path / "out")
            convert(tmp_path / "source", tmp_path / "out", to, dtype="bf16")
            before = listing(tmp_path / "out")
