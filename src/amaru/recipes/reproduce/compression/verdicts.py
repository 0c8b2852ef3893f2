"""Verdicts, from the records of the cells and nothing else: a function per claim, each giving a verdict, a sentence and its figures."""

from collections.abc import Mapping, Sequence
from math import exp, inf, log
from statistics import mean
from typing import Any

from amaru.recipes.reproduce.compression.settings import CompressionClaims
from amaru.recipes.reproduce.intervals import interval

Strands = Sequence[Mapping[str, Mapping[str, Any]]]  # for each parent its records, by the name of the cell
Found = dict[str, Any]
UNFINISHED = "unfinished"
OTHERS = ("axes-ffn and hidden", "axes-depth", "axes-heads")


def heads(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """Group-aware head pruning loses less than pruning that ignores groups, as cut and after short distillation."""
    claim = "Pruning Mamba heads within their groups beats pruning that ignores the groups, as cut and after a short distillation."
    compared = {key: difference(small, "heads-ignoring groups", "heads-group-aware", key) for key in ("before", "loss")}
    sentence = "Ignoring groups costs {before} nats as cut and {loss} after the same short distillation."
    return _finding(claim, sentence, compared, _confirmed(large, "heads-ignoring groups", "heads-group-aware"))


def axes(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """At one budget, cutting Mamba layers too is needed for the best loss and speed together."""
    claim = "At one budget, pruning along every axis, Mamba's included, ends with the lowest loss."
    compared = {other: difference(small, other, "axes-every axis") for other in OTHERS}
    sentence = "Beside pruning along every axis, after equal distillation: " + ", ".join(
        f"{other.removeprefix('axes-')} alone {{{other}}}" for other in OTHERS
    )
    return _finding(claim, f"{sentence} nats.", compared, _confirmed(large, "axes-ffn and hidden", "axes-every axis"))


def scratch(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """A shape trained from scratch needs many times the tokens of the student that was pruned and distilled."""
    claim = "From scratch, the student's shape needs many times its tokens to reach its loss (the paper: about 40 times)."
    whole = [strand for strand in small if _lengths(recipe) <= strand.keys() and "axes-every axis" in strand]
    times = [_times(strand, recipe) for strand in whole]
    if len(times) < 2:
        return {"claim": claim, "verdict": UNFINISHED, "sentence": "Unfinished: fewer than two parents have all lengths.", "times": times}
    most = recipe.multiples[-1]
    verdict = "does not hold" if any(times) else "holds in part"
    reached = ", ".join(f"more than {most}" if each is None else f"{each:.1f}" for each in times)
    sentence = f"Times the student's tokens until the twin from scratch is as good: {reached}; more than {most} times was not tried."
    return {"claim": claim, "verdict": verdict, "sentence": sentence, "times": times}


def ranking(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """The order of candidates as cut is not their order after a short distillation."""
    claim = "The best candidate as cut is not the best one after a short distillation, so the judge must train."
    ranked = [strand["axes-every axis"] for strand in small if "axes-every axis" in strand]
    taus = [each["kendall_tau"] for each in ranked]
    changed = sum(each["winner_before"] != 1 for each in ranked)
    if len(ranked) < 2:
        return {"claim": claim, "verdict": UNFINISHED, "sentence": "Unfinished: fewer than two searches are there.", "taus": taus}
    verdict = "holds" if changed == len(ranked) else "holds in part" if changed else "does not hold"
    sentence = (
        f"The winner changed in {changed} of {len(ranked)} searches; Kendall's tau of the two orders over {recipe.contenders} candidates: "
        + ", ".join("not defined" if tau is None else f"{tau:+.2f}" for tau in taus)
        + "."
    )
    return {"claim": claim, "verdict": verdict, "sentence": sentence, "taus": taus, "changed": changed}


def states(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """Half of the SSM state can go for little loss."""
    claim = f"With {recipe.state:.0%} of the state channels the model stays close to its parent and decodes faster at a large batch."
    losses = [(strand["states"]["loss"], strand["states"]["parent_loss"]) for strand in small if "states" in strand]
    gaps = [loss - parent for loss, parent in losses]
    speeds = [strand["states"]["decode_crowd"] for strand in small if "decode_crowd" in strand.get("states", {})]
    bounds = interval(gaps)
    if bounds is None or len(speeds) < len(gaps):
        return {"claim": claim, "verdict": UNFINISHED, "sentence": "Unfinished: losses or speeds are missing.", "gaps": gaps}
    relative = mean(loss / parent - 1 for loss, parent in losses)
    faster = mean(speeds)
    verdict = "holds" if relative < 0.01 and faster > 1.05 else "holds in part" if relative < 0.01 or faster > 1.05 else "does not hold"
    sentence = (
        f"Loss {mean(gaps):+.3f} nats ({bounds[0]:+.3f} to {bounds[1]:+.3f}), {relative:+.1%}; decoding at batch 32 is {faster:.2f} times "
        "as fast. It holds where the loss is within 1 % and decoding 5 % faster."
    )
    return {"claim": claim, "verdict": verdict, "sentence": sentence, "gaps": gaps, "speeds": speeds}


def puzzle(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """The integer program chooses better blocks than chance or size do."""
    claim = "Blocks chosen by the integer program beat blocks chosen at random and the choice of the most parameters."
    pairs = [(budget, other) for budget in ("light", "hard") for other in ("random", "largest")]
    compared = {f"{budget} {other}": difference(small, f"puzzle-{budget}-{other}", f"puzzle-{budget}-puzzle") for budget, other in pairs}
    sentence = "Beside the program's choice, after equal distillation: " + ", ".join(f"{name} {{{name}}}" for name in compared) + " nats."
    return _finding(claim, sentence, compared, None)


def uniform(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """MiniPuzzle's uniform shapes are as good as blocks chosen layer by layer."""
    claim = "At a light budget uniform layers (MiniPuzzle) are no worse than blocks of each layer's own (Puzzle)."
    found = {budget: difference(small, f"puzzle-{budget}-minipuzzle", f"puzzle-{budget}-puzzle") for budget in ("light", "hard")}
    if any(each["interval"] is None for each in found.values()):
        sentence = "Unfinished: fewer than two parents have all of it."
        return {"claim": claim, "verdict": UNFINISHED, "sentence": sentence, "compared": found}
    low, high = found["light"]["interval"]
    verdict = "does not hold" if low > 0 else "holds" if high < 0.02 else "undecided"
    sentence = f"MiniPuzzle beside Puzzle: {_told(found['light'])} nats at the light budget, {_told(found['hard'])} at the hard one."
    return {"claim": claim, "verdict": verdict, "sentence": sentence, "compared": found}


def kept(small: Strands, large: Strands, recipe: CompressionClaims) -> Found:
    """A light cut keeps the parent's accuracy and is about 1.2 times as fast."""
    claim = "MiniPuzzle's student is about 1.2 times as fast as its parent with the same accuracy (56B to 47B: 1.2x)."
    students = [strand["puzzle-light-minipuzzle"] for strand in small if "decode_alone" in strand.get("puzzle-light-minipuzzle", {})]
    shares = [each["accuracy"] / each["parent_accuracy"] for each in students]
    bounds = interval(shares)
    if bounds is None:
        return {"claim": claim, "verdict": UNFINISHED, "sentence": "Unfinished: losses or speeds are missing.", "shares": shares}
    decode, prefill = (mean(each[f"{what}_alone"] for each in students) for what in ("decode", "prefill"))
    same, faster = bounds[0] > 0.99, min(decode, prefill) > 1.15
    verdict = "holds" if same and faster else "holds in part" if same or faster else "does not hold"
    sentence = (
        f"Four fifths of the parameters keep {mean(shares):.1%} of the accuracy ({bounds[0]:.1%} to {bounds[1]:.1%}), with prefill "
        f"{prefill:.2f} and decode {decode:.2f} times as fast. It holds above 99 % and 1.15 times."
    )
    return {"claim": claim, "verdict": verdict, "sentence": sentence, "shares": shares, "decode": decode, "prefill": prefill}


VERDICTS = {
    "heads": heads,
    "axes": axes,
    "scratch": scratch,
    "ranking": ranking,
    "kept": kept,
    "puzzle": puzzle,
    "uniform": uniform,
    "states": states,
}


def difference(strands: Strands, one: str, other: str, key: str = "loss") -> Found:
    """How much larger `key` of cell `one` is than of cell `other`, over the parents that have both."""
    values = [strand[one][key] - strand[other][key] for strand in strands if one in strand and other in strand]
    return {"values": values, "mean": mean(values) if values else None, "interval": interval(values)}


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


def _finding(claim: str, sentence: str, compared: Mapping[str, Found], confirmed: bool | None) -> Found:
    """Holds where every difference lies above zero with its interval, in part where some do; undecided where none lies below it either."""
    if any(found["interval"] is None for found in compared.values()):
        sentence = "Unfinished: fewer than two parents have all of it."
        return {"claim": claim, "verdict": UNFINISHED, "sentence": sentence, "compared": compared}
    above = [found["interval"][0] > 0 for found in compared.values()]
    below = any(found["interval"][1] < 0 for found in compared.values())
    verdict = "holds" if all(above) else "holds in part" if any(above) else "does not hold" if below else "undecided"
    words = {name: _told(found) for name, found in compared.items()}
    at_large = "" if confirmed is None else f" The large parent {'agrees' if confirmed else 'disagrees'}."
    sentence = sentence.format(**words) + at_large
    return {"claim": claim, "verdict": verdict, "sentence": sentence, "compared": compared, "confirmed": confirmed}


def _told(found: Found) -> str:
    """`+0.123 (0.100 to 0.146)`"""
    low, high = found["interval"]
    return f"{found['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def _confirmed(large: Strands, one: str, other: str) -> bool | None:
    found = difference(large, one, other)["mean"]
    return None if found is None else found > 0


def _lengths(recipe: CompressionClaims) -> set[str]:
    """The cells of one twin: each rate at the first multiple, then the best one."""
    first, *more = recipe.multiples
    return {f"scratch-{first}-{lr:g}" for lr in recipe.scratch_lrs} | {f"scratch-{multiple}" for multiple in more}


def _times(strand: Mapping[str, Mapping[str, Any]], recipe: CompressionClaims) -> float | None:
    """How many times the student's tokens its twin needs to be as good; None where the longest run does not get there."""
    student = strand["axes-every axis"]
    runs: dict[int, float] = {}
    for name in _lengths(recipe):
        twin = strand[name]
        runs[twin["tokens"]] = min(twin["loss"], runs.get(twin["tokens"], inf))
    found = tokens_to_reach(student["loss"], list(runs.items()))
    return None if found is None else found / student["tokens"]
