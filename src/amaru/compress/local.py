"""Blockwise local distillation: every block learns what its layer adds to the residual stream, on what that layer was given."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from amaru.compress.blocks import Block, cut_block
from amaru.compress.ranking import Ranking
from amaru.compress.scores import Scores
from amaru.config import Artifact, Config, to_dict
from amaru.errors import ArtifactError, CheckpointError, DataError
from amaru.models.decoder import Decoder, ResidualLayer
from amaru.nn.attention import KV
from amaru.nn.batch import Batch
from amaru.nn.hybrid_head import HybridHeadMixer

SCHEMA = 1
Progress = Callable[[str], None]


class LocalDistillation(Config):
    """`LocalDistillation(tokens=200_000)`: how each block is trained on its own; 0 tokens leave it as it was cut.

    tokens   that each block sees; the samples are seen again and again until then
    lr       of AdamW without weight decay, falling to zero by a cosine
    """

    tokens: int = Field(default=0, ge=0)
    lr: float = Field(default=5e-4, gt=0)


class Streams:
    """The residual stream of every sample before some layer: `streams.advance(parent.layers[0])` goes on behind it.

    All streams of one layer are held at once, so that a stack is walked once and only the blocks of one layer exist.
    Raises `DataError` without samples.
    """

    def __init__(self, decoder: Decoder, samples: Sequence[Batch]) -> None:
        if not samples:
            raise DataError("Blocks are judged on calibration text; there was none.")
        with torch.no_grad():
            begun = [decoder.begin(batch) for batch in samples]
        self.batches = [batch for _, batch, _ in begun]
        self.real = [real for _, _, real in begun]
        self.at: list[tuple[Tensor, KV | None]] = [(x, None) for x, _, _ in begun]

    @torch.no_grad()
    def advance(self, layer: torch.nn.Module) -> None:
        self.at = [layer(x, batch, None, kv) for (x, kv), batch in zip(self.at, self.batches, strict=True)]


def added(layer: ResidualLayer, x: Tensor, batch: Batch, kv: KV | None) -> Tensor:
    """[T, hidden]: what a layer adds to the stream."""
    u = layer.norm(x)
    return layer.mixer(u, batch, None, kv)[0] if isinstance(layer.mixer, HybridHeadMixer) else layer.mixer(u, batch, None)


def normalised_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the squared size of what is wanted: 1 for a block that adds nothing."""
    wide = torch.promote_types(wanted.dtype, torch.float32)
    wanted = wanted.to(wide)
    return (found.to(wide) - wanted).square().sum() / wanted.square().sum().clamp_min(torch.finfo(wide).tiny)


@torch.no_grad()
def error(layer: ResidualLayer | None, wanted: Sequence[Tensor], streams: Streams) -> float:
    """The normalised error over all samples; None adds nothing."""
    if layer is None:
        return 1.0
    found = [added(layer, x, batch, kv) for (x, kv), batch in zip(streams.at, streams.batches, strict=True)]
    return float(normalised_error(torch.cat(found), torch.cat(list(wanted))))


