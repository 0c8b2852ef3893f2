"""An engine whose keys and values are held in 8 bits: its bytes, its answers, and what it shares."""

import pytest
import torch
from tests.models.random_models import FAMILIES, random_ids, random_model

from amaru.errors import ConfigError
from amaru.nn import Batch
from amaru.ops.paged_attention import NARROW, narrowed
from amaru.ops.paged_attention.narrow import widened
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import Sampling
from amaru.serve.state_pool import Room, StatePool, unit_bytes

CACHED = ["nemotron_h", "llama", "hymba", "amaru"]


@pytest.mark.parametrize("family", CACHED)
def test_the_budget_counts_what_the_pool_holds(family: str) -> None:
    config = FAMILIES[family](1)
    decoder = random_model(config, 0, torch.bfloat16)
    decoder.narrow_kv = NARROW
    sights = {layer.sight for layer in config.layers}
    pool = StatePool(decoder, Room(3, dict.fromkeys(sights, 5)), capacity=64)
    slot, pages = unit_bytes(config, torch.bfloat16, NARROW)
    meta = 0 if pool.state.meta is None else pool.state.meta.bytes
    assert pool.bytes - meta == 3 * slot + 5 * sum(pages.values())
    wide = unit_bytes(config, torch.bfloat16)[1]
    assert all(pages[sight] < 0.8 * wide[sight] for sight in sights if wide[sight])  # channels are few here, and scales count


@pytest.mark.parametrize("family", CACHED)
@torch.inference_mode()
def test_whole_and_token_by_token_agree(family: str) -> None:
    """In float64, where no rounding of an activation moves a number to another code."""
    config = FAMILIES[family](1)
    decoder = random_model(config, 0, torch.float64)
    ids = random_ids(config.vocab, 30)[0]
    plain = decoder(Batch.of([ids], slots=[0]), decoder.new_state(1, 30))
    decoder.narrow_kv = NARROW
    whole = decoder(Batch.of([ids], slots=[0]), decoder.new_state(1, 30))
    state = decoder.new_state(1, 30)
    steps = torch.cat([decoder(Batch.of([ids[i : i + 1]], starts=[i], slots=[0]), state) for i in range(30)])
    torch.testing.assert_close(steps, whole, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(whole, plain, atol=1e-4)


@torch.inference_mode()
def test_only_the_rounding_of_keys_and_values_differs() -> None:
    """A stack of attention alone, one layer: its own keys and values rounded by hand give the same logits."""
    config = FAMILIES["llama"](0)
    decoder = random_model(config, 0, torch.float64)
    ids = random_ids(config.vocab, 12)[0]
    expected = random_model(config, 0, torch.float64)
    for layer in expected.layers[::2]:
        rope = layer.mixer.config.rope
        layer.mixer.forward = _rounded(layer.mixer, rope).__get__(layer.mixer)
    decoder.narrow_kv = NARROW
    found = decoder(Batch.of([ids], slots=[0]), decoder.new_state(1, 12))
    torch.testing.assert_close(found, expected(Batch.of([ids])), atol=1e-9, rtol=1e-9)


def _rounded(mixer, rope):
    def forward(self, x, batch, state=None):
        q, k, v = (proj(x).unflatten(-1, (-1, self.config.channels)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if rope:
            q, k = (rope(heads, batch.positions) for heads in (q, k))
        k, v = (widened(*narrowed(each), each.dtype) for each in (k, v))
        shared = self.config.query_heads // self.config.kv_heads
        scores = torch.einsum("ihc,jhc->hij", q, k.repeat_interleave(shared, 1)) * self.scale
        scores = scores.masked_fill(torch.ones(len(x), len(x), dtype=torch.bool).triu(1), -torch.inf)
        return self.o_proj(torch.einsum("hij,jhc->ihc", scores.softmax(-1), v.repeat_interleave(shared, 1)).flatten(-2))

    return forward


def test_prefixes_and_generation_run_on_narrow_pages() -> None:
    config = FAMILIES["nemotron_h"](1)
    decoder = random_model(config, 0, torch.float32)
    prompt = random_ids(config.vocab, 70)[0].tolist()
    settings = Settings(max_tokens=5, sampling=Sampling(temperature=0))
    alone = generate(decoder, [prompt], settings, kv="fp8")[0].tokens
    engine = Engine(decoder, config=EngineConfig(kv="fp8", memory=2**24, max_tokens=100, prefix_bytes=2**22))
    answers = []
    for _ in range(2):
        told: list[int] = []
        engine.submit(prompt, settings, lambda handle, event, told=told: told.extend(token.id for token in event.tokens))
        while engine.step():
            pass
        answers.append(told)
    assert answers == [alone, alone] and engine.stats().reused_tokens > 0
    with pytest.raises(ConfigError, match="'model' or 'fp8'"):
        EngineConfig(kv="int3")  # type: ignore[arg-type]
