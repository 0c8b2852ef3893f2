"""Verdicts, from the records of the cells and nothing else: a function per claim, each giving a finding."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, inf, log
from statistics import mean
from typing import Any, NamedTuple

from amaru.recipes.reproduce.compression.settings import CompressionClaims, Part
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import HOLDS, NOT, PART, UNDECIDED, UNFINISHED, Bounds, Found, finding, positive, together, told

Strand = Mapping[str, Mapping[str, Any]]  # the records of one parent, by the name of the cell
Strands = Sequence[Strand]
OTHERS = ("axes-ffn and hidden", "axes-depth", "axes-heads")
SAME_LOSS, SAME_ACCURACY = 0.01, 0.99  # within 1 % of the parent's loss, or above 99 % of its accuracy
FASTER_CROWD, FASTER = 1.05, 1.15  # times as fast as the parent
AS_GOOD = 0.02  # nats by which uniform layers may be worse


class Gap(NamedTuple):
    """How much larger something is in one cell than in another, parent by parent."""

    values: list[float]
    bounds: Bounds

    def __str__(self) -> str:
        """`+0.123 (0.100 to 0.146)`"""
        return f"{mean(self.values):+.3f} ({told(self.bounds, '+.3f')})" if self.bounds else "not known"


def heads(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """Group-aware head pruning loses less than pruning that ignores groups, as cut and after short distillation."""
    claim = "Pruning Mamba heads within their groups beats pruning that ignores the groups, as cut and after a short distillation."
    cells = "heads-ignoring groups", "heads-group-aware"
    gaps = {key: gap(small, *cells, key) for key in ("before", "loss")}
    sentence = f"Ignoring groups costs {gaps['before']} nats as cut and {gaps['loss']} after the same short distillation."
    return _compared(claim, sentence + _agrees(large, *cells), gaps)


def axes(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """At one budget, cutting Mamba layers too is needed for the best of loss and speed."""
    claim = "At one budget, pruning along every axis, Mamba's included, is needed for the best of both, loss and speed."
    gaps = {
        other.removeprefix("axes-"): {key: gap(small, other, "axes-every axis", key) for key in ("loss", "prefill_alone", "decode_alone")}
        for other in OTHERS
    }
    if any(found.bounds is None for each in gaps.values() for found in each.values()):
        return _unfinished(claim, "all of it", compared=gaps)
    listed = "; ".join(
        f"{other} alone: loss {each['loss']} nats, prefill {each['prefill_alone']} and decode {each['decode_alone']} times the parent's"
        for other, each in gaps.items()
    )
    sentence = f"Beside pruning along every axis, after equal distillation, {listed}."
    verdict = together(_beaten(each["loss"], each["prefill_alone"], each["decode_alone"]) for each in gaps.values())
    return finding(claim, verdict, sentence + _agrees(large, OTHERS[0], "axes-every axis"), compared=gaps)


def _beaten(loss: Gap, *speeds: Gap) -> str:
    """Whether what has so much more loss and speed is worse in something and better in nothing, by intervals."""
    signs = {positive(loss.bounds), *(positive([-each for each in reversed(speed.bounds)] if speed.bounds else None) for speed in speeds)}
    if HOLDS in signs:
        return PART if NOT in signs else HOLDS
    return NOT if NOT in signs else UNDECIDED


def scratch(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """A shape trained from scratch needs many times the tokens of the student that was pruned and distilled."""
    claim = "From scratch, the student's shape needs many times its tokens to reach its loss (the paper: about 40 times)."
    times = [_times(strand, recipe) for strand in small if _lengths(recipe) <= strand.keys() and "axes-every axis" in strand]
    if len(times) < 2:
        return _unfinished(claim, "all lengths", times=times)
    most = recipe.multiples[-1]
    reached = ", ".join(f"more than {most}" if each is None else f"{each:.1f}" for each in times)
    sentence = f"Times the student's tokens until the twin from scratch is as good: {reached}; more than {most} times was not tried."
    return finding(claim, NOT if any(times) else PART, sentence, times=times)


def ranking(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """The order of candidates as cut is not their order after a short distillation."""
    claim = "The best candidate as cut is not the best one after a short distillation, so the judge must train."
    ranked = [strand["axes-every axis"] for strand in small if "axes-every axis" in strand]
    taus = [each["kendall_tau"] for each in ranked]
    changed = sum(each["winner_before"] != 1 for each in ranked)
    if len(ranked) < 2:
        return _unfinished(claim, "a search", taus=taus)
    sentence = f"The winner changed in {changed} of {len(ranked)} searches; Kendall's tau of both orders of {recipe.contenders}: "
    sentence += ", ".join(map(_tau, taus)) + "."
    for each in (strand["axes-every axis"] for strand in large if "axes-every axis" in strand):
        before, tau = each["winner_before"], _tau(each["kendall_tau"])
        sentence += f" The winner of the large parent was {'the first' if before == 1 else f'number {before}'} as cut (tau {tau})."
    return finding(claim, HOLDS if changed == len(ranked) else PART if changed else NOT, sentence, taus=taus, changed=changed)


def states(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """Half of the SSM state can go for little loss."""
    claim = f"With {recipe.state:.0%} of the state channels the model stays close to its parent and decodes faster at a large batch."
    found = [strand["states"] for strand in small if "decode_crowd" in strand.get("states", {})]
    gaps = _gap([each["loss"] - each["parent_loss"] for each in found])
    if gaps.bounds is None:
        return _unfinished(claim, "losses and speeds", gaps=gaps.values)
    relative = mean(each["loss"] / each["parent_loss"] - 1 for each in found)
    faster = mean(each["decode_crowd"] for each in found)
    sentence = (
        f"Loss {gaps} nats, {relative:+.1%}; decoding at batch 32 is {faster:.2f} times as fast. "
        f"It holds where the loss is within {SAME_LOSS:.0%} and decoding {FASTER_CROWD - 1:.0%} faster."
    )
    return finding(claim, _both(relative < SAME_LOSS, faster > FASTER_CROWD), sentence, gaps=gaps.values, faster=faster)


def puzzle(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """The integer program chooses better blocks than chance or size do."""
    claim = "Blocks chosen by the integer program beat blocks chosen at random and the choice of the most parameters."
    pairs = [(budget, other) for budget in ("light", "hard") for other in ("random", "largest")]
    gaps = {f"{budget} {other}": gap(small, f"puzzle-{budget}-{other}", f"puzzle-{budget}-puzzle") for budget, other in pairs}
    listed = ", ".join(f"{name} {found}" for name, found in gaps.items())
    return _compared(claim, f"Beside the program's choice, after equal distillation: {listed} nats.", gaps)


def uniform(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """MiniPuzzle's uniform shapes are as good as blocks chosen layer by layer."""
    claim = "At a light budget uniform layers (MiniPuzzle) are no worse than blocks of each layer's own (Puzzle)."
    gaps = {budget: gap(small, f"puzzle-{budget}-minipuzzle", f"puzzle-{budget}-puzzle") for budget in ("light", "hard")}
    if not (light := gaps["light"].bounds) or not gaps["hard"].bounds:
        return _unfinished(claim, "both methods", compared=gaps)
    verdict = NOT if light[0] > 0 else HOLDS if light[1] < AS_GOOD else UNDECIDED
    sentence = f"MiniPuzzle beside Puzzle: {gaps['light']} nats at the light budget, {gaps['hard']} at the hard one."
    return finding(claim, verdict, sentence, compared=gaps)


