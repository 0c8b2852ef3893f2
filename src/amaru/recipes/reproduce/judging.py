"""What verdicts have in common: their words, the finding that each claim comes to, and one verdict for several."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amaru.config.records import read_record

HOLDS, PART, NOT, UNDECIDED, UNFINISHED = "holds", "holds in part", "does not hold", "undecided", "unfinished"

Found = dict[str, Any]
Bounds = Sequence[float] | None


def above(bounds: Bounds, aim: float) -> str:
    """Whether a value is at least `aim`, by its interval: `above([1.9, 2.3], 1.8) == "holds"`."""
    if bounds is None:
        return UNFINISHED
    low, high = bounds
    return HOLDS if low >= aim else NOT if high < aim else UNDECIDED


def positive(bounds: Bounds) -> str:
    """Whether a value is more than nothing; that it is nothing in every seed, as where all score 100 %, decides it neither way."""
    if bounds is None:
        return UNFINISHED
    low, high = bounds
    return HOLDS if low > 0 else NOT if high < 0 else UNDECIDED


def within(bounds: Bounds, aim: float) -> str:
    """Whether a value is at most `aim` away from nothing, on either side."""
    if bounds is None:
        return UNFINISHED
    low, high = bounds
    return HOLDS if -aim <= low and high <= aim else NOT if low > aim or high < -aim else UNDECIDED


def together(verdicts: Iterable[str]) -> str:
    """One for all: the same where they agree, unfinished where one is, else in part where one holds, at least in part."""
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    if UNFINISHED in found or not found:
        return UNFINISHED
    return PART if found & {HOLDS, PART} else UNDECIDED


def finding(claim: str, verdict: str, sentence: str, *, setting: str = "", **figures: Any) -> Found:
    """One line of the table of claims; `setting` is how it was found where that is not the same for all lines."""
    return {"claim": claim, "verdict": verdict, "sentence": sentence, "setting": setting, **figures}


def judgement(findings: Sequence[Found], missing: Sequence[str], **more: Any) -> Found:
    """What `judge` of a claim gives: the findings, and one verdict for all of them."""
    verdict = together(each["verdict"] for each in findings)
    sentence = " ".join(each["sentence"] for each in findings)
    return {"verdict": verdict, "sentence": f"{verdict.capitalize()}: {sentence}", "claims": findings, "missing": list(missing), **more}


def records(directory: Path, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The records of the cells that are there, by name."""
    return {name: read_record(path) for name in names if (path := directory / f"cell-{name}.json").exists()}


def told(bounds: Bounds, form: str = ".2f") -> str:
    """`told([1.9, 2.3]) == "1.90 to 2.30"`"""
    return "not known" if bounds is None else f"{bounds[0]:{form}} to {bounds[1]:{form}}"