def teach(layer: ResidualLayer, wanted: Sequence[Tensor], streams: Streams, how: LocalDistillation) -> None:
    """Train a block in place towards what the parent's layer adds, a sample a step (Puzzle, blockwise local distillation)."""
    lengths = [len(batch.ids) for batch in streams.batches]
    steps = _steps(lengths, how.tokens)
    optimizer = torch.optim.AdamW(layer.requires_grad_(True).parameters(), lr=how.lr, betas=(0.9, 0.95), weight_decay=0.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for step in range(steps):
        place = step % len(lengths)
        (x, kv), batch = streams.at[place], streams.batches[place]
        with torch.enable_grad():
            loss = normalised_error(added(layer, x, batch, kv), wanted[place])
            loss.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
    layer.requires_grad_(False)


def _steps(lengths: list[int], tokens: int) -> int:
    """Whole samples, in turns, that hold at least so many tokens."""
    steps = seen = 0
    while seen < tokens:
        seen += lengths[steps % len(lengths)]
        steps += 1
    return steps


@dataclass(frozen=True)
class Taught:
    """The blocks of one layer after local distillation, by key, with the error of each before and after."""

    weights: dict[str, dict[str, Tensor]]
    errors: dict[str, tuple[float, float]]

    def save(self, path: Path, blocks: Sequence[Block], made_from: dict[str, str]) -> None:
        arrays = {f"{key}.{name}": weight.numpy() for key, held in self.weights.items() for name, weight in held.items()}
        content = {"blocks": [to_dict(block) for block in blocks], "errors": self.errors}
        Artifact(kind="blocks", schema=SCHEMA, made_from=made_from, content=content, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: Path, made_from: dict[str, str]) -> "Taught":
        artifact = Artifact.load(path, kind="blocks", schema=SCHEMA)
        artifact.require(made_from, path)
        weights: dict[str, dict[str, Tensor]] = {}
        for name, array in artifact.arrays.items():
            key, _, rest = name.partition(".")
            weights.setdefault(key, {})[rest] = torch.from_numpy(array)
        return cls(weights, {key: (float(before), float(after)) for key, (before, after) in artifact.content["errors"].items()})

    def into(self, layer: ResidualLayer, block: Block) -> ResidualLayer:
        """A block's layer with the weights that it learned, where it learned any."""
        if block.key in self.weights:
            layer.load_state_dict(self.weights[block.key])
        return layer


def teach_layer(
    parent: Decoder,
    blocks: Sequence[Block],
    scores: Scores,
    streams: Streams,
    how: LocalDistillation,
    progress: Progress,
    ranking: Ranking | None = None,
) -> Taught:
    """All narrower blocks of one layer, from the streams before it; one that training made worse stays as it was cut.

    Raises `CheckpointError` where an error is not finite.
    """
    layer: ResidualLayer = parent.layers[blocks[0].index]  # type: ignore[assignment]
    with torch.no_grad():
        wanted = [added(layer, x, batch, kv) for (x, kv), batch in zip(streams.at, streams.batches, strict=True)]
    weights: dict[str, dict[str, Tensor]] = {}
    errors: dict[str, tuple[float, float]] = {}
    for block in blocks:
        if block.layer is None or block.layer == layer.mixer.config:
            continue
        cut = cut_block(parent, block, scores, ranking)
        assert cut is not None
        cut.float()
        before, as_cut = error(cut, wanted, streams), {name: weight.clone() for name, weight in cut.state_dict().items()}
        teach(cut, wanted, streams, how)
        after = error(cut, wanted, streams)
        if not math.isfinite(before + after):
            raise CheckpointError(f"Local distillation of {block.describe()} is not finite; lower its learning rate.")
        better = after < before
        progress(f"local distillation, {block.describe()}: error {before:.3f} to {after:.3f}{'' if better else ', so it stays as cut'}")
        weights[block.key] = {name: weight.detach().cpu() for name, weight in (cut.state_dict() if better else as_cut).items()}
        errors[block.key] = (before, min(before, after))
    return Taught(weights, errors)


class Library:
    """The taught blocks of a run, a file for each layer: `Library(folder, made_from, how).layer(parent, block, scores)`."""

    def __init__(self, folder: Path, made_from: dict[str, str], how: LocalDistillation, ranking: Ranking | None = None) -> None:
        self.folder, self.made_from, self.how, self.ranking = folder, made_from, how, ranking
        self._held: tuple[int, Taught] | None = None

    def teach(
        self, parent: Decoder, library: Sequence[Sequence[Block]], scores: Scores, samples: Sequence[Batch], progress: Progress
    ) -> None:
        """Every layer that has no whole file yet, in the order of the stack."""
        if self.is_whole(library):
            return
        streams = Streams(parent, samples)
        for blocks in library:
            path = self._path(blocks[0].index)
            if not self._is_whole(path):
                taught = teach_layer(parent, blocks, scores, streams, self.how, progress, self.ranking)
                taught.save(path, blocks, self.made_from)
            streams.advance(parent.layers[blocks[0].index])

    def is_whole(self, library: Sequence[Sequence[Block]]) -> bool:
        """Whether every layer has its file, or none is asked for."""
        return not self.how.tokens or all(self._is_whole(self._path(blocks[0].index)) for blocks in library)

    def layer(self, parent: Decoder, block: Block, scores: Scores) -> ResidualLayer | None:
        """A block ready to run: cut, and taught where it was."""
        cut = cut_block(parent, block, scores, self.ranking)
        return cut if cut is None or not self.how.tokens else self._of(block.index).into(cut.float(), block)

    def errors(self) -> dict[str, tuple[float, float]]:
        """Of every taught block by its key, before and after."""
        files = sorted(self.folder.glob("*.safetensors")) if self.how.tokens else []
        return {key: pair for path in files for key, pair in Taught.load(path, self.made_from).errors.items()}

    def _of(self, index: int) -> Taught:
        if self._held is None or self._held[0] != index:
            self._held = index, Taught.load(self._path(index), self.made_from)
        return self._held[1]

    def _path(self, index: int) -> Path:
        return self.folder / f"layer-{index:03d}.safetensors"

    def _is_whole(self, path: Path) -> bool:
        try:
            Taught.load(path, self.made_from)
        except ArtifactError:
            return False
        return True
