"""Checkpoints that hold codes: what is written is what is read, and what is damaged is said in a sentence."""

import json
from pathlib import Path

import pytest
import torch
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model

from amaru.errors import CheckpointError
from amaru.models.checkpoint import Checkpoint, load, save
from amaru.models.families import config_of
from amaru.models.quantised import quantised
from amaru.models.streamed import streamed
from amaru.models.tensor_file import Entry, TensorFile, write_tensors
from amaru.nn import Batch
from amaru.precision import Scheme, quantise

MODELS = {**FAMILIES, "tied": lambda seed: random_config(seed, "M-*", tied=True), "experts": lambda seed: random_config(seed, "ME*E")}


@pytest.mark.parametrize("to", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_what_is_written_is_what_is_read(family: str, to: str, tmp_path: Path) -> None:
    config = MODELS[family](1)
    made = random_model(config, 0, torch.float32)
    quantise(made, Scheme(to=to, group=64 if to == "int4" else 32))
    save(made, tmp_path / "model")
    found, source = load(tmp_path / "model"), Checkpoint(tmp_path / "model")
    assert config_of(tmp_path / "model") == config
    assert source.encodings == {name: held.encoding for name, held in quantised(made).items()}
    for name, held in quantised(made).items():
        assert torch.equal(source.read(name), held.weight) and torch.equal(source.rows(name, 1, 3), held.weight[1:3])
    batch = Batch.of([random_ids(config.vocab, 9)[0]])
    assert torch.equal(found(batch), made(batch))
    torch.testing.assert_close(streamed(source, torch.float32)(batch), made(batch), atol=1e-5, rtol=1e-5)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = random_model(random_config(0, "M-*"), 0, torch.float32)
    quantise(made, Scheme(to="int4"))
    save(made, tmp_path / "model")
    return tmp_path / "model"


def rewritten(model: Path, change) -> None:
    """The tensors of a checkpoint after `change(tensors)`."""
    file = TensorFile(model / "model.safetensors")
    tensors = {name: file.read(name) for name in file.entries}
    change(tensors)
    write_tensors(model / "model.safetensors", [Entry.of(name, each) for name, each in tensors.items()], tensors.values())


def codes_of(tensors: dict) -> str:
    return next(name for name in tensors if name.endswith("in_proj.codes"))


def put(tensors: dict, leaf: str, tensor: torch.Tensor) -> None:
    tensors[codes_of(tensors).replace("codes", leaf)] = tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(codes_of(tensors).replace("codes", "scales")), r"lacks 1 of .*in_proj\.scales"),
        (lambda tensors: put(tensors, "codes", tensors[codes_of(tensors)][:, :7].contiguous()), r"codes has shape .* asks for"),
        (lambda tensors: put(tensors, "codes", tensors[codes_of(tensors)].to(torch.int8)), r"stored as I8, but .* U8"),
        (lambda tensors: put(tensors, "weight", torch.zeros(2)), "does not know"),
    ],
)
def test_damaged_codes_are_said(model: Path, change, message: str) -> None:
    rewritten(model, change)
    with pytest.raises(CheckpointError, match=message):
        load(model)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"group": 48}, r"Quantization.*group"),
        ({"group": 64}, r"scales has shape .* asks for"),
        ({"kind": "int8"}, "for int4 and for nothing else"),
        ({"tensors": ["embedding.weight"]}, "embedding.weight are codes; of this model only projections can be"),
        ({"tensors": ["layers.0.mixer.in_proj.weight"] * 2}, "names a tensor twice"),
        ({"kind": "int3"}, "that `amaru quantize` does not write"),
    ],
)
def test_a_config_that_speaks_of_other_codes_is_refused(model: Path, said: dict, message: str) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"]["encodings"][0].update(said)
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load(model)


@pytest.mark.parametrize("family", ["nemotron_h", "llama", "qwen2", "nemotron", "hymba"])
@pytest.mark.parametrize("said", [{"quant_method": "gptq", "bits": 4}, {"quant_algo": "FP8"}, 8])
def test_codes_of_other_programs_are_refused(family: str, said, tmp_path: Path) -> None:
    save(random_model(FAMILIES[family](0), 0, torch.float32), tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"quantization_config": said}))
    for read in (load, config_of):
        with pytest.raises(CheckpointError, match=r"quantization_config of (gptq|an unnamed program); amaru reads codes that"):
            read(tmp_path / "model")
