"""Pairs of a better and a worse answer, as preference training reads them."""

import json
import math
from collections.abc import Iterator
from typing import Any, Literal, TypeGuard

from pydantic import Field

from amaru.synth.row import LeftOut, Row
from amaru.synth.steps.step import NAME, Differing, Gathering, Known, Stands, complete

PAIR = ("prompt", "chosen_response", "rejected_response", "chosen_reward", "rejected_reward", "judge")
VERIFIER = "verifier"


class Pairs(Gathering):
    """Of each prompt a better and a worse answer, as columns prompt, chosen_response, rejected_response, chosen_reward, rejected_reward
    and judge. `prompt` is a text or a conversation.

    verdict      a column that says whether an answer is right, where that can be checked. The best of the right ones is chosen, the worst
                 of the wrong ones rejected, with rewards 1 and 0, whatever their scores; a prompt without both makes no pair
    score        decides otherwise: the best and the worst. With `attributes` in the rows (steps of kind reward) their gaps are told too
    judge        the name of who gave the scores, as it is told in the pairs
    least_gap    scores that are closer make no pair
    least_chosen a best answer that is worse makes no pair
    """

    kind: Literal["pairs"]
    prompt: str = Field(default="prompt", pattern=NAME)
    answer: str = Field(default="answer", pattern=NAME)
    score: str = Field(default="score", pattern=NAME)
    verdict: str | None = Field(default=None, pattern=NAME)
    judge: str = "score"
    least_gap: float = Field(default=0.0, ge=0)
    least_chosen: float | None = None

    def needs(self) -> set[str]:
        return {self.prompt, self.answer}

    def makes(self, has: Known) -> Known:
        return set(PAIR)

    def rows_of(self, taken: int, differing: Differing) -> int:
        return min(taken // 2, differing.get(self.prompt, taken))

    def gather(self, rows: list[Row], left_out: list[LeftOut]) -> Iterator[Stands]:
        of_prompt: dict[str, list[Row]] = {}
        for row in complete(rows, left_out, self.prompt, self.answer):
            of_prompt.setdefault(json.dumps(row.columns[self.prompt], sort_keys=True), []).append(row)
        for answers in of_prompt.values():
            verified = [row for row in answers if isinstance(self._verdict(row), bool)]
            pair = self._by_verdict(verified, left_out) if verified else self._by_score(answers, left_out)
            if pair:
                yield pair

    def _verdict(self, row: Row) -> Any:
        return row.columns.get(self.verdict) if self.verdict else None

    def _by_verdict(self, answers: list[Row], left_out: list[LeftOut]) -> Stands | None:
        right, wrong = ([row for row in answers if self._verdict(row) is verdict] for verdict in (True, False))
        if not right or not wrong:
            left_out += [LeftOut(row, f"all answers are {'right' if right else 'wrong'}") for row in answers]
            return None
        better, worse = max(right, key=self._or_zero), min(wrong, key=self._or_zero)
        return Stands(better, (worse.key,), self._pair(better, worse, 1.0, 0.0, VERIFIER))

    def _by_score(self, answers: list[Row], left_out: list[LeftOut]) -> Stands | None:
        scored = [row for row in answers if is_number(row.columns.get(self.score))]
        left_out += [LeftOut(row, f"{self.score} is not a number") for row in answers if row not in scored]
        if not scored:
            return None
        better, worse = max(scored, key=self._or_zero), min(scored, key=self._or_zero)
        high, low = better.columns[self.score], worse.columns[self.score]
        if self.least_chosen is not None and high < self.least_chosen:
            left_out += [LeftOut(row, "the best answer is not good enough") for row in scored]
        elif high == low or high - low < self.least_gap:
            left_out += [LeftOut(row, "answers too close to each other") for row in scored]
        else:
            return Stands(better, (worse.key,), self._pair(better, worse, high, low, self.judge))
        return None

    def _or_zero(self, row: Row) -> float:
        score = row.columns.get(self.score)
        return score if is_number(score) else 0.0

    def _pair(self, better: Row, worse: Row, high: float, low: float, judge: str) -> dict[str, Any]:
        values = (better.columns[self.prompt], better.columns[self.answer], worse.columns[self.answer], high, low, judge)
        mine, its = better.columns.get("attributes"), worse.columns.get("attributes")
        gaps = {"gaps": {name: mine[name] - its[name] for name in mine if name in its}} if mine and its else {}
        return dict(zip(PAIR, values, strict=True)) | gaps


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
