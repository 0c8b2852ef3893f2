"""The count of saved activations against what autograd saves, and the rest against a model and its optimizer."""

import pytest
import torch

from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.training_memory import Footing, training_memory
from amaru.nn.attention import Attention
from amaru.nn.batch import Batch
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE
from amaru.train.optim import adamw

TOKENS, HIDDEN = 480, 128
LAYERS = {
    "mamba2": Mamba2(heads=8, channels=32, groups=2, state=64),
    "attention": Attention(query_heads=4, kv_heads=2, channels=32),
    "mlp": MLP(ffn=512),
    "gated mlp": MLP(ffn=512, gated=True, activation="silu"),
    "moe": MoE(experts=8, top_k=2, ffn=64, shared_ffn=128),
    "latent moe": MoE(experts=8, top_k=2, ffn=64, shared_ffn=128, latent=64),
    "hybrid head": HybridHead(query_heads=4, kv_heads=2, qk_channels=32, v_channels=64, rank=8),
}


def bytes_saved(decoder: Decoder) -> int:
    """Of all storages that autograd keeps, apart from weights and their copies."""
    weights = {tuple(parameter.shape) for parameter in decoder.parameters()}
    held: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and tuple(tensor.shape) not in weights | {shape[::-1] for shape in weights}:
            held[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        decoder.hidden_states(Batch.of([torch.arange(TOKENS) % decoder.config.vocab]))
    return sum(held.values())


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("kind", LAYERS)
def test_activations_are_what_autograd_saves(kind: str, bf16: bool) -> None:
    config = DecoderConfig(vocab=300, hidden=HIDDEN, layers=(LAYERS[kind],) * 2)
    decoder = Decoder(config).initialise(0)
    decoder.compute_dtype = torch.bfloat16 if bf16 else None
    assert training_memory(config, Footing(tokens=TOKENS, bf16=bf16)).activations == pytest.approx(bytes_saved(decoder), rel=0.15)


def test_weights_gradients_and_optimizer_are_those_of_a_step() -> None:
    config = DecoderConfig(vocab=300, hidden=HIDDEN, layers=tuple(LAYERS[kind] for kind in ("mamba2", "attention", "mlp")))
    decoder, counted = Decoder(config).initialise(0), training_memory(config, Footing(tokens=1))
    optimizer = adamw(decoder, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    decoder(Batch.of([torch.arange(9)])).sum().backward()
    optimizer.step()
    moments = sum(tensor.nbytes for state in optimizer.state.values() for name, tensor in state.items() if name != "step")
    assert counted.weights == sum(parameter.nbytes for parameter in decoder.parameters())
    assert counted.gradients == sum(parameter.grad.nbytes for parameter in decoder.parameters())
    assert counted.optimizer == moments
