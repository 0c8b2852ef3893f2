"""amaru's models as transformers runs them: found by Auto classes, padded, cached, with beams; against the decoder run alone."""

from pathlib import Path

import pytest
import torch
import transformers
from tests.models.random_models import random_model
from torch import Tensor

import amaru.models.hf  # noqa: F401  (registers the model types)
from amaru.errors import ConfigError
from amaru.models.checkpoint import save
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.batch import Batch
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.rope import NTKScaling, Rope

NEW = 15


def hymba() -> DecoderConfig:
    """Small enough that 15 new tokens leave the window behind."""
    rope = Rope(scaling=NTKScaling(factor=2.0, original=16, extended=64))
    heads = {"query_heads": 4, "kv_heads": 2, "qk_channels": 8, "v_channels": 16, "state": 3, "rank": 2, "rope": rope}
    mlp = MLP(ffn=20, gated=True, activation="silu")
    window = {"window": 9, "sinks": 5}
    layers = (HybridHead(**heads), HybridHead(**heads, **window), HybridHead(**heads, **window, shares_kv=True), HybridHead(**heads))
    blocks = tuple(layer for head in layers for layer in (head, mlp))
    return DecoderConfig(vocab=61, hidden=32, layers=blocks, norm_eps=1e-6, tied=True, meta_tokens=5, max_positions=64)


def uneven() -> DecoderConfig:
    layers = (Mamba2(heads=4, channels=6, groups=2, state=5), MLP(ffn=20), Attention(query_heads=4, kv_heads=2, channels=8), MLP(ffn=12))
    return DecoderConfig(vocab=61, hidden=32, layers=layers)


@pytest.fixture(params=[hymba, uneven], ids=["hymba", "amaru"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return random_model(request.param())


@pytest.fixture
def model(decoder: Decoder, tmp_path: Path) -> transformers.PreTrainedModel:
    save(decoder, tmp_path / "model")
    return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")


@pytest.fixture
def padded() -> tuple[Tensor, Tensor]:
    ids = torch.randint(61, (3, 23), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, :9], mask[2, :20] = 0, 0
    return ids, mask


def rows(ids: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[real.bool()] for row, real in zip(ids, mask, strict=True)]


def test_auto_classes_know_both_kinds(decoder: Decoder, model: transformers.PreTrainedModel) -> None:
    expected = "amaru" if decoder.config.meta_tokens == 0 else "hymba"
    assert model.config.model_type == expected
    held = dict(model.decoder.named_parameters())
    assert all(torch.equal(held[name], weight) for name, weight in decoder.named_parameters())


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(decoder: Decoder, model: transformers.PreTrainedModel, padded: tuple[Tensor, Tensor], side: str) -> None:
    ids, mask = (each.flip(1) if side == "right" else each for each in padded)
    logits = model(ids, attention_mask=mask).logits
    for row, alone in enumerate(rows(ids, mask)):
        torch.testing.assert_close(logits[row][mask[row].bool()], decoder(Batch.of([alone])), atol=1e-4, rtol=0)
    assert not logits[mask == 0].any()


@torch.no_grad()
def test_generate_gives_each_row_what_it_gives_alone(
    decoder: Decoder, model: transformers.PreTrainedModel, padded: tuple[Tensor, Tensor]
) -> None:
    ids, mask = padded
    found = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    for row, alone in enumerate(rows(ids, mask)):
        for _ in range(NEW):
            alone = torch.cat([alone, decoder(Batch.of([alone]))[-1].argmax()[None]])
        assert torch.equal(found[row, -len(alone) :], alone)


@torch.no_grad()
def test_beams_and_a_prompt_that_comes_in_two_pieces_use_the_cache_rightly(
    model: transformers.PreTrainedModel, padded: tuple[Tensor, Tensor]
) -> None:
    ids, mask = padded
    asked = {"attention_mask": mask, "max_new_tokens": 8, "num_beams": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **asked), model.generate(ids, **asked, use_cache=False))
    first = model(ids[:, :11], attention_mask=mask[:, :11], use_cache=True)  # row 2 has no real token yet
    second = model(ids[:, 11:], attention_mask=mask, past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(second.logits, model(ids, attention_mask=mask).logits[:, 11:], atol=1e-4, rtol=0)


def test_a_loss_has_the_gradients_of_the_tokens_that_count(decoder: Decoder, model: transformers.PreTrainedModel) -> None:
    ids = torch.randint(61, (1, 12), generator=torch.Generator().manual_seed(5))
    labels = ids.masked_fill(torch.arange(12) < 4, -100)
    model(ids, labels=labels).loss.backward()
    expected = torch.nn.functional.cross_entropy(decoder(Batch.of([ids[0]]))[3:-1], ids[0, 4:])
    expected.backward()
    for (name, ours), theirs in zip(decoder.named_parameters(), model.decoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_what_is_saved_is_what_amaru_saves(decoder: Decoder, model: transformers.PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.bfloat16)
    assert again.decoder.config == decoder.config
    assert again.decoder.embedding.weight.dtype == torch.bfloat16
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()


def test_what_has_no_meaning_here_is_refused(model: transformers.PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quantization_config"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config={"load_in_8bit": True})
    with pytest.raises(ConfigError, match="hidden states"):
        model(torch.zeros(1, 2, dtype=torch.int64), output_hidden_states=True)


def test_documents_packed_into_a_row_are_refused(model: transformers.PreTrainedModel) -> None:
    """They would see each other, and nobody would notice: as the collator of transformers packs them, and as masks of blocks do."""
    collator = transformers.DataCollatorWithFlattening(return_seq_idx=True, return_flash_attn_kwargs=True)
    packed = collator([{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}])
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    for name in ("position_ids", "seq_idx", "cu_seq_lens_q"):
        with pytest.raises(ConfigError, match="several documents packed into one row"):
            model(input_ids=packed["input_ids"], **{name: packed[name]})
    with pytest.raises(ConfigError, match="attention_mask of 4 dimensions"):
        model(input_ids=packed["input_ids"], attention_mask=torch.ones(1, 1, 5, 5))
    ids, mask = torch.tensor([[3, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    places = torch.tensor([[1, 0, 1], [0, 1, 2]])  # what generate hands over: padding has any place
    assert torch.equal(model(ids, attention_mask=mask, position_ids=places).logits, model(ids, attention_mask=mask).logits)
