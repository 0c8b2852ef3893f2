"""Adapters on disk: what comes back is what was saved, shared tensors lie there once, and a wrong base or a damaged file is said."""

import json

import pytest
import torch
from tests.models.random_models import random_config, random_ids, random_model

from amaru.adapters import LoRA, TiedLoRA, adapt, fold, merge, switched_off
from amaru.adapters.files import load, save
from amaru.errors import CheckpointError, ConfigError
from amaru.models import checkpoint
from amaru.models.tensor_file import TensorFile
from amaru.nn import Batch
from amaru.precision import Scheme, quantise

METHODS = {
    "lora": LoRA(rank=2, ranks={"q_proj": 3}, rslora=True),
    "dora": LoRA(rank=2, dora=True, targets=("in_proj.x", "mlp")),
    "tl6": TiedLoRA.named("TL6", rank=3),
    "vera": TiedLoRA.named("VeRA-equivalent", rank=2, damped=True),
    "half": TiedLoRA(tied=("B",), trained=("A", "v"), rank=2, layers=(0, 1)),
}
CONFIG = random_config(0, "MM-*-")


def base(seed=0, config=CONFIG, dtype=torch.float32):
    return random_model(config, seed, dtype)


def saved(path, method, seed=0):
    decoder = base(seed)
    adapter = adapt(decoder, method)
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.2)
    save(decoder, path)
    return decoder, adapter


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_what_comes_back_is_what_was_saved(method, tmp_path):
    decoder, adapter = saved(tmp_path / "french", method)
    batch = Batch.of(random_ids(CONFIG.vocab, 6))
    other = base()
    again = load(other, tmp_path / "french")
    assert again.method == method and torch.equal(other(batch), decoder(batch))
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {n: p.requires_grad for n, p in adapter.named_parameters()}
    held = TensorFile(tmp_path / "french" / "adapter.safetensors").entries.values()
    assert sum(entry.nbytes for entry in held) == 4 * sum(parameter.numel() for parameter in adapter.parameters())
    load(other, tmp_path / "french", "second")
    save(other, tmp_path / "copy", "second")
    assert (tmp_path / "copy/adapter.safetensors").read_bytes() == (tmp_path / "french/adapter.safetensors").read_bytes()
    assert (tmp_path / "copy/adapter.json").read_text() == (tmp_path / "french/adapter.json").read_text()


@pytest.mark.parametrize("made", [lambda decoder: decoder.to(torch.bfloat16), lambda decoder: quantise(decoder, Scheme(to="int8"))])
def test_the_same_base_in_fewer_bits_is_the_same_base(made, tmp_path):
    saved(tmp_path / "one", METHODS["lora"])
    other = base()
    made(other)
    load(other, tmp_path / "one")
    batch = Batch.of(random_ids(CONFIG.vocab, 6))
    with switched_off(other):
        plain = other(batch)
    assert (other(batch) - plain).abs().max() > 0.01


def test_another_base_is_said(tmp_path):
    saved(tmp_path / "one", METHODS["tl6"])
    with pytest.raises(CheckpointError, match=r"another base of the same shapes \(\w{16}, not \w{16}\)"):
        load(base(seed=1), tmp_path / "one")
    touched = base()
    with torch.no_grad():
        touched.get_parameter("layers.1.mixer.out_proj.weight").mul_(1.5)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mixer\.out_proj has other numbers here"):
        load(touched, tmp_path / "one")
    with pytest.raises(CheckpointError, match=r"layers.\d.mixer.\w+ was (\[\d+, \d+\]|absent), and is (\[\d+, \d+\]|absent) here"):
        load(base(config=random_config(3, "MM-*-")), tmp_path / "one")
    with pytest.raises(CheckpointError, match="does not fit this model: There is no layer 1"):
        saved(tmp_path / "half", METHODS["half"])
        load(base(config=random_config(0, "M")), tmp_path / "half")


def test_damage_is_said_in_a_sentence(tmp_path):
    saved(tmp_path / "one", METHODS["lora"])
    tensors, settings = tmp_path / "one/adapter.safetensors", tmp_path / "one/adapter.json"
    whole, said = tensors.read_bytes(), settings.read_text()

    def refused(match):
        with pytest.raises(CheckpointError, match=match):
            load(base(), tmp_path / "one")

    for place in (len(whole) - 3, len(whole) // 2):
        tensors.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused("bytes are not those that were saved")
    tensors.write_bytes(whole[:-5])
    refused("cut short or damaged")
    tensors.unlink()
    refused("There is no file")
    tensors.write_bytes(whole)
    for text in (said[:-20], "[]", said.replace('"version": 1', '"version": 2'), said.replace('"rank"', '"rang"')):
        settings.write_text(text)
        refused("adapter.json is not what `save` writes")
    record = json.loads(said)
    record["method"]["rank"] = 1
    settings.write_text(json.dumps(record))
    refused("does not hold what adapter.json says; these differ: layers.0.mixer.in_proj.A")
    settings.unlink()
    refused("There is no adapter at")


def test_only_what_is_there_and_not_merged_is_saved(tmp_path):
    decoder = base()
    with pytest.raises(ConfigError, match="no adapter 'default' on this model; there is: none"):
        save(decoder, tmp_path / "one")
    adapt(decoder, METHODS["lora"])
    merge(decoder)
    with pytest.raises(ConfigError, match="unmerge them first"):
        save(decoder, tmp_path / "one")
    assert not (tmp_path / "one").exists()


@torch.no_grad()
def test_a_model_is_saved_without_its_adapters_or_with_them_folded_in(tmp_path):
    decoder, _ = saved(tmp_path / "one", METHODS["dora"])
    batch = Batch.of(random_ids(CONFIG.vocab, 6))
    with pytest.raises(ConfigError, match=r"layers\.0\.mixer\.in_proj\.weight is hidden by an adapter"):
        checkpoint.save(decoder, tmp_path / "model")
    fold(decoder)
    checkpoint.save(decoder, tmp_path / "model")
    assert torch.equal(checkpoint.load(tmp_path / "model")(batch), decoder(batch))
