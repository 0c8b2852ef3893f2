"""All answers to a prompt in one row, as preference training over several answers and reward models read them."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from amaru.synth.row import LeftOut, Row
from amaru.synth.steps.pairs import is_number
from amaru.synth.steps.step import NAME, Differing, Gathering, Known, Stands, complete


class Comparisons(Gathering):
    """Of each prompt all answers that differ, as columns prompt and responses: content and score, and attributes and model where rows tell
    them (steps of kind reward and respond), the best first. Fewer than two make no row.
    """

    kind: Literal["comparisons"]
    prompt: str = Field(default="prompt", pattern=NAME)
    answer: str = Field(default="answer", pattern=NAME)
    score: str = Field(default="score", pattern=NAME)

    def needs(self) -> set[str]:
        return {self.prompt, self.answer, self.score}

    def makes(self, has: Known) -> Known:
        return {"prompt", "responses"}

    def rows_of(self, taken: int, differing: Differing) -> int:
        return min(taken // 2, differing.get(self.prompt, taken))

    def gather(self, rows: list[Row], left_out: list[LeftOut]) -> Iterator[Stands]:
        of_prompt: dict[str, dict[str, Row]] = {}
        for row in complete(rows, left_out, self.prompt, self.answer):
            if not is_number(row.columns.get(self.score)):
                left_out.append(LeftOut(row, f"{self.score} is not a number"))
                continue
            answers = of_prompt.setdefault(json.dumps(row.columns[self.prompt], sort_keys=True), {})
            if answers.setdefault(str(row.columns[self.answer]), row) is not row:
                left_out.append(LeftOut(row, "the same answer as another"))
        for answers in of_prompt.values():
            some = sorted(answers.values(), key=lambda row: -row.columns[self.score])
            if len(some) < 2:
                left_out.append(LeftOut(some[0], "no second answer to compare it with"))
                continue
            columns = {"prompt": some[0].columns[self.prompt], "responses": list(map(self._response, some))}
            yield Stands(some[0], tuple(row.key for row in some[1:]), columns)

    def _response(self, row: Row) -> dict[str, Any]:
        response = {"content": row.columns[self.answer], "score": row.columns[self.score]}
        told = {"attributes": row.columns.get("attributes"), "model": row.columns.get("answered_by")}
        return response | {name: value for name, value in told.items() if value}
