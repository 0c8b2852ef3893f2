"""peft's files: what is written there and read again is the same change, and peft itself computes with them what amaru does."""

import json
import re
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model

from amaru.adapters import LoRA, TiedLoRA, adapt
from amaru.adapters.peft_files import read, write
from amaru.errors import CheckpointError, ConfigError
from amaru.models.checkpoint import save
from amaru.nn import Batch

TOLERANCE = {"atol": 5e-5, "rtol": 5e-5}  # of test_parity.py: these models and transformers are each up to 3e-5 from fp64
METHODS = {
    "lora": LoRA(rank=2, alpha=2, ranks={"q_proj": 3, "up_proj": 1}, rslora=True),
    "dora": LoRA(rank=2, dora=True),
    "head": LoRA(rank=2, targets=("attention", "head")),
    "segments": LoRA(rank=2, targets=("in_proj.x", "in_proj.dt", "mlp"), ranks={"in_proj.x": 3}),
    "tl6": TiedLoRA.named("TL6", rank=2),
}


def stirred(decoder, method):
    generator = torch.Generator().manual_seed(3)
    adapter = adapt(decoder, method)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.2, generator=generator))
    return decoder


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@torch.no_grad()
def test_what_is_written_and_read_is_the_same_change(method, tmp_path):
    config = random_config(0, "M*-")
    decoder, batch = stirred(random_model(config), method), Batch.of(random_ids(config.vocab, 7))
    write(decoder, tmp_path / "french")
    other = random_model(config)
    adapter = read(other, tmp_path / "french")
    torch.testing.assert_close(other(batch), decoder(batch), atol=1e-5, rtol=1e-5)
    assert all(p.requires_grad for p in adapter.parameters()) and [*other.adapters] == ["french"]


def test_names_are_those_of_transformers(tmp_path):
    for family, expected in (("nemotron_h", r"model\.layers\.\d+\.mixer\."), ("llama", r"model\.layers\.\d+\.(self_attn|mlp)\.")):
        write(stirred(random_model(FAMILIES[family](1)), LoRA(rank=1)), tmp_path / family)
        names = load_file(tmp_path / family / "adapter_model.safetensors")
        assert names and all(re.fullmatch(rf"base_model\.model\.{expected}\w+\.lora_[AB]\.weight", name) for name in names)


def test_what_cannot_be_said_or_read_is_an_error(tmp_path):
    config = random_config(0, "M*-")
    with pytest.raises(ConfigError, match=r"no magnitude for rows of layers\.0\.mixer\.in_proj alone"):
        write(stirred(random_model(config), LoRA(rank=1, dora=True, targets=("in_proj.x",))), tmp_path / "rows")
    write(stirred(random_model(config), LoRA(rank=2)), tmp_path / "one")
    settings, tensors = tmp_path / "one/adapter_config.json", tmp_path / "one/adapter_model.safetensors"
    said, whole = json.loads(settings.read_text()), load_file(tensors)

    def refused(match, **changed):
        settings.write_text(json.dumps(said | changed))
        with pytest.raises(CheckpointError, match=match):
            read(random_model(config), tmp_path / "one")

    refused("peft_type 'VERA'; LORA is read", peft_type="VERA")
    refused("sets modules_to_save to", modules_to_save=["lm_head"])
    refused("sets bias to 'all'", bias="all")
    refused("use_dora is True, which does not fit", use_dora=True)
    with pytest.raises(CheckpointError, match=r"(B|A) of shape \[\d+, \d+\]; this model needs"):
        settings.write_text(json.dumps(said))
        read(random_model(random_config(3, "M*-")), tmp_path / "one")
    save_file({name.replace("layers.0", "layers.9"): tensor for name, tensor in whole.items()}, tensors)
    refused(r"no LoRA of any of this model's layers: lm_head, model\.layers\.0")
    tensors.write_bytes(tensors.read_bytes()[:-9])
    refused("cut short or damaged")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks transformers 5.23 for it
@pytest.mark.parametrize(
    ("family", "method"),
    [("nemotron_h", "segments"), *product(("nemotron_h", "llama", "nemotron"), ("lora", "dora", "head", "tl6"))],
)
@torch.no_grad()
def test_peft_computes_the_same_and_its_own_are_read(family, method, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    settings = METHODS[method]
    if family == "nemotron_h":  # whose out_proj peft up to 0.21 refuses
        kinds = {"segments": settings.targets, "head": settings.targets}.get(method, ("in_proj", "attention", "mlp"))
        settings = type(settings)(**{**{name: getattr(settings, name) for name in settings.__dataclass_fields__}, "targets": kinds})
    config = random_config(0, "M*-") if family == "nemotron_h" else FAMILIES[family](0)
    base = random_model(config)
    save(base, tmp_path / "base")
    decoder, ids = stirred(random_model(config), settings), random_ids(config.vocab, 11)[0]
    write(decoder, tmp_path / "ours")

    def stock():
        return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()

    theirs = peft.PeftModel.from_pretrained(stock(), tmp_path / "ours")
    torch.testing.assert_close(theirs(ids[None], use_cache=False).logits[0], decoder(Batch.of([ids])), **TOLERANCE)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    read(base, tmp_path / "theirs")
    torch.testing.assert_close(base(Batch.of([ids])), decoder(Batch.of([ids])), **TOLERANCE)
