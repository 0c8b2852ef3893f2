"""Answers to one prompt side by side, for a judge who sees two."""

import json
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from amaru.synth.row import LeftOut, Row
from amaru.synth.steps.step import NAME, Differing, Gathering, Known, Stands, adding, complete


class Opponents(Gathering):
    """Of each prompt the first and the second answer in one row, the third and the fourth, and so on: the second of each in `column`."""

    kind: Literal["opponents"]
    prompt: str = Field(default="prompt", pattern=NAME)
    answer: str = Field(default="answer", pattern=NAME)
    column: str = Field(default="other", pattern=NAME)

    def needs(self) -> set[str]:
        return {self.prompt, self.answer}

    def makes(self, has: Known) -> Known:
        return adding(has, self.column)

    def rows_of(self, taken: int, differing: Differing) -> int:
        return taken // 2

    def gather(self, rows: list[Row], left_out: list[LeftOut]) -> Iterator[Stands]:
        of_prompt: dict[str, list[Row]] = {}
        for row in complete(rows, left_out, self.prompt, self.answer):
            of_prompt.setdefault(json.dumps(row.columns[self.prompt], sort_keys=True), []).append(row)
        for answers in of_prompt.values():
            for one, other in zip(answers[::2], answers[1::2], strict=False):
                if one.columns[self.answer] == other.columns[self.answer]:
                    left_out += [LeftOut(row, "both answers are equal") for row in (one, other)]
                else:
                    yield Stands(one, (other.key,), one.columns | {self.column: other.columns[self.answer]})
            if len(answers) % 2:
                left_out.append(LeftOut(answers[-1], "no second answer to compare it with"))
