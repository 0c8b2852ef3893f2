"""amaru against stock transformers on small random models: logits, every gradient, and files in both directions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.random_models import random_config, random_ids, random_model
from torch import Tensor

from amaru.data.tokenizer import Tokenizer
from amaru.models import Decoder
from amaru.models.checkpoint import load, save
from amaru.nn import Batch

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TOLERANCE = 5e-5  # logits of magnitude 5; in fp32 these models and transformers are each up to 3e-5 from fp64
CASES = [(0, "MM-*-M"), (1, "M--*-M-"), (2, "-M**M*-"), (3, "M-M*-M-"), (4, "*M-M"), (5, "MMM*--"), (6, "-*M"), (7, "M*-MM--**")]
LENGTHS = (37, 1, 16, 50)


def stock(path: Path, **changes: object) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True, **changes).eval()


def stock_logits(model: torch.nn.Module, sequences: list[Tensor]) -> Tensor:
    return torch.cat([model(ids[None], use_cache=False).logits[0] for ids in sequences])


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.fixture(params=CASES, ids=lambda case: f"{case[1]} seed {case[0]}")
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Decoder, torch.nn.Module]:
    seed, pattern = request.param
    decoder = random_model(random_config(seed, pattern), seed)
    save(decoder, tmp_path / "model")
    return decoder, stock(tmp_path / "model")


def test_logits_of_packed_sequences_are_those_of_transformers_one_by_one(pair: tuple[Decoder, torch.nn.Module]) -> None:
    decoder, theirs = pair
    sequences = random_ids(decoder.config.vocab, *LENGTHS)
    with torch.no_grad():
        assert difference(decoder(Batch.of(sequences)), stock_logits(theirs, sequences)) < TOLERANCE


def test_every_gradient_is_that_of_transformers(pair: tuple[Decoder, torch.nn.Module]) -> None:
    decoder, theirs = pair
    sequences = random_ids(decoder.config.vocab, *LENGTHS)
    weights = torch.randn(sum(LENGTHS), decoder.config.vocab, generator=torch.Generator().manual_seed(1)) / sum(LENGTHS)
    (decoder(Batch.of(sequences)) * weights).sum().backward()
    (stock_logits(theirs, sequences) * weights).sum().backward()
    names = {"embeddings.weight": "embedding.weight", "norm_f.weight": "norm.weight", "lm_head.weight": "head.weight"}
    expected = {name.removeprefix("model."): parameter.grad for name, parameter in theirs.named_parameters()}
    expected = {names.get(name, name): grad for name, grad in expected.items()}
    ours = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, grad in ours.items():
        assert grad is not None and grad.abs().max() > 0, name
        assert difference(grad, expected[name]) < 1e-3 * float(expected[name].abs().max()), name  # theirs is up to 4e-4 from fp64


def test_a_tied_model_gives_the_same_logits_though_transformers_ties_nothing_in_this_family(tmp_path: Path) -> None:
    decoder = random_model(random_config(3, "M-*", tied=True), 3)
    save(decoder, tmp_path / "model")
    sequences = random_ids(decoder.config.vocab, 20)
    theirs = stock(tmp_path / "model")
    with torch.no_grad():
        assert difference(decoder(Batch.of(sequences)), stock_logits(theirs, sequences)) < TOLERANCE


STOCK_SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging
logging.set_verbosity_error(); logging.disable_progress_bar()
path, text = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(path).eval()
tokenizer = AutoTokenizer.from_pretrained(path)
ids = tokenizer(text, add_special_tokens=False).input_ids
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
assert not any(name.split(".")[0] == "amaru" for name in sys.modules)
eos = [tokenizer.eos_token_id, model.config.eos_token_id]
print(json.dumps({"ids": ids, "logits": logits.tolist(), "eos": eos, "class": type(model).__name__}))
"""


def test_transformers_alone_loads_model_and_tokenizer_in_a_process_without_amaru(tmp_path: Path) -> None:
    text = "def f(x):\n    return añade(x) + 1\n"
    tokenizer = Tokenizer.train([text] * 3, vocab=270)
    config = random_config(8, "M-M*-")
    config = type(config)(vocab=tokenizer.vocab_size, hidden=config.hidden, layers=config.layers)
    decoder = random_model(config, 8)
    save(decoder, tmp_path / "model", tokenizer)
    done = subprocess.run([sys.executable, "-c", STOCK_SCRIPT, str(tmp_path / "model"), text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["class"] == "NemotronHForCausalLM"
    assert told["ids"] == tokenizer.encode(text)
    assert told["eos"] == [tokenizer.eos_id, tokenizer.eos_id]
    with torch.no_grad():
        assert difference(decoder(Batch.of([torch.tensor(told["ids"])])), torch.tensor(told["logits"])) < TOLERANCE


def their_checkpoint(path: Path) -> torch.nn.Module:
    """A model made and saved by transformers, with every parameter random."""
    torch.manual_seed(0)
    config = transformers.NemotronHConfig(
        vocab_size=83,
        hidden_size=22,
        layers_block_type=["linear_attention", "mlp", "full_attention", "mlp", "linear_attention"],
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=6,
        intermediate_size=31,
        ssm_state_size=11,
        mamba_num_heads=6,
        mamba_head_dim=5,
        n_groups=3,
        chunk_size=13,
        time_step_min=1e-12,
    )
    model = transformers.NemotronHForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("prefix", ["backbone.", "model."])
@pytest.mark.parametrize("stack", ["layers_block_type", "hybrid_override_pattern"])
def test_what_transformers_saved_loads_here_in_old_and_new_dress(tmp_path: Path, prefix: str, stack: str) -> None:
    theirs = their_checkpoint(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("backbone.", prefix).replace("model.", prefix): tensor for name, tensor in weights.items()}
    assert any(name.startswith(prefix) for name in renamed)
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((tmp_path / "config.json").read_text())
    values.pop("layers_block_type", None), values.pop("layer_types", None)
    names = {"layers_block_type": ["mamba", "mlp", "attention", "mlp", "linear_attention"], "hybrid_override_pattern": "M-*-M"}
    (tmp_path / "config.json").write_text(json.dumps(values | {stack: names[stack]}))
    sequences = random_ids(83, *LENGTHS)
    with torch.no_grad():
        assert difference(load(tmp_path)(Batch.of(sequences)), stock_logits(theirs, sequences)) < TOLERANCE


def test_what_transformers_saved_loads_here_untouched(tmp_path: Path) -> None:
    theirs = their_checkpoint(tmp_path)
    sequences = random_ids(83, *LENGTHS)
    with torch.no_grad():
        assert difference(load(tmp_path)(Batch.of(sequences)), stock_logits(theirs, sequences)) < TOLERANCE
