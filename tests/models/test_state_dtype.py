"""SSM states in bfloat16: half the bytes, a small error that is not none, from prefill to decode."""

import pytest
import torch
from tests.models.random_models import random_config, random_model

from amaru.serve.forward import Work, advance


@pytest.mark.parametrize("pattern", ["MM-*-M", "-M**M*-"])
def test_states_in_bfloat16_cost_little_and_less_than_the_whole_model_in_it(pattern):
    decoder = random_model(random_config(4, pattern), 4)

    def logits(state_dtype: torch.dtype | None) -> tuple[torch.Tensor, list[torch.dtype]]:
        decoder.state_dtype = state_dtype
        state = decoder.new_state(2, 64)
        rows = [advance(decoder, state, [Work(list(range(1, 20)), 0, 1), Work([5, 6], 0, 0)])]
        rows += [advance(decoder, state, [Work([7], 2 + step, 0), Work([3], 19 + step, 1)]) for step in range(6)]
        return torch.stack(rows), [layer["ssm"].dtype for layer in state.layers if "ssm" in layer]

    wide, dtypes = logits(None)
    assert set(dtypes) == {torch.float32}
    narrow, dtypes = logits(torch.bfloat16)
    assert set(dtypes) == {torch.bfloat16}
    error = (narrow - wide).abs().max() / wide.abs().max()
    assert 0 < error < 2**-7
