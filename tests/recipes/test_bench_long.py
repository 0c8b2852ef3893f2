"""Long prompts: the Transformer beside a hybrid is as large, the batch fills the budget, and what does not fit is told."""

from pathlib import Path

import pytest
from tests.models.random_models import random_config, random_model

from amaru.errors import CapacityError, ConfigError
from amaru.models import cost
from amaru.models.checkpoint import save
from amaru.models.families import presets
from amaru.recipes.bench.long import Long, beside_a_transformer, transformer_like
from amaru.recipes.shape import Shape

LONG = Long(prompt=64, new=4, memory=2**20, chunk=8, depths=3)


@pytest.mark.parametrize("name", ["nemotron-h-8b", "nemotron-h-4b"])
def test_the_transformer_is_as_large_and_has_a_llama_s_caches(name: str) -> None:
    config = presets()[name]
    twin = transformer_like(config)
    assert cost.parameters(twin) == pytest.approx(cost.parameters(config), rel=1e-4)
    attention = twin.layers[0]
    assert attention.kind == "attention" and attention.query_heads == 4 * attention.kv_heads
    assert cost.kv_bytes_per_token(twin) > 4 * cost.kv_bytes_per_token(config)


def test_the_batch_fills_the_budget_and_the_sum_is_that_of_the_pieces(tmp_path: Path) -> None:
    save(random_model(Shape(pattern="M-M*-", hidden=64).resolve(512)), tmp_path / "model")
    for found in beside_a_transformer(tmp_path / "model", LONG, lambda text: None).values():
        assert found.batch == LONG.memory // found.bytes_per_sequence > 0
        seconds = found.batch * found.prefill_seconds + LONG.new * found.step_seconds
        assert found.tokens_per_second == pytest.approx(found.batch * LONG.new / seconds)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    save(random_model(Shape(pattern="M-M*-", hidden=64).resolve(512)), tmp_path / "model")
    with pytest.raises(CapacityError, match="the budget is 1,000"):
        beside_a_transformer(tmp_path / "model", Long(prompt=64, new=4, memory=1000, chunk=8, depths=3), lambda text: None)
    with pytest.raises(ConfigError, match="at least depths x chunk"):
        Long(prompt=64, chunk=32, depths=3)
    with pytest.raises(ConfigError, match="No Llama of width"):
        transformer_like(random_config(0, "M").__class__(vocab=8, hidden=64, layers=random_config(0, "-").layers * 2))