def kept(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """A light cut keeps the parent's accuracy and is about 1.2 times as fast."""
    claim = "MiniPuzzle's student is about 1.2 times as fast as its parent with the same accuracy (56B to 47B: 1.2x)."
    students = [strand["puzzle-light-minipuzzle"] for strand in small if "decode_alone" in strand.get("puzzle-light-minipuzzle", {})]
    shares = [each["accuracy"] / each["parent_accuracy"] for each in students]
    bounds = interval(shares)
    if bounds is None:
        return _unfinished(claim, "accuracy and speeds", shares=shares)
    decode, prefill = (mean(each[f"{what}_alone"] for each in students) for what in ("decode", "prefill"))
    sentence = (
        f"Four fifths of the parameters keep {mean(shares):.1%} of the accuracy ({told(bounds, '.1%')}), with prefill {prefill:.2f} and "
        f"decode {decode:.2f} times as fast. It holds above {SAME_ACCURACY:.0%} and {FASTER} times."
    )
    verdict = _both(bounds[0] > SAME_ACCURACY, min(decode, prefill) > FASTER)
    return finding(claim, verdict, sentence, shares=shares, decode=decode, prefill=prefill)


Verdict = Callable[[Strands, Strands, CompressionClaims], Found]
VERDICTS: dict[str, tuple[Part, Verdict]] = {  # with the cells that each is about
    "heads": ("heads", heads),
    "axes": ("axes", axes),
    "scratch": ("scratch", scratch),
    "ranking": ("axes", ranking),
    "kept": ("puzzle", kept),
    "puzzle": ("puzzle", puzzle),
    "uniform": ("puzzle", uniform),
    "states": ("states", states),
}


def gap(strands: Strands, one: str, other: str, key: str = "loss") -> Gap:
    """How much larger `key` of cell `one` is than of cell `other`, over the parents that have both."""
    both = [(strand[one], strand[other]) for strand in strands if one in strand and other in strand]
    return _gap([first[key] - second[key] for first, second in both if key in first and key in second])


def _gap(values: list[float]) -> Gap:
    return Gap(values, interval(values))


def _compared(claim: str, sentence: str, gaps: Mapping[str, Gap]) -> Found:
    """That every gap lies above zero with its interval."""
    if any(found.bounds is None for found in gaps.values()):
        return _unfinished(claim, "all of it", compared=gaps)
    return finding(claim, together(positive(found.bounds) for found in gaps.values()), sentence, compared=gaps)


def _both(one: bool, other: bool) -> str:
    return HOLDS if one and other else PART if one or other else NOT


def _tau(tau: float | None) -> str:
    return "not defined" if tau is None else f"{tau:+.2f}"


def _unfinished(claim: str, what: str, **figures: Any) -> Found:
    return finding(claim, UNFINISHED, f"Unfinished: fewer than two parents have {what}.", **figures)


def _agrees(large: Strands, one: str, other: str) -> str:
    """Whether the large parents show the same, where there are any."""
    values = gap(large, one, other).values
    return "" if not values else f" The large parent {'agrees' if mean(values) > 0 else 'disagrees'} ({mean(values):+.3f})."


def tokens_to_reach(loss: float, runs: Sequence[tuple[float, float]]) -> float | None:
    """The tokens at which (tokens, loss) points first reach `loss`, on a line in the logarithm of tokens; None if they never do."""
    before: tuple[float, float] | None = None
    for tokens, reached in sorted(runs):
        if reached <= loss:
            if before is None:
                return tokens
            share = (before[1] - loss) / (before[1] - reached)
            return exp(log(before[0]) + share * (log(tokens) - log(before[0])))
        before = tokens, reached
    return None


def _lengths(recipe: CompressionClaims) -> set[str]:
    """The cells of one twin: each rate at the first multiple, then the best one."""
    first, *more = recipe.multiples
    return {f"scratch-{first}-{lr:g}" for lr in recipe.scratch_lrs} | {f"scratch-{multiple}" for multiple in more}


def _times(strand: Strand, recipe: CompressionClaims) -> float | None:
    """How many times the student's tokens its twin needs to be as good; None where the longest run does not get there."""
    student = strand["axes-every axis"]
    runs: dict[int, float] = {}
    for name in _lengths(recipe):
        twin = strand[name]
        runs[twin["tokens"]] = min(twin["loss"], runs.get(twin["tokens"], inf))
    found = tokens_to_reach(student["loss"], list(runs.items()))
    return None if found is None else found / student["tokens"]
