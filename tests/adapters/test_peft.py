"""Tied-LoRA as a method of stock peft: what it computes is what amaru does, and it lives through all that peft does with adapters."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model

from amaru.adapters import TiedLoRA, adapt
from amaru.errors import ConfigError
from amaru.models.checkpoint import save
from amaru.nn import Batch

peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
tied = pytest.importorskip("amaru.adapters.peft")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QKV = ["q_proj", "k_proj", "v_proj"]


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A model of transformers with three attention layers of one shape, ids, and its config here."""
    config = random_config(0, "*-*-*-")
    path = tmp_path_factory.mktemp("stock")
    save(random_model(config), path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return lambda: copy.deepcopy(model), random_ids(config.vocab, 9)[0][None], config


def stirred(model, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("trained", [("A", "B", "u", "v"), ("A", "B"), ("u", "v"), ("B", "u", "v")], ids="".join)
def test_counts_and_outputs_are_those_of_amaru(trained, stock):
    fresh, ids, config = stock
    decoder = random_model(config)
    ours = adapt(decoder, TiedLoRA(rank=3, trained=trained, targets=tuple(QKV)))
    theirs = peft.get_peft_model(fresh(), tied.TiedLoraConfig(r=3, trained=list(trained), target_modules=QKV))
    assert torch.equal(logits(theirs, ids), logits(fresh(), ids))  # it begins as the model was
    held = theirs.base_model._modules[tied.HELD]["default"]
    assert held.trained_count == ours.trained_count == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    stirred(ours)
    with torch.no_grad():
        for mine, other in zip(held.parameters(), ours.parameters(), strict=True):
            mine.copy_(other)
        torch.testing.assert_close(logits(theirs, ids)[0], decoder(Batch.of([ids[0]])), atol=5e-5, rtol=5e-5)


def test_gradients_reach_what_is_trained_and_only_that(stock):
    fresh, ids, _ = stock
    model = stirred(peft.get_peft_model(fresh(), tied.TiedLoraConfig(r=2, trained=["B", "u", "v"], target_modules=QKV)))
    model(ids, labels=ids).loss.backward()
    reached = {name.rpartition(".")[2] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {"B", "u", "v"}


@pytest.mark.parametrize("low", [False, True], ids=["plain", "low memory"])
def test_saved_once_and_loaded(low, stock, tmp_path):
    fresh, ids, _ = stock
    model = stirred(peft.get_peft_model(fresh(), tied.TiedLoraConfig(r=2, target_modules=QKV)))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(name.endswith(".A") for name in saved) == 1  # one for q, k, v of all layers
    back = peft.PeftModel.from_pretrained(fresh(), tmp_path, low_cpu_mem_usage=low, is_trainable=True)
    assert torch.equal(logits(back, ids), logits(model, ids))
    (shared,) = back.base_model._modules[tied.HELD]["default"].groups.values()
    with torch.no_grad():
        before, _ = logits(back, ids), shared.B.mul_(2)
        layers = [module for module in back.modules() if isinstance(module, tied.TiedLoraLayer)]
    assert not torch.equal(logits(back, ids), before) and len(layers) == 9  # still one B for all layers
    assert {id(layer.changes["default"][0].factor("B")) for layer in layers} == {id(shared.B)}


def test_second_adapter_disable_merge_and_delete(stock, tmp_path):
    fresh, ids, _ = stock
    plain = logits(fresh(), ids)
    other = stirred(peft.get_peft_model(fresh(), tied.TiedLoraConfig(r=1, target_modules=["q_proj", "up_proj"])), 5)
    other.save_pretrained(tmp_path, save_embedding_layers=False)
    model = stirred(peft.get_peft_model(fresh(), tied.TiedLoraConfig(r=2, target_modules=QKV)))
    first = logits(model, ids)
    model.load_adapter(tmp_path, "second")
    assert torch.equal(logits(model, ids), first)
    model.set_adapter("second")
    assert torch.equal(logits(model, ids), logits(other, ids))
    assert {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"second"}
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), plain)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, ids), logits(other, ids), atol=1e-5, rtol=1e-5)
    model.unmerge_adapter()
    assert torch.equal(logits(model, ids), logits(other, ids))
    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(logits(model, ids), first) and [*model.base_model._modules[tied.HELD]] == ["default"]
    merged = model.merge_and_unload()
    assert not any(isinstance(module, tied.TiedLoraLayer) for module in merged.modules())
    torch.testing.assert_close(logits(merged, ids), first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora", "tied"])
def test_out_proj_of_nemotron_h_is_reached_and_its_weight_is_what_it_computes_with(method, tmp_path, monkeypatch):
    monkeypatch.setattr(peft.LoraModel, "_check_target_module_compatiblity", peft.LoraModel._check_target_module_compatiblity)
    monkeypatch.setattr(tied.lora_layer.Linear, "weight", tied.lora_layer.Linear.weight)
    save(random_model(FAMILIES["nemotron_h"](1)), tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    config = {"lora": peft.LoraConfig, "tied": tied.TiedLoraConfig}[method](r=2, target_modules=["out_proj"])
    if method == "lora":
        with pytest.raises(ValueError, match="incompatible with Mamba"):
            peft.get_peft_model(copy.deepcopy(plain), config)
        tied.allow_out_proj()
    model = stirred(peft.get_peft_model(plain, config))
    layer = next(module for name, module in model.named_modules() if name.endswith("out_proj"))
    x = torch.randn(3, layer.get_base_layer().in_features)
    torch.testing.assert_close(x @ layer.weight.T, layer(x), atol=1e-5, rtol=1e-5)
    assert layer.weight.requires_grad


def test_what_no_gradient_would_reach_is_refused(stock):
    fresh, _, _ = stock
    with pytest.raises(ConfigError, match="nothing would learn"):
        tied.TiedLoraConfig(trained=[])
    with pytest.raises(ConfigError, match="Tied-LoRA goes onto plain linear layers"):
        peft.get_peft_model(fresh(), tied.TiedLoraConfig(target_modules=["embeddings"]))
