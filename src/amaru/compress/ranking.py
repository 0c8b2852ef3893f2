"""From a shape to a cut: which indices stay, by importance inside what the axes allow."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from amaru.axes import Selection, Selections, keep, keep_by_position
from amaru.compress.candidate import Candidate
from amaru.compress.scores import Scores
from amaru.compress.surgery import Cut, bound_axes, cut_config
from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig

CHANNELS = ("channel", "v_channel")  # of heads: one ranking for all heads, unless each is asked to have its own


class Ranking(Config):
    """`Ranking()`: how indices are chosen; what differs from it is for comparisons.

    order                  the most important stay ("ranked"), the first ("original"), or the least important ("reverse")
    channels_per_head      every head keeps channels of its own, in place of one choice for all heads of a layer (Minitron-SSM's)
    heads_ignoring_groups  Mamba heads are ranked through all groups and fill the groups that are left by position, as tools do that have
                           not heard of groups: heads come to read the B and C of others. A control; it breaks the function
    """

    order: Literal["ranked", "original", "reverse"] = "ranked"
    channels_per_head: bool = False
    heads_ignoring_groups: bool = False

    def check(self) -> None:
        if self.channels_per_head and self.heads_ignoring_groups:
            raise ConfigError("Ranking takes channels_per_head or heads_ignoring_groups: channels of its own do not follow a moved head.")

    def describe(self) -> str:
        """`ranked; heads within their group; one choice of channels for all heads`"""
        heads = "heads ignoring groups (an experiment: they read B and C of other groups)" if self.heads_ignoring_groups else ""
        channels = "each head with channels of its own" if self.channels_per_head else "one choice of channels for all heads"
        return f"{self.order}; {heads or 'heads within their group'}; {channels}"


def cut_for(
    candidate: Candidate, config: DecoderConfig, scores: Scores, ranking: Ranking | None = None, uses: np.ndarray | None = None
) -> Cut:
    """`cut_for(candidate, parent.config, scores)`: the most important indices of every narrowed axis, in the parent's order.

    Inner axes are chosen first and outer ones judged on what survives: channels over all heads, then heads on the surviving channels
    within their group (Minitron-SSM, section 3), then groups on their surviving heads. Layers that share keys and values choose what
    they have in common together, by the sum of their scores. Every layer may have widths of its own.

    `uses` [vocab], where tokens are dropped, is how often each is used, infinite for one that must stay (`data.narrow.token_uses`).
    Raises `ConfigError` when the candidate is not a narrowing of this parent along axes that have scores.
    """
    ranking = ranking or Ranking()
    scores.check(config)
    mismatch = f"The shape '{candidate.describe()}' is no narrowing of this parent along the axes that are scored"
    if [type(layer) for layer in candidate.config.layers] != [type(layer) for layer in _at(config, candidate.layers)]:
        raise ConfigError(f"{mismatch}: its layers are of other kinds.")
    sizes = {index: _sizes(student) for index, student in zip(candidate.layers, candidate.config.layers, strict=True)}
    within = _within(config, scores, sizes, _Choice(ranking))
    network: Selections = {}
    if candidate.config.hidden < config.hidden:
        network["hidden"] = keep(config.axes()["hidden"], _best(scores.hidden, candidate.config.hidden, ranking.order), config.axes())
    if candidate.config.vocab < config.vocab:
        network["vocab"] = _tokens(config, candidate.config.vocab, uses)
    cut = Cut(candidate.layers, network, within)
    if (left := cut_config(config, cut)) != candidate.config:
        raise ConfigError(f"{mismatch}{_where(left, candidate)}.")
    return cut


def sorted_by_rank(config: DecoderConfig, scores: Scores, ranking: Ranking | None = None) -> Cut:
    """`cut_decoder(parent, sorted_by_rank(parent.config, scores))`: the parent itself, the most important first in every ranked axis.

    Each smaller shape is then a prefix of it (`cut_for` with `Ranking(order="original")`), as long as what is dropped inside does not
    change the order outside: heads are ranked on all their channels here.
    """
    scores.check(config)
    ranking = ranking or Ranking()
    if ranking.heads_ignoring_groups:
        raise ConfigError("Sorting heads through all groups would not leave the model as it is; sort them within their group.")
    sizes = {index: _sizes(layer) for index, layer in enumerate(config.layers)}
    hidden = keep(config.axes()["hidden"], np.argsort(-scores.hidden, kind="stable"), config.axes())
    return Cut(tuple(sizes), {"hidden": hidden}, _within(config, scores, sizes, _Choice(ranking, everything=True)))


def _at(config: DecoderConfig, indices: tuple[int, ...]) -> list[LayerConfig]:
    return [config.layers[index] for index in indices if 0 <= index < len(config.layers)]


def _where(left: DecoderConfig, candidate: Candidate) -> str:
    """The first axis that scores do not take to the size that is asked for."""
    for index, got, wanted in zip(candidate.layers, left.layers, candidate.config.layers, strict=True):
        there, asked = _sizes(got), _sizes(wanted)
        for name in there:
            if there[name] != asked.get(name):
                return f": of layer {index} ({got.kind}) they leave {there[name]} of the axis '{name}', and {asked.get(name)} are asked for"
    return ""


def _sizes(layer: LayerConfig) -> dict[str, int]:
    return {name: axis.size for name, axis in layer.axes().items()}


def _within(config: DecoderConfig, scores: Scores, sizes: dict[int, dict[str, int]], choice: "_Choice") -> dict[int, Selections]:
    """Selections inside the layers that `sizes` names, where there are any."""
    within: dict[int, Selections] = {index: {} for index in sizes}
    for owner, members in _together(config, sizes):
        layers: list[LayerConfig] = [config.layers[index] for index in members]
        wanted = [sizes[index] for index in members]
        bound = bound_axes(config.layers[owner]) if len(members) > 1 else set()
        for expression in scores.within[members[0]]:
            importance = [scores.within[index][expression] for index in members]
            for index, chosen in zip(members, choice.selections(expression, importance, layers, wanted, bound), strict=True):
                within[index] |= chosen
    return {index: selections for index, selections in within.items() if selections}


def _together(config: DecoderConfig, indices: dict[int, dict[str, int]]) -> Iterator[tuple[int, list[int]]]:
    """Layers that read the same keys and values, by the layer that owns them; all others are alone."""
    sources, groups = config.kv_sources(), dict[int, list[int]]()
    for index in indices:
        source = sources.get(index)
        groups.setdefault(index if source is None else source, []).append(index)
    yield from groups.items()


class _Choice:
    """How one array of importance, over several axes, becomes selections of these axes."""

    def __init__(self, ranking: Ranking, everything: bool = False) -> None:
        self.ranking = ranking
        self.everything = everything  # all indices stay, the best first

    def selections(
        self, expression: str, importance: list[np.ndarray], layers: list[LayerConfig], sizes: list[dict[str, int]], bound: set[str]
    ) -> list[Selections]:
        """For each layer; axes that are `bound` are chosen alike in all, by the sum of their energies."""
        names, energies = expression.split(" x "), [np.square(each) for each in importance]
        chosen: list[Selections] = [{} for _ in layers]
        for place, name in reversed(list(enumerate(names))):
            if not _tells(expression, name, layers[0]):
                continue
            totals = [energy.sum(axis=self._pooled(names, place, layers[0]), keepdims=True) for energy in energies]
            if name in bound:
                totals = [np.sum(totals, axis=0)] * len(totals)
            for number, (layer, total) in enumerate(zip(layers, totals, strict=True)):
                kept = sizes[number][name]
                if kept < layer.axes()[name].size or (self.everything and kept > 1):
                    chosen[number][name], stays = self._one(layer, names, place, total, kept)
                    energies[number] = energies[number] * stays
        return chosen

    def _pooled(self, names: list[str], place: int, layer: LayerConfig) -> tuple[int, ...]:
        """The places of axes over which importance is summed: all but those inside which the indices compete."""
        per = layer.probes[names[place]].per
        if self.ranking.channels_per_head and names[place] in CHANNELS:
            per = layer.axes()[names[place]].parents
        return tuple(other for other in range(len(names)) if other != place and names[other] not in per)

    def _one(self, layer: LayerConfig, names: list[str], place: int, totals: np.ndarray, kept: int) -> tuple[Selection, np.ndarray]:
        """The selection of one axis, and what survives of it as zeros and ones."""
        axes, name, stays = layer.axes(), names[place], np.zeros_like(totals)
        if name == "head" and self.ranking.heads_ignoring_groups:
            flat = _best(totals.ravel(), kept * axes["group"].size, self.ranking.order)
            stays.ravel()[flat] = 1
            return keep_by_position(axes[name], flat.tolist(), axes), stays
        best = np.argsort(-totals, axis=place, kind="stable") if self.everything else _best(totals, kept, self.ranking.order, place)
        np.put_along_axis(stays, best, 1.0, axis=place)
        return keep(axes[name], best.squeeze(self._pooled(names, place, layer)), axes), stays


def _tells(expression: str, axis: str, layer: LayerConfig) -> bool:
    """Whether an axis is ranked by what is read of this expression: state channels are read in their groups, but do not rank these."""
    return axis in layer.probes and str(layer.read(layer.probes[axis].readings[0])[1]) == expression


def _best(scores: np.ndarray, kept: int, order: str, axis: int = -1) -> np.ndarray:
    """Indices along an axis, ascending: of the `kept` largest (of equal ones the first), of the first, or of the smallest."""
    ranks = {"ranked": -scores, "original": np.zeros_like(scores), "reverse": scores}[order]
    found = np.argsort(ranks, axis=axis, kind="stable")
    return np.sort(np.take(found, np.arange(kept), axis=axis), axis=axis)


def _tokens(config: DecoderConfig, kept: int, uses: np.ndarray | None) -> Selection:
    if uses is None:
        raise ConfigError("Dropping tokens needs how often each is used (uses); scores do not tell it.")
    if uses.shape != (config.vocab,):
        raise ConfigError(f"Uses of tokens have shape {list(uses.shape)}; the model has {config.vocab} tokens.")
    if (needed := int(np.isposinf(uses).sum())) > kept:
        raise ConfigError(f"The axis 'vocab' cannot be cut to {kept}: {needed} tokens must stay (bytes, special tokens).")
    return keep(config.axes()["vocab"], _best(uses, kept, "ranked"), config.axes())
