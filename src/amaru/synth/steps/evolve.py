"""Genetic Instruct: a colony of programming tasks grows by crossover and mutation; those live whose solutions run and are found fit."""

import asyncio
from dataclasses import asdict, dataclass
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from amaru import sandbox
from amaru.errors import ConfigError
from amaru.synth.call import Answer
from amaru.synth.client import Useless
from amaru.synth.row import Dropped
from amaru.synth.steps.step import NAME, Asked, Differing, Done, Known, Making, adding
from amaru.synth.structured import read_object, whole_text
from amaru.synth.unit import Unit

FITNESS = {
    "type": "object",
    "properties": {"clear": {"type": "boolean"}, "correct": {"type": "boolean"}, "tested": {"type": "boolean"}},
    "required": ["clear", "correct", "tested"],
    "additionalProperties": False,
}
WAYS = (
    "it takes one more step of reasoning to solve",
    "it has one more requirement on what goes in or what comes out",
    "a common requirement gives way to a rarer and more exact one",
    "the solution has to keep to a bound on time or memory",
    "it is about another field, and needs the same idea",
    "it comes with a program that looks right and is not, which the solution must not trust",
)


@dataclass(frozen=True)
class Task:
    """One that lives: what is to be solved, a solution with its tests, and where it comes from."""

    task: str
    solution: str
    generation: int
    made_by: str
    parents: tuple[str, ...]


class Evolve(Making):
    """A colony, which is a row with a list of tasks in column `of`, grows by generations of `children` until `size` new ones live or
    `generations` are over; each becomes a row with task, solution, generation, made_by and parents.

    model     writes tasks: a mutation of one task in a share `mutations` of all cases, else a crossover of up to `parents`
    coder     solves them, with tests; judge says whether task and solution are fit. `model` where they are left out
    A solution whose program does not end well in the sandbox within `seconds` is not fit, and its judge is not asked; nor is a child fit
    whose calls are answered with nothing of use (a solution that is cut off): it never stops its colony. What is drawn follows
    from the recipe's seed and the colony, so a run that goes on makes the same colony.
    """

    gives: ClassVar[frozenset[str]] = frozenset({"task", "tasks", "way", "solution"})
    draws: ClassVar[bool] = True

    kind: Literal["evolve"]
    model: str
    coder: str | None = None
    judge: str | None = None
    of: str = Field(default="population", pattern=NAME)
    size: int = Field(ge=1)
    children: int = Field(default=8, ge=1)
    generations: int = Field(default=10, ge=1)
    parents: int = Field(default=3, ge=2)
    mutations: float = Field(default=0.5, ge=0, le=1)
    seconds: int = Field(default=10, ge=1)
    mutation: str = "mutate_task"
    crossover: str = "cross_tasks"
    solving: str = "solve_task"
    fitness: str = "judge_solution"

    def check(self) -> None:
        if self.size > self.children * self.generations:
            born = self.children * self.generations
            raise ConfigError(f"Step {self.name} wants {self.size} tasks of {born} that are born; raise children or generations.")

    def prompts(self) -> dict[str, str]:
        return {"mutation": self.mutation, "crossover": self.crossover, "solving": self.solving, "fitness": self.fitness}

    def asks(self) -> tuple[Asked, ...]:
        born = self.children * self.generations
        writing, solving = Asked(self.model, born, "crossover"), Asked(self.coder or self.model, born, "solving")
        return writing, solving, Asked(self.judge or self.model, born, "fitness", FITNESS)

    def needs(self) -> set[str]:
        return {self.of}

    def makes(self, has: Known) -> Known:
        return adding(has, "task", "solution", "generation", "made_by", "parents")

    def rows_of(self, taken: int, differing: Differing) -> int:
        return taken * self.size

    async def make(self, unit: Unit) -> list[Done]:
        population = self._population(unit)
        living: list[tuple[Task, tuple[str, ...]]] = []
        for generation in range(self.generations):
            born = await unit.all(self._child(unit, population, generation, number) for number in range(self.children))
            for task, calls in born:
                if task and len(living) < self.size and _is_new(task.task, population):
                    living.append((task, calls))
                    population.append(task.task)
            if len(living) == self.size:
                break
        if not living:
            raise Dropped("no task of this colony was found fit")
        kept = {name: value for name, value in unit.columns.items() if name != self.of}
        return [(kept | asdict(task) | {"parents": list(task.parents)}, calls) for task, calls in living]

    def _population(self, unit: Unit) -> list[str]:
        """Raises `ConfigError` where the row holds no tasks."""
        found = unit.column(self.of)
        if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
            raise ConfigError(f"Step {self.name} reads a list of texts in column {self.of}; the row has {str(found)[:80]}.")
        return [*found]

    async def _child(self, unit: Unit, population: list[str], generation: int, number: int) -> tuple[Task | None, tuple[str, ...]]:
        """A task that lives, or None, and the calls that it took."""
        try:
            return await self._grown(unit, population, generation, number)
        except Useless:
            return None, ()

    async def _grown(self, unit: Unit, population: list[str], generation: int, number: int) -> tuple[Task | None, tuple[str, ...]]:
        draw, sample = unit.random(str(generation), str(number)), generation * self.children + number
        made_by, parents, question = self._written(unit, population, draw)
        call, task = await unit.ask(self.model, question, whole_text, prompt=made_by, sample=sample)
        if not _is_new(task, population):
            return None, ()
        solved, answer = await unit.ask(self.coder or self.model, unit.written("solving", task=task), whole_text, prompt="solving")
        program = sandbox.program_in(answer)
        if program is None or "assert" not in program or not (await asyncio.to_thread(sandbox.run, program, self.seconds)).passed:
            return None, ()
        question = unit.written("fitness", task=task, solution=program)
        judged, fit = await unit.ask(self.judge or self.model, question, _fit, prompt="fitness", schema=FITNESS)
        return (Task(task, program, generation + 1, made_by, parents) if fit else None), (call, solved, judged)

    def _written(self, unit: Unit, population: list[str], draw: Random) -> tuple[str, tuple[str, ...], str]:
        """How a child is made, of whom, and the question that asks for it."""
        if draw.random() < self.mutations or len(population) == 1:
            parent = draw.choice(population)
            return "mutation", (parent,), unit.written("mutation", task=parent, way=draw.choice(WAYS))
        parents = tuple(draw.sample(population, min(self.parents, len(population))))
        tasks = "\n\n".join(f"Task {number}: {task}" for number, task in enumerate(parents, start=1))
        return "crossover", parents, unit.written("crossover", tasks=tasks)


def _fit(answer: Answer) -> bool:
    return all(read_object(answer, FITNESS).values())


def _is_new(task: str, population: list[str]) -> bool:
    """Whether nobody in the colony says the same in other letters or with other blanks."""
    return all(task.casefold().split() != other.casefold().split() for other in population)
