"""One width for all layers of a kind: the same function, in our decoder and in stock transformers, and nothing but padding."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.random_models import FAMILIES, random_ids, random_model, random_own

from amaru.axes import keep
from amaru.compress import Cut
from amaru.compress.surgery import Surgery
from amaru.errors import ConfigError
from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import Checkpoint, assemble, save, write
from amaru.models.families import family_for, nemotron_h, own
from amaru.models.uniform import Uniform, uniform_config
from amaru.models.verify import verify
from amaru.nn import MLP, Attention, Batch, Mamba2

LAYERS = (
    Mamba2(heads=6, channels=5, groups=2, state=7),
    MLP(ffn=9),
    Attention(query_heads=4, kv_heads=2, channels=6),
    Mamba2(heads=8, channels=3, groups=2, state=5),
    Attention(query_heads=3, kv_heads=1, channels=10),
    MLP(ffn=14),
    Mamba2(heads=9, channels=4, groups=3, state=4),
)
CONFIG = DecoderConfig(vocab=53, hidden=15, layers=LAYERS, norm_eps=1e-5)
WIDE = (Mamba2(heads=12, channels=5, groups=3, state=7), MLP(ffn=14), Attention(query_heads=6, kv_heads=2, channels=10))


@pytest.fixture
def decoder() -> Decoder:
    """Its gated norms see mean squares far above eps in every group of every token."""
    decoder = random_model(CONFIG, 3)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith(("in_proj.weight", "conv1d.weight")):
                parameter.mul_(4)
            elif name.endswith("mixer.D"):
                parameter.copy_(parameter.abs() + 1)
    return decoder


@pytest.fixture
def source(decoder: Decoder, tmp_path: Path) -> Checkpoint:
    save(decoder, tmp_path / "uneven")
    return Checkpoint(tmp_path / "uneven")


def logits(decoder: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return decoder(Batch.of(random_ids(decoder.config.vocab, 1, 7, 90)))


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def test_each_axis_becomes_as_wide_as_the_widest() -> None:
    config = uniform_config(CONFIG)
    assert config.layers == (WIDE[0], WIDE[1], WIDE[2], WIDE[0], WIDE[2], WIDE[1], WIDE[0])
    assert family_for(CONFIG) is own and family_for(config) is nemotron_h


def test_the_function_is_the_same_to_1e_5_in_fp32(decoder: Decoder, source: Checkpoint) -> None:
    uniform = Uniform(source)
    assert 0 < relative(logits(decoder), logits(assemble(uniform.config, uniform.read))) < 1e-5


@pytest.mark.parametrize("eps", [1e-30, 1e-5, 1e-3])
def test_what_is_left_is_what_eps_leaves(eps: float, tmp_path: Path) -> None:
    """In fp64: nothing when eps is nothing; else exactly what the same model has whose gated norms have eps n'/n for eps."""
    decoder = random_model(replace(CONFIG, norm_eps=eps), 3, torch.float64)
    save(decoder, tmp_path / "model")
    uniform = Uniform(Checkpoint(tmp_path / "model"))
    padded = logits(assemble(uniform.config, uniform.read))
    if eps < 1e-20:
        assert relative(logits(decoder), padded) < 1e-12
    for ours, wide in zip(decoder.layers, uniform.config.layers, strict=True):
        if isinstance(wide, Mamba2):
            ours.mixer.norm_eps *= (wide.inner / wide.groups) / (ours.mixer.config.inner / ours.mixer.config.groups)  # type: ignore[union-attr]
    assert relative(logits(decoder), padded) < 1e-12


def test_cutting_the_padding_off_gives_the_model_back(decoder: Decoder, source: Checkpoint) -> None:
    """compress.surgery, which knows nothing of padding, undoes it; only the two corrected tensors differ, by their factors."""
    uniform = Uniform(source)
    within = {
        index: {name: keep(wide[name], np.arange(axis.size), wide) for name, axis in layer.axes().items() if axis.size != wide[name].size}
        for index, layer in enumerate(CONFIG.layers)
        for wide in [uniform.config.layers[index].axes()]
    }
    read = Surgery(uniform.config, Cut(tuple(range(len(CONFIG.layers))), within=within)).reader(uniform.read)
    scaled = {name for name, weight in decoder.named_parameters() if not torch.equal(read(name), weight)}
    assert scaled == {"layers.2.mixer.q_proj.weight"} | {f"layers.{layer}.mixer.norm.weight" for layer in (0, 3, 6)}
    for name in scaled:
        ratio = read(name).double() / decoder.get_parameter(name).detach().double()
        assert float(ratio.max() / ratio.min() - 1) < 1e-6 and abs(float(ratio.max()) - 1) > 0.1
    others = {name: uniform.read(name).count_nonzero() for name in uniform.names}
    assert all(int(count) == decoder.get_parameter(name).count_nonzero() for name, count in others.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stock_transformers_loads_it_and_agrees(source: Checkpoint, decoder: Decoder, tmp_path: Path, dtype: torch.dtype) -> None:
    transformers = pytest.importorskip("transformers")
    uniform = Uniform(source, dtype)
    write(tmp_path / "uniform", uniform.config, uniform.read, uniform.dtype)
    certificate = verify(tmp_path / "uniform", f"transformers:{tmp_path / 'uniform'}")
    assert certificate.equal, certificate.verdict
    if dtype == torch.float32:
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "uniform").eval()
        ids = random_ids(CONFIG.vocab, 50)[0]
        with torch.no_grad():
            assert relative(decoder(Batch.of([ids])), model(ids[None]).logits[0]) < 2e-5  # 1e-5 and transformers' own rounding


def test_what_has_one_width_is_left_alone(tmp_path: Path) -> None:
    config = replace(CONFIG, layers=WIDE)
    decoder = random_model(config, 1)
    save(decoder, tmp_path / "model")
    uniform = Uniform(Checkpoint(tmp_path / "model"))
    assert uniform.config == config
    assert all(torch.equal(uniform.read(name), weight) for name, weight in decoder.named_parameters())


CANNOT: dict[str, tuple[tuple[object, ...], str]] = {
    "taps": ((Mamba2(heads=2, channels=3, groups=1, state=4), Mamba2(heads=2, channels=3, groups=1, state=4, taps=3)), "'tap' of Mamba2"),
    "clamp": (
        (Mamba2(heads=2, channels=3, groups=1, state=4), Mamba2(heads=2, channels=3, groups=1, state=4, time_step_limit=(0.1, 1.0))),
        "time_step_limit is .* and .*0.1",
    ),
    "gate": ((MLP(ffn=3), MLP(ffn=3, gated=True, activation="silu")), "gated is False and True; activation is relu2 and silu"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_zeros_cannot_make_equal_is_refused(case: str) -> None:
    layers, reason = CANNOT[case]
    with pytest.raises(ConfigError, match=reason):
        uniform_config(replace(CONFIG, layers=layers))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "amaru"])
def test_what_a_published_config_can_say_is_left_alone(family: str) -> None:
    """Hymba's layers differ in windows and shared caches, of which its config has lists."""
    config = FAMILIES[family](2)
    assert uniform_config(config) is config


def test_a_stack_that_no_published_config_says_is_refused() -> None:
    with pytest.raises(ConfigError):
        uniform_config(random_own(0))
