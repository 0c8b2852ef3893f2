"""The bias of experts after each step against the rule written out, and that it makes them equally busy."""

from dataclasses import replace

import pytest
import torch
from tests.train.small import RECIPE, run

from amaru.data.loader import Loader
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.batch import Batch
from amaru.nn.mamba2 import Mamba2
from amaru.nn.moe import MoE, Router
from amaru.train.balance import Balance

LAYERS = (Mamba2(heads=2, channels=4, groups=1, state=4), MoE(experts=6, top_k=2, ffn=8, shared_ffn=8))


def sparse_model() -> Decoder:
    return Decoder(DecoderConfig(vocab=290, hidden=16, layers=LAYERS)).initialise(0)


def loads(model: Decoder, batches) -> torch.Tensor:
    """How many tokens each expert gets, counted by its own forward pass."""
    router = next(module for module in model.modules() if isinstance(module, Router))
    counts = torch.zeros(6, dtype=torch.int64)

    def count(router, inputs, outputs) -> None:
        counts.add_(torch.eye(6, dtype=torch.int64)[outputs[0]].sum((0, 1)))

    hook = router.register_forward_hook(count)
    with torch.no_grad():
        for batch in batches:
            model.hidden_states(Batch(batch.ids, batch.positions, batch.cu_seqlens))
    hook.remove()
    return counts


@pytest.mark.parametrize("micro_tokens", [None, 24])
def test_one_step_by_hand(tmp_path, rows, micro_tokens) -> None:
    expected = loads(sparse_model(), [Loader(rows, RECIPE.batch_rows, RECIPE.seed).batch(0)])
    recipe = replace(RECIPE, steps=1, warmup=0, expert_balance=0.25, micro_tokens=micro_tokens)
    others = [Loader(rows, 9, 0).batch(5)]
    run(tmp_path, model := sparse_model(), recipe, rows, validate=lambda model: {"busiest": loads(model, others).max().item()})
    bias = model.layers[1].mixer.gate.e_score_correction_bias
    assert bias.tolist() == [0.25 * (1 if count * 6 < expected.sum() else -1 if count * 6 > expected.sum() else 0) for count in expected]


def test_experts_become_equally_busy(tmp_path, rows) -> None:
    batches = [Loader(rows, 4, 0).batch(step) for step in range(4)]
    spread = {}
    for rate in (0.0, 0.002):
        run(tmp_path / str(rate), model := sparse_model(), replace(RECIPE, steps=40, expert_balance=rate), rows)
        counts = loads(model, batches).double()
        spread[rate] = (counts.std() / counts.mean()).item()
    assert spread[0.002] < spread[0.0] / 2


def test_a_skipped_step_moves_nothing() -> None:
    model = sparse_model()
    with Balance(model, 0.1) as balance:
        model(Batch.of([torch.arange(7)]))
        balance.forget()
        balance.update()
    assert not model.layers[1].mixer.gate.e_score_correction_bias.any()
