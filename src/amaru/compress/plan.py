"""From a shape to a cut: which indices stay, by importance inside what the axes allow; and the plan saved beside it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amaru.axes import Selection, Selections, keep
from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate
from amaru.compress.scores import Scores
from amaru.compress.surgery import Cut, cut_config
from amaru.config import Artifact, from_dict, to_dict
from amaru.errors import ArtifactError, ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """`Plan(candidate=..., cut=..., budget=..., made_from={"checkpoint": fingerprint})`: a decision that can be carried out.

    candidate   the shape, with the parameters and memory that were predicted
    cut         which indices of the parent make it
    """

    candidate: Candidate
    cut: Cut
    budget: Budget
    made_from: dict[str, str]

    def save(self, path: str | Path) -> None:
        arrays = {f"network.{name}": selection.indices for name, selection in self.cut.network.items()}
        for layer, selections in self.cut.within.items():
            arrays |= {f"layers.{layer}.{name}": selection.indices for name, selection in selections.items()}
        content = {"candidate": to_dict(self.candidate), "budget": to_dict(self.budget), "layers": list(self.cut.layers)}
        Artifact(kind="plan", schema=SCHEMA, made_from=self.made_from, content=content, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str] | None = None) -> "Plan":
        """Read a plan; raises `ArtifactError` unless it was made from `made_from` where that is given."""
        artifact = Artifact.load(path, kind="plan", schema=SCHEMA)
        artifact.require(made_from or {}, path)
        network: Selections = {}
        within: dict[int, Selections] = {}
        try:
            for name, indices in artifact.arrays.items():
                place, *layer, axis = name.split(".")
                selections = within.setdefault(int(layer[0]), {}) if place == "layers" else network
                selections[axis] = Selection(indices)
            cut = Cut(tuple(artifact.content["layers"]), network, within)
            candidate = from_dict(Candidate, artifact.content["candidate"])
            budget = from_dict(Budget, artifact.content["budget"])
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ArtifactError(f"{path} lacks a part of the plan ({error}); delete it and run the same command again.") from None
        return cls(candidate=candidate, cut=cut, budget=budget, made_from=artifact.made_from)


def cut_for(candidate: Candidate, config: DecoderConfig, scores: Scores) -> Cut:
    """`cut_for(candidate, parent.config, scores)`: the most important indices of every narrowed axis, in the parent's order.

    Inner axes are chosen first and outer ones judged on what survives: channels over all heads, then heads on the
    surviving channels, within their group (Minitron-SSM, section 3). Raises `ConfigError` when the candidate is not a
    narrowing of this parent along axes that have scores.
    """
    scores.check(config)
    mismatch = f"The shape '{candidate.describe()}' is no narrowing of this parent along the axes that are scored."
    if [type(layer) for layer in candidate.config.layers] != [type(layer) for layer in _at(config, candidate.layers)]:
        raise ConfigError(mismatch)
    network: Selections = {}
    if candidate.config.hidden < config.hidden:
        network["hidden"] = keep(config.axes()["hidden"], _best(scores.hidden, candidate.config.hidden), config.axes())
    within: dict[int, Selections] = {}
    for index, student in zip(candidate.layers, candidate.config.layers, strict=True):
        if selections := narrow(config.layers[index], student, scores.within[index]):
            within[index] = selections
    cut = Cut(candidate.layers, network, within)
    if cut_config(config, cut) != candidate.config:
        raise ConfigError(mismatch)
    return cut


def _at(config: DecoderConfig, indices: tuple[int, ...]) -> list[LayerConfig]:
    return [config.layers[index] for index in indices if 0 <= index < len(config.layers)]


def narrow(parent: LayerConfig, student: LayerConfig, importance: dict[str, np.ndarray]) -> Selections:
    """The selections that take one layer to the student's widths, from its scores by expression."""
    selections: Selections = {}
    for expression, scores in importance.items():
        names = expression.split(" x ")
        energy = np.square(scores)
        for place, name in reversed(list(enumerate(names))):
            axis, kept = parent.axes()[name], student.axes()[name].size
            if name not in parent.probes or kept >= axis.size:
                continue
            pooled = tuple(other for other in range(len(names)) if other != place and names[other] not in parent.probes[name].per)
            totals = energy.sum(axis=pooled, keepdims=True)
            best = _best(totals, kept, place)
            selections[name] = keep(axis, best.squeeze(pooled), parent.axes())
            stays = np.zeros_like(totals)
            np.put_along_axis(stays, best, 1.0, axis=place)
            energy = energy * stays
    return selections


def _best(scores: np.ndarray, kept: int, axis: int = -1) -> np.ndarray:
    """Indices of the `kept` largest along an axis, ascending; of equal ones the first."""
    order = np.argsort(-scores, axis=axis, kind="stable")
    return np.sort(np.take(order, np.arange(kept), axis=axis), axis=axis)
