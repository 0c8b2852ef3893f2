"""The proof of a cut that was carried out: the file has the parent's rows, and these are rows that the axes allow to choose."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amaru.axes import Axes, Axis, Selection, Selections, keep
from amaru.compress.plan import Plan
from amaru.compress.surgery import Cut, Surgery
from amaru.config import Config
from amaru.models.certificate import Place
from amaru.models.checkpoint import Checkpoint
from amaru.models.decoder import DecoderConfig
from amaru.models.verify import LENGTHS, OwnModel, match, seeded_sequences

Report = Callable[[str], None]


class Proof(Config):
    """What `prove` found.

    tensors, parameters   of the file that was cut, counted in it
    wrong     tensors that do not hold the parent's rows to the bit, or are missing; of blocks that were taught none is expected to
    taught    tensors of such blocks
    turned    logits of the parent with what stays put first in every axis, beside its own; None where heads ignore their groups
    """

    plan: str
    tensors: int
    parameters: int
    wrong: tuple[str, ...]
    taught: int
    turned: Place | None

    @property
    def holds(self) -> bool:
        return not self.wrong and self.turned is not None and self.turned.equal

    @property
    def verdict(self) -> str:
        """`holds: 60 tensors have the parent's rows to the bit; ...`"""
        rows = f"{self.tensors - self.taught} tensors have the parent's rows to the bit"
        rows += f", {self.taught} were taught" if self.taught else ""
        if self.wrong:
            rows = f"{len(self.wrong)} of {self.tensors} tensors do not have the parent's rows ({self.wrong[0]})"
        if self.turned is None:
            return f"does not hold: {rows}; heads ignore their groups, which breaks the function"
        says = "says the same" if self.turned.equal else "says something else"
        apart = f"logits differ by {self.turned.max_abs:.1e} at most, of {self.turned.scale:.2g}"
        return f"{'holds' if self.holds else 'does not hold'}: {rows}; the parent with what stays put first {says} ({apart})"


def prove(
    plan: Plan, parent: str | Path, cut: str | Path, *, taught: bool = False, seed: int = 0, report: Report = lambda text: None
) -> Proof:
    """`prove(plan, "parent", "pruned")`: nothing of the cut is taken on trust.

    The file is read again, tensor by tensor, beside the parent's rows. And the parent runs twice on seeded tokens, as it is and with the
    indices that stay put first in every axis: what the axes allow to choose among can also be reordered without any change, so an index
    that belongs to another group, or a tensor that was forgotten, shows. Layer by layer from disk. With `taught` the blocks that the plan
    narrows have weights of their own.
    """
    source, made = Checkpoint(parent), Checkpoint(cut)
    matches, _ = match(Rows(source, plan.cut), made, report)
    own = {name for place in _narrowed(plan) for name in made.names if name.startswith(f"layers.{place}.")} if taught else set[str]()
    there = {each.name for each in matches if each.equal}
    return Proof(
        plan=plan.key,
        tensors=len(made.names),
        parameters=sum(spec.layout.numel(axes) for spec, axes in made.config.tensors().values()),
        wrong=tuple(sorted({*plan.candidate.config.tensors(), *made.names} - there - own)),
        taught=len(own - there),
        turned=None if _misplaced(plan.cut) else _turned(source, plan.cut, seed, report),
    )


class Rows:
    """`Rows(checkpoint, cut)`: the tensors that a cut makes of a checkpoint, each when it is read."""

    def __init__(self, parent: Checkpoint, cut: Cut) -> None:
        self._parent, self._surgery = parent, Surgery(parent.config, cut)
        self.path, self.config, self.names = parent.path, self._surgery.config, self._surgery.names
        self._read = self._surgery.reader(parent.read)

    def read(self, name: str) -> Tensor:
        return self._read(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._parent.dtype(self._surgery.origin(name))


def put_first(config: DecoderConfig, cut: Cut) -> Cut:
    """`cut_decoder(parent, put_first(parent.config, cut))`: the whole parent, in every axis first the indices that the cut keeps.

    Tokens stay where they are: their order is that of the tokenizer.
    """
    network = {name: selection for name, selection in cut.network.items() if name != "vocab"}
    within = {index: dict(_all(config.layers[index].axes(), selections)) for index, selections in cut.within.items()}
    return Cut(tuple(range(len(config.layers))), dict(_all(config.axes(), network)), within)


def _all(axes: Axes, selections: Selections) -> Iterator[tuple[str, Selection]]:
    for name, selection in selections.items():
        yield name, keep(axes[name], _completed(axes[name], selection), axes)


def _completed(axis: Axis, selection: Selection) -> np.ndarray:
    everything = np.arange(axis.size)
    return np.apply_along_axis(lambda kept: np.concatenate([kept, np.setdiff1d(everything, kept)]), -1, selection.indices)


def _turned(parent: Checkpoint, cut: Cut, seed: int, report: Report) -> Place:
    sequences = seeded_sequences(parent.config.vocab, LENGTHS, seed)
    models = OwnModel(parent, "the parent"), OwnModel(Rows(parent, put_first(parent.config, cut)), "the parent, reordered")
    one, other = (model.run(sequences, torch.float32, report)["logits"] for model in models)
    return Place.of("logits", one, other, one)


def _narrowed(plan: Plan) -> list[int]:
    """The student's layers whose width the plan changes."""
    pairs = zip(plan.candidate.layers, plan.candidate.config.layers, strict=True)
    return [place for place, (index, layer) in enumerate(pairs) if layer != plan.parent.layers[index]]


def _misplaced(cut: Cut) -> bool:
    return any(selection.misplaced for selections in cut.within.values() for selection in selections.values())
