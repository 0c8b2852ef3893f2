"""The decoder: embedding, a residual stack over a tuple of layer configs, final norm, head."""

import math
from collections.abc import Iterable
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from amaru.axes import Axes, Axis, TensorSpec
from amaru.config import Config
from amaru.nn.attention import Attention
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, tensor
from amaru.nn.linear import Linear
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.norm import RMSNorm

AnyLayer = Annotated[Mamba2 | Attention | MLP, Field(discriminator="kind")]
DecoderState = list[dict[str, Tensor]]
"""One entry per layer (index i is layer i): its tensors by name, [slots, ...]; empty for a layer without state."""


class DecoderConfig(Config):
    """A model as data.

        DecoderConfig(vocab=131072, hidden=4096, layers=(Mamba2(...), MLP(...), Attention(...), MLP(...)))

    `layers` may differ in every width; pruning gives another tuple of the same type.
    """

    vocab: int = Field(gt=0)
    hidden: int = Field(gt=0)
    layers: tuple[AnyLayer, ...]
    norm_eps: float = 1e-5
    tied: bool = False

    def axes(self) -> Axes:
        """The axes of the network; each layer adds its own."""
        return {
            "vocab": Axis(name="vocab", size=self.vocab, scope="network"),
            "hidden": Axis(name="hidden", size=self.hidden, scope="network"),
        }

    def layer_axes(self, index: int) -> Axes:
        return self.axes() | self.layers[index].axes()

    def network_tensors(self) -> dict[str, TensorSpec]:
        """Parameters outside the layers."""
        head = {} if self.tied else {"head.weight": tensor("vocab", "hidden")}
        return {"embedding.weight": tensor("vocab", "hidden"), "norm.weight": tensor("hidden"), **head}

    def layer_tensors(self, index: int) -> dict[str, TensorSpec]:
        """Parameters of one layer, by their name inside it: its norm and its mixer."""
        mixer = {f"mixer.{name}": spec for name, spec in self.layers[index].tensors().items()}
        return {"norm.weight": tensor("hidden"), **mixer}

    def tensors(self) -> dict[str, tuple[TensorSpec, Axes]]:
        """Every parameter of the model by name, with its layout and the axes that the layout speaks of."""
        named = {name: (spec, self.axes()) for name, spec in self.network_tensors().items()}
        for index in range(len(self.layers)):
            axes = self.layer_axes(index)
            named |= {f"layers.{index}.{name}": (spec, axes) for name, spec in self.layer_tensors(index).items()}
        return named


class ResidualLayer(nn.Module):
    """x + mixer(norm(x)): every letter of a pattern is one of these."""

    def __init__(self, config: LayerConfig, hidden: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden, norm_eps)
        self.mixer = config.build(hidden, norm_eps)

    def forward(self, x: Tensor, batch: Batch, state: dict[str, Tensor] | None) -> Tensor:
        return x + self.mixer(self.norm(x), batch, state)


class Decoder(nn.Module):
    """`Decoder(config)(batch) -> logits [T, vocab]` in at least fp32; weights are uninitialised until drawn or loaded.

    `compute_dtype` is the dtype of activations (None: that of the embedding); weights are cast to it at use, so
    fp32 master weights train with bf16 arithmetic by setting it.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embedding = nn.Embedding(config.vocab, config.hidden, _weight=torch.empty(config.vocab, config.hidden))
        self.layers = nn.ModuleList(ResidualLayer(layer, config.hidden, config.norm_eps) for layer in config.layers)
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.head = Linear(config.vocab, config.hidden)
        if config.tied:
            self.tie()

    def tie(self) -> None:
        """Make the head the embedding itself; needed again after the embedding's parameter was replaced."""
        self.head.weight = cast(nn.Parameter, self.embedding.weight)

    def forward(self, batch: Batch, state: DecoderState | None = None) -> Tensor:
        return self.logits(self.hidden_states(batch, state))

    def hidden_states(self, batch: Batch, state: DecoderState | None = None) -> Tensor:
        """[T, hidden] after the final norm: what the head reads."""
        x = self.embed(batch.ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, batch, None if state is None else state[index])
        return self.norm(x)

    def embed(self, ids: Tensor) -> Tensor:
        """[T, hidden]: where the residual stream begins, in the dtype of activations."""
        x = self.embedding(ids)
        return x if self.compute_dtype is None else x.to(self.compute_dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).to(torch.promote_types(hidden.dtype, torch.float32))

    def new_state(self, slots: int, capacity: int, dtype: torch.dtype | None = None) -> DecoderState:
        """A zeroed state pool for `slots` sequences of at most `capacity` tokens (SSM states in at least fp32)."""
        dtype = dtype or self.compute_dtype or self.embedding.weight.dtype
        return [layer.mixer.new_state(slots, capacity, dtype, self.embedding.weight.device) for layer in self._layers()]

    @torch.no_grad()
    def initialise(self, seed: int) -> "Decoder":
        """Draw all weights: N(0, sqrt(0.8 / hidden)), matrices that write to the residual stream divided by sqrt(layers)."""
        generator = torch.Generator().manual_seed(seed)
        std = math.sqrt(0.8 / self.config.hidden)
        self.embedding.weight.normal_(0, std, generator=generator)
        for layer in self._layers():
            layer.norm.weight.fill_(1)
            layer.mixer.initialise(generator, std, std / math.sqrt(len(self.layers)))
        self.norm.weight.fill_(1)
        if not self.config.tied:
            self.head.weight.normal_(0, std, generator=generator)
        return self

    def _layers(self) -> Iterable[ResidualLayer]:
        return cast(Iterable[ResidualLayer], self.layers)


def state_bytes(state: DecoderState) -> int:
    """Bytes that a state pool holds."""
    return sum(tensor.nbytes for layer in state for tensor in layer.values())
