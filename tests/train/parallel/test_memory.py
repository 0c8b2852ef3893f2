"""The count of a layout's memory against what a process of it holds after a step, and saves for its backward pass."""

import pytest
import torch
from tests.parallel.ranks import Ranks
from tests.train.parallel.spread_run import ROWS, whole

from amaru.data.loader import Loader
from amaru.models import DecoderConfig
from amaru.models.training_memory import Footing, training_memory
from amaru.nn import MLP, Attention, Mamba2
from amaru.parallel.shares import cut
from amaru.train.optim import adamw
from amaru.train.parallel.layout import Layout
from amaru.train.parallel.spread import Spread, local
from amaru.train.step import accumulate, micro_batches

LAYERS = (Mamba2(heads=8, channels=16, groups=2, state=32), Attention(query_heads=4, kv_heads=2, channels=16), MLP(ffn=256))
CONFIG = DecoderConfig(vocab=290, hidden=64, layers=LAYERS)
LAYOUTS = {"data": Layout(data=2), "tensor": Layout(tensor=2), "sequence": Layout(tensor=2, sequence=True)}


def measured(layout: Layout) -> tuple[int, dict[str, int]]:
    """Tokens at once, and bytes in this process."""
    spread, start = Spread(CONFIG, layout), dict(whole(CONFIG, torch.float32).named_parameters())
    model = spread.model(lambda name, kept: cut(start[name].detach(), kept))
    optimizer = adamw(model, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    batches = micro_batches(Loader(ROWS, 8, 0), 0, None, spread)
    saved: dict[int, int] = {}
    own = {shape for each in start.values() for shape in (tuple(each.shape), tuple(each.shape)[::-1])}
    own |= {shape for each in model.parameters() for shape in (tuple(local(each).shape), tuple(local(each).shape)[::-1])}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tuple(tensor.shape) not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        accumulate(model, spread.objective, batches, spread)
    optimizer.step()
    parameters = list(model.parameters())
    moments = (local(held).nbytes for state in optimizer.state.values() for name, held in state.items() if name != "step")
    return len(batches[0].ids), {
        "weights": sum(local(each).nbytes for each in parameters),
        "gradients": sum(local(each.grad).nbytes for each in parameters if each.grad is not None),
        "optimizer": sum(moments),
        "activations": sum(saved.values()),
    }


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_plan_is_what_a_process_holds(two: Ranks, layout: Layout) -> None:
    (tokens, first), _ = two(measured, layout)
    counted = training_memory(CONFIG, Footing(tokens=tokens, bf16=False, **vars(layout)))
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(counted, name) == pytest.approx(first[name], rel=0.01), name
    assert counted.activations == pytest.approx(first["activations"], rel=0.2)
