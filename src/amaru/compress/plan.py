"""A cut as it was decided on, in a file: what it makes of which parent, how it was chosen, and the proof that it was carried out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from amaru.axes import Axis, Selection, Selections
from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate
from amaru.compress.ranking import Ranking
from amaru.compress.surgery import Cut, Surgery, cut_checkpoint, cut_decoder
from amaru.config import Artifact, fingerprint_bytes, from_dict, to_dict
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, ConfigError
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint
from amaru.models.decoder import Decoder, DecoderConfig

SCHEMA = 2
COUNTED = ("head", "query", "expert")


class Narrowing(NamedTuple):
    """One axis that a plan narrows, or keeps: its size (for each index of `per`) in the parent and in the student, and in which layers.

    `kind` is that of the layers, and "" for an axis of the network.
    """

    axis: str
    per: tuple[str, ...]
    kind: str
    before: int
    after: int
    layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """`Plan(parent=config, candidate=..., cut=..., budget=..., made_from={"checkpoint": fingerprint})`: a decision to be carried out.

    parent      the shape that is cut
    candidate   the shape that is left, with the parameters and memory that were predicted
    cut         which indices of the parent make it
    ranking     how they were chosen
    budget      what the shape was chosen for, where there was one

    `plan.cut_checkpoint("parent", "student", tokenizer)` and `plan.cut_decoder(parent)` carry it out.
    """

    parent: DecoderConfig
    candidate: Candidate
    cut: Cut
    ranking: Ranking = field(default_factory=Ranking)
    budget: Budget | None = None
    made_from: dict[str, str]

    @property
    def key(self) -> str:
        """A short hash of the parent's shape and of every index that stays."""
        arrays = sorted(self._arrays().items())
        said = [repr(to_dict(self.parent)), repr(self.cut.layers), repr(self._misplaced())]
        return fingerprint_bytes(*said, *(part for name, array in arrays for part in (name, array.shape.__repr__(), array.tobytes())))

    def surgery(self) -> Surgery:
        """What it does to each tensor. Raises `ConfigError` when it keeps everything, `ArtifactError` when its parts disagree."""
        surgery = Surgery(self.parent, self.cut)
        if self.candidate.config == self.parent:
            raise ConfigError("This plan keeps every layer at every width: nothing would be cut.")
        counted = cost.parameters(surgery.config)
        if surgery.config != self.candidate.config or counted != self.candidate.parameters:
            raise ArtifactError(
                f"This plan promises {self.candidate.parameters:,} parameters ({self.candidate.describe()}), "
                f"but its indices leave {counted:,}; make it anew."
            )
        return surgery

    def cut_decoder(self, decoder: Decoder) -> Decoder:
        """`plan.cut_decoder(parent)`: the student in memory. Raises `ConfigError` for another parent."""
        self._check_parent(decoder.config)
        return cut_decoder(decoder, self.cut)

    def cut_checkpoint(self, path: str | Path, out: str | Path, tokenizer: Tokenizer | None = None) -> DecoderConfig:
        """`plan.cut_checkpoint("parent", "student", tokenizer)`: from disk to disk, one tensor at a time; `tokenizer` is the parent's.

        The student's file is opened again: its tensors have the shapes that the plan promises. Raises as `surgery.cut_checkpoint`, and
        `ConfigError` for another parent, before anything is written.
        """
        self._check_parent(Checkpoint(path).config)
        return cut_checkpoint(path, self.cut, out, tokenizer)

    def narrowings(self) -> Iterator[Narrowing]:
        """Every axis of the network and of the layers that stay, with equal changes in one row; axes of fixed size are left out."""
        before, after = self.parent.axes(), self.candidate.config.axes()
        yield from (Narrowing(name, (), "", axis.size, after[name].size, ()) for name, axis in before.items() if not axis.fixed)
        rows: dict[tuple[str, tuple[str, ...], str, int, int], list[int]] = {}
        for index, student in zip(self.candidate.layers, self.candidate.config.layers, strict=True):
            sizes = student.axes()
            for name, axis in self.parent.layers[index].axes().items():
                if not axis.fixed:
                    left = sizes[name].size if name in sizes else 1
                    rows.setdefault((name, _counted_in(axis), student.kind, axis.size, left), []).append(index)
        yield from (Narrowing(*row, tuple(layers)) for row, layers in rows.items())

    def facts(self) -> dict[str, Any]:
        """All of it but the indices, for `amaru show` and reports."""
        kept, kinds = set(self.candidate.layers), Counter(layer.kind for layer in self.parent.layers)
        return {
            "key": self.key,
            "parameters": {"before": cost.parameters(self.parent), "after": self.candidate.parameters},
            "layers": {"before": len(self.parent.layers), "after": len(kept)},
            "kept": list(self.candidate.layers),
            "of_kind": dict(kinds),
            "dropped": {
                kind: [index for index, layer in enumerate(self.parent.layers) if layer.kind == kind and index not in kept]
                for kind in kinds
            },
            "axes": [row._asdict() for row in self.narrowings()],
            "student": self.candidate.describe(),
            "ranking": self.ranking.describe(),
            "budget": self.budget.describe() if self.budget else None,
            "made_from": self.made_from,
        }

    def save(self, path: str | Path) -> None:
        content = {
            "parent": to_dict(self.parent),
            "candidate": to_dict(self.candidate),
            "budget": to_dict(self.budget) if self.budget else None,
            "ranking": to_dict(self.ranking),
            "layers": list(self.cut.layers),
            "misplaced": self._misplaced(),
            "key": self.key,
        }
        Artifact(kind="plan", schema=SCHEMA, made_from=self.made_from, content=content, arrays=self._arrays()).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str] | None = None) -> "Plan":
        """Read a plan; raises `ArtifactError` unless it is whole, and was made from `made_from` where that is given."""
        artifact = Artifact.load(path, kind="plan", schema=SCHEMA)
        artifact.require(made_from or {}, path)
        try:
            plan = cls._read(artifact)
            whole = plan.key == artifact.content["key"]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ArtifactError(f"{path} lacks a part of the plan ({error}); delete it and run the same command again.") from None
        if not whole:
            raise ArtifactError(f"{path} holds other indices than were saved in it; delete it and run the same command again.")
        return plan

    @classmethod
    def _read(cls, artifact: Artifact) -> "Plan":
        said, network, within = artifact.content, Selections(), dict[int, Selections]()
        for name, indices in artifact.arrays.items():
            place, *layer, axis = name.split(".")
            selections = within.setdefault(int(layer[0]), {}) if place == "layers" else network
            selections[axis] = Selection(indices, misplaced=name in said["misplaced"])
        return cls(
            parent=from_dict(DecoderConfig, said["parent"]),
            candidate=from_dict(Candidate, said["candidate"]),
            cut=Cut(tuple(said["layers"]), network, within),
            ranking=from_dict(Ranking, said["ranking"]),
            budget=said["budget"] and from_dict(Budget, said["budget"]),
            made_from=artifact.made_from,
        )

    def _selections(self) -> dict[str, Selection]:
        named = {f"network.{name}": selection for name, selection in self.cut.network.items()}
        for layer, selections in self.cut.within.items():
            named |= {f"layers.{layer}.{name}": selection for name, selection in selections.items()}
        return named

    def _arrays(self) -> dict[str, Any]:
        return {name: selection.indices for name, selection in self._selections().items()}

    def _misplaced(self) -> list[str]:
        return sorted(name for name, selection in self._selections().items() if selection.misplaced)

    def _check_parent(self, config: DecoderConfig) -> None:
        self.surgery()
        if config != self.parent:
            raise ConfigError(f"This plan cuts {_shape(self.parent)}, and not {_shape(config)}.")


def _counted_in(axis: Axis) -> tuple[str, ...]:
    """The parents in each of which a number of heads or experts is counted; a width is the same everywhere and needs none."""
    return axis.parents if axis.name in COUNTED else ()


def _shape(config: DecoderConfig) -> str:
    return f"a model of {len(config.layers)} layers, hidden {config.hidden} and {cost.parameters(config):,} parameters"
