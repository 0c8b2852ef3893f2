"""The decoder: embedding, a residual stack over a tuple of layer configs, final norm, head."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amaru.axes import Axes, Axis, TensorSpec
from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.state import PAGE, DecoderState
from amaru.nn.attention import KV, Attention
from amaru.nn.batch import Batch
from amaru.nn.hybrid_head import HybridHead, HybridHeadMixer
from amaru.nn.layer import LayerConfig, tensor
from amaru.nn.linear import Linear
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE
from amaru.nn.norm import NORMS, LayerNorm1P, NormKind, RMSNorm
from amaru.ops.add import add

AnyLayer = Annotated[Mamba2 | Attention | MLP | MoE | HybridHead, Field(discriminator="kind")]


class DecoderConfig(Config):
    """A model as data.

        DecoderConfig(vocab=131072, hidden=4096, layers=(Mamba2(...), MLP(...), Attention(...), MLP(...)))

    `layers` may differ in every width; pruning gives another tuple of the same type.

    norm, norm_eps  of every residual layer and of the end
    tied            the head is the embedding
    meta_tokens     learned vectors in front of every sequence (Hymba); no logits are computed for them
    max_positions   tokens that sequences had in training; changes nothing here, readers take it as a limit
    """

    vocab: int = Field(gt=0)
    hidden: int = Field(gt=0)
    layers: tuple[AnyLayer, ...]
    norm_eps: float = Field(default=1e-5, gt=0, allow_inf_nan=False)
    tied: bool = False
    norm: NormKind = "rmsnorm"
    meta_tokens: int = Field(default=0, ge=0)
    max_positions: int = Field(default=8192, gt=0)

    def check(self) -> None:
        for index, source in self.kv_sources().items():
            layer, owner = self.layers[index], None if source is None else self.layers[source]
            if not isinstance(layer, HybridHead) or not isinstance(owner, HybridHead) or layer.cache_shape != owner.cache_shape:
                raise ConfigError(
                    f"Layer {index} shares keys and values, but "
                    + ("no layer before it owns any." if owner is None else f"those of layer {source} have other heads or channels.")
                )
            if owner.window is not None and (layer.window is None or layer.window > owner.window or layer.sinks > owner.sinks):
                raise ConfigError(f"Layer {index} sees further back than layer {source} keeps the keys and values that both read.")

    def kv_sources(self) -> dict[int, int | None]:
        """For each layer that shares keys and values the layer whose it reads: the nearest before it that owns some."""
        sources: dict[int, int | None] = {}
        owner = None
        for index, layer in enumerate(self.layers):
            if isinstance(layer, HybridHead) and layer.shares_kv:
                sources[index] = owner
            elif isinstance(layer, HybridHead):
                owner = index
        return sources

    def axes(self) -> Axes:
        """The axes of the network; each layer adds its own."""
        return {
            "vocab": Axis(name="vocab", size=self.vocab, scope="network"),
            "hidden": Axis(name="hidden", size=self.hidden, scope="network"),
            **({"meta": Axis(name="meta", size=self.meta_tokens, scope="network", fixed=True)} if self.meta_tokens else {}),
        }

    def layer_axes(self, index: int) -> Axes:
        return self.axes() | self.layers[index].axes()

    def network_tensors(self) -> dict[str, TensorSpec]:
        """Parameters outside the layers."""
        head = {} if self.tied else {"head.weight": tensor("vocab", "hidden")}
        meta = {"meta_tokens": tensor("meta", "hidden")} if self.meta_tokens else {}
        return {"embedding.weight": tensor("vocab", "hidden"), **meta, **self.norm_tensors(), **head}

    def norm_tensors(self) -> dict[str, TensorSpec]:
        """Parameters of one norm on the residual stream."""
        return {f"norm.{name}": spec for name, spec in NORMS[self.norm].tensors().items()}

    def layer_tensors(self, index: int) -> dict[str, TensorSpec]:
        """Parameters of one layer, by their name inside it: its norm and its mixer."""
        mixer = {f"mixer.{name}": spec for name, spec in self.layers[index].tensors().items()}
        return self.norm_tensors() | mixer

    def tensors(self) -> dict[str, tuple[TensorSpec, Axes]]:
        """Every parameter of the model by name, with its layout and the axes that the layout speaks of."""
        named = {name: (spec, self.axes()) for name, spec in self.network_tensors().items()}
        for index in range(len(self.layers)):
            axes = self.layer_axes(index)
            named |= {f"layers.{index}.{name}": (spec, axes) for name, spec in self.layer_tensors(index).items()}
        return named


class ResidualLayer(nn.Module):
    """x + mixer(norm(x)): every letter of a pattern is one of these."""

    def __init__(self, config: LayerConfig, model: DecoderConfig) -> None:
        super().__init__()
        self.norm = NORMS[model.norm](model.hidden, model.norm_eps)
        self.mixer = config.build(model.hidden, model.norm_eps)

    def forward(self, x: Tensor, batch: Batch, state: dict[str, Tensor] | None, kv: KV | None) -> tuple[Tensor, KV | None]:
        """Also hands on the keys and values that later layers may share."""
        u = self.norm(x)
        if isinstance(self.mixer, HybridHeadMixer):
            y, kv = self.mixer(u, batch, state, kv)
        else:
            y = self.mixer(u, batch, state)
        return add(x, y), kv


class Decoder(nn.Module):
    """`Decoder(config)(batch) -> logits [T, vocab]` in at least fp32; weights are uninitialised until drawn or loaded.

    `compute_dtype` is the dtype of activations (None: that of the embedding); weights are cast to it at use, so
    fp32 master weights train with bf16 arithmetic by setting it. With `recompute_every` = k each k-th layer (1: every one)
    keeps only what it reads for the backward pass, and is run again there: less memory, more time, the same gradients to the bit.

    With `state_dtype` (bfloat16) pools that are made hold SSM states in it, instead of at least fp32: half the bytes, and a rounding
    at every token. With `narrow_kv` (float8_e4m3fn) they hold keys and values in 8 bits.
    """

    meta_tokens: nn.Parameter | None

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.state_dtype: torch.dtype | None = None
        self.narrow_kv: torch.dtype | None = None
        self.recompute_every: int | None = None
        self.embedding = nn.Embedding(config.vocab, config.hidden, _weight=torch.empty(config.vocab, config.hidden))
        self.meta_tokens = nn.Parameter(torch.empty(config.meta_tokens, config.hidden)) if config.meta_tokens else None
        self.layers = nn.ModuleList(ResidualLayer(layer, config) for layer in config.layers)
        self.norm = NORMS[config.norm](config.hidden, config.norm_eps)
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
        x, batch, real = self.begin(batch, state)
        return self.through(x, batch, state, real)

    def through(self, x: Tensor, batch: Batch, state: DecoderState | None = None, real: Tensor | None = None) -> Tensor:
        """From what `begin` gave to the end: all layers, and the final norm of real tokens."""
        return self.end(self._through(x, batch, None if state is None else state.layers), real)

    def _through(self, x: Tensor, batch: Batch, state: list[dict[str, Tensor]] | None) -> Tensor:
        kv = None
        again = self.recompute_every if state is None and torch.is_grad_enabled() else None
        for index, layer in enumerate(self.in_order()):
            if again and (index + 1) % again == 0:
                drawn = hasattr(self, "adapters")  # nothing else draws: dropout must be the same when the layer is run again
                x, kv = checkpoint(layer, x, batch, None, kv, use_reentrant=False, preserve_rng_state=drawn)
            else:
                x, kv = layer(x, batch, None if state is None else state[index], kv)
        return x

    def in_order(self, indices: Sequence[int] | None = None) -> Iterator[ResidualLayer]:
        """These layers (None: all) one after the other, each to be used only until the next is asked for: its weights may lie elsewhere."""
        layers = list(self._layers())
        return iter(layers if indices is None else [layers[index] for index in indices])

    def hold_head(self) -> AbstractContextManager[None]:
        """`with decoder.hold_head():` logits are wanted many times, so the head stays in memory wherever it lies."""
        return nullcontext()

    def begin(self, batch: Batch, state: DecoderState | None = None) -> tuple[Tensor, Batch, Tensor | None]:
        """The residual stream's beginning, the batch as layers see it, and which of its tokens are real (None: all).

        Meta tokens stand in front of every sequence. With state they were computed once, and a sequence that begins
        starts from what they left.
        """
        count = self.config.meta_tokens
        if state is not None:
            assert batch.slots is not None, "a state is addressed by slots"
            state.begin(batch.slots[batch.fresh])
            shifted = batch.shifted(count)
            pages = state.pages(batch.slots, int(shifted.positions.max()) + 1)
            return self.embed(batch.ids), replace(shifted, pages=pages), None
        if count:
            longer, real = batch.prefixed(count)
            return self._with_meta_tokens(self.embed(batch.ids), longer, real), longer, real
        return self.embed(batch.ids), batch, None

    def end(self, x: Tensor, real: Tensor | None) -> Tensor:
        """The residual stream's end, of real tokens only, after the final norm."""
        return self.norm(x if real is None else x[real])

    def _with_meta_tokens(self, x: Tensor, longer: Batch, real: Tensor) -> Tensor:
        places = torch.ones(len(longer.ids), dtype=torch.bool, device=x.device).index_fill(0, real, False).nonzero()[:, 0]
        assert self.meta_tokens is not None
        meta = self.meta_tokens.to(x.dtype).repeat(len(longer.cu_seqlens) - 1, 1)
        return x.new_zeros(len(longer.ids), x.shape[-1]).index_copy(0, real, x).index_copy(0, places, meta)

    def embed(self, ids: Tensor) -> Tensor:
        """[T, hidden] of token ids, in the dtype of activations."""
        x = self.embedding(ids)
        return x if self.compute_dtype is None else x.to(self.compute_dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).to(torch.promote_types(hidden.dtype, torch.float32))

    def new_state(
        self, slots: int, capacity: int, dtype: torch.dtype | None = None, pages: Mapping[str, int] | None = None
    ) -> DecoderState:
        """A state pool for `slots` sequences of at most `capacity` tokens (SSM states in at least fp32).

        Each sequence has pages of its own; or there are so many `pages` of each sight, and whoever asked fills the tables.
        The meta tokens are run here, once, with the weights as they are now.
        """
        dtype = dtype or self.compute_dtype or self.embedding.weight.dtype
        state = self._zero_state(slots, capacity + self.config.meta_tokens, dtype, pages)
        return state if self.meta_tokens is None else replace(state, meta=self._after_meta_tokens(self.meta_tokens, dtype))

    def _zero_state(self, slots: int, places: int, dtype: torch.dtype, pages: Mapping[str, int] | None = None) -> DecoderState:
        page = PAGE if pages else max(1, min(PAGE, places))
        each, device = -(-places // page), self.embedding.weight.device
        sights = tuple(layer.sight for layer in self.config.layers)
        own = torch.arange(slots * each, device=device).view(slots, each)
        tables = {sight: torch.zeros_like(own) if pages else own for sight in set(sights)}
        counts = pages or dict.fromkeys(sights, slots * each)
        asked = (page, dtype, device, self.narrow_kv)
        layers = [layer.mixer.new_state(slots, counts[layer.mixer.config.sight], *asked) for layer in self._layers()]
        if self.state_dtype is not None:
            layers = [self._narrowed(*pair, self.state_dtype) for pair in zip(self.config.layers, layers, strict=True)]
        return DecoderState(layers, sights, tables, page)

    @staticmethod
    def _narrowed(layer: LayerConfig, held: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """The state of a layer with what is kept in fp32 in another dtype."""
        wide = {name for name, spec in layer.state_tensors().items() if spec.keep_fp32}
        return {name: tensor.to(dtype) if name in wide else tensor for name, tensor in held.items()}

    @torch.no_grad()
    def _after_meta_tokens(self, meta_tokens: Tensor, dtype: torch.dtype) -> DecoderState:
        """What one sequence remembers after the meta tokens alone."""
        state, slots = self._zero_state(1, len(meta_tokens), dtype), torch.zeros(1, dtype=torch.int64, device=meta_tokens.device)
        batch = Batch.of([torch.zeros(len(meta_tokens), dtype=torch.int64)]).to(meta_tokens.device)
        x = meta_tokens.to(self.compute_dtype or self.embedding.weight.dtype)
        self._through(x, replace(batch, slots=slots, pages=state.pages(slots, len(x))), state.layers)
        return state

    @torch.no_grad()
    def initialise(self, seed: int, std: float | None = None) -> "Decoder":
        """Draw all weights: N(0, `std`), sqrt(0.8 / hidden) unless said; what writes to the residual stream divided by sqrt(layers)."""
        generator = torch.Generator().manual_seed(seed)
        self.draw(self.embedding, generator, std)
        if self.meta_tokens is not None:
            self.meta_tokens.normal_(0, 1, generator=generator)
        for layer in self._layers():
            self.draw(layer, generator, std)
        self.draw(self.norm, generator, std)
        if not self.config.tied:
            self.draw(self.head, generator, std)
        return self

    @torch.no_grad()
    def draw(self, part: nn.Module, generator: torch.Generator, std: float | None = None) -> None:
        """Draw the weights of one part of the model: the embedding, a layer, the norm or the head."""
        std = std or math.sqrt(0.8 / self.config.hidden)
        if isinstance(part, ResidualLayer):
            part.norm.initialise()
            part.mixer.initialise(generator, std, std / math.sqrt(len(self.layers)))
        elif isinstance(part, nn.Embedding | Linear):
            part.weight.normal_(0, std, generator=generator)
        else:
            cast(RMSNorm | LayerNorm1P, part).initialise()

    def _layers(self) -> Iterable[ResidualLayer]:
        return cast(Iterable[ResidualLayer], self.layers)
